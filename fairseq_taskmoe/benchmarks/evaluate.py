"""`taskmoe evaluate` against what one would run otherwise: one fairseq-generate per direction.

Both are processes as a user starts them, with the same plugin, data, checkpoint, beam, limits and
batches. That they did the same work shows in their translations, which are compared.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

from tqdm import tqdm

from ..checkpoint.reading import read_task_moe_checkpoint
from ..data.languages import LanguageTags, load_joined_dictionary
from ..errors import refuse
from ..read_files import read_lines
from ..verbs.user_dir import user_dir
from .measure import Timing
from .random_corpus import Made

TASKMOE = [sys.executable, "-c", "from fairseq_taskmoe.cli import main; main()"]
GENERATE = [sys.executable, "-m", "fairseq_cli.generate"]


class Search(NamedTuple):
    """How both translate."""

    gen_subset: str = "test"
    beam: int = 5
    max_len_b: int = 30
    max_tokens: int = 4000
    device: str = "cpu"
    threads: Optional[int] = None

    @property
    def flags(self) -> List[str]:
        words = [
            "--gen-subset", self.gen_subset, "--beam", self.beam, "--max-len-b", self.max_len_b,
            "--max-tokens", self.max_tokens, *(["--cpu"] if self.device == "cpu" else []),
        ]
        return [str(word) for word in words]


class Cost(NamedTuple):
    """What a process took."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int


def bench_evaluate(
    made: Made, lang_pairs: Sequence[str], search: Search, repeats: int
) -> Dict[str, Any]:
    """Measure both by turns, and compare all of their translations."""
    costs: Dict[str, List[Cost]] = {"evaluate": [], "generate": []}
    different = total = words = distinct = 0
    half, tags = len(lang_pairs) // 2, tags_of(made.path)
    with tempfile.TemporaryDirectory(prefix="taskmoe-bench-") as temporary:
        for repeat in range(repeats):
            folder = Path(temporary, str(repeat))
            folder.mkdir()
            # evaluate in the middle: a machine that gets slower or faster does so for both
            generated = [_generate(made, pair, search, folder) for pair in _bar(lang_pairs[:half])]
            costs["evaluate"].append(_evaluate(made, lang_pairs, search, folder))
            generated += [_generate(made, pair, search, folder) for pair in _bar(lang_pairs[half:])]
            costs["generate"].append(Cost(
                sum(run.seconds for run in generated),
                sum(run.cpu_seconds for run in generated),
                max(run.peak_bytes for run in generated),
            ))
            for pair in lang_pairs:
                target = pair.split("-")[1]
                own = read_lines(f"{folder}/out/hypotheses/{search.gen_subset}.{pair}.{target}")
                others = read_generated(folder / f"{pair}.txt", tags)
                total += max(len(own), len(others))
                words += sum(len(line.split()) for line in own)
                distinct += len(set(own))
                different += count_different(own, others)
    rows = {name: _summary(runs, len(lang_pairs)) for name, runs in costs.items()}
    return {
        "hypotheses": total // repeats,
        "distinct_hypotheses": distinct // repeats,  # within a direction
        "words": words // repeats,
        "different_hypotheses": different,  # in all repeats
        "checkpoint_bytes": os.path.getsize(made.path),
        "processes": {"evaluate": 1, "generate": len(lang_pairs)},
        **rows,
        "ratio": rows["generate"]["seconds"] / rows["evaluate"]["seconds"],
        "cpu_ratio": rows["generate"]["cpu_seconds"] / rows["evaluate"]["cpu_seconds"],
    }


def count_different(own: Sequence[str], others: Dict[int, str]) -> int:
    """Count sentences that are not translated alike, or by one side alone."""
    numbered = {i: " ".join(line.split()) for i, line in enumerate(own)}
    return sum(numbered.get(i) != others.get(i) for i in numbered.keys() | others.keys())


def read_generated(printed: Path, tags: Sequence[str] = ()) -> Dict[int, str]:
    """Return the best hypothesis of each sentence that fairseq-generate printed, without tags.

    It prints a tag that a model puts into its text, as random weights do; evaluate does not.
    """
    found: Dict[int, str] = {}
    for line in read_lines(str(printed)):
        if line.startswith("H-"):
            number, _, text = line.split("\t", 2)
            for tag in tags:
                text = text.replace(tag, "")
            found.setdefault(int(number[2:]), " ".join(text.split()))
    return found


def tags_of(path: str) -> List[str]:
    """Return the language tags of a checkpoint."""
    tags = LanguageTags.from_state(read_task_moe_checkpoint(path)["task_state"]["tags"])
    return [tags.tag(lang) for lang in tags.langs]


def timed(command: Sequence[str], output: Path, threads: Optional[int]) -> Cost:
    """Run a command to its end, refusing one that fails."""
    environment = dict(os.environ, PYTHONWARNINGS="ignore")
    environment["PYTHONPATH"] = os.pathsep.join(
        [str(user_dir().parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    if threads:
        environment["OMP_NUM_THREADS"] = str(threads)
    start = time.perf_counter()
    with open(output, "wb") as printed, open(f"{output}.log", "w+b") as log:
        process = subprocess.Popen(command, env=environment, stdout=printed, stderr=log)
        try:
            _, status, used = os.wait4(process.pid, 0)
        except BaseException:  # interrupted
            process.terminate()
            raise
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            log.seek(0)
            last = (log.read().decode(errors="replace").strip().splitlines() or ["no word"])[-1]
            refuse(f"{' '.join(command[2:4])} ended with status {process.returncode}: {last}")
    return Cost(seconds, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024)


def _evaluate(made: Made, lang_pairs: Sequence[str], search: Search, folder: Path) -> Cost:
    command = [
        *TASKMOE, "evaluate", made.data, "--path", made.path, "--lang-pairs", ",".join(lang_pairs),
        "--out", str(folder / "out"), *search.flags,
    ]
    return timed(command, folder / "evaluate.txt", search.threads)


def _generate(made: Made, lang_pair: str, search: Search, folder: Path) -> Cost:
    source, target = lang_pair.split("-")
    command = [
        *GENERATE, made.data, "--user-dir", str(user_dir()), "--task", "translation_task_moe",
        "-s", source, "-t", target, "--path", made.path, *search.flags,
        "--num-workers", "0",  # no process for reading: with small test sets it costs more
    ]
    dictionary = load_joined_dictionary(made.data.split(":")[0], [source, target])
    if any(word.startswith("\u2581") for word in dictionary.symbols):
        command += ["--post-process", "sentencepiece"]  # as evaluate does
    return timed(command, folder / f"{lang_pair}.txt", search.threads)


def _summary(runs: Sequence[Cost], directions: int) -> Dict[str, Any]:
    timing = Timing([run.seconds for run in runs])
    return {
        "seconds": timing.median,
        "spread": timing.spread if len(runs) > 1 else None,
        "seconds_per_direction": timing.median / directions,
        "cpu_seconds": statistics.median(run.cpu_seconds for run in runs),
        "peak_bytes": max(run.peak_bytes for run in runs),
    }


def _bar(lang_pairs: Sequence[str]) -> Any:
    return tqdm(lang_pairs, desc="fairseq-generate", leave=False, disable=None)
