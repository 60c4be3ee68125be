"""A model with more or fewer experts than its checkpoint takes trained pairs through the same."""

import pytest
import torch
from taken_over_models import LANGS, PAIRS, outputs, side, start

from fairseq_taskmoe.errors import Refusal
from fairseq_taskmoe.modules.folding import task_route
from fairseq_taskmoe.modules.moe_layer import MoELayer
from fairseq_taskmoe.training.expert_numbers import _gates_out_of_reach


def layers(of):
    return [module for module in of.model.modules() if isinstance(module, MoELayer)]


def chosen(layer, of, pair):
    return task_route(layer.router, of.names.table.task_id(pair)).expert_ids.tolist()


def assert_close(base, own, pairs):
    for pair in pairs:
        for one, other in zip(outputs(base, pair, ["w1"]), outputs(own, pair, ["w1"]), strict=True):
            assert torch.allclose(one, other, rtol=1e-5, atol=1e-5), pair


@pytest.mark.parametrize("copy", [True, False])
def test_no_trained_pair_chooses_a_new_expert_and_a_new_pair_only_those(copy, tmp_path):
    base = side("pair", groups=None)
    own = side("pair", pairs=("en-gu", "gu-en", *PAIRS), langs=("gu", *LANGS), groups=None, seed=2,
               moe_expert_count=8, init_task="en-gu=new")
    drawn = [layer.experts.fc1.weight.detach().clone() for layer in layers(own)]
    start(base, own, "finetune", tmp_path, copy)
    assert_close(base, own, PAIRS)
    for old, new, own_weight in zip(layers(base), layers(own), drawn, strict=True):
        for pair in PAIRS:
            assert chosen(old, base, pair) == chosen(new, own, pair)
        assert set(chosen(new, own, "en-gu")) <= {5, 6, 7}
        weight, stored = new.experts.fc1.weight, old.experts.fc1.weight
        assert torch.equal(weight[:5], stored)
        if copy:
            distance = (weight[5:] - stored[:3]).std() / stored.std()
            assert 0.005 < distance < 0.02
        else:
            assert torch.equal(weight[5:], own_weight[5:])


def test_fewer_experts_are_those_that_the_pairs_use(tmp_path):
    base = side("pair", groups=None, moe_expert_count=9)
    own = side("pair", pairs=("en-fr",), groups=None, seed=2, moe_expert_count=3)
    start(base, own, "resets", tmp_path)
    assert_close(base, own, ["en-fr"])
    for old, new in zip(layers(base), layers(own), strict=True):
        numbers, own_numbers = chosen(old, base, "en-fr"), chosen(new, own, "en-fr")
        assert torch.equal(old.experts.fc2.weight[numbers], new.experts.fc2.weight[own_numbers])


@pytest.mark.parametrize("old, new, told", [
    ({"moe_expert_count": 9}, {"moe_expert_count": 2}, "--moe-expert-count 2: its pairs use"),
    ({"moe_top_k": 1}, {"moe_top_k": 1, "moe_expert_count": 8}, "with --moe-top-k 1 the gate is"),
    ({"router": "random"}, {"router": "random", "moe_expert_count": 8, "pairs": PAIRS,
                            "langs": LANGS}, "--encoder-moe-router random would take"),
    ({}, {"moe_expert_count": 6, "init_task": "en-gu=new"}, "new needs --moe-expert-count of 7"),
    ({}, {"init_task": "en-gu=new"}, "new needs --moe-expert-count of 7"),
])
def test_numbers_that_would_change_routes_are_refused(old, new, told, tmp_path):
    base = side(**{"router": "pair", "groups": None, **old})
    added = {"pairs": ("en-gu", *PAIRS), "langs": ("gu", *LANGS)}
    own = side(**{"router": "pair", "groups": None, **added, **new})
    with pytest.raises(Refusal, match=told):
        start(base, own, "finetune", tmp_path)


def test_opposite_tasks_leave_no_place_for_a_gate():
    task = torch.randn(1, 4)
    tasks, gate = torch.cat([task, -task]), torch.randn(2, 4)
    with pytest.raises(Refusal, match="layer has 2 tasks in a width of 4, and no gate"):
        _gates_out_of_reach(tasks, gate, number=1, top_k=2, prefix="layer")
