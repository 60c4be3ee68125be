"""Translating whole test sets: one model in memory, one direction after the other."""

from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import torch
from fairseq.checkpoint_utils import load_model_ensemble
from fairseq.data import Dictionary
from fairseq.dataclass.configs import GenerationConfig
from fairseq.models import BaseFairseqModel
from fairseq.utils import move_to_cuda, resolve_max_positions, split_paths
from omegaconf import OmegaConf
from torch import Tensor
from tqdm import tqdm

from .. import register  # noqa: F401
from ..checkpoint.reading import pairs_of, read_task_moe_checkpoint
from ..data.languages import load_joined_dictionary
from ..data.task_table import check_pairs
from ..distributed.agreement import num_ranks, rank
from ..distributed.expert_groups import ExpertGroups
from ..distributed.layout import expert_layout
from ..errors import refuse
from ..models.folded_model import fold_model
from ..models.transformer_task_moe import TransformerTaskMoeModel
from ..tasks.config import TranslationTaskMoeConfig
from ..tasks.translation_task_moe import TranslationTaskMoeTask
from .over_ranks import Together, gather_hypotheses

Batch = Dict[str, Any]


class Batching(NamedTuple):
    """How sentences are put together for translation, which changes speed alone."""

    max_tokens: Optional[int] = 12000
    batch_size: Optional[int] = None
    skip_long: bool = False  # over-long sources translate to an empty line instead of refusal


def load_for_pairs(
    data: str, path: str, lang_pairs: Optional[Sequence[str]] = None
) -> Tuple[TransformerTaskMoeModel, TranslationTaskMoeTask]:
    """Return a checkpoint's model, and the task that serves lang_pairs of the folder data.

    Without lang_pairs it serves all trained ones. Pairs that were never trained are routed as
    TaskTable.routed_as says.
    """
    checkpoint = read_task_moe_checkpoint(path)
    stored = checkpoint["cfg"]["task"]
    pairs = list(lang_pairs or pairs_of(checkpoint))
    check_pairs(pairs)
    cfg = TranslationTaskMoeConfig(
        data=data, seed=1, train_subset="train", dataset_impl=None,
        max_source_positions=stored.get("max_source_positions", 1024),
        max_target_positions=stored.get("max_target_positions", 1024),
    )
    langs = sorted({lang for pair in pairs for lang in pair.split("-")})
    dictionary = load_joined_dictionary(split_paths(data)[0], langs)
    task = TranslationTaskMoeTask(cfg, dictionary, pairs)
    if num_ranks() > 1:
        layout = expert_layout(checkpoint["cfg"]["model"]["moe_expert_count"], num_ranks())
        task.expert_groups = ExpertGroups(layout) if layout.size > 1 else None
    # still on the disk: of experts on other ranks nothing is read
    state = {**checkpoint, "cfg": OmegaConf.create(checkpoint["cfg"])}
    (model,), _ = load_model_ensemble([path], task=task, state=state)
    return model.eval(), task


def batches(
    model: BaseFairseqModel, task: TranslationTaskMoeTask, lang_pair: str, split: str,
    batching: Batching,
) -> Iterator[Batch]:
    """Yield a direction's test set in batches of similar length, on the model's device.

    Among several ranks each takes its share, as many batches as the others; some may be empty.
    """
    dataset = task.data_manager.load_pair(split, lang_pair)
    longest = int(dataset.sizes.max()) if len(dataset) else 0
    if batching.max_tokens is not None and batching.max_tokens < longest:
        refuse(
            f"--max-tokens {batching.max_tokens}: the {split} set of {lang_pair} has a sentence of "
            f"{longest} tokens"
        )
    iterator = task.get_batch_iterator(
        dataset,
        max_tokens=batching.max_tokens,
        max_sentences=batching.batch_size,
        max_positions=resolve_max_positions(task.max_positions(), model.max_positions()),
        ignore_invalid_inputs=batching.skip_long,
        num_shards=num_ranks(),
        shard_id=rank(),
        disable_iterator_cache=True,
    ).next_epoch_itr(shuffle=False)
    on_cuda = next(model.parameters()).is_cuda
    silent = rank() > 0 or None
    for batch in tqdm(iterator, desc=lang_pair, unit="batch", leave=False, disable=silent):
        yield move_to_cuda(batch) if on_cuda else batch


def translate_pair(
    model: TransformerTaskMoeModel,
    task: TranslationTaskMoeTask,
    lang_pair: str,
    split: str,
    generation: GenerationConfig,
    batching: Batching,
    fold: bool = True,
) -> Optional[List[str]]:
    """Return the translations of a direction's test set: each sentence once, at its place.

    With fold, the direction's experts are folded into dense layers first: the translations are the
    same up to rounding, without a router's work for every step. Among several ranks, each
    translates its share, and rank 0 returns all of them, the others None.
    """
    if fold:
        model = fold_model(model, task.task_table.task_id(lang_pair))
    together = Together(model)
    generator = task.build_generator([together.model], generation)
    text = TextOf(task.dictionary, task.tags.langs, task.tags.style)
    own: Dict[int, str] = {}
    for batch in batches(model, task, lang_pair, split, batching):
        found = task.inference_step(generator, [together.model], batch) if batch else []
        together.finish_batch(had_one=bool(batch))
        for index, ranked in zip(batch["id"].tolist() if batch else [], found, strict=True):
            own[index] = text(ranked[0]["tokens"])
    hypotheses = gather_hypotheses(own)
    if hypotheses is None:
        return None
    return [hypotheses[index] for index in range(len(hypotheses))]


class TestSet(NamedTuple):
    """Both sides of a binarized set as text, in the order of its file."""

    sources: List[str]
    references: List[str]
    num_unknown: int  # unknown words in the references: the dictionary lost their spelling


def read_test_set(task: TranslationTaskMoeTask, lang_pair: str, split: str) -> TestSet:
    """Return a direction's set as text, detokenized from its binarized form."""
    dataset = task.data_manager.load_pair(split, lang_pair)
    text = TextOf(task.dictionary, task.tags.langs, task.tags.style)
    sources, targets = (
        [side[i] for i in range(len(dataset))] for side in (dataset.src, dataset.tgt)
    )
    num_unknown = sum(int(target.eq(task.dictionary.unk()).sum()) for target in targets)
    return TestSet(list(map(text, sources)), list(map(text, targets)), num_unknown)


class TextOf:
    """Turns token ids into text: without tags, padding and the marks of subword pieces."""

    def __init__(self, dictionary: Dictionary, langs: Sequence[str], tag_style: str):
        tag = {"multilingual": "__{}__", "mbart": "[{}]"}[tag_style]
        self.dictionary = dictionary
        self.left_out = {dictionary.index(tag.format(lang)) for lang in langs}
        self.left_out |= {dictionary.pad(), dictionary.bos(), dictionary.eos()}
        has_pieces = any(word.startswith("\u2581") for word in dictionary.symbols)
        self.post_process = "sentencepiece" if has_pieces else None

    def __call__(self, tokens: Tensor) -> str:
        kept = [token for token in tokens.tolist() if token not in self.left_out]
        return self.dictionary.string(torch.tensor(kept), self.post_process).strip()
