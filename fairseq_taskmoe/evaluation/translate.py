"""Translate whole test sets with one model in memory, one direction after the other."""

from contextlib import closing
from itertools import islice
from typing import (
    Any,
    Callable,
    Dict,
    Generator,
    Iterable,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    TypeVar,
)

from fairseq.checkpoint_utils import load_model_ensemble
from fairseq.dataclass.configs import GenerationConfig
from fairseq.models import BaseFairseqModel
from fairseq.utils import split_paths
from omegaconf import OmegaConf
from torch import Tensor
from tqdm import tqdm

from .. import register  # noqa: F401
from ..checkpoint.reading import read_model
from ..checkpoint.skip_init import SkipInit
from ..data.detokenize import TextOf
from ..data.languages import load_joined_dictionary
from ..data.named_pairs import check_pairs
from ..data.task_pair_dataset import TaskPairDataset
from ..devices import TOKENS, device_of, make_current, moved
from ..distributed.agreement import num_ranks, rank
from ..distributed.expert_groups import ExpertGroups
from ..distributed.layout import expert_layout
from ..errors import refuse
from ..metrics.lang_pairs import languages_of
from ..models.folded_model import fold_model
from ..models.lockstep_search import LockstepDecoder, gather_hypotheses
from ..models.transformer_task_moe import TransformerTaskMoeModel
from ..modules.linear import narrow_weights
from ..tasks.config import TranslationTaskMoeConfig
from ..tasks.translation_task_moe import TranslationTaskMoeTask
from .length_checks import Batching, admit, set_name
from .read_ahead import read_ahead

Batch = Dict[str, Any]
Output = TypeVar("Output")
AHEAD = 4  # batches that are read while the model decodes, including those of the next direction


class Search(NamedTuple):
    """The settings that change the translations, besides the data and the checkpoint."""

    beam: int = 5
    lenpen: float = 1.0
    max_len_a: float = 0.0
    max_len_b: int = 200

    def config(self) -> GenerationConfig:
        return GenerationConfig(**self._asdict())


def load_for_pairs(
    data: str, path: str, lang_pairs: Optional[Sequence[str]] = None,
    more_pairs: Sequence[str] = (),
) -> Tuple[TransformerTaskMoeModel, TranslationTaskMoeTask]:
    """Return a checkpoint's model, and the task that serves lang_pairs of the folder data.

    Without lang_pairs the task serves all trained pairs; more_pairs are added. Pairs that were
    never trained are routed as described at TaskTable.routed_as.
    """
    trained = read_model(path)
    checkpoint = trained.checkpoint
    stored = checkpoint["cfg"]["task"]
    pairs = list(dict.fromkeys([*(lang_pairs or trained.pairs), *more_pairs]))
    check_pairs(pairs)
    cfg = TranslationTaskMoeConfig(
        data=data, seed=1, train_subset="train", dataset_impl=None,
        max_source_positions=stored.get("max_source_positions", 1024),
        max_target_positions=stored.get("max_target_positions", 1024),
    )
    dictionary = load_joined_dictionary(split_paths(data)[0], languages_of(pairs))
    task = TranslationTaskMoeTask(cfg, dictionary, pairs)
    if num_ranks() > 1:
        layout = expert_layout(trained.cfg.moe_expert_count, num_ranks())
        task.expert_groups = ExpertGroups(layout) if layout.size > 1 else None
    # the tensors are still on disk: those of experts on other ranks are never read
    stored_cfg = OmegaConf.create(checkpoint["cfg"], flags={"allow_objects": True})
    state = {**checkpoint, "cfg": stored_cfg}
    try:
        with SkipInit():
            (model,), _ = load_model_ensemble([path], task=task, state=state)
    except RuntimeError as error:  # its first line has only the name of the class
        refuse(f"{path}: not the weights of its model: {' '.join(str(error).split())[:300]}")
    return model.eval(), task


def batches(
    model: BaseFairseqModel, task: TranslationTaskMoeTask, lang_pair: str, split: str,
    batching: Batching,
) -> Iterator[Batch]:
    """Yield a direction's test set in batches of similar length, on the model's device.

    With several ranks each rank gets the same number of batches; some may be empty.
    """
    with closing(read_directions(model, task, [lang_pair], split, batching)) as directions:
        for _, pair_batches in directions:
            yield from pair_batches


def read_directions(
    model: BaseFairseqModel, task: TranslationTaskMoeTask, lang_pairs: Sequence[str], split: str,
    batching: Batching,
) -> Generator[Tuple[str, Iterable[Batch]], None, None]:
    """Yield each direction with its batches, as `batches` does; the caller must use all of them.

    A thread reads batches ahead, beyond the end of a direction. It makes no collective calls.
    """
    device = device_of(model)
    silent = rank() > 0 or None
    counts_and_batches = _counts_and_batches(model, task, lang_pairs, split, batching)
    with closing(read_ahead(counts_and_batches, AHEAD)) as prepared:
        for lang_pair in lang_pairs:
            number = next(prepared)
            assert isinstance(number, int)
            pair_batches = moved(islice(prepared, number), device)
            yield lang_pair, tqdm(
                pair_batches, lang_pair, number, unit="batch", leave=False, disable=silent
            )


def _counts_and_batches(
    model: BaseFairseqModel, task: TranslationTaskMoeTask, lang_pairs: Sequence[str], split: str,
    batching: Batching,
) -> Iterator[Any]:
    """Yield the number of batches of each direction, then its batches."""
    make_current(device_of(model))  # batches are pinned for the current device
    for lang_pair in lang_pairs:
        dataset = task.data_manager.load_pair(split, lang_pair)
        iterator = batch_iterator(model, task, dataset, batching, set_name(split, lang_pair))
        yield len(iterator)
        yield from iterator


def batch_iterator(
    model: BaseFairseqModel, task: TranslationTaskMoeTask, dataset: TaskPairDataset,
    batching: Batching, name: str,
) -> Any:
    """Return an iterator, of known length, over a dataset in batches of similar length.

    With several ranks each rank gets the same number of batches; some may be empty.
    """
    dataset = admit(model, task, dataset, batching, name, warned=True)
    max_tokens = batching.max_tokens
    if max_tokens is None and batching.batch_size is None:
        longest = int(dataset.sizes.max()) if len(dataset) else 0
        max_tokens = max(longest, TOKENS[device_of(model).type])
    return task.get_batch_iterator(
        dataset,
        max_tokens=max_tokens,
        max_sentences=batching.batch_size,
        num_shards=num_ranks(),
        shard_id=rank(),
        disable_iterator_cache=True,
    ).next_epoch_itr(shuffle=False)


def translate_pairs(
    model: TransformerTaskMoeModel,
    task: TranslationTaskMoeTask,
    lang_pairs: Sequence[str],
    split: str,
    generation: GenerationConfig,
    batching: Batching,
    fold: bool = True,
) -> Iterator[Tuple[str, Optional[List[str]]]]:
    """Yield each direction with the translations of its test set, in the order of the set.

    With fold, a direction's experts are first folded into dense layers: the translations are the
    same up to rounding, and no step runs a router. With several ranks, each translates a part of
    the set; rank 0 gets all translations, the others None.
    """
    with closing(read_directions(model, task, lang_pairs, split, batching)) as directions:
        for lang_pair, pair_batches in directions:
            folded = fold_model(model, task.task_table.task_id(lang_pair)) if fold else model
            narrow_weights(folded)  # with medium precision
            text = TextOf(task.dictionary, task.tags)
            yield lang_pair, translate_batches(folded, task, pair_batches, generation, text)


def translate_batches(
    model: TransformerTaskMoeModel, task: TranslationTaskMoeTask, rank_batches: Iterable[Batch],
    generation: GenerationConfig, output: Callable[[Tensor], Output],
) -> Optional[List[Output]]:
    """Return the output of each sentence's best hypothesis, in the order of the sentences.

    output is called with the hypothesis' tokens. The batches are those of this rank; rank 0 gets
    the outputs of all ranks, the others None.
    """
    lockstep = LockstepDecoder(model)
    generator = task.build_generator([lockstep.model], generation)
    own: Dict[int, Output] = {}
    for batch in rank_batches:
        found = task.inference_step(generator, [lockstep.model], batch) if batch else []
        lockstep.finish_batch(had_one=bool(batch))
        for index, ranked in zip(batch["id"].tolist() if batch else [], found, strict=True):
            own[index] = output(ranked[0]["tokens"])
    hypotheses = gather_hypotheses(own)
    if hypotheses is None:
        return None
    return [hypotheses[index] for index in range(len(hypotheses))]
