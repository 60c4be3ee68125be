"""Translate and score all directions of a test set, and leave a report that can be resumed."""

import hashlib
import json
import logging
import os
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import torch
from fairseq.dataclass.configs import GenerationConfig

from ..checkpoint.reading import read_task_moe_checkpoint
from ..data.task_pair_dataset import TaskPairDataset
from ..distributed.agreement import on_first_rank, rank
from ..errors import refuse
from ..files import write_atomically
from ..host_memory import keep_freed_memory
from ..tasks.translation_task_moe import TranslationTaskMoeTask
from .floors import nearest_neighbour_translations
from .over_ranks import join_ranks
from .results import Results
from .scoring import DirectionScore, bleu_metric, score_direction
from .test_sets import read_test_set
from .translate import FAIRSEQ_TOKENS, Batching, load_for_pairs, translate_pairs

logger = logging.getLogger(__name__)


class Settings(NamedTuple):
    """What decides on the scores, beside the data and the checkpoint."""

    gen_subset: str = "test"
    beam: int = 5
    lenpen: float = 1.0
    max_len_a: float = 0.0
    max_len_b: int = 200
    tokenize: Optional[str] = None  # sacreBLEU's tokenizer, where not the language's own


def evaluate(
    data: str,
    path: str,
    out: str,
    lang_pairs: Optional[Sequence[str]] = None,
    settings: Settings = Settings(),  # noqa: B008 (a NamedTuple is immutable)
    batching: Batching = Batching(),  # noqa: B008
    references: Optional[str] = None,
    floors: bool = False,
    cpu: bool = False,
    fold: bool = True,
) -> Optional[Results]:
    """Write out/hypotheses/*, out/results.json and out/results.md; return the results.

    A direction whose hypotheses are there is scored and not translated again, if the folder was
    made from the same checkpoint with the same settings; otherwise it is refused. Under torchrun
    all ranks translate, with experts spread over them; rank 0 writes and scores, and the others
    return None.
    """
    monitor = join_ranks(cpu)
    config = {**describe_run(data, path, settings), "fold": fold, "skip_long": batching.skip_long}
    model, task = load_for_pairs(data, path, lang_pairs)
    sets: Dict[str, PairSets] = {}  # on rank 0, which scores

    def prepare() -> None:
        # all that can be missing shows here, not after an hour of translating
        for pair in task.served:
            sets[pair] = find_sets(task, pair, settings, references, floors)
        claim_folder(out, config)

    on_first_rank(prepare)
    if torch.cuda.is_available() and not cpu:
        model.cuda()
    else:
        keep_freed_memory()  # a beam search copies its state at every step
    if settings.max_len_a > 0 and batching.max_tokens is None and batching.batch_size is None:
        # fairseq multiplies it with the longest source of a batch: the same batches are needed
        batching = batching._replace(max_tokens=FAIRSEQ_TOKENS)
    generation = GenerationConfig(
        beam=settings.beam, lenpen=settings.lenpen,
        max_len_a=settings.max_len_a, max_len_b=settings.max_len_b,
    )
    files = {
        pair: Path(f"{out}/hypotheses/{settings.gen_subset}.{pair}.{pair.split('-')[1]}")
        for pair in task.served
    }
    todo = on_first_rank(lambda: [one for one, file in files.items() if not file.is_file()])
    scores: Dict[str, "Future[DirectionScore]"] = {}
    scorer = ThreadPoolExecutor(1)  # a direction is scored while the next is translated

    def score(pair: str) -> None:
        scores[pair] = scorer.submit(
            score_file, task, pair, sets[pair], str(files[pair]), settings.tokenize
        )

    try:
        for pair in [pair for pair in sets if pair not in todo]:
            score(pair)
        for pair, hypotheses in translate_pairs(
            model, task, todo, settings.gen_subset, generation, batching, fold
        ):
            if hypotheses is not None:  # on rank 0
                files[pair].parent.mkdir(parents=True, exist_ok=True)
                write_atomically(files[pair], "".join(line + "\n" for line in hypotheses))
                score(pair)
        if rank() > 0:
            return None
        if monitor is not None:
            monitor.leave()  # what is left to score takes its time, and no other rank
        directions = {pair: scores[pair].result() for pair in sets}
    finally:
        scorer.shutdown(cancel_futures=True)
    results = Results.collect(config, directions, zero_shot=task.task_table.unseen)
    results.save(Path(out))
    return results


class PairSets(NamedTuple):
    """What a direction is scored with; binarized sets stay on the disk until then."""

    test: TaskPairDataset
    references: Optional[List[str]]  # raw ones
    train: Optional[TaskPairDataset]  # for the floors


def find_sets(
    task: TranslationTaskMoeTask, lang_pair: str, settings: Settings, folder: Optional[str],
    floors: bool,
) -> PairSets:
    """Return a direction's sets, with raw references of a folder, refusing what is not there."""
    bleu_metric(lang_pair, settings.tokenize)  # refuses a tokenizer that is not there
    test = task.data_manager.load_pair(settings.gen_subset, lang_pair)
    raw = None
    if folder:
        raw = read_references(folder, settings.gen_subset, lang_pair)
        if len(raw) != len(test):
            refuse(
                f"--references {folder}: {len(raw)} lines for the {len(test)} sentences "
                f"of {lang_pair}"
            )
    return PairSets(test, raw, task.data_manager.load_pair("train", lang_pair) if floors else None)


def score_file(
    task: TranslationTaskMoeTask, lang_pair: str, sets: PairSets, hypotheses: str,
    tokenize: Optional[str],
) -> DirectionScore:
    """Score a direction's translations in the file hypotheses, and its floors where wanted."""
    test = read_test_set(task, sets.test)
    references = sets.references
    if references is None:
        references = test.references
        if test.num_unknown:
            logger.warning(
                "%s: the references are detokenized from the data, where %d words are unknown; "
                "give the raw ones with --references", lang_pair, test.num_unknown,
            )
    nearest = None
    if sets.train is not None:
        train = read_test_set(task, sets.train)
        nearest = nearest_neighbour_translations(train.sources, train.references, test.sources)
    return score_direction(
        lang_pair, read_lines(hypotheses), references,
        test.sources if sets.train is not None else None, nearest, tokenize,
    )


def describe_run(data: str, path: str, settings: Settings) -> Dict[str, Any]:
    """Return what results.json says of how it was made."""
    model = read_task_moe_checkpoint(path)["cfg"]["model"]
    return {
        "data": data,
        "checkpoint": os.path.basename(path),
        "checkpoint_digest": digest(path),
        "architecture": model.get("_name"),
        "encoder_moe_router": model["encoder_moe_router"],
        "decoder_moe_router": model["decoder_moe_router"],
        "moe_expert_count": model["moe_expert_count"],
        "moe_top_k": model["moe_top_k"],
        **settings._asdict(),
    }


def digest(path: str) -> str:
    """Return a digest of a checkpoint: its last megabyte holds the checksums of all its parts."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        file.seek(max(0, size - 2**20))
        return hashlib.sha256(str(size).encode() + file.read()).hexdigest()[:16]


def claim_folder(out: str, config: Dict[str, Any]) -> None:
    """Make the folder out, or take up the one that was made with the same config."""
    mark = os.path.join(out, "run.json")
    if os.path.isfile(mark):
        with open(mark, encoding="utf-8") as file:
            if json.load(file) == json.loads(json.dumps(config)):
                return
        refuse(f"--out {out} has results of another checkpoint or other settings (see run.json)")
    if os.path.exists(out) and (not os.path.isdir(out) or os.listdir(out)):
        refuse(f"--out {out} exists; nothing was overwritten")
    os.makedirs(out, exist_ok=True)
    write_atomically(Path(mark), json.dumps(config, indent=2) + "\n")


def read_references(folder: str, split: str, lang_pair: str) -> List[str]:
    """Return the raw references of a direction, named as fairseq-preprocess wants them."""
    source, target = lang_pair.split("-")
    names = [f"{split}.{pair}.{target}" for pair in (lang_pair, f"{target}-{source}")]
    for name in names:
        if os.path.isfile(os.path.join(folder, name)):
            return read_lines(os.path.join(folder, name))
    refuse(f"--references {folder} has neither {names[0]} nor {names[1]}")


def read_lines(path: str) -> List[str]:
    """Return the lines of a text file; only a line feed ends a line."""
    with open(path, "rb") as file:
        content = file.read()
    try:
        return content.decode("utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        refuse(f"{path}: line {content[: error.start].count(10) + 1} is not UTF-8")
