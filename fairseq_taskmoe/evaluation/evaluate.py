"""Translate and score all directions of a test set, and leave a report that can be resumed."""

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import torch
from fairseq.dataclass.configs import GenerationConfig

from ..checkpoint.reading import read_task_moe_checkpoint
from ..distributed.agreement import on_first_rank, rank
from ..errors import refuse
from ..files import write_atomically
from ..tasks.translation_task_moe import TranslationTaskMoeTask
from .floors import nearest_neighbour_translations
from .over_ranks import join_ranks
from .results import Results
from .scoring import DirectionScore, bleu_metric, score_direction
from .translate import Batching, TestSet, load_for_pairs, read_test_set, translate_pair

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
    sets: Dict[str, Any] = {}  # on rank 0, which scores

    def prepare() -> None:
        # all that can be missing shows here, not after an hour of translating
        for pair in task.served:
            sets[pair] = read_set(task, pair, settings, references, floors)
        claim_folder(out, config)

    on_first_rank(prepare)
    if torch.cuda.is_available() and not cpu:
        model.cuda()
    generation = GenerationConfig(
        beam=settings.beam, lenpen=settings.lenpen,
        max_len_a=settings.max_len_a, max_len_b=settings.max_len_b,
    )
    files = {
        pair: Path(f"{out}/hypotheses/{settings.gen_subset}.{pair}.{pair.split('-')[1]}")
        for pair in task.served
    }
    todo = on_first_rank(lambda: [one for one, file in files.items() if not file.is_file()])
    for pair in todo:
        hypotheses = translate_pair(
            model, task, pair, settings.gen_subset, generation, batching, fold
        )
        if hypotheses is not None:
            files[pair].parent.mkdir(parents=True, exist_ok=True)
            write_atomically(files[pair], "".join(line + "\n" for line in hypotheses))
    if rank() > 0:
        return None
    if monitor is not None:
        monitor.leave()  # scoring takes its time, and no other rank
    directions: Dict[str, DirectionScore] = {}
    for pair, (test, train) in sets.items():
        hypotheses = read_lines(str(files[pair]))
        nearest = None
        if train is not None:
            nearest = nearest_neighbour_translations(
                train.sources, train.references, test.sources
            )
        directions[pair] = score_direction(
            pair, hypotheses, test.references, test.sources if floors else None, nearest,
            settings.tokenize,
        )
    results = Results.collect(config, directions, zero_shot=task.task_table.unseen)
    results.save(Path(out))
    return results


def read_set(
    task: TranslationTaskMoeTask, lang_pair: str, settings: Settings, folder: Optional[str],
    floors: bool,
) -> Tuple[TestSet, Optional[TestSet]]:
    """Return a direction's test set, with raw references of a folder, and its training text."""
    bleu_metric(lang_pair, settings.tokenize)  # refuses a tokenizer that is not there
    test = read_test_set(task, lang_pair, settings.gen_subset)
    if folder:
        raw = read_references(folder, settings.gen_subset, lang_pair)
        if len(raw) != len(test.sources):
            refuse(
                f"--references {folder}: {len(raw)} lines for the {len(test.sources)} sentences "
                f"of {lang_pair}"
            )
        test = test._replace(references=raw)
    elif test.num_unknown:
        logger.warning(
            "%s: the references are detokenized from the data, where %d words are unknown; give "
            "the raw ones with --references", lang_pair, test.num_unknown,
        )
    return test, read_test_set(task, lang_pair, "train") if floors else None


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
