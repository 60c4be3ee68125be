"""What a layer's routing costs and looks like: auxiliary losses and statistics.

They are returned by the layers, never parked on modules: with --checkpoint-activations a loss that
is parked gets no gradient, silently.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from .routers import RouterOutput, balance_loss


class GateStats(NamedTuple):
    """One MoE layer's routing of one micro-batch. Padding counts nowhere."""

    balance: Tensor  # () E^2 mean_e(mean probability * share of first choices); 1 when balanced
    z_loss: Tensor  # () mean squared log-sum-exp of the logits
    entropy: Tensor  # () mean entropy of the gate's probabilities in nats
    load: Tensor  # (E,) choices that each expert received, counted in tokens
    overflow: Tensor  # () share of the tokens' choices that their expert had no room for
    gate_sum: Tensor  # (E,) gates of the choices that each expert received, added up over tokens
    wire_bytes: int = 0  # of rows that this rank sent to others in the forward pass


class FirstChoices(NamedTuple):
    """Which experts come first for the tokens of a micro-batch, whether or not they had room."""

    tokens: Tensor  # (E,) number of those whose first choice an expert is
    prob_sum: Tensor  # (E,) its softmax probabilities for those tokens, added up


def gate_stats(routing: RouterOutput, token_mask: Tensor, wire_bytes: int = 0) -> GateStats:
    """Return the statistics of routing for token_mask (B, S), True at real tokens.

    A decision for a whole sentence counts once per token of the sentence. The group of the balance
    loss is the micro-batch of a rank.
    """
    weights = _tokens_per_decision(routing, token_mask)
    num_tokens = weights.sum().clamp(min=1)
    probs = routing.probs.flatten(0, 1)
    expert_ids = routing.expert_ids.flatten(0, 1)

    with torch.autocast(probs.device.type, enabled=False):  # shares are small numbers: float32
        balance = balance_loss(weights, probs, expert_ids[:, 0])
    z_loss = (weights * routing.log_partition.flatten().square()).sum() / num_tokens
    with torch.no_grad():
        surprise = -torch.special.xlogy(probs, probs).sum(dim=1)
        entropy = (weights * surprise).sum() / num_tokens
        chosen = weights.unsqueeze(1) * (routing.gates.flatten(0, 1) > 0)
        zeros = probs.new_zeros(probs.size(1))
        load = zeros.index_add(0, expert_ids.flatten(), chosen.flatten())
        gates = weights.unsqueeze(1) * routing.gates.flatten(0, 1)
        gate_sum = zeros.index_add(0, expert_ids.flatten(), gates.flatten())
        overflow = torch.zeros_like(balance)
        if routing.overflow is not None:
            lost = weights.unsqueeze(1) * routing.overflow.flatten(0, 1)
            overflow = lost.sum() / (num_tokens * expert_ids.size(1))
    return GateStats(balance, z_loss, entropy, load, overflow, gate_sum, wire_bytes)


def first_choices(routing: RouterOutput, token_mask: Tensor) -> FirstChoices:
    """Return the first choices of routing for token_mask (B, S), counted as gate_stats counts.

    They are needed by analysis alone and are therefore no part of GateStats, which training
    computes at every step.
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
    """Return for how many tokens (B S,) or (B,) each decision counts, in float32."""
    per_sentence = routing.probs.size(1) != token_mask.size(1)
    counted = token_mask.sum(dim=1, keepdim=True) if per_sentence else token_mask
    return counted.flatten().float()
