"""The models whose training steps are compared: our MoE and dense models, and stock fairseq.

`dense_equal` has a feed-forward network as wide as K experts in place of each MoE layer: the same
computation for each token. `dense` has the ordinary width in all layers. `stock` is fairseq's own
`transformer` of these sizes, with fairseq's own criterion.
"""

from argparse import Namespace
from types import SimpleNamespace
from typing import Any, Dict, List, NamedTuple, Sequence

import torch
import torch.nn as nn
from fairseq.criterions import FairseqCriterion
from fairseq.criterions.label_smoothed_cross_entropy import LabelSmoothedCrossEntropyCriterion
from fairseq.data import Dictionary
from fairseq.models.transformer import TransformerModel
from omegaconf import OmegaConf

from ... import register  # noqa: F401
from ...criterions.moe_label_smoothed_cross_entropy import MoeLabelSmoothedCrossEntropyCriterion
from ...data.task_table import TaskTable
from ...models.config import ARCHITECTURES, TransformerTaskMoeConfig
from ...models.transformer_task_moe import TransformerTaskMoeModel

# name -> router of both stacks; these variants depend on the number of experts
ROUTED = {"token_token": "token", "target_target": "target"}
UNROUTED = ("dense", "dense_equal", "stock")
VARIANTS = (*UNROUTED, *ROUTED)
POSITIONS = {"max_source_positions": 1024, "max_target_positions": 1024}
# a common size for a few million sentences; the plugin has no architecture of this size
SMALL: Dict[str, Any] = {
    f"{stack}_{name}": number
    for stack in ("encoder", "decoder")
    for name, number in (
        ("embed_dim", 256), ("ffn_embed_dim", 1024), ("layers", 3), ("attention_heads", 4)
    )
}
SIZES = {**ARCHITECTURES, "small": {**SMALL, "share_all_embeddings": True}}
LABEL_SMOOTHING, GATE_LOSS_WEIGHT = 0.1, 0.01


class TrainingVariant(NamedTuple):
    """A model to measure."""

    label: str
    name: str  # of VARIANTS
    num_experts: int
    precision: str  # of float32 products, as torch names it


class TrainedModel(NamedTuple):
    """A model and its criterion."""

    model: nn.Module
    criterion: FairseqCriterion


def list_variants(
    words: Sequence[str], expert_counts: Sequence[int], precision: str
) -> List[TrainingVariant]:
    """Return the variants that words name: `dense`, or with its own precision `dense:medium`.

    There is one MoE variant for each number of experts; if there are several, the labels have it.
    """
    variants = []
    for word in words:
        name, _, own = word.partition(":")
        counts = expert_counts if name in ROUTED else expert_counts[:1]
        for count in counts:
            label = f"{name}@{count}" if len(counts) > 1 else name
            variants.append(
                TrainingVariant(f"{label}:{own}" if own else label, name, count, own or precision)
            )
    return variants


def build(
    variant: TrainingVariant, arch: str, dictionary: Dictionary, table: TaskTable,
    settings: Sequence[str] = (),
) -> TrainedModel:
    """Return a model with random weights, and its criterion.

    settings NAME=VALUE change the architecture.
    """
    torch.manual_seed(1)
    task: Any = SimpleNamespace(
        source_dictionary=dictionary, target_dictionary=dictionary, task_table=table,
        expert_groups=None,
    )
    own: Any = OmegaConf.to_container(OmegaConf.from_dotlist(list(settings)))
    sizes = {**SIZES[arch], **POSITIONS, **own}
    if variant.name == "stock":
        criterion = LabelSmoothedCrossEntropyCriterion(task, False, LABEL_SMOOTHING)
        return TrainedModel(build_stock(sizes, task), criterion)
    router = ROUTED.get(variant.name, "dense")
    sizes.update(
        moe_expert_count=0 if variant.name == "dense" else variant.num_experts,
        encoder_moe_router=router, decoder_moe_router=router,
    )
    cfg = OmegaConf.merge(OmegaConf.structured(TransformerTaskMoeConfig), sizes)
    ours = MoeLabelSmoothedCrossEntropyCriterion(
        task, False, LABEL_SMOOTHING, GATE_LOSS_WEIGHT, 0.0
    )
    return TrainedModel(TransformerTaskMoeModel.build_model(cfg, task), ours)


def build_stock(sizes: Dict[str, Any], task: Any) -> nn.Module:
    """Return the model of `fairseq-train --arch transformer` with the flags of these sizes."""
    stock = {name: value for name, value in sizes.items() if not name.startswith("moe_")}
    return TransformerModel.build_model(Namespace(**stock), task)
