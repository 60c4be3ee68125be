"""Products of all experts in one kernel equal the products one by one, and never wait for a GPU.

torch's grouped_mm runs on CPU as well, as a loop; so what is around it is tested without a GPU.
"""

import copy

import pytest
import torch
from helpers import make_model, make_task, ragged_batch

from fairseq_taskmoe.criterions.moe_label_smoothed_cross_entropy import (
    MoeLabelSmoothedCrossEntropyCriterion,
)
from fairseq_taskmoe.modules import experts as experts_module
from fairseq_taskmoe.modules.experts import Experts
from fairseq_taskmoe.modules.grouped_products import groups_products
from fairseq_taskmoe.modules.visits import sort_by_expert

E, C, F, ROWS, K = 5, 16, 24, 40, 2


@pytest.fixture
def grouped(monkeypatch):
    monkeypatch.setattr(experts_module, "groups_products", lambda *weight: True)


def outputs_and_gradients(layer, chosen, gates, leave_out):
    torch.manual_seed(1)
    dtype = layer.fc1.weight.dtype
    rows = torch.randn(ROWS, C).to(dtype).requires_grad_()
    gates = gates.to(dtype).requires_grad_()
    (visits,) = sort_by_expert([chosen], [gates], [E], leave_out)
    out = layer(rows, visits)
    loss = (out.float() * torch.randn(ROWS, C)).sum()
    return [out, *torch.autograd.grad(loss, [rows, gates, *layer.parameters()])]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("experts", [range(E), [1, 3], [0], [E - 1]])
@pytest.mark.parametrize("missing", [0.0, 0.3, 1.0])
def test_outputs_and_gradients_are_those_of_the_loop(monkeypatch, dtype, experts, missing):
    torch.manual_seed(0)
    layer = Experts(E, C, F, "gelu").to(dtype)
    # an expert once for each row; E says that there is no such choice
    chosen = torch.tensor([*experts, E])[torch.rand(ROWS, len(experts) + 1).topk(K).indices]
    chosen = chosen.masked_fill(torch.rand(ROWS, K) < missing, E)
    gates = torch.rand(ROWS, K)
    expected = outputs_and_gradients(layer, chosen, gates, leave_out=True)
    monkeypatch.setattr(experts_module, "groups_products", lambda *weight: True)
    for leave_out in (True, False):
        found = outputs_and_gradients(layer, chosen, gates, leave_out)
        tolerance = {"atol": 0.06, "rtol": 0.03} if dtype == torch.bfloat16 else {}
        torch.testing.assert_close(found, expected, **tolerance)


def test_cpu_and_float32_keep_to_the_loop():
    assert not groups_products(torch.empty(2, 8, 8), torch.bfloat16)
    assert not groups_products(torch.empty(2, 8, 8, device="meta"), torch.bfloat16)


@pytest.fixture
def autocast_off_meta(monkeypatch):
    """Let autocast be asked for the meta device, which it does not know."""
    for name in ("autocast", "is_autocast_enabled"):
        original = getattr(torch, name)

        def asked(device_type, *args, original=original, **kwargs):
            return original("cpu" if device_type == "meta" else device_type, *args, **kwargs)

        monkeypatch.setattr(torch, name, asked)


ROUTERS = ("token", "sentence", "target", "pair", "static", "random")


@pytest.mark.parametrize("router", ROUTERS)
def test_training_step_never_asks_the_device_for_a_value(grouped, autocast_off_meta, router):
    # a meta tensor has a shape and no values: .item(), .tolist(), bool() and what depends on them
    # raise, as they would make the host wait for a GPU
    task = make_task()
    model = make_model(task, router, dropout=0.1).to("meta", torch.bfloat16).train()
    batch = ragged_batch()
    batch = {
        **batch,
        "net_input": {name: value.to("meta") for name, value in batch["net_input"].items()},
        "target": batch["target"].to("meta"),
    }
    criterion = MoeLabelSmoothedCrossEntropyCriterion(task, False, 0.1, 0.01, 0.0)
    loss, _, _ = criterion(model, batch)
    loss.backward()
    experts = model.decoder.layers[0].moe.experts
    assert experts.fc1.weight.grad.shape == experts.fc1.weight.shape


def test_the_meta_device_does_notice_a_question():
    with pytest.raises((RuntimeError, NotImplementedError)):
        copy.deepcopy(torch.ones(2)).to("meta").tolist()


@pytest.mark.gpu
def test_one_kernel_on_a_gpu_is_the_loop(monkeypatch):
    layer = Experts(E, C, F).to("cuda", torch.bfloat16)
    chosen = torch.rand(ROWS, E, device="cuda").topk(K).indices
    gates, rows = torch.rand(ROWS, K, device="cuda"), torch.randn(ROWS, C, device="cuda").bfloat16()
    (visits,) = sort_by_expert([chosen], [gates], [E], leave_out=False)
    found = layer(rows, visits)
    monkeypatch.setattr(experts_module, "groups_products", lambda *weight: False)
    torch.testing.assert_close(found, layer(rows, visits), atol=0.06, rtol=0.03)
