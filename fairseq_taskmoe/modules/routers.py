"""Routers choose the experts of each token.

Shapes, batch first: B sentences, S positions, C model width, G groups of tasks, E experts,
K experts per token. The output of a router that decides for whole sentences has one position
(B, 1, ..), that of a token router has S.
"""

from typing import NamedTuple, Optional

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor


class RoutingInputs(NamedTuple):
    """Inputs of a router besides its layer's input, the same for all layers of a stack."""

    task_ids: Optional[Tensor]  # (B,) int64, rows of the task table
    token_mask: Tensor  # (B, S) bool, True at real tokens, False at padding
    sentence_hashes: Tensor  # (B,) int64, of the source tokens
    source_means: Optional[Tensor]  # (B, C) mean encoder output; None inside the encoder
    # (N,) int64, number of tokens of each task in an epoch, if each batch holds one task
    task_tokens: Optional[Tensor] = None


class RouterOutput(NamedTuple):
    """The routing of each token (B, S, ..) or sentence (B, 1, ..)."""

    expert_ids: Tensor  # (B, S or 1, K) int64, best first
    gates: Tensor  # (B, S or 1, K), sum to 1 over K >= 2 choices; 0 for dropped choices
    probs: Tensor  # (B, S or 1, E) float32, for the balance loss and the statistics
    log_partition: Tensor  # (B, S or 1) float32, log-sum-exp of the logits, for the z-loss
    overflow: Optional[Tensor] = None  # (B, S or 1, K) True where the capacity was exceeded


class RouterOptions(NamedTuple):
    """Options of all routers with a gate."""

    top_k: int = 2
    second_expert_policy: str = "all"  # all | random | sampling; training only
    jitter: float = 0.0  # in training, the routing key is multiplied by U(1 - jitter, 1 + jitter)
    capacity_factor: float = 0.0  # <= 0: nothing is ever dropped
    eval_capacity_factor: float = 0.0


class Router(nn.Module):
    """Top-K gating over a routing key (paper section 3.1), which subclasses define."""

    def __init__(self, embed_dim: int, num_experts: int, options: RouterOptions):
        super().__init__()
        self.gate = nn.Linear(embed_dim, num_experts, bias=False)
        self.num_experts = num_experts
        self.options = options

    def routing_key(self, x: Tensor, inputs: RoutingInputs) -> Tensor:
        """Return the input of the gate: (B, S, C), or (B, 1, C) to route whole sentences."""
        raise NotImplementedError

    def reads_input(self, inputs: RoutingInputs) -> bool:
        """Return whether the decision depends on the layer's own input x."""
        raise NotImplementedError

    def forward(self, x: Tensor, inputs: RoutingInputs) -> RouterOutput:
        """Route x (B, S, C): score the key, choose K experts, drop choices beyond the capacity."""
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
        if self.options.top_k > 1:  # a single gate normalised to 1 would get no gradient
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

        In training, policy `sampling` draws all but the first from the softmax of the rest (with
        Gumbel noise), as in Lingvo's Top2GatingOnLogits.
        """
        k = self.options.top_k
        if k == 1 or not self.training or self.options.second_expert_policy != "sampling":
            return logits.topk(k, dim=-1).indices
        first = logits.argmax(dim=-1, keepdim=True)
        gumbel = -torch.empty_like(logits).exponential_().log()
        others = (logits.detach() + gumbel).scatter(-1, first, float("-inf"))
        return torch.cat([first, others.topk(k - 1, dim=-1).indices], dim=-1)

    def draw_later_choices(self, gates: Tensor) -> Tensor:
        """Return gates (B, S or 1, K) with zeros for later choices that are not dispatched.

        Policy `random`: a later choice is dispatched with probability 2 g (GShard section 2.2).
        """
        kept = 2 * gates > torch.rand_like(gates)
        kept[..., 0] = True
        return gates * kept

    def find_overflow(
        self, expert_ids: Tensor, gates: Tensor, token_mask: Tensor
    ) -> Optional[Tensor]:
        """Return which choices (B, S or 1, K) exceed the capacity, None if there is no capacity.

        As in GShard, the gates of the other choices are not normalised again.
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
    """Routes each token by its own representation."""

    def routing_key(self, x: Tensor, inputs: RoutingInputs) -> Tensor:
        return x

    def reads_input(self, inputs: RoutingInputs) -> bool:
        return True


class SentenceRouter(Router):
    """Routes each sentence by the mean of its token representations.

    The decoder uses the mean encoder output, since the mean over the target would depend on future
    tokens and change at each decoding step.
    """

    def routing_key(self, x: Tensor, inputs: RoutingInputs) -> Tensor:
        if inputs.source_means is not None:
            return inputs.source_means.unsqueeze(1)
        return masked_mean(x, inputs.token_mask).unsqueeze(1)

    def reads_input(self, inputs: RoutingInputs) -> bool:
        return inputs.source_means is None


class TaskRouter(Router):
    """Routes each task, independently of the text.

    Tasks of the same group have the same route; task_groups (N,) is the group of each task, such as
    its pair, its source or target language, or a group that the user defines. The input of the gate
    is a learned embedding of the group, one in each layer (Lingvo's TaskTop2Gating).
    """

    task_groups: Tensor

    def __init__(
        self, embed_dim: int, num_experts: int, options: RouterOptions, task_groups: Tensor,
        num_groups: int,
    ):
        super().__init__(embed_dim, num_experts, options)
        # not saved: it follows from the task table, which may have more pairs at inference
        self.register_buffer("task_groups", task_groups, persistent=False)
        self.embed_tasks = nn.Embedding(num_groups, embed_dim)

    def routing_key(self, x: Tensor, inputs: RoutingInputs) -> Tensor:
        assert inputs.task_ids is not None, "the task puts task_ids into every batch"
        return self.embed_tasks(self.task_groups[inputs.task_ids]).unsqueeze(1)

    def reads_input(self, inputs: RoutingInputs) -> bool:
        return False

    def balance_over_tasks(self, task_tokens: Tensor) -> Tensor:
        """Return the balance loss () over all tasks, weighted by their task_tokens (N,).

        If a batch holds one task, the balance loss over the batch would not compare tasks, and only
        make the gate of the task uniform. Since the gate depends only on the task, the loss over
        all tasks needs no batch.
        """
        with torch.autocast(task_tokens.device.type, enabled=False):
            logits = F.linear(self.embed_tasks.weight.float(), self.gate.weight.float())
            probs = logits.softmax(dim=-1)
            groups = self.task_groups[: task_tokens.size(0)]
            weights = probs.new_zeros(probs.size(0)).index_add(0, groups, task_tokens.float())
            return balance_loss(weights, probs, logits.argmax(dim=-1))


def balance_loss(weights: Tensor, probs: Tensor, first: Tensor) -> Tensor:
    """Return GShard's balance loss () over first choices, with Lingvo's factor E^2.

    For each of D decisions, weights (D,) is the number of its tokens, probs (D, E) are the softmax
    probabilities, and first (D,) is the first choice; the former two are float32.
    """
    num_tokens = weights.sum().clamp(min=1)
    mean_probs = weights @ probs / num_tokens
    first_choices = torch.zeros_like(mean_probs).index_add(0, first, weights)
    return probs.size(1) ** 2 * torch.mean(mean_probs * first_choices / num_tokens)


def masked_mean(x: Tensor, token_mask: Tensor) -> Tensor:
    """Return the mean (B, C) of the real tokens of x (B, S, C)."""
    total = torch.bmm(token_mask.type_as(x).unsqueeze(1), x).squeeze(1)
    return total / token_mask.sum(dim=1, keepdim=True).clamp(min=1).type_as(x)


def within_capacity(
    expert_ids: Tensor, dispatched: Tensor, sizes: Tensor, num_experts: int, factor: float
) -> Tensor:
    """Return which choices (U, K) are within capacity, for U units: tokens or whole sentences.

    expert_ids (U, K) are the choices, dispatched (U, K) is False for choices that are not made, and
    sizes (U,) are the units' numbers of tokens (0 for padding). Each expert accepts factor * tokens
    / num_experts tokens, rounded up: first all first choices in the order of the batch, then all
    second ones (GShard algorithm 1; Lingvo does the same). A choice that exceeds the capacity still
    counts for those behind it. Sorting needs memory linear in U; one-hot cumulative sums would need
    U x num_experts.
    """
    num_units, top_k = expert_ids.shape
    capacity = (sizes.sum().double() * factor / num_experts).ceil()
    experts = expert_ids.t().flatten()
    loads = sizes.repeat(top_k) * dispatched.t().flatten()
    order = experts.argsort(stable=True)
    filled = loads[order].cumsum(0)
    totals = torch.zeros(num_experts, dtype=loads.dtype, device=loads.device)
    totals.index_add_(0, experts, loads)
    before = totals.cumsum(0) - totals
    room = torch.empty_like(experts, dtype=torch.bool)
    room[order] = filled - before[experts[order]] <= capacity
    return room.view(top_k, num_units).t() & dispatched
