"""Compare an extracted model with the full model, by log-probabilities and hypotheses."""

import math
from typing import Any, Dict, List, NamedTuple, Tuple

import torch
from fairseq.dataclass.configs import GenerationConfig
from fairseq.models import BaseFairseqModel
from torch import Tensor

from ..models.transformer_task_moe import TransformerTaskMoeModel
from ..tasks.translation_task_moe import TranslationTaskMoeTask
from .translate import Batch, Batching, batches

TIE = 1e-5  # two hypotheses whose scores differ by less may come in either order


class Comparison(NamedTuple):
    """The differences between two models of one direction on a test set."""

    max_abs_logprob_diff: float  # over all real target positions and all words
    hypotheses: int
    different: int
    ties: int  # different hypotheses whose scores differ by less than TIE


def compare(
    full: TransformerTaskMoeModel,
    subnet: BaseFairseqModel,
    task: TranslationTaskMoeTask,
    lang_pair: str,
    split: str,
    generation: GenerationConfig,
    batching: Batching,
) -> Comparison:
    """Compare a direction's sub-network with the full model, which routes every token.

    Log-probabilities are those of the references, teacher-forced. Hypotheses are found by beam
    search.
    """
    generators = [task.build_generator([model], generation) for model in (full, subnet)]
    worst, total, different, ties = 0.0, 0, 0, 0
    for batch in batches(full, task, lang_pair, split, batching):
        real = batch["target"].ne(task.dictionary.pad())
        expected, got = log_probs(full, batch), log_probs(subnet, batch)
        difference = float((expected - got)[real].abs().max())
        worst = max(worst, difference if math.isfinite(difference) else math.inf)
        for first, second in zip(
            best(task, generators[0], full, batch), best(task, generators[1], subnet, batch),
            strict=True,
        ):
            total += 1
            if first[0] != second[0]:
                different += 1
                ties += abs(first[1] - second[1]) < TIE
    return Comparison(worst, total, different, ties)


def log_probs(model: BaseFairseqModel, batch: Batch) -> Tensor:
    """Return log-probabilities (B, T, V) of a batch's references."""
    with torch.no_grad():
        return model.get_normalized_probs(model(**inputs_of(model, batch)), log_probs=True)


def best(
    task: TranslationTaskMoeTask, generator: Any, model: BaseFairseqModel, batch: Batch
) -> List[Tuple[List[int], float]]:
    """Return each sentence's best hypothesis and its score."""
    sample = {**batch, "net_input": inputs_of(model, batch)}
    with torch.no_grad():
        found = generator.generate([model], sample, prefix_tokens=task.prefix_tokens(batch))
    return [(h[0]["tokens"].tolist(), float(h[0]["score"])) for h in found]


def inputs_of(model: BaseFairseqModel, batch: Batch) -> Dict[str, Any]:
    """Return a model's inputs; fairseq's own models do not accept task ids."""
    inputs = dict(batch["net_input"])
    if not isinstance(model, TransformerTaskMoeModel):
        del inputs["task_ids"]
    return inputs
