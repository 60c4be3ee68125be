"""Routers: who decides which experts a token visits.

Shapes, batch first: B sentences, S positions, C model width, G groups of tasks, E experts,
K experts per token. A router that decides for whole sentences answers with one position (B, 1, ..)
where a token router answers with S.
"""

from typing import NamedTuple, Optional

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .capacity import within_capacity


class RoutingInputs(NamedTuple):
    """What a router may look at besides its layer's input; the same for every layer of a stack."""

    task_ids: Optional[Tensor]  # (B,) int64, rows of the task table
    token_mask: Tensor  # (B, S) bool, True at real tokens, False at padding
    sentence_hashes: Tensor  # (B,) int64, of the source sentence's own tokens
    source_means: Optional[Tensor]  # (B, C) mean encoder output; None inside the encoder
    task_tokens: Optional[Tensor] = None  # (N,) int64, of an epoch; where batches hold one task


class RouterOutput(NamedTuple):
    """Who goes where: per token (B, S, ..), or per sentence (B, 1, ..)."""

    expert_ids: Tensor  # (B, S or 1, K) int64, best first
    gates: Tensor  # (B, S or 1, K), summing to 1 over K >= 2 choices; 0 where a choice is dropped
    probs: Tensor  # (B, S or 1, E) float32, for the balance loss and the statistics
    log_partition: Tensor  # (B, S or 1) float32, log-sum-exp of the logits, for the z-loss
    overflow: Optional[Tensor] = None  # (B, S or 1, K) True where an expert had no room


class RouterOptions(NamedTuple):
    """How routers choose, whatever they look at."""

    top_k: int = 2
    second_expert_policy: str = "all"  # all | random | sampling; training only
    jitter: float = 0.0  # in training the routing key is multiplied by U(1 - jitter, 1 + jitter)
    capacity_factor: float = 0.0  # <= 0: nothing is ever dropped
    eval_capacity_factor: float = 0.0


class Router(nn.Module):
    """Top-K gating over a routing key (paper section 3.1); subclasses choose the key."""

    def __init__(self, embed_dim: int, num_experts: int, options: RouterOptions):
        super().__init__()
        self.gate = nn.Linear(embed_dim, num_experts, bias=False)
        self.num_experts = num_experts
        self.options = options

    def routing_key(self, x: Tensor, inputs: RoutingInputs) -> Tensor:
        """Return what the gate reads: (B, S, C), or (B, 1, C) to route sentences whole."""
        raise NotImplementedError

    def reads_input(self, inputs: RoutingInputs) -> bool:
        """Say whether the decision waits for the layer's own input x."""
        raise NotImplementedError

    def forward(self, x: Tensor, inputs: RoutingInputs) -> RouterOutput:
        """Route x (B, S, C): score the key, choose K experts, drop what exceeds the capacity."""
        # float32: in half precision small differences between experts vanish
        with torch.autocast(x.device.type, enabled=False):
            key = self.routing_key(x, inputs).float()
            if self.training and self.options.jitter > 0:
                jitter = self.options.jitter
                key = key * torch.empty_like(key).uniform_(1 - jitter, 1 + jitter)
            logits = F.linear(key, self.gate.weight.float())
        probs = logits.softmax(dim=-1)
        expert_ids = self.choose_experts(logits)
        gates = probs.gather(-1, expert_ids)
        if self.options.top_k > 1:  # a lone gate normalised to 1 would get no gradient
            gates = gates / gates.sum(dim=-1, keepdim=True)
        if self.training and self.options.second_expert_policy == "random":
            gates = self.draw_later_choices(gates)
        overflow = self.find_overflow(expert_ids, gates, inputs.token_mask)
        if overflow is not None:
            gates = gates * ~overflow
        return RouterOutput(
            expert_ids, gates.type_as(x), probs, logits.logsumexp(dim=-1), overflow
        )

    def choose_experts(self, logits: Tensor) -> Tensor:
        """Return the experts (B, S or 1, K) for logits (B, S or 1, E), best first.

        Policy `sampling` draws all but the first from the softmax of the rest (Gumbel noise), as
        in Lingvo's Top2GatingOnLogits; at evaluation a translation must not depend on a draw.
        """
        k = self.options.top_k
        if k == 1 or not self.training or self.options.second_expert_policy != "sampling":
            return logits.topk(k, dim=-1).indices
        first = logits.argmax(dim=-1, keepdim=True)
        gumbel = -torch.empty_like(logits).exponential_().log()
        others = (logits.detach() + gumbel).scatter(-1, first, float("-inf"))
        return torch.cat([first, others.topk(k - 1, dim=-1).indices], dim=-1)

    def draw_later_choices(self, gates: Tensor) -> Tensor:
        """Return gates (B, S or 1, K), with zeros for later choices that are not dispatched.

        Policy `random`: a later choice is dispatched with probability 2 g (GShard section 2.2).
        """
        kept = 2 * gates > torch.rand_like(gates)
        kept[..., 0] = True
        return gates * kept

    def find_overflow(
        self, expert_ids: Tensor, gates: Tensor, token_mask: Tensor
    ) -> Optional[Tensor]:
        """Return which choices (B, S or 1, K) exceed an expert's capacity, None without capacity.

        Gates stay as they were normalised before, as in GShard: who loses an expert keeps the
        weight of the other.
        """
        options = self.options
        factor = options.capacity_factor if self.training else options.eval_capacity_factor
        if factor <= 0:
            return None
        per_token = gates.size(1) == token_mask.size(1)
        sizes = token_mask.long() if per_token else token_mask.sum(1, keepdim=True)
        dispatched = gates.flatten(0, 1) > 0
        kept = within_capacity(
            expert_ids.flatten(0, 1), dispatched, sizes.flatten(), self.num_experts, factor
        )
        return (dispatched & ~kept).view_as(gates)


class TokenRouter(Router):
    """Every token chooses by its own representation."""

    def routing_key(self, x: Tensor, inputs: RoutingInputs) -> Tensor:
        return x

    def reads_input(self, inputs: RoutingInputs) -> bool:
        return True


class SentenceRouter(Router):
    """Every sentence chooses once, by the mean of its tokens.

    In the decoder that is the mean encoder output: the mean of the target would look into the
    future, and would change from step to step.
    """

    def routing_key(self, x: Tensor, inputs: RoutingInputs) -> Tensor:
        if inputs.source_means is not None:
            return inputs.source_means.unsqueeze(1)
        return masked_mean(x, inputs.token_mask).unsqueeze(1)

    def reads_input(self, inputs: RoutingInputs) -> bool:
        return inputs.source_means is None


class TaskRouter(Router):
    """Every task chooses once: its experts are known before any text is seen.

    task_groups (N,) says which tasks route together: each pair for itself, or by its source or
    target language, or by a group of the user's. The gate reads a learned embedding of the group,
    with a linear map of each layer's own (Lingvo's TaskTop2Gating).
    """

    task_groups: Tensor

    def __init__(
        self, embed_dim: int, num_experts: int, options: RouterOptions, task_groups: Tensor,
        num_groups: int,
    ):
        super().__init__(embed_dim, num_experts, options)
        # not saved: it follows from the task table, which grows by pairs that are only served
        self.register_buffer("task_groups", task_groups, persistent=False)
        self.embed_tasks = nn.Embedding(num_groups, embed_dim)

    def routing_key(self, x: Tensor, inputs: RoutingInputs) -> Tensor:
        assert inputs.task_ids is not None, "the task puts task_ids into every batch"
        return self.embed_tasks(self.task_groups[inputs.task_ids]).unsqueeze(1)

    def reads_input(self, inputs: RoutingInputs) -> bool:
        return False

    def balance_over_tasks(self, task_tokens: Tensor) -> Tensor:
        """Return the balance loss () of a batch that held every task by its task_tokens (N,).

        Where batches hold one task each, their own balance loss does not compare tasks: it only
        flattens the task's gate. This one needs no batch, since the gate depends on the task alone.
        """
        with torch.autocast(task_tokens.device.type, enabled=False):
            logits = F.linear(self.embed_tasks.weight.float(), self.gate.weight.float())
            probs = logits.softmax(dim=-1)
            groups = self.task_groups[: task_tokens.size(0)]
            weights = probs.new_zeros(probs.size(0)).index_add(0, groups, task_tokens.float())
            return balance_loss(weights, probs, logits.argmax(dim=-1))


def balance_loss(weights: Tensor, probs: Tensor, first: Tensor) -> Tensor:
    """Return GShard's balance loss () over first choices, with Lingvo's factor E^2.

    weights (D,) says for how many tokens each of D decisions counts, probs (D, E) the softmax
    probabilities and first (D,) the first choice; all float32 but the last.
    """
    num_tokens = weights.sum().clamp(min=1)
    mean_probs = weights @ probs / num_tokens
    first_choices = torch.zeros_like(mean_probs).index_add(0, first, weights)
    return probs.size(1) ** 2 * torch.mean(mean_probs * first_choices / num_tokens)


def masked_mean(x: Tensor, token_mask: Tensor) -> Tensor:
    """Return the mean (B, C) of the real tokens of x (B, S, C)."""
    total = torch.bmm(token_mask.type_as(x).unsqueeze(1), x).squeeze(1)
    return total / token_mask.sum(dim=1, keepdim=True).clamp(min=1).type_as(x)
