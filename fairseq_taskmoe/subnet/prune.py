"""Which experts a model that routes by the text keeps for some language pairs.

Like task routing, this needs no further training (Koishekenov et al., 2023): experts that a
direction rarely uses are removed, by the statistics of `taskmoe routing`.
"""

from typing import NamedTuple, Sequence

from ..checkpoint.contents import TrainedModel
from ..errors import refuse
from ..models.router_kinds import ROUTERS
from ..names import EXPERTS, STACKS
from .expert_importance import choose_experts, load_importance
from .extract import KeptExperts, moe_layers


class Pruning(NamedTuple):
    """How many experts remain."""

    statistics: str  # routing.npz of `taskmoe routing`
    keep: float = 0.25  # share of the experts of all stacks that are pruned
    scope: str = "layer"  # layer: the same number in all layers of a stack; global: one threshold
    balance: float = 3.0  # with `layer`: encoder experts for each decoder expert


def choose_kept_experts(
    trained: TrainedModel, lang_pairs: Sequence[str], pruning: Pruning
) -> KeptExperts:
    """Return the experts that remain in each layer of the stacks that route by token or sentence.

    Refuses statistics of another model, and a model whose routing is not learned from the text.
    """
    cfg = trained.cfg
    routers = {stack: str(getattr(cfg, f"{stack}_moe_router")) for stack in STACKS}
    stacks = [stack for stack, router in routers.items() if ROUTERS[router].learns_from_text]
    if not stacks:
        refuse(f"--prune: the model routes by {' and '.join(routers.values())}; only experts of "
               "token and sentence routing can be pruned, the others are cut out exactly")
    importance = load_importance(pruning.statistics)
    for stack in stacks:
        for layer, prefix in moe_layers(trained.weights, cfg, stack):
            number = trained.weights[f"{prefix}{EXPERTS}fc1.weight"].size(0)
            measured = importance.layers.get((stack, layer))
            if measured is None or measured.shape[1] != number:
                refuse(f"--prune {pruning.statistics}: statistics of another model, the checkpoint "
                       f"has {number} experts in {stack} layer {layer}")
    return choose_experts(
        importance, lang_pairs, pruning.keep, pruning.scope, pruning.balance, cfg.moe_top_k, stacks
    )
