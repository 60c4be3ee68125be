"""fairseq's beam search on random sentences, with outputs of a fixed length.

Shapes: B sentences, S source positions.
"""

from typing import Any, Callable, Dict, List, NamedTuple, Sequence

import torch
from fairseq.data import Dictionary
from fairseq.dataclass.configs import GenerationConfig
from fairseq.tasks import FairseqTask
from omegaconf import OmegaConf
from torch import Tensor
from torch.nn import Module

from ... import register  # noqa: F401
from ...data.languages import numbered_dictionary
from ...metrics.lang_pairs import languages_of
from ...tasks.config import TranslationTaskMoeConfig
from ...tasks.translation_task_moe import TranslationTaskMoeTask

LANG_PAIRS = ("en-de", "de-en", "en-fr", "fr-en")
SERVED = "en-de"
Hypotheses = List[List[Dict[str, Any]]]  # of each sentence, best first


class DecodingLoad(NamedTuple):
    """The model and the search, except the batch size and the number of experts."""

    arch: str = "base"
    vocab_size: int = 8000
    length: int = 32  # tokens of a source sentence, with the end of sentence
    output_length: int = 32  # tokens of each hypothesis, with the end: the steps of the search
    beam: int = 4
    dtype: str = "float32"
    device: str = "cpu"
    model: Sequence[str] = ()  # settings NAME=VALUE that change the architecture


class StockTask(FairseqTask):
    """The parts of a task that fairseq's own model and search need: its dictionaries."""

    def __init__(self, dictionary: Dictionary):
        super().__init__(None)
        self.dictionary = dictionary

    @property
    def source_dictionary(self) -> Dictionary:
        return self.dictionary

    @property
    def target_dictionary(self) -> Dictionary:
        return self.dictionary


def make_task(vocab_size: int) -> TranslationTaskMoeTask:
    """Return this project's task for LANG_PAIRS, with a dictionary of numbered words and no data.
    """
    settings = {
        "data": "", "lang_pairs": ",".join(LANG_PAIRS), "seed": 1, "train_subset": "train",
        "dataset_impl": None,
    }
    cfg: Any = OmegaConf.merge(OmegaConf.structured(TranslationTaskMoeConfig), settings)
    num_tags = len(languages_of(LANG_PAIRS))
    return TranslationTaskMoeTask(cfg, numbered_dictionary(vocab_size - num_tags))


def generation(load: DecodingLoad) -> GenerationConfig:
    """Return the settings with which every hypothesis has the same length."""
    words = load.output_length - 1
    return GenerationConfig(beam=load.beam, min_len=words, max_len_a=0, max_len_b=words)


def make_batch(
    task: FairseqTask, batch_size: int, load: DecodingLoad, seed: int = 1
) -> Dict[str, Any]:
    """Return a batch of one direction in the form of evaluation, without padding."""
    words = task.source_dictionary
    source = torch.randint(
        words.nspecial, load.vocab_size, (batch_size, load.length),
        generator=torch.Generator().manual_seed(seed),
    )
    source[:, -1] = words.eos()
    net_input = {
        "src_tokens": source,
        "src_lengths": torch.full((batch_size,), load.length),
    }
    if isinstance(task, TranslationTaskMoeTask):
        task_id = task.task_table.task_id(SERVED)
        net_input["task_ids"] = torch.full((batch_size,), task_id)
    return {
        "id": torch.arange(batch_size, device=load.device),
        "nsentences": batch_size,
        "net_input": {name: tensor.to(load.device) for name, tensor in net_input.items()},
    }


def random_targets(batch_size: int, load: DecodingLoad) -> Tensor:
    """Return random words (B, T) with the length of the output, as the decoder's input."""
    shape, generator = (batch_size, load.output_length), torch.Generator().manual_seed(2)
    first_word = 4  # after <s>, <pad>, </s> and <unk>
    return torch.randint(first_word, load.vocab_size, shape, generator=generator).to(load.device)


def make_search(
    model: Module, task: FairseqTask, batch: Dict[str, Any], load: DecodingLoad
) -> Callable[[], Hypotheses]:
    """Return a function that translates the batch."""
    generator = task.build_generator([model], generation(load))
    return lambda: task.inference_step(generator, [model], batch)
