"""Sequence-level distillation: training data whose targets are a teacher's translations.

Kim and Rush (2016). The sources are translated in chunks. Each finished chunk is a file, and the
folder OUT.part keeps the finished chunks of an interrupted run.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np
from fairseq.data import LanguagePairDataset, ListDataset
from fairseq.utils import resolve_max_positions
from torch import Tensor
from tqdm import tqdm

from ..data.detokenize import TextOf
from ..data.indexed_files import join_sentences, write_sentences
from ..data.indexed_sentences import IndexedSentences
from ..data.task_pair_dataset import TaskPairDataset
from ..devices import choose_device, device_of, moved, place
from ..distributed.agreement import on_first_rank, rank
from ..errors import refuse
from ..evaluation.evaluate import claim_folder, digest
from ..evaluation.translate import (
    Batching,
    Search,
    batch_iterator,
    load_for_pairs,
    translate_batches,
)
from ..files import write_atomically
from ..models.folded_model import fold_model
from ..models.lockstep_search import join_ranks
from ..models.transformer_task_moe import TransformerTaskMoeModel
from ..read_files import read_json
from ..tasks.translation_task_moe import TranslationTaskMoeTask
from .distilled_folder import RECORD, check_data, is_complete, link_unchanged


def distill(
    data: str,
    path: str,
    out: str,
    lang_pairs: Optional[Sequence[str]] = None,
    search: Search = Search(beam=4),  # noqa: B008 (a NamedTuple is immutable)
    batching: Batching = Batching(),  # noqa: B008
    cpu: bool = False,
    chunk_sentences: int = 5000,
) -> None:
    """Write the folder out: a copy of data whose training targets are a teacher's translations.

    The training set of each of lang_pairs (default: all that the teacher was trained on) consists
    of its sources and the translations; everything else is as in data. A sentence whose translation
    is empty, or whose source is too long for the teacher, keeps its reference. An interrupted run
    can be resumed: chunk_sentences sentences are batched, translated and stored together. Under
    torchrun all ranks translate.
    """
    join_ranks(cpu)
    model, task = load_for_pairs(data, path, lang_pairs)
    part = Path(f"{out}.part")
    on_first_rank(lambda: check_data(data, task.served))
    sets = {pair: task.data_manager.load_pair("train", pair) for pair in task.served}
    limit, _ = resolve_max_positions(task.max_positions(), model.max_positions())
    for pair, dataset in sets.items():
        longest = dataset.src_sizes[dataset.src_sizes <= limit].max(initial=0)
        if batching.max_tokens is not None and batching.max_tokens < longest:
            refuse(f"--max-tokens {batching.max_tokens}: the train set of {pair} has a sentence of "
                   f"{longest} tokens")
    record = {
        "data": data,
        "teacher_digest": digest(path),
        "sentences": {pair: len(sets[pair]) for pair in task.served},
        **search._asdict(),
        "chunk_sentences": chunk_sentences,
    }
    if on_first_rank(lambda: is_complete(out, record)):
        return on_first_rank(lambda: shutil.rmtree(part, ignore_errors=True))
    on_first_rank(lambda: claim_folder(str(part), record))
    place(model, choose_device(cpu))
    for pair in task.served:
        chunks = _chunks(part / "chunks" / pair, len(sets[pair]), chunk_sentences)
        _translate_pair(model, task, pair, sets[pair], chunks, search, batching)
    if rank() == 0:
        _write_folder(data, Path(out), part, task, record)


def _chunks(folder: Path, number: int, size: int) -> Dict[Path, range]:
    """Return the sentences of each chunk of a direction, by the prefix of the chunk's files."""
    return {
        folder / f"{start // size:06}": range(start, min(start + size, number))
        for start in range(0, number, size)
    }


def _translate_pair(
    model: TransformerTaskMoeModel, task: TranslationTaskMoeTask, lang_pair: str,
    dataset: TaskPairDataset, chunks: Dict[Path, range], search: Search, batching: Batching,
) -> None:
    """Write the missing chunks of a direction, each with its record."""
    todo = on_first_rank(
        lambda: {prefix: rows for prefix, rows in chunks.items() if not _record(prefix).exists()}
    )
    left_out = TextOf(task.dictionary, task.tags).left_out
    folded = fold_model(model, task.task_table.task_id(lang_pair))

    def words(tokens: Tensor) -> List[int]:
        return [token for token in tokens.tolist() if token not in left_out]

    done = len(dataset) - sum(map(len, todo.values()))
    with tqdm(
        total=len(dataset), initial=done, desc=lang_pair, unit="sentence",
        disable=rank() > 0 or None,
    ) as bar:
        for prefix, rows in todo.items():
            chunk = _sources(model, task, dataset, rows)
            batches = batch_iterator(model, task, chunk, batching, f"the train set of {lang_pair}")
            batches = moved(batches, device_of(model))
            found = translate_batches(folded, task, batches, search.config(), words)
            if found is not None:  # on rank 0
                _write_chunk(prefix, found, dataset, rows, words, task)
            bar.update(len(rows))
            if bar.disable and rank() == 0:
                print(f"{lang_pair}: {rows.stop} of {len(dataset)} sentences", file=sys.stderr)


def _sources(
    model: TransformerTaskMoeModel, task: TranslationTaskMoeTask, dataset: TaskPairDataset,
    rows: range,
) -> TaskPairDataset:
    """Return the sources of rows, in memory; sources that are too long are empty."""
    sizes = dataset.src_sizes[rows.start : rows.stop]
    sources = ListDataset([dataset.src[row] for row in rows], sizes)
    chunk = TaskPairDataset(
        LanguagePairDataset(sources, sizes, task.dictionary), dataset.task_id
    )
    limit, _ = resolve_max_positions(task.max_positions(), model.max_positions())
    return chunk.with_empty_sources(np.flatnonzero(sizes > limit))


def _write_chunk(
    prefix: Path, found: List[List[int]], dataset: TaskPairDataset, rows: range,
    words: Callable[[Tensor], List[int]], task: TranslationTaskMoeTask,
) -> None:
    """Write a chunk's targets, then its record, which marks the chunk as finished."""
    kept = 0
    for i, row in enumerate(rows):
        if not found[i]:
            found[i] = words(dataset.tgt[row])
            kept += 1
    eos = task.dictionary.eos()
    write_sentences(prefix, ([*sentence, eos] for sentence in found), len(task.words))
    write_atomically(_record(prefix), json.dumps({"kept_references": kept}) + "\n")


def _record(prefix: Path) -> Path:
    return prefix.with_suffix(".json")


def _kept_references(path: Path) -> int:
    """Return the number of references that a finished chunk kept, from its record."""
    record = read_json(path, "record of a finished chunk")
    number = record.get("kept_references") if isinstance(record, dict) else None
    if type(number) is not int:
        refuse(f"{path}: damaged; remove it to translate its sentences again")
    return number


def _write_folder(
    data: str, out: Path, part: Path, task: TranslationTaskMoeTask, record: Dict[str, Any]
) -> None:
    """Write the folder out, from the finished chunks and the unchanged files of data."""
    folder = part / "data"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    link_unchanged(data, str(folder), task.served)
    kept = {}
    for pair in task.served:
        records = sorted((part / "chunks" / pair).glob("*.json"))
        kept[pair] = sum(map(_kept_references, records))
        chunks = [path.with_suffix("") for path in records]
        found = sum(len(IndexedSentences(str(chunk), len(task.words))) for chunk in chunks)
        if found != record["sentences"][pair]:
            refuse(f"{part}/chunks/{pair}: damaged: it has {found} of "
                   f"{record['sentences'][pair]} sentences; remove it")
        join_sentences(
            folder / f"train.{pair}.{pair.split('-')[1]}", chunks, len(task.words)
        )
        print(
            f"{pair}: {record['sentences'][pair]} sentences, of which {kept[pair]} keep their "
            "reference, since they have no translation", file=sys.stderr,
        )
    written = json.dumps({**record, "kept_references": kept}, indent=2) + "\n"
    write_atomically(folder / RECORD, written)
    out.parent.mkdir(parents=True, exist_ok=True)
    folder.rename(out)
    shutil.rmtree(part)
