"""One variant of a model translates the test set, in a process of its own."""

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence, Tuple

from ..errors import refuse
from ..verbs.user_dir import user_dir
from .evaluate import GENERATE, TASKMOE, read_generated, timed
from .subnet_work import Sentences, Work

STARTER = str(Path(__file__).with_name("starter.py"))
# torch loads sympy for the first attention of fairseq's own: 0.4 s that are no part of the search
STOCK_GENERATE = """
import torch.fx.experimental.symbolic_shapes
from fairseq_cli.generate import cli_main
cli_main()
"""
# by the name of the command, the package leaves out what is not needed
RANK = f"""
import sys
sys.argv[0] = "taskmoe"
from {__package__}.subnet_rank import main
from fairseq_taskmoe.errors import command
with command():
    main()
"""
TRANSLATED = re.compile(
    r"Translated ([\d,]+) sentences \(([\d,]+) tokens\) in [\d.,]+s "
    r"\([\d.]+ sentences/s, ([\d.]+) tokens/s\)"
)


class Run(NamedTuple):
    """What a process did, and what that took."""

    seconds: float  # of the search
    load_seconds: float  # of the rest: Python starts, libraries and model are loaded, and so on
    peak_bytes: int
    pieces: int  # of the translations, without tags and ends
    hypotheses: Dict[int, List[str]]  # by number of the sentence, as pieces, the best first


class Took(NamedTuple):
    """What a process took, as the starter wrote it."""

    seconds: float
    peak_bytes: int


def run_extraction(work: Work, flags: Sequence[str], folder: Path) -> Took:
    """Cut the sub-network out into a folder, by `taskmoe extract`."""
    command = [
        *TASKMOE, "extract", work.path, "--lang-pair", work.lang_pair, "--out", str(folder), *flags,
    ]
    return _start("extract", Path("."), command, Path(f"{folder}.extracted"), work)


def run_full(work: Work, sentences: Sentences, out: Path) -> Run:
    """Translate with the full checkpoint, in fairseq with the plugin."""
    source, target = work.lang_pair.split("-")
    command = [
        *GENERATE, work.data, "--user-dir", str(user_dir()), "--task", "translation_task_moe",
        "-s", source, "-t", target, "--path", work.path, *work.flags(sentences.tags),
    ]
    took = _start("full", Path("."), command, out, work)
    return _generated(took, out, sentences)


def run_stock(folder: Path, work: Work, sentences: Sentences, out: Path) -> Run:
    """Translate with a sub-network in fairseq alone, by the command that its README gives."""
    command = [*readme_command(folder, work.data), *work.flags(sentences.tags)]
    took = _start("fairseq", folder, command, out, work)
    return _generated(took, out, sentences)


def run_ctranslate2(folder: Path, work: Work, sentences: Sentences, out: Path) -> Run:
    """Translate with a sub-network in CTranslate2."""
    job = {
        "folder": str(folder), "lang_pair": work.lang_pair, "threads": work.threads,
        "search": work.search()._asdict(), "pieces": sentences.pieces,
        "max_batch_tokens": work.max_tokens, "out": f"{out}.found",
    }
    Path(f"{out}.job").write_text(json.dumps(job), encoding="utf-8")
    took = _start(folder.name, Path("."), [sys.executable, "-c", RANK, f"{out}.job"], out, work)
    found = json.loads(Path(f"{out}.found").read_text(encoding="utf-8"))
    return Run(
        found["seconds"], took.seconds - found["seconds"], took.peak_bytes, found["pieces"],
        {int(i): ranked for i, ranked in found["hypotheses"].items()},
    )


def readme_command(folder: Path, data: str) -> List[str]:
    """Return the command of a README that translates binarized data."""
    lines = (folder / "README.md").read_text(encoding="utf-8").splitlines()
    words = [shlex.split(line) for line in lines if line.startswith("    fairseq-generate DATA ")]
    return [sys.executable, "-c", STOCK_GENERATE, data, *words[0][2:]]


def _start(name: str, folder: Path, command: Sequence[str], out: Path, work: Work) -> Took:
    starter = [sys.executable, STARTER, "variant", name, str(folder), f"{out}.took"]
    timed([*starter, *command], out, work.threads)
    return Took(**json.loads(Path(f"{out}.took").read_text(encoding="utf-8")))


def _generated(took: Took, out: Path, sentences: Sentences) -> Run:
    """Return what fairseq-generate did, by its last lines."""
    count, tokens, speed = last_words(out)
    if count != len(sentences.pieces):
        refuse(f"fairseq-generate translated {count} of {len(sentences.pieces)} sentences")
    in_tags = count * len(sentences.tags.target)
    seconds = tokens / speed  # which it gives with more digits than its seconds
    return Run(
        seconds, took.seconds - seconds, took.peak_bytes, tokens - in_tags - count,
        {i: [text] for i, text in read_generated(out).items()},
    )


def last_words(out: Path) -> Tuple[int, int, float]:
    """Return the sentences, tokens and tokens per second that fairseq-generate reports."""
    for file in (out, Path(f"{out}.log")):
        found = TRANSLATED.findall(file.read_text(encoding="utf-8", errors="replace"))
        if found:
            count, tokens, speed = (word.replace(",", "") for word in found[-1])
            if float(speed) > 0:
                return int(count), int(tokens), float(speed)
    refuse("fairseq-generate did not say in how many seconds it translated (is LOGLEVEL set?)")

