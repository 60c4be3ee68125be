"""Cut out of a Task-MoE checkpoint the sub-network that serves one or several language pairs.

A task's experts and gates are constants, so its K experts are one feed-forward network K times as
wide (paper section 3.2): where all pairs take the same ones, no router and no other expert is
needed. Where they differ, the experts that none of them takes are left out. Of a stack that routes
by the text, experts can be left out only by choice (pruning).
"""

import sys
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch
from omegaconf import OmegaConf
from torch import Tensor
from tqdm import tqdm

from ..checkpoint.contents import TrainedModel
from ..data.languages import LanguageTags
from ..data.task_table import TaskTable
from ..errors import refuse
from ..metrics.lang_pairs import split_pair
from ..models.build_layers import is_moe_position, stored_route
from ..models.router_kinds import ROUTERS
from ..names import EXPERTS, STACKS
from .cut_layers import fold_layer, keep_experts, keep_routes, same_route

StateDict = Dict[str, Tensor]
KeptExperts = Dict[Tuple[str, int], List[int]]  # stack and layer -> experts that remain


class Subnet(NamedTuple):
    """The sub-network of some language pairs, still with layers of different width."""

    lang_pairs: List[str]
    model_cfg: Dict[str, Any]  # of transformer_task_moe; folded stacks have the router `dense`
    state: StateDict
    words: List[str]  # of the dictionary, special ones first and without tags
    word_counts: List[int]
    tags: LanguageTags
    routed: Dict[str, str]  # stacks that are not dense, and why
    zero_shot: Dict[str, Dict[str, str]]  # pair never trained -> stack -> pair whose route it takes

    @property
    def num_parameters(self) -> int:
        """Return how many parameters the sub-network has."""
        return count_parameters(self.state)


def count_parameters(state: StateDict) -> int:
    """Return how many parameters a model has, shared ones counted once."""
    sizes = {
        tensor.data_ptr(): tensor.numel() for name, tensor in state.items()
        if name.endswith(("weight", "bias"))
    }
    return sum(sizes.values())


def extract_subnet(
    trained: TrainedModel, lang_pairs: Sequence[str], pruned: Optional[KeptExperts] = None
) -> Subnet:
    """Return the sub-network of lang_pairs; pruned: the experts kept in layers that route by text.

    A pair that was never trained takes the route that it takes in the full model.
    """
    pairs = servable_pairs(trained, lang_pairs)
    table = trained.table.with_pairs(pairs)
    state = dict(trained.weights)
    model_cfg: Any = OmegaConf.to_container(trained.cfg, enum_to_str=True)
    routed = {}
    for stack in STACKS:
        reason = _cut_stack(state, model_cfg, trained.cfg, stack, table, pairs, pruned or {})
        if reason is not None:
            routed[stack] = reason
    return Subnet(
        pairs, model_cfg, state, trained.words, trained.word_counts, trained.tags, routed,
        zero_shot_routes(trained, pairs),
    )


def servable_pairs(trained: TrainedModel, lang_pairs: Sequence[str]) -> List[str]:
    """Return pairs in order, refusing those that the model has no tags or no experts for."""
    pairs = sorted(set(lang_pairs))
    langs, only = trained.tags.langs, trained.served_only or pairs
    for pair in pairs:
        for lang in split_pair(pair):
            if lang not in langs:
                refuse(f"unknown language {lang}: the checkpoint has {', '.join(langs)}")
        if pair not in only:
            refuse(f"the checkpoint is a sub-network for {', '.join(only)}, not for {pair}")
        if len(set(split_pair(pair))) == 1 and pair not in trained.pairs:
            refuse(f"{pair}: source and target are the same language, and it was never trained")
    return pairs


def zero_shot_routes(trained: TrainedModel, pairs: Sequence[str]) -> Dict[str, Dict[str, str]]:
    """Return for each pair that was never trained, by stack, the trained pair whose route it takes.

    Refuses a pair for which there is no trained pair with a suitable route. Stacks that route by
    the text are left out.
    """
    cfg, table = trained.cfg, trained.table
    kinds = {}
    for stack in STACKS:
        router = str(getattr(cfg, f"{stack}_moe_router"))
        layers = range(getattr(cfg, f"{stack}_layers"))
        if any(is_moe_position(cfg, stack, i) for i in layers):
            kinds[stack] = ROUTERS[router].groups_by
    found = dict(trained.zero_shot)  # of the model that this was cut out of
    for pair in set(pairs) - set(table.trained):
        found[pair] = {
            stack: table.routed_as(pair, kind) for stack, kind in kinds.items()
            if kind is not None
        }
    return {pair: found[pair] for pair in pairs if pair in found}


def warn_of_zero_shot(zero_shot: Dict[str, Dict[str, str]]) -> None:
    """Say on stderr which directions were never trained, and whose experts they take."""
    for pair, routes in zero_shot.items():
        taken = [f", the {stack} takes the experts of {other}" for stack, other in routes.items()]
        print(f"taskmoe: warning: {pair} was never trained{''.join(taken)}", file=sys.stderr)


def text_routing(cfg: Any) -> Dict[str, str]:
    """Return the stacks that route by the text or by chance, and why they cannot be folded."""
    return {
        stack: f"the {stack} routes by {router}: which experts a sentence needs shows only when it "
        "is translated"
        for stack in STACKS
        if ROUTERS[router := str(getattr(cfg, f"{stack}_moe_router"))].varies_by_sentence
        and any(is_moe_position(cfg, stack, i) for i in range(getattr(cfg, f"{stack}_layers")))
    }


def pairs_with(trained: TrainedModel, lang: str, side: int) -> List[str]:
    """Return the trained pairs whose source (side 0) or target (1) language is lang."""
    found = [pair for pair in trained.pairs if split_pair(pair)[side] == lang]
    if not found:
        refuse(f"no trained pair has the {('source', 'target')[side]} language {lang} "
               f"(trained: {', '.join(trained.pairs)})")
    return found


def moe_layers(state: StateDict, cfg: Any, stack: str) -> Iterator[Tuple[int, str]]:
    """Yield the MoE layers of a stack that a checkpoint holds: number, and prefix of the names."""
    for layer in range(getattr(cfg, f"{stack}_layers")):
        prefix = f"{stack}.layers.{layer}"
        if is_moe_position(cfg, stack, layer) and f"{prefix}{EXPERTS}fc1.weight" in state:
            yield layer, prefix


def _cut_stack(
    state: StateDict, model_cfg: Dict[str, Any], cfg: Any, stack: str, table: TaskTable,
    pairs: List[str], pruned: KeptExperts,
) -> Optional[str]:
    """Cut the MoE layers of a stack in state and model_cfg; return why it is not dense, or None."""
    router = str(getattr(cfg, f"{stack}_moe_router"))
    counts, reason = [], None
    layers = dict(moe_layers(state, cfg, stack))
    num_layers = getattr(cfg, f"{stack}_layers")
    positions = [i for i in range(num_layers) if is_moe_position(cfg, stack, i)]
    for layer in tqdm(positions, desc=f"cut {stack}", leave=False, disable=None):
        prefix = layers.get(layer)
        if prefix is None:  # dense already
            counts.append(0)
            continue
        found = [stored_route(state, cfg, stack, layer, table, pair) for pair in pairs]
        routes = [route for route in found if route is not None]
        if len(routes) < len(pairs):
            reason = text_routing(cfg)[stack]
            kept = pruned.get((stack, layer))
            counts.append(keep_experts(state, prefix, kept))
        elif all(same_route(routes[0], route) for route in routes):
            fold_layer(state, prefix, routes[0])
            counts.append(0)
        else:
            reason = reason or (
                f"{' and '.join(pairs)} take different experts in {stack} layer {layer}"
            )
            counts.append(keep_routes(state, prefix, routes))
            router = "table"
    model_cfg[f"{stack}_moe_router"] = router if any(counts) else "dense"
    different = any(counts) and set(counts) != {cfg.moe_expert_count}
    model_cfg[f"{stack}_moe_layer_experts"] = ",".join(map(str, counts)) if different else None
    return reason


def widest_layer(state: StateDict, stack: str, num_layers: int) -> int:
    """Return the width of the widest feed-forward network of a stack."""
    return max(state[f"{stack}.layers.{i}.fc1.weight"].size(0) for i in range(num_layers))


def pad_widths(state: StateDict, stack: str, num_layers: int, width: int) -> None:
    """Give all feed-forward networks of a stack the same width, by zeros.

    fairseq's transformer has one width for all layers. A hidden unit whose output weights are
    zeros changes nothing, whatever the activation function.
    """
    for layer in range(num_layers):
        prefix = f"{stack}.layers.{layer}"
        missing = width - state[f"{prefix}.fc1.weight"].size(0)
        if missing:
            for name, padding in (
                ("fc1.weight", (0, 0, 0, missing)), ("fc1.bias", (0, missing)),
                ("fc2.weight", (0, missing)),
            ):
                name = f"{prefix}.{name}"
                state[name] = torch.nn.functional.pad(state[name], padding)
