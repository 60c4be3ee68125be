"""Parameter counts of a model and of its sub-network for one language pair (paper table 7).

The model is built by its own code on torch's meta device, where tensors have no memory.
"""

from typing import Any, Dict, List, NamedTuple

import torch
import torch.nn as nn
from omegaconf import OmegaConf

from ..checkpoint.reading import read_model
from ..data.languages import numbered_dictionary
from ..data.task_table import TaskTable
from ..errors import refuse
from ..models.router_kinds import ROUTERS
from ..models.transformer_task_moe import TransformerTaskMoeModel, build_without_task
from ..names import STACKS
from ..text_tables import aligned

# Paper table 3: fifteen languages from and to English
WMT_LANGUAGES = "cs fr ru zh es fi de et lv lt ro hi kk tr gu".split()
WMT_PAIRS = [pair for lang in WMT_LANGUAGES for pair in (f"{lang}-en", f"en-{lang}")]


class Counts(NamedTuple):
    """Parameters of one model, counted as in the paper: as if no embeddings were shared."""

    vocabulary: int  # input embedding
    encoder: int  # without the embedding, with learned positions
    decoder: int
    softmax: int  # decoder embedding and output projection
    experts: int  # in MoE layers; part of encoder and decoder
    total_shared: int  # shared embeddings counted once

    @property
    def total(self) -> int:
        return self.vocabulary + self.encoder + self.decoder + self.softmax


class ParameterReport(NamedTuple):
    """A model, and its sub-network for one language pair.

    In a stack that routes by task or statically, the sub-network has K experts for each MoE layer,
    folded into one network, without gates, task embeddings and K - 1 of the K output biases. A
    stack that routes by text (token, sentence) or at random is complete. This is the model of
    `taskmoe extract --format taskmoe`; fairseq's own transformer has one width for all layers, and
    the narrower ones are padded with zeros.
    """

    full: Counts
    effective: Counts

    def to_json(self) -> Dict[str, int]:
        """Return the report as a flat dictionary."""
        return {
            **{name: getattr(self.full, name) for name in Counts._fields},
            "total": self.full.total,
            "effective": self.effective.total,
            **{f"effective_{name}": getattr(self.effective, name)
               for name in ("encoder", "decoder", "experts")},
            "effective_shared": self.effective.total_shared,
        }

    def to_text(self) -> str:
        """Return the report as a table in millions and in exact numbers."""
        rows = [["", "all experts", "", "one pair", ""]]
        for name in ("vocabulary", "encoder", "decoder", "softmax", "total", "total_shared",
                     "experts"):
            cells = [getattr(counts, name) for counts in self]
            rows.append([name, *(text for n in cells for text in (f"{n / 1e6:,.1f} M", f"{n:,}"))])
        notes = (
            "total: input embedding, decoder embedding and output projection counted separately, "
            "as in the paper",
            "total_shared: parameters of the model, shared ones counted once",
            "experts: part of encoder and decoder",
            "one pair: the parameters of the sub-network for one language pair (effective)",
        )
        return "\n".join([*aligned(rows), "", *notes])


def report_architecture(cfg: Any, vocab_size: int, table: TaskTable) -> ParameterReport:
    """Count the parameters of a configuration with vocab_size words and the pairs of a table."""
    full = build_on_meta(cfg, vocab_size, table)
    return _report(cfg, full, vocab_size, table)


def report_checkpoint(path: str) -> ParameterReport:
    """Count the model of a checkpoint, whose tensors stay on the disk."""
    trained = read_model(path)
    cfg, table, state = trained.cfg, trained.table, trained.weights
    embedding = state.get("encoder.embed_tokens.weight")
    if embedding is None:
        refuse(f"{path}: no encoder embedding: not the model that its configuration describes")
    full = build_on_meta(cfg, len(embedding), table)
    for name, parameter in full.named_parameters(remove_duplicate=False):
        stored = tuple(state[name].shape) if name in state else "missing"
        if stored != tuple(parameter.shape):
            refuse(
                f"{path}: not the whole model that its configuration describes: {name} is {stored} "
                f"instead of {tuple(parameter.shape)}"
            )
    return _report(cfg, full, len(embedding), table)


def build_on_meta(cfg: Any, vocab_size: int, table: TaskTable) -> TransformerTaskMoeModel:
    """Build a model on the meta device."""
    dictionary = numbered_dictionary(vocab_size)
    try:
        with torch.device("meta"):
            return build_without_task(cfg, dictionary, table)
    except (ValueError, ArithmeticError, RuntimeError) as error:  # such as 7 heads in a width of 8
        refuse(f"no model can be built from these sizes: {' '.join(str(error).split())}")


def pairs_with_english(num_pairs: int) -> List[str]:
    """Return the names of num_pairs directions: made-up languages into and from English."""
    pairs = [pair for n in range(num_pairs) for pair in (f"x{n}-en", f"en-x{n}")]
    return pairs[:num_pairs]


def _report(
    cfg: Any, full: TransformerTaskMoeModel, vocab_size: int, table: TaskTable
) -> ParameterReport:
    folded = OmegaConf.merge(
        cfg,
        {
            f"{stack}_moe_router": "dense"
            for stack in STACKS
            if ROUTERS[str(getattr(cfg, f"{stack}_moe_router"))].groups_by is not None
        },
    )
    moe_layers = [
        f"{stack}.layers.{i}"
        for stack in STACKS
        for i, layer in enumerate(getattr(full, stack).layers)
        if layer.moe is not None
    ]
    effective = build_on_meta(folded, vocab_size, table)
    return ParameterReport(*(_count(model, moe_layers) for model in (full, effective)))


def _count(model: nn.Module, moe_layers: List[str]) -> Counts:
    """Count a model; moe_layers: the layers whose feed-forward networks are, or were, experts."""
    sizes = {name: p.numel() for name, p in model.named_parameters(remove_duplicate=False)}
    vocabulary = sizes.pop("encoder.embed_tokens.weight")
    softmax = sizes.pop("decoder.embed_tokens.weight") + sizes.pop(
        "decoder.output_projection.weight"
    )
    parts = tuple(
        f"{layer}.{part}." for layer in moe_layers for part in ("moe.experts", "fc1", "fc2")
    )
    return Counts(
        vocabulary=vocabulary,
        encoder=sum(size for name, size in sizes.items() if name.startswith("encoder.")),
        decoder=sum(size for name, size in sizes.items() if name.startswith("decoder.")),
        softmax=softmax,
        experts=sum(size for name, size in sizes.items() if name.startswith(parts)),
        total_shared=sum(parameter.numel() for parameter in model.parameters()),
    )
