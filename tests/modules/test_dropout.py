"""Dropout draws as many zeros as asked for, scales the rest, and does nothing at evaluation."""

import pytest
import torch

from fairseq_taskmoe.modules.dropout import Dropout, dropout


@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("shape", [(1000, 1001), (3,), (0, 5)])
def test_zeros_come_with_probability_p_and_the_mean_is_kept(p, shape):
    dropped = Dropout(p)(torch.ones(shape))
    assert set(dropped.unique().tolist()) <= {0.0, dropped.max().item() if dropped.numel() else 0}
    if dropped.numel() > 1000:
        share = (dropped == 0).float().mean().item()
        deviation = (p * (1 - p) / dropped.numel()) ** 0.5
        assert share == pytest.approx(p, abs=5 * deviation + 2**-16)
        assert dropped.mean().item() == pytest.approx(1, abs=5 * deviation / (1 - p) + 1e-4)


def test_draws_are_independent():
    dropped = Dropout(0.5)(torch.ones(400_000)) == 0
    for lag in (1, 2, 3, 4, 8):
        both = (dropped[:-lag] & dropped[lag:]).float().mean().item()
        assert both == pytest.approx(0.25, abs=0.005)


def test_evaluation_and_probability_zero_change_nothing():
    x = torch.randn(5, 7)
    assert Dropout(0.3).eval()(x) is x
    assert Dropout(0.0)(x) is x


def test_mask_depends_on_the_seed_and_is_the_same_in_the_gradient():
    x = torch.ones(50, 50, requires_grad=True)
    torch.manual_seed(3)
    first = Dropout(0.4)(x)
    first.sum().backward()
    torch.manual_seed(3)
    torch.testing.assert_close(Dropout(0.4)(x), first, rtol=0, atol=0)
    torch.testing.assert_close(x.grad, first.detach())


def test_half_precision_keeps_its_type():
    assert Dropout(0.5)(torch.ones(8, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_a_gpu_draws_as_torch_does():
    x = torch.randn(100, 100)
    torch.manual_seed(3)
    found = dropout(x, 0.3, on_cpu=False)
    torch.manual_seed(3)
    assert torch.equal(found, torch.nn.functional.dropout(x, 0.3))
    assert not torch.equal(found, dropout(x, 0.3, on_cpu=True))
