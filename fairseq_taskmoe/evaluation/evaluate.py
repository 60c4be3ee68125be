"""Translate and score all directions of a test set; an interrupted evaluation can be resumed."""

import hashlib
import json
import logging
import os
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Dict, Mapping, NamedTuple, Optional, Sequence

from ..checkpoint.reading import read_model
from ..devices import FAIRSEQ_TOKENS, choose_device, place
from ..distributed.agreement import on_first_rank, rank
from ..errors import refuse
from ..files import write_atomically
from ..metrics.floors import nearest_neighbour_translations
from ..metrics.registry import METRICS
from ..metrics.scoring import DirectionScore, group_directions, score_direction
from ..models.lockstep_search import join_ranks
from ..modules.bf16_products import set_matmul_precision
from ..read_files import read_json, read_lines
from ..tasks.translation_task_moe import TranslationTaskMoeTask
from .folder import EvaluationFolder, write_lines
from .length_checks import check_lengths
from .pivot import pivot_missing_pairs
from .results import Results
from .test_sets import PairSets, find_sets, read_test_set
from .translate import Batching, Search, load_for_pairs, translate_pairs

logger = logging.getLogger(__name__)


class Settings(NamedTuple):
    """The settings that change the scores, besides the data and the checkpoint."""

    gen_subset: str = "test"
    search: Search = Search()
    tokenize: Optional[str] = None  # sacreBLEU's tokenizer; None: the default of the language
    precision: str = "highest"  # of float32 products, as torch names it

    def record(self) -> Dict[str, Any]:
        """Return the settings in the form of results.json."""
        record = {
            "gen_subset": self.gen_subset, **self.search._asdict(), "tokenize": self.tokenize
        }
        if self.precision != "highest":
            record["float32_matmul_precision"] = self.precision
        return record


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
    zero_shot_pairs: Sequence[str] = (),
    resources: Optional[Mapping[str, str]] = None,
) -> Optional[Results]:
    """Write out/hypotheses/*, out/results.json and out/results.md; return the results.

    The sources and references that were scored are written to out/sources and out/references.
    zero_shot_pairs are added to lang_pairs; those without data of their own are pivoted, see
    pivot.py. resources are the languages' classes, see scoring.group_directions.

    A direction whose hypotheses exist is scored without translating it again, if the folder was
    made from the same checkpoint with the same settings; otherwise the folder is refused. Under
    torchrun all ranks translate, with the experts distributed over them. Rank 0 writes and scores;
    the others return None.
    """
    join_ranks(cpu)
    set_matmul_precision(settings.precision)
    config = {**describe_run(data, path, settings), "fold": fold, "skip_long": batching.skip_long}
    model, task = load_for_pairs(data, path, lang_pairs, zero_shot_pairs)
    on_first_rank(lambda: group_directions(task.served, resources))  # refuses a missing class
    pivot_missing_pairs(
        task.data_manager, task.dictionary, settings.gen_subset, zero_shot_pairs
    )
    check_lengths(model, task, task.served, settings.gen_subset, batching)
    sets: Dict[str, PairSets] = {}  # on rank 0, which scores

    def prepare() -> None:
        # refuse missing files and tokenizers now, not after an hour of translating
        for pair in task.served:
            for metric in METRICS.values():
                metric.build(pair, settings.tokenize)
            sets[pair] = find_sets(task, pair, settings.gen_subset, references, floors)
        claim_folder(out, config)

    on_first_rank(prepare)
    place(model, choose_device(cpu))
    by_default = batching.max_tokens is None and batching.batch_size is None
    if settings.search.max_len_a > 0 and by_default:
        # fairseq multiplies max_len_a by the longest source of a batch: form the same batches
        batching = batching._replace(max_tokens=FAIRSEQ_TOKENS)
    folder = EvaluationFolder(Path(out), settings.gen_subset)
    files = {pair: folder.hypotheses(pair) for pair in task.served}
    todo = on_first_rank(lambda: [one for one, file in files.items() if not file.is_file()])
    scores: Dict[str, "Future[DirectionScore]"] = {}
    scorer = ThreadPoolExecutor(1)  # a direction is scored while the next is translated

    def score(pair: str) -> None:
        scores[pair] = scorer.submit(
            score_file, task, pair, sets[pair], folder, floors, settings.tokenize
        )

    try:
        for pair in [pair for pair in sets if pair not in todo]:
            score(pair)
        for pair, hypotheses in translate_pairs(
            model, task, todo, settings.gen_subset, settings.search.config(), batching, fold
        ):
            if hypotheses is not None:  # on rank 0
                write_lines(files[pair], hypotheses)
                score(pair)
                if not sys.stderr.isatty():  # else there is a progress bar
                    print(f"{len(scores)} of {len(sets)}: {pair} translated, "
                          f"{len(hypotheses)} sentences", file=sys.stderr)
        if rank() > 0:
            return None
        directions = {pair: scores[pair].result() for pair in sets}
    finally:
        scorer.shutdown(cancel_futures=True)
    results = Results.collect(config, directions, resources, task.task_table.unseen)
    results.save(Path(out))
    return results


def score_file(
    task: TranslationTaskMoeTask, lang_pair: str, sets: PairSets, folder: EvaluationFolder,
    floors: bool, tokenize: Optional[str],
) -> DirectionScore:
    """Score a direction's translations in its folder, with floors if requested.

    Sources and references are written to the folder.
    """
    test = read_test_set(task, sets.test)
    sources = test.sources if sets.sources is None else sets.sources
    references = test.references if sets.references is None else sets.references
    if sets.references is None and test.num_unknown:
        logger.warning(
            "%s: the references are detokenized from the data, where %d words are unknown; "
            "give the raw references with --references", lang_pair, test.num_unknown,
        )
    write_lines(folder.sources(lang_pair), sources)
    write_lines(folder.references(lang_pair), references)
    file = folder.hypotheses(lang_pair)
    hypotheses = read_lines(file)
    if len(hypotheses) != len(references):
        refuse(f"{file}: {len(hypotheses)} hypotheses but {len(references)} references; "
               "remove the file to translate its sentences again")
    nearest = None
    if sets.train is not None:
        train = read_test_set(task, sets.train)
        nearest = nearest_neighbour_translations(train.sources, train.references, sources)
    return score_direction(
        lang_pair, hypotheses, references, sources if floors else None, nearest, tokenize,
    )


def describe_run(data: str, path: str, settings: Settings) -> Dict[str, Any]:
    """Return the config that results.json records."""
    model = read_model(path).checkpoint["cfg"]["model"]
    return {
        "data": data,
        "checkpoint": os.path.basename(path),
        "checkpoint_digest": digest(path),
        "architecture": model.get("_name"),
        "encoder_moe_router": model.get("encoder_moe_router"),
        "decoder_moe_router": model.get("decoder_moe_router"),
        "moe_expert_count": model.get("moe_expert_count"),
        "moe_top_k": model.get("moe_top_k"),
        **settings.record(),
    }


def digest(path: str) -> str:
    """Return a digest of a checkpoint's last megabyte, which has the checksums of all its parts."""
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        file.seek(max(0, size - 2**20))
        return hashlib.sha256(str(size).encode() + file.read()).hexdigest()[:16]


def claim_folder(out: str, config: Dict[str, Any]) -> None:
    """Create the folder out, or continue in one that was made with the same config."""
    mark = os.path.join(out, "run.json")
    if os.path.isfile(mark):
        if read_json(mark, "record of an earlier run") == json.loads(json.dumps(config)):
            return
        refuse(f"--out {out} has results of another checkpoint or other settings (see run.json)")
    if os.path.exists(out) and (not os.path.isdir(out) or os.listdir(out)):
        refuse(f"--out {out} exists; nothing was overwritten")
    os.makedirs(out, exist_ok=True)
    write_atomically(Path(mark), json.dumps(config, indent=2) + "\n")
