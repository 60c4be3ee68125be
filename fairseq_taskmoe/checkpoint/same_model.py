"""What a run must have in common with a checkpoint that it loads, beyond the shapes of weights."""

import os
from argparse import Namespace
from typing import Any, Dict, Iterable, Optional

from omegaconf import OmegaConf

from ..errors import refuse
from ..models.build_layers import has_moe_layer, moe_freq
from ..models.config import TransformerTaskMoeConfig
from ..names import STACKS
from .reading import Checkpoint, Unreadable, open_checkpoint

LAST = "checkpoint_last.pt"  # default of --restore-file
# With another value weights have the same shapes, but the model computes something else
MEANING = (
    "share_all_embeddings", "share_decoder_input_output_embed", "no_scale_embedding",
    "layernorm_embedding", "activation_fn", "decoder_output_bias",
    *(
        f"{stack}_{name}" for stack in STACKS
        for name in ("attention_heads", "normalize_before", "learned_pos")
    ),
)
# Other settings in which a difference shows neither in names nor in shapes of weights
DEPTH = tuple(f"{stack}_layers" for stack in STACKS)
ROUTING = (
    "moe_top_k",
    *(f"{stack}_{name}" for stack in STACKS
      for name in ("moe_freq", "moe_layer_experts", "moe_router")),
)

ROUTERS = tuple(f"{stack}_moe_router" for stack in STACKS)
STORES_ROUTES = ("static", "table")  # of a checkpoint and of a run that keeps its routes


def file_to_load(saving: Dict[str, Any]) -> Optional[str]:
    """Return the checkpoint whose weights fairseq will load at the start, None where it has none.

    saving is fairseq's configuration of checkpoints.
    """
    suffix = saving.get("checkpoint_suffix") or ""
    restore_file = saving.get("restore_file", LAST)
    if restore_file != LAST:
        return str(restore_file).replace(".pt", f"{suffix}.pt")
    last = os.path.join(saving.get("save_dir", ""), f"checkpoint_last{suffix}.pt")
    if os.path.exists(last):
        return last
    return saving.get("continue_once") or saving.get("finetune_from_model")


def check_loaded(cfg: Any, saving: Dict[str, Any]) -> Optional[str]:
    """Refuse a checkpoint of a model that computes something else with the same weights.

    Returns how the gate losses of layers are reduced (sum or mean) where the run of that
    checkpoint goes on, None where a new one starts.

    Args:
        cfg: configuration of the model to train
        saving: fairseq's configuration of checkpoints
    """
    path = file_to_load(saving)
    if path is None or not os.path.isfile(path):  # fairseq's file manager may find it elsewhere
        return None
    try:
        checkpoint = open_checkpoint(path)
    except (Unreadable, OSError):
        return None  # usable.py reports what is wrong with a file to resume, fairseq with others
    settings = checkpoint.get("cfg") or {}
    stored = settings.get("model") or {}
    stored = vars(stored) if isinstance(stored, Namespace) else dict(stored)
    fresh = path == saving.get("finetune_from_model") or bool(saving.get("reset_optimizer"))
    problem = difference(stored, cfg, (*MEANING, *DEPTH))
    if problem is None and "moe_expert_count" in stored:
        problem = _routing_difference(stored, cfg, fresh)
    if problem is not None:
        refuse(f"{path}: of a model with {problem}; give what it was trained with, or train "
               "another model in another --save-dir")
    return None if fresh else _reduction(checkpoint)


def difference(stored: Any, own: Any, names: Iterable[str]) -> Optional[str]:
    """Return the first of the named settings in which two models differ, None where none does.

    stored is a mapping; a setting that it lacks is not compared.
    """
    for name in names:
        theirs, ours = stored.get(name, getattr(own, name)), getattr(own, name)
        if str(theirs) != str(ours):
            message = f"--{name.replace('_', '-')} {theirs}, this one has {ours}"
            if ours is True:
                message += " (named architectures set it, --arch transformer_task_moe does not)"
            return message
    return None


def _routing_difference(stored: Dict[str, Any], own: Any, fresh: bool) -> Optional[str]:
    """As difference, for the routing settings of models with MoE layers.

    A fresh training may store the routes of the router `static` (router `table`).
    """
    defaults = OmegaConf.structured(TransformerTaskMoeConfig)
    known = {name: value for name, value in stored.items() if name in defaults}
    other: Any = OmegaConf.merge(defaults, known)
    own = OmegaConf.merge(defaults, own)
    if not (has_moe_layer(other) and has_moe_layer(own)):
        return None  # in one of them the weights of experts are missing
    for cfg in (other, own):
        for stack in STACKS:
            cfg[f"{stack}_moe_freq"] = moe_freq(cfg, stack)
    for name in ROUTERS:
        if fresh and (str(other[name]), str(own[name])) == STORES_ROUTES:
            other[name] = own[name]
    return difference(other, own, ROUTING)


def _reduction(checkpoint: Checkpoint) -> str:
    """Return --moe-gate-loss-reduction of a checkpoint: the mean, before the flag existed."""
    criterion = (checkpoint.get("cfg") or {}).get("criterion")
    criterion = criterion if isinstance(criterion, dict) else {}
    return criterion.get("moe_gate_loss_reduction", "mean") or "sum"
