"""The fused update is that of fairseq's Adam, whose states it keeps."""

from types import SimpleNamespace

import pytest
import torch
from fairseq.optim.adam import Adam

from fairseq_taskmoe.training.fused_adam import use_fused_adam


def parameters(dtype=torch.float32):
    torch.manual_seed(1)
    return [torch.nn.Parameter(torch.randn(*shape).to(dtype)) for shape in [(3, 4, 5), (7,), (2,)]]


def optimizer_of(own, fused, **settings):
    adam = Adam(own, betas=(0.9, 0.98), **{"lr": 0.01, **settings})
    if fused:
        use_fused_adam(SimpleNamespace(optimizer=adam))
    return adam


def set_gradients(own, step):
    generator = torch.Generator().manual_seed(step)
    for parameter in own:
        drawn = torch.randn(parameter.shape, generator=generator)
        if parameter.dim() == 3:
            drawn[1] = 0  # an expert without rows
            if step > 2:
                drawn[0] = 0  # one that had rows before
            drawn = drawn.transpose(0, 1).contiguous().transpose(0, 1)  # other strides
        parameter.grad = drawn
    own[2].grad = None if step % 2 else own[2].grad  # updated every second time


def assert_same(one, two):
    # a few roundings of a difference to the old value
    torch.testing.assert_close(one, two, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("settings", [{}, {"weight_decay": 0.1}, {"eps": 0.1}])
def test_updates_are_those_of_fairseq(settings):
    both = [parameters(), parameters()]
    adams = [optimizer_of(own, bool(i), **settings) for i, own in enumerate(both)]
    for step in range(6):
        for own, adam in zip(both, adams, strict=True):
            set_gradients(own, step)
            adam.param_groups[0]["lr"] = 0.01 / (1 + step)  # as a scheduler does
            adam.step()
    assert_same(*([p.data for p in own] for own in both))
    plain, fused = (adam.state_dict()["state"] for adam in adams)
    assert {i: state["step"] for i, state in fused.items()} == {0: 6, 1: 6, 2: 3}
    for i, state in plain.items():
        assert fused[i].keys() == state.keys()
        assert_same(fused[i]["exp_avg"], state["exp_avg"])
        assert_same(fused[i]["exp_avg_sq"], state["exp_avg_sq"])


@pytest.mark.parametrize("first", [True, False])
def test_a_run_goes_on_from_the_state_of_the_other_update(first):
    own, other = parameters(), parameters()
    adam, whole = optimizer_of(own, first), optimizer_of(other, False)
    for step in range(6):
        if step == 3:
            state = adam.state_dict()
            adam = optimizer_of(own, not first)
            adam.load_state_dict(state)
        for each, of in ((adam, own), (whole, other)):
            set_gradients(of, step)
            each.step()
    assert_same([p.data for p in own], [p.data for p in other])


def test_other_types_keep_the_update_of_fairseq():
    adam = optimizer_of(parameters(torch.bfloat16), True)
    assert "step" not in vars(adam)
    sgd = torch.optim.SGD(parameters(), lr=1.0)
    use_fused_adam(SimpleNamespace(optimizer=sgd))
    assert "fused" not in repr(vars(sgd).get("step"))
