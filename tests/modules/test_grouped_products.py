"""Products of all experts in one kernel never wait for a GPU; test_expert_execution.py has results.

torch's grouped_mm runs on CPU as well, as a loop; so what is around it is tested without a GPU.
"""

import pytest
import torch
from helpers import make_model, make_task, ragged_batch

from fairseq_taskmoe.criterions.moe_label_smoothed_cross_entropy import (
    MoeLabelSmoothedCrossEntropyCriterion,
)
from fairseq_taskmoe.modules.expert_execution import Execution
from fairseq_taskmoe.modules.experts import Experts

ROUTERS = ("token", "sentence", "target", "pair", "static", "random")


@pytest.fixture
def autocast_off_meta(monkeypatch):
    """Let autocast be asked for the meta device, which it does not know."""
    for name in ("autocast", "is_autocast_enabled"):
        original = getattr(torch, name)

        def asked(device_type, *args, original=original, **kwargs):
            return original("cpu" if device_type == "meta" else device_type, *args, **kwargs)

        monkeypatch.setattr(torch, name, asked)


def training_step(router, execution):
    """Run a training step on meta tensors, which have shapes and no values.

    .item(), .tolist(), bool() and what depends on them raise, as they would make the host wait for
    a GPU.
    """
    task = make_task()
    model = make_model(task, router, dropout=0.1).to("meta", torch.bfloat16).train()
    for module in model.modules():
        if isinstance(module, Experts):
            module.execution = execution
    batch = ragged_batch()
    batch = {
        **batch,
        "net_input": {name: value.to("meta") for name, value in batch["net_input"].items()},
        "target": batch["target"].to("meta"),
    }
    criterion = MoeLabelSmoothedCrossEntropyCriterion(task, False, 0.1, 0.01, 0.0)
    loss, _, _ = criterion(model, batch)
    loss.backward()
    return model


@pytest.mark.parametrize("router", ROUTERS)
def test_training_step_never_waits_for_the_device(autocast_off_meta, router):
    model = training_step(router, Execution.GROUPED)
    experts = model.decoder.layers[0].moe.experts
    assert experts.fc1.weight.grad.shape == experts.fc1.weight.shape


def test_meta_device_fails_if_the_host_reads_a_value(autocast_off_meta):
    with pytest.raises((RuntimeError, NotImplementedError), match="meta|Meta"):
        training_step("token", Execution.DEVICE_LOOP)  # it asks for numbers of rows
