"""BLEU and chrF of every direction at validation: fairseq's --eval-bleu for many directions.

A batch's translations become sufficient statistics, numbers whose sums over batches and ranks give
the score of the whole set. N tasks, M statistics of a metric.
"""

import argparse
import json
import logging
import math
from functools import partial
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch
from fairseq.data import encoders
from fairseq.dataclass.configs import GenerationConfig
from fairseq.logging import metrics
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from sacrebleu.metrics.base import Metric
from torch import Tensor

from ..data.detokenize import TextOf
from ..errors import refuse
from ..metrics.registry import METRICS
from ..models.lockstep_search import LockstepDecoder
from ..models.transformer_task_moe import TransformerTaskMoeModel
from .inference import check_search
from .multilingual_task import MultilingualTask

logger = logging.getLogger(__name__)


class ValidationScores:
    """Translates validation batches, and logs the scores of what was translated so far.

    Settings are the task's flags --eval-bleu-...; scores are those of `taskmoe evaluate` with the
    same search.
    """

    def __init__(self, task: MultilingualTask, model: TransformerTaskMoeModel):
        cfg = task.cfg
        self.task = task
        self.model = model
        self.generation = generation_config(cfg.eval_bleu_args)
        check_search(self.generation, task.tags)
        self.detokenizer = build_detokenizer(cfg.eval_bleu_detok, cfg.eval_bleu_detok_args)
        self.text = TextOf(task.dictionary, task.tags, cfg.eval_bleu_remove_bpe)
        self.max_sentences: Optional[int] = cfg.eval_bleu_max_sentences
        self.pairs: Tuple[str, ...] = task.task_table.lang_pairs
        tokenize = "none" if cfg.eval_tokenized_bleu else None
        self.metrics: Dict[str, List[Metric]] = {  # by task
            name: [metric.build(pair, tokenize) for pair in self.pairs]
            for name, metric in METRICS.items() if metric.at_validation
        }
        self.search: Optional[Tuple[LockstepDecoder, Any]] = None

    def statistics(self, sample: Dict[str, Any]) -> Dict[str, Tensor]:
        """Translate a batch and return what to log of it, the sums (N, M) for each metric.

        With experts spread over ranks a collective call; every rank has a batch.
        """
        if self.search is None:  # the model has found its device and precision by now
            together = LockstepDecoder(self.model)
            generator = self.task.build_generator([together.model], self.generation)
            self.search = together, generator
        together, generator = self.search
        net_input, chosen = sample["net_input"], torch.ones_like(sample["id"], dtype=torch.bool)
        if self.max_sentences is not None:  # ids are lines of a direction's file
            chosen = sample["id"] < self.max_sentences
        names = ("src_tokens", "src_lengths", "task_ids")
        batch = {"net_input": {name: net_input[name][chosen] for name in names}}
        has_some = bool(chosen.any())
        found = self.task.inference_step(generator, [together.model], batch) if has_some else []
        together.finish_batch(had_one=has_some)
        hypotheses = [self._read(ranked[0]["tokens"]) for ranked in found]
        references = [self._read(target) for target in sample["target"][chosen]]
        task_ids: List[int] = batch["net_input"]["task_ids"].tolist()
        if self.task.cfg.eval_bleu_print_samples and has_some:
            logger.info("example hypothesis (%s): %s", self.pairs[task_ids[0]], hypotheses[0])
            logger.info("example reference: %s", references[0])
        sums = {}
        for name, by_task in self.metrics.items():
            rows = [
                sentence_statistics(by_task[task_id], hypothesis, reference)
                for task_id, hypothesis, reference in zip(
                    task_ids, hypotheses, references, strict=True
                )
            ]
            width = len(sentence_statistics(by_task[0], "", ""))
            values = torch.tensor(rows, dtype=torch.float64).reshape(len(rows), width)
            zeros = torch.zeros(len(self.pairs), width, dtype=torch.float64)
            places = torch.tensor(task_ids, dtype=torch.long)
            sums[log_key(name)] = zeros.index_add(0, places, values)
        return sums

    def log(self, logging_outputs: List[Dict[str, Any]]) -> None:
        """Log `bleu_en-de` and so on, and `bleu`, the mean of the directions; `chrf` likewise."""
        for name in self.metrics:
            key = log_key(name)
            if not any(key in log for log in logging_outputs):
                continue  # in training
            total = sum(log[key].cpu() for log in logging_outputs)
            metrics.log_scalar(key, total)  # its meter adds tensors up
            for task_id, pair in enumerate(self.pairs):
                if total[task_id].any():
                    score = partial(self._score, name, task_id)
                    metrics.log_derived(f"{name}_{pair}", score, priority=310)
            metrics.log_derived(name, partial(self._mean_score, name))

    def _score(self, name: str, task_id: int, meters: Any) -> float:
        return round(self._exact_score(name, task_id, meters), 2)

    def _mean_score(self, name: str, meters: Any) -> float:
        have_text = meters[log_key(name)].sum.any(dim=1).nonzero().flatten().tolist()
        scores = [self._exact_score(name, task_id, meters) for task_id in have_text]
        return round(sum(scores) / len(scores), 2) if scores else 0.0

    def _exact_score(self, name: str, task_id: int, meters: Any) -> float:
        statistics = meters[log_key(name)].sum[task_id].tolist()
        return self.metrics[name][task_id]._compute_score_from_stats(statistics).score

    def _read(self, tokens: Tensor) -> str:
        return self.detokenizer.decode(self.text(tokens))


def log_losses(lang_pairs: Sequence[str], logging_outputs: List[Dict[str, Any]]) -> None:
    """Log `nll_loss_en-de` and so on, bits per token, where the criterion counted by task."""
    if not any("nll_loss_by_task" in log for log in logging_outputs):
        return
    losses = sum(log["nll_loss_by_task"] for log in logging_outputs).tolist()
    counts = sum(log["ntokens_by_task"] for log in logging_outputs).tolist()
    for pair, loss, count in zip(lang_pairs, losses, counts, strict=True):
        if count:
            value = loss / count / math.log(2)
            metrics.log_scalar(f"nll_loss_{pair}", value, count, priority=300, round=3)


def sentence_statistics(metric: Metric, hypothesis: str, reference: str) -> List[int]:
    """Return numbers whose sums over sentences _compute_score_from_stats makes a score of.

    As sacrebleu's own significance tests do; it has no public function for chrF's.
    """
    (statistics,) = metric._extract_corpus_statistics([hypothesis], [[reference]])
    return statistics


def log_key(name: str) -> str:
    """Return where a metric's statistics are in a logging output; "_" keeps them from the log."""
    return f"_{name}_statistics"


def generation_config(text: Optional[str]) -> Any:
    """Return the search that --eval-bleu-args asks for, refusing what fairseq-generate lacks."""
    try:
        given = json.loads(text or "{}")
        config = OmegaConf.merge(OmegaConf.structured(GenerationConfig), given)
    except (ValueError, TypeError, AttributeError, OmegaConfBaseException) as error:
        reason = str(error).splitlines()[0]
        refuse(f"--eval-bleu-args {text}: write options of fairseq-generate as JSON, as "
               f'{{"beam": 4, "lenpen": 0.6}} ({reason})')
    if config.beam < 1:
        refuse(f"--eval-bleu-args {text}: beam must be 1 or more")
    return config


def build_detokenizer(name: str, text: Optional[str]) -> Any:
    """Return fairseq's tokenizer of a name, with arguments as JSON; `space` changes nothing."""
    try:
        return encoders.build_tokenizer(
            argparse.Namespace(tokenizer=name, **json.loads(text or "{}"))
        )
    except (ValueError, TypeError) as error:
        refuse(f"--eval-bleu-detok-args {text}: {error}")
    except (KeyError, ImportError) as error:
        refuse(f"--eval-bleu-detok {name}: no such tokenizer here ({' '.join(str(error).split())})")
