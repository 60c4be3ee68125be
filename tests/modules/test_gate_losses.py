"""Gate losses and routing statistics, by hand, and that their gradient reaches the gate."""

import pytest
import torch
from helpers import make_model, ragged_batch, ragged_mask

from fairseq_taskmoe.modules.gate_losses import gate_stats
from fairseq_taskmoe.modules.routers import RouterOutput

LEARNED = ("token", "sentence", "source", "target", "pair", "group")


def routed(probs, expert_ids, gates=None, log_partition=None):
    """Return the RouterOutput of one sentence, given row by row."""
    expert_ids = torch.tensor(expert_ids)
    gates = torch.full(expert_ids.shape, 0.5) if gates is None else torch.tensor(gates)
    if log_partition is None:
        log_partition = [0.0] * len(probs)
    tensors = (expert_ids, gates, torch.tensor(probs), torch.tensor(log_partition))
    return RouterOutput(*(tensor.unsqueeze(0) for tensor in tensors))


def test_balance_loss_by_hand():
    routing = routed(
        probs=[[0.9, 0.1], [0.6, 0.4], [0.5, 0.5], [0.4, 0.6]],
        expert_ids=[[0, 1], [0, 1], [0, 1], [1, 0]],
    )
    # mean probabilities 0.6 and 0.4, first choices 3/4 and 1/4: 2^2 * (0.45 + 0.1) / 2
    stats = gate_stats(routing, ragged_mask([4]))
    torch.testing.assert_close(stats.balance, torch.tensor(1.1))


@pytest.mark.parametrize("num_experts", [2, 3, 8])
def test_balance_loss_is_1_when_balanced_and_num_experts_at_worst(num_experts):
    ids = [[e] for e in range(num_experts)]
    even = routed([[1 / num_experts] * num_experts] * num_experts, ids)
    torch.testing.assert_close(
        gate_stats(even, ragged_mask([num_experts])).balance, torch.tensor(1.0)
    )
    collapsed = routed([[1.0] + [0.0] * (num_experts - 1)] * 3, [[0]] * 3)
    torch.testing.assert_close(
        gate_stats(collapsed, ragged_mask([3])).balance, torch.tensor(float(num_experts))
    )


def test_balance_loss_counts_first_choices_before_they_are_dropped():
    probs, ids = [[0.7, 0.3]] * 2, [[0, 1]] * 2
    kept = gate_stats(routed(probs, ids), ragged_mask([2]))
    dropped = gate_stats(routed(probs, ids, gates=[[0.7, 0.3], [0.0, 0.0]]), ragged_mask([2]))
    torch.testing.assert_close(dropped.balance, kept.balance)


def test_z_loss_is_the_mean_square_of_the_log_partition():
    routing = routed([[0.5, 0.5]] * 3, [[0]] * 3, log_partition=[1.0, -2.0, 3.0])
    stats = gate_stats(routing, ragged_mask([3]))
    torch.testing.assert_close(stats.z_loss, torch.tensor(14 / 3))


def test_entropy_is_a_mean_in_nats():
    routing = routed([[0.5, 0.5], [1.0, 0.0]], [[0], [0]])
    stats = gate_stats(routing, ragged_mask([2]))
    torch.testing.assert_close(stats.entropy, torch.tensor(2.0).log() / 2)


def test_load_counts_choices_and_overflow_is_the_dropped_fraction():
    routing = routed(
        probs=[[0.6, 0.3, 0.1]] * 4,
        expert_ids=[[0, 1], [0, 2], [0, 1], [1, 0]],
        gates=[[0.7, 0.3], [0.7, 0.0], [0.0, 0.0], [0.5, 0.5]],
    )
    stats = gate_stats(routing, ragged_mask([4]))
    assert stats.load.tolist() == [3, 2, 0]
    torch.testing.assert_close(stats.gate_sum, torch.tensor([1.9, 0.8, 0.0]))
    # of the three choices that were not dispatched, two found no room and one was not drawn
    lost = torch.tensor([[[False, False], [False, False], [True, True], [False, False]]])
    assert stats.overflow == 0
    stats = gate_stats(routing._replace(overflow=lost), ragged_mask([4]))
    torch.testing.assert_close(stats.overflow, torch.tensor(2 / 8))


def random_routing(batch, length, num_experts=4, top_k=2):
    log_partition = torch.randn(batch, length)
    probs = torch.randn(batch, length, num_experts).softmax(-1)
    gates, expert_ids = probs.topk(top_k, dim=-1)
    lost = torch.rand_like(gates) < 0.2
    return RouterOutput(expert_ids, gates * ~lost, probs, log_partition, lost)


@pytest.mark.parametrize("left_pad", [True, False])
def test_padding_is_not_counted(left_pad):
    lengths = (6, 2, 4)
    mask = ragged_mask(lengths, left_pad)
    routing = random_routing(3, 6)
    # the same tokens in one row, without padding
    row = RouterOutput(*(facts[mask].unsqueeze(0) for facts in routing))
    torch.testing.assert_close(gate_stats(routing, mask), gate_stats(row, ragged_mask([12])))


def test_decision_for_a_sentence_counts_once_per_token():
    mask = ragged_mask((6, 2, 4))
    whole = random_routing(3, 1)
    per_token = RouterOutput(
        *(facts.expand(3, 6, *facts.shape[2:]) for facts in whole)
    )
    torch.testing.assert_close(gate_stats(whole, mask), gate_stats(per_token, mask))


# -- gradients, through the whole model


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None
    }


@pytest.mark.parametrize("checkpoint_activations", [False, True])
@pytest.mark.parametrize("router", LEARNED)
def test_gradient_of_the_balance_loss_reaches_every_gate(router, checkpoint_activations):
    model = make_model(router=router, checkpoint_activations=checkpoint_activations).train()
    batch = ragged_batch()
    routers = [layer.moe.router for layer in (*model.encoder.layers, *model.decoder.layers)]
    for i, own in enumerate(routers):
        _, extra = model(**batch["net_input"])
        layers = extra["encoder_gate_stats"] + extra["gate_stats"]
        assert len(layers) == len(routers) == 4
        model.zero_grad()
        layers[i].balance.backward()
        for parameter in own.parameters():  # the gate, and what tasks are embedded in
            assert parameter.grad.norm() > 1e-3


@pytest.mark.parametrize("router", (*LEARNED, "random"))
def test_checkpointed_activations_change_no_gradient(router):
    batch = ragged_batch()
    overrides = {"dropout": 0.1, "moe_router_jitter": 0.1, "moe_second_expert_policy": "random"}
    results = []
    for checkpoint_activations in (False, True):
        torch.manual_seed(7)
        model = make_model(
            router=router, checkpoint_activations=checkpoint_activations, **overrides
        ).train()
        torch.manual_seed(8)  # the same draws
        logits, extra = model(**batch["net_input"])
        loss = logits.square().mean() + sum(
            stats.balance + stats.z_loss
            for stats in extra["encoder_gate_stats"] + extra["gate_stats"]
        )
        results.append(gradients(model, loss))
    torch.testing.assert_close(results[1], results[0])
