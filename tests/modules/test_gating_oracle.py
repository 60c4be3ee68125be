"""Our top-2 gating against fairscale's implementation of GShard's, with its noise set to zero."""

import pytest
import torch
from fairscale.nn.moe import top2gate
from helpers import ragged_mask, routing_inputs

from fairseq_taskmoe.modules.gate_losses import gate_stats
from fairseq_taskmoe.modules.routers import RouterOptions, TokenRouter


@pytest.fixture(autouse=True)
def no_noise(monkeypatch):
    monkeypatch.setitem(top2gate.gumbel_map, torch.device("cpu"), torch.zeros)


def gates_of_equal_weights(num_experts, capacity_factor=0.0):
    """Return fairscale's gate and our router; what they read is their logits."""
    oracle = top2gate.Top2Gate(num_experts, num_experts)
    options = RouterOptions(capacity_factor=capacity_factor)
    router = TokenRouter(num_experts, num_experts, options).train()
    with torch.no_grad():
        oracle.wg.weight.copy_(torch.eye(num_experts))
        router.gate.weight.copy_(torch.eye(num_experts))
    return oracle, router


def balanced_logits(num_experts, rounds):
    """Return logits (S, E) that want each expert equally often, first and second."""
    token = torch.arange(num_experts * rounds)
    first = token % num_experts
    distance = 1 + token // num_experts % (num_experts - 1)
    second = (first + distance) % num_experts
    logits = torch.rand(len(token), num_experts)
    logits[token, first] += 3
    logits[token, second] += 1.5
    return logits


def route(router, logits):
    """Return our combine weights (S, E), and the statistics."""
    mask = ragged_mask([logits.size(0)])
    routing = router(logits.unsqueeze(0), routing_inputs(mask))
    weights = torch.zeros_like(logits).scatter(1, routing.expert_ids[0], routing.gates[0])
    return weights, gate_stats(routing, mask)


@pytest.mark.parametrize("capacity_factor", [0.0, 2.0])
@pytest.mark.parametrize("num_experts, rounds", [(2, 3), (4, 5), (8, 2)])
def test_combine_weights_are_those_of_fairscale(num_experts, rounds, capacity_factor):
    oracle, router = gates_of_equal_weights(num_experts, capacity_factor)
    logits = balanced_logits(num_experts, rounds)
    _, combine_weights, _ = oracle(logits)
    expected = combine_weights.sum(dim=2)  # over the places in an expert's buffer
    assert (expected > 0).sum() == 2 * len(logits), "nothing is dropped"
    weights, stats = route(router, logits)
    torch.testing.assert_close(weights, expected)
    assert stats.overflow == 0


@pytest.mark.parametrize("num_experts, rounds", [(2, 3), (4, 5), (8, 2)])
def test_balance_loss_is_that_of_fairscale_times_the_square_of_experts(num_experts, rounds):
    oracle, router = gates_of_equal_weights(num_experts)
    logits = torch.randn(num_experts * rounds, num_experts)
    expected, _, _ = oracle(logits)
    _, stats = route(router, logits)
    torch.testing.assert_close(stats.balance, num_experts**2 * expected)


def test_gradients_of_the_combine_weights_are_those_of_fairscale():
    oracle, router = gates_of_equal_weights(4)
    logits, direction = balanced_logits(4, 5), torch.randn(20, 4)
    (oracle(logits)[1].sum(dim=2) * direction).sum().backward()
    (route(router, logits)[0] * direction).sum().backward()
    torch.testing.assert_close(router.gate.weight.grad, oracle.wg.weight.grad)


def test_gradient_of_the_balance_loss_is_that_of_fairscale():
    oracle, router = gates_of_equal_weights(4)
    logits = torch.randn(20, 4)  # where balanced, the loss is flat
    (16 * oracle(logits)[0]).backward()
    route(router, logits)[1].balance.backward()
    assert router.gate.weight.grad.norm() > 0.01
    torch.testing.assert_close(router.gate.weight.grad, oracle.wg.weight.grad)


def test_capacity_drops_what_fairscale_drops():
    oracle, router = gates_of_equal_weights(4, capacity_factor=2.0)
    logits = torch.randn(40, 4) + torch.tensor([2.0, 0.0, 0.0, -1.0])
    _, combine_weights, _ = oracle(logits)
    kept = combine_weights.sum(dim=2) > 0
    assert kept.sum() < 80, "something is dropped"
    weights, stats = route(router, logits)
    assert torch.equal(weights > 0, kept)
    torch.testing.assert_close(stats.overflow, 1 - kept.sum() / 80)
