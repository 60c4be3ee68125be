"""Auxiliary losses and statistics of a layer's routing.

Layers return them and do not store them on modules: with --checkpoint-activations a stored loss
would silently get no gradient.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .routers import RouterOutput, balance_loss


class GateStats(NamedTuple):
    """One MoE layer's routing of one micro-batch, without padding."""

    balance: Tensor  # () E^2 mean_e(mean probability * fraction of first choices); 1 if balanced
    z_loss: Tensor  # () mean squared log-sum-exp of the logits
    entropy: Tensor  # () mean entropy of the gate's probabilities in nats
    load: Tensor  # (E,) number of tokens that each expert received
    overflow: Tensor  # () fraction of the tokens' choices that exceeded the capacity
    gate_sum: Tensor  # (E,) sum over tokens of the gates that each expert received
    wire_bytes: int = 0  # bytes of rows that this rank sent to others in the forward pass


class FirstChoices(NamedTuple):
    """The first choices of the tokens of a micro-batch, whatever the capacity."""

    tokens: Tensor  # (E,) number of tokens with that first choice
    prob_sum: Tensor  # (E,) sum of the softmax probabilities of those choices


def gate_stats(routing: RouterOutput, token_mask: Tensor, wire_bytes: int = 0) -> GateStats:
    """Return the statistics of routing for token_mask (B, S), True at real tokens.

    A decision for a whole sentence counts once for each of its tokens. The balance loss is computed
    over the micro-batch of a rank.
    """
    weights = _tokens_per_decision(routing, token_mask)
    num_tokens = weights.sum().clamp(min=1)
    probs = routing.probs.flatten(0, 1)
    expert_ids = routing.expert_ids.flatten(0, 1)

    with torch.autocast(probs.device.type, enabled=False):  # float32: fractions are small numbers
        balance = balance_loss(weights, probs, expert_ids[:, 0])
    z_loss = (weights * routing.log_partition.flatten().square()).sum() / num_tokens
    with torch.no_grad():
        entropies = -torch.special.xlogy(probs, probs).sum(dim=1)
        entropy = (weights * entropies).sum() / num_tokens
        chosen = weights.unsqueeze(1) * (routing.gates.flatten(0, 1) > 0)
        zeros = probs.new_zeros(probs.size(1))
        load = zeros.index_add(0, expert_ids.flatten(), chosen.flatten())
        gates = weights.unsqueeze(1) * routing.gates.flatten(0, 1)
        gate_sum = zeros.index_add(0, expert_ids.flatten(), gates.flatten())
        overflow = torch.zeros_like(balance)
        if routing.overflow is not None:
            dropped = weights.unsqueeze(1) * routing.overflow.flatten(0, 1)
            overflow = dropped.sum() / (num_tokens * expert_ids.size(1))
    return GateStats(balance, z_loss, entropy, load, overflow, gate_sum, wire_bytes)


def first_choices(routing: RouterOutput, token_mask: Tensor) -> FirstChoices:
    """Return the first choices of routing for token_mask (B, S), counted as in gate_stats.

    Only analysis needs them, so they are not part of GateStats, which every training step computes.
    """
    weights = _tokens_per_decision(routing, token_mask)
    first = routing.expert_ids[..., 0].flatten()
    probs = routing.probs.flatten(0, 1)
    first_probs = probs.gather(1, first.unsqueeze(1)).squeeze(1)
    zeros = probs.new_zeros(probs.size(1))
    return FirstChoices(
        zeros.index_add(0, first, weights), zeros.index_add(0, first, weights * first_probs)
    )


def _tokens_per_decision(routing: RouterOutput, token_mask: Tensor) -> Tensor:
    """Return the number of tokens (B S,) or (B,) that each decision is for, in float32."""
    per_sentence = routing.probs.size(1) != token_mask.size(1)
    counted = token_mask.sum(dim=1, keepdim=True) if per_sentence else token_mask
    return counted.flatten().float()
