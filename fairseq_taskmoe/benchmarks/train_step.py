"""Forward and backward of whole models: MoE variants against dense ones, on random tokens.

`dense_equal` has one feed-forward network as wide as K experts where the others have MoE layers:
the same computation for each token. `dense` has the ordinary width everywhere.
"""

from types import SimpleNamespace
from typing import Any, Callable, Dict, NamedTuple, Sequence

import torch
from fairseq.data import Dictionary
from fairseq.models import BaseFairseqModel
from omegaconf import OmegaConf

from .. import register  # noqa: F401
from ..criterions.moe_label_smoothed_cross_entropy import MoeLabelSmoothedCrossEntropyCriterion
from ..data.languages import numbered_dictionary
from ..data.task_table import TaskTable
from ..models.config import ARCHITECTURES, TransformerTaskMoeConfig
from ..models.transformer_task_moe import TransformerTaskMoeModel
from .measure import alternate, describe

# name -> (encoder router, decoder router)
VARIANTS = {
    "dense": ("none", "none"),
    "dense_equal": ("dense", "dense"),
    "token_token": ("token", "token"),
    "target_target": ("target", "target"),
    "token_target": ("token", "target"),
    "pair_pair": ("pair", "pair"),
    "sentence_sentence": ("sentence", "sentence"),
}
REFERENCE = "dense_equal"


class Load(NamedTuple):
    """What is computed in one step."""

    arch: str = "base"
    num_experts: int = 32
    vocab_size: int = 8000
    tokens: int = 4096  # on each side
    length: int = 32  # tokens of a sentence


def bench_train(
    variants: Sequence[str], load: Load, repeats: int, device: str, lang_pairs: Sequence[str]
) -> Dict[str, Any]:
    """Return seconds per step and the speed relative to REFERENCE, measured by turns."""
    table = TaskTable.from_pairs(lang_pairs)
    dictionary = numbered_dictionary(load.vocab_size)
    batch = random_batch(load, dictionary, table, device)
    steps = {
        name: training_step(build(name, load, dictionary, table).to(device), batch, dictionary)
        for name in variants
    }
    timings = alternate(steps, repeats, device)
    reference = timings[REFERENCE].median if REFERENCE in timings else None
    rows = {
        name: {
            "seconds": timing.median,
            "spread": timing.spread,
            "tokens_per_second": load.tokens / timing.median,
            "speed_of_reference": reference and reference / timing.median,
        }
        for name, timing in timings.items()
    }
    return {**describe(load._asdict()), "reference": REFERENCE, "variants": rows}


def build(
    name: str, load: Load, dictionary: Dictionary, table: TaskTable
) -> TransformerTaskMoeModel:
    """Return a model of random weights."""
    routers = VARIANTS[name]
    settings = {**ARCHITECTURES[load.arch], "max_source_positions": 1024}
    settings.update(max_target_positions=1024, moe_expert_count=load.num_experts)
    if name == "dense":
        settings["moe_expert_count"] = 0
    else:
        settings.update(encoder_moe_router=routers[0], decoder_moe_router=routers[1])
    cfg = OmegaConf.merge(OmegaConf.structured(TransformerTaskMoeConfig), settings)
    task = SimpleNamespace(
        source_dictionary=dictionary, target_dictionary=dictionary, task_table=table,
        expert_groups=None,
    )
    return TransformerTaskMoeModel.build_model(cfg, task)


def random_batch(
    load: Load, dictionary: Dictionary, table: TaskTable, device: str
) -> Dict[str, Any]:
    """Return a batch without padding, with tasks by turns."""
    sentences = load.tokens // load.length
    generator = torch.Generator().manual_seed(1)
    source, target = (
        torch.randint(
            dictionary.nspecial, len(dictionary), (sentences, load.length), generator=generator
        ).to(device)
        for _ in range(2)
    )
    task_ids = torch.arange(sentences, device=device) % len(table.lang_pairs)
    return {
        "net_input": {
            "src_tokens": source,
            "src_lengths": torch.full((sentences,), load.length, device=device),
            "prev_output_tokens": target.roll(1, dims=1),
            "task_ids": task_ids,
        },
        "target": target,
        "ntokens": target.numel(),
    }


def training_step(
    model: BaseFairseqModel, batch: Dict[str, Any], dictionary: Dictionary
) -> Callable[[], None]:
    """Return a function that runs forward, loss and backward."""
    task: Any = SimpleNamespace(target_dictionary=dictionary)
    criterion = MoeLabelSmoothedCrossEntropyCriterion(task, False, 0.1, 0.01, 0.0)
    model.train()

    def step() -> None:
        model.zero_grad(set_to_none=True)
        loss, _, _ = criterion(model, batch)
        loss.backward()

    return step
