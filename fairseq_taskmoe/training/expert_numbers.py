"""Taking over a model with another number of experts, without changing the routes of its tasks.

Only task routers can: their routes are constants. With fewer experts, those stay that the run's
pairs use. With more, the gates of the new ones are such that no old task chooses them; a task that
--init-task initialises as `new` chooses only them.

Shapes: G groups of tasks, C model width, E experts, K experts per token.
"""

import zlib
from typing import Any, Dict, List, NamedTuple, Sequence

import torch
from torch import Tensor

from ..checkpoint.contents import TrainedModel
from ..errors import refuse
from ..models.build_layers import is_moe_position, num_experts, stored_route
from ..models.router_kinds import TASK_ROUTERS
from ..names import STACKS

StateDict = Dict[str, Tensor]
FLAG = "--moe-expert-count"
NOISE = 0.01  # of copied experts, in standard deviations of a tensor
MARGIN, LEAD = 1.0, 3.0  # of logits: of old tasks' choices over new experts, of new tasks' own


class ExpertRows(NamedTuple):
    """The experts of a layer, and the tasks that take new ones."""

    old: List[int]  # number in the checkpoint of each expert, or -1
    new_tasks: List[int]  # groups that take new experts


def check_expert_numbers(path: str, trained: TrainedModel, own: Any) -> None:
    """Refuse another number of experts where it would change the routes of trained pairs."""
    numbers = trained.cfg.moe_expert_count, own.cfg.moe_expert_count
    change = f"{path}: {FLAG} {numbers[0]}, this run has {numbers[1]}"
    for stack in STACKS:
        router = str(getattr(own.cfg, f"{stack}_moe_router"))
        if router not in (*TASK_ROUTERS, "dense"):
            refuse(f"{change}: --{stack}-moe-router {router} would take trained pairs to other "
                   "experts")
        if getattr(own.cfg, f"{stack}_moe_layer_experts") is not None:
            refuse(f"{change}: --{stack}-moe-layer-experts gives the numbers of layers")
    if own.cfg.moe_top_k == 1:
        refuse(f"{change}: with --moe-top-k 1 the gate is a probability among all experts, which "
               "would change for trained pairs")


def find_experts(
    path: str, trained: TrainedModel, own: Any, new_tasks: Dict[str, List[int]]
) -> Dict[str, ExpertRows]:
    """Return the experts of each MoE layer, by the prefix of its parameters."""
    check_expert_numbers(path, trained, own)
    number, found = own.cfg.moe_expert_count, {}
    pairs = [pair for pair in own.table.trained if pair in trained.pairs]
    for stack in STACKS:
        for layer in range(getattr(own.cfg, f"{stack}_layers")):
            if not (is_moe_position(own.cfg, stack, layer) and num_experts(own.cfg, stack, layer)):
                continue
            routes = (
                stored_route(trained.weights, trained.cfg, stack, layer, trained.table, pair)
                for pair in pairs
            )
            used = sorted({e for route in routes if route for e in route.expert_ids.tolist()})
            if len(used) > number:
                refuse(f"{path}: {FLAG} {number}: its pairs use {len(used)} experts in {stack} "
                       f"layer {layer}")
            others = [e for e in range(trained.cfg.moe_expert_count) if e not in used]
            kept = sorted([*used, *others[: max(0, number - len(used))]])
            old = [*kept, *[-1] * (number - len(kept))]
            found[f"{stack}.layers.{layer}.moe"] = ExpertRows(old, new_tasks.get(stack, []))
    return found


def take_experts(
    taken: StateDict, state: StateDict, prefix: str, rows: ExpertRows, moe: Any, copy: bool
) -> None:
    """Put the experts and router of a layer into taken; its task embeddings are there already.

    state is the checkpoint's; moe is the new layer, which may have only the experts of this rank.
    """
    old = torch.tensor(rows.old)
    is_new = old < 0
    numbers = is_new.nonzero().flatten().tolist()
    for name, drawn in moe.experts.state_dict(prefix=f"{prefix}.experts.").items():
        stored, first = state[name], moe.experts.fc1.first_expert
        # a new expert is a copy of an old one in turn
        value = stored[torch.where(is_new, torch.arange(len(old)) % len(stored), old)]
        for number in numbers:
            if copy:
                generator = torch.Generator().manual_seed(zlib.crc32(f"{name} {number}".encode()))
                noise = torch.randn(value[number].shape, generator=generator)
                value[number] += NOISE * stored.std() * noise
            elif first <= number < first + len(drawn):
                value[number] = drawn[number - first].to(value)
        taken[name] = value
    top_k = moe.router.options.top_k
    gate, tasks = f"{prefix}.router.gate.weight", f"{prefix}.router.embed_tasks.weight"
    weight = state[gate][old.clamp(min=0)]
    if numbers:
        is_old = torch.ones(len(taken[tasks]), dtype=torch.bool)
        is_old[rows.new_tasks] = False
        weight[is_new] = _gates_out_of_reach(
            taken[tasks][is_old], weight[~is_new], len(numbers), top_k, prefix
        )
        taken[tasks] = taken[tasks].clone()
        for i, task in enumerate(rows.new_tasks):
            chosen = [numbers[(top_k * i + k) % len(numbers)] for k in range(top_k)]
            taken[tasks][task] = _task_that_chooses(chosen, weight, prefix)
    taken[gate] = weight


def _gates_out_of_reach(
    tasks: Tensor, gate: Tensor, number: int, top_k: int, prefix: str
) -> Tensor:
    """Return gates (number, C) of new experts that none of tasks (G, C) chooses.

    gate (E, C) belongs to the old experts. The new gates differ in directions that are orthogonal
    to all tasks, so that tasks with other embeddings tell the experts apart.
    """
    embeddings, old = tasks.double(), gate.double()
    logits = embeddings @ old.t()
    inverse = torch.linalg.pinv(embeddings)
    common = inverse @ (logits.amin(dim=1) - MARGIN)
    generator = torch.Generator().manual_seed(zlib.crc32(prefix.encode()))
    drawn = torch.randn(number, old.size(1), generator=generator, dtype=torch.double) * old.std()
    new = common + drawn - (drawn @ embeddings.t()) @ inverse.t()
    if not (embeddings @ new.t() < logits.topk(top_k).values[:, -1:]).all():
        refuse(f"{FLAG}: {prefix} has {len(tasks)} tasks in a width of {old.size(1)}, and no gate "
               "of a new expert leaves the routes of all as they are")
    return new.to(gate.dtype)


def _task_that_chooses(experts: Sequence[int], gate: Tensor, prefix: str) -> Tensor:
    """Return a task embedding (C,) that takes the given experts, with gate (E, C)."""
    wanted = torch.zeros(len(gate), dtype=torch.double)
    wanted[list(experts)] = LEAD
    task = (torch.linalg.pinv(gate.double()) @ wanted).to(gate.dtype)
    if set((gate @ task).topk(len(experts)).indices.tolist()) != set(experts):
        refuse(f"--init-task: in {prefix} no embedding takes only new experts: there are "
               f"{len(gate)} experts in a width of {gate.size(1)}")
    return task
