"""Train 13 languages, add two more in four ways, and compare with training all 15 from the start.

    python examples/add_languages/run.py --out runs/add_languages

Finished models are skipped, and an unfinished one starts again: repeat the command after a kill.
"""

import argparse
import os
import shutil
import subprocess
import sys
from concurrent.futures import Future, ThreadPoolExecutor
from operator import ne
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # examples/ is not installed

from examples.add_languages.plan import MODELS, OLD, Model  # noqa: E402
from examples.add_languages.report import report  # noqa: E402
from examples.demo import prepare  # noqa: E402
from examples.demo.report import BATCHING, SEARCH, by_part, read_rows  # noqa: E402
from examples.demo.stages import quiet  # noqa: E402
from examples.demo.train import ENVIRONMENT  # noqa: E402
from fairseq_taskmoe.errors import command, refuse  # noqa: E402
from fairseq_taskmoe.evaluation.results import provenance  # noqa: E402
from fairseq_taskmoe.files import write_atomically  # noqa: E402
from fairseq_taskmoe.host import available_cores  # noqa: E402
from fairseq_taskmoe.read_files import read_lines  # noqa: E402
from preprocess import binarize  # noqa: E402
from preprocess.encode import load_processor  # noqa: E402
from preprocess.stages import only_run, run_stage, stage_result  # noqa: E402
from preprocess.text_files import write_lines  # noqa: E402

CHECKPOINT = "checkpoint_last.pt"


def prepare_data(out: Path) -> str:
    """Write the demo's data, and data-bin-old, without the words that only new languages have."""
    line = prepare.prepare(out)
    old, processor = sorted({pair for pair in prepare.PAIRS if pair in OLD}), load_processor(
        out / "spm.model"
    )
    texts = [out / "text" / f"train.{pair}.{side}" for pair in old for side in pair.split("-")]
    used = {
        piece for text in texts for line in read_lines(str(text))
        for piece in processor.encode(line, out_type=str)
    }
    words = [row for row in read_lines(str(out / "dict.txt")) if row.split(" ")[0] in used]
    write_lines(out / "dict-old.txt", words)
    with quiet():
        binarize.binarize(
            out / "text", old, out / "spm.model", out / "dict-old.txt", out / "data-bin-old"
        )
    return line


def train(model: Model, seed: int, out: Path, folder: Path) -> float:
    """Train a model with one thread; return the CPU time in seconds."""
    shutil.rmtree(folder, ignore_errors=True)  # of an unfinished training
    folder.mkdir(parents=True)
    start = folder.parent / str(model.start) / CHECKPOINT
    flags = ["--finetune-from-model", str(start)] if model.start else []
    run = [
        sys.executable, "-m", "fairseq_cli.train", str(out / model.data), "--user-dir",
        str(ROOT / "fairseq_taskmoe"), "--save-dir", str(folder), *model.command(seed), *flags,
    ]
    return run_logged(run, folder / "train.log")


def run_logged(words: Sequence[str], log: Path) -> float:
    """Run a command with one thread; return its CPU time in seconds."""
    with open(log, "w", encoding="utf-8") as record:
        process = subprocess.Popen(
            words, env={**os.environ, **ENVIRONMENT}, stdout=record, stderr=subprocess.STDOUT
        )
        _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        refuse(f"{log.stem} failed: see {log}")
    return usage.ru_utime + usage.ru_stime


def score(model: Model, out: Path, folder: Path) -> Dict[str, Any]:
    """Translate the test set; return the scores of each direction in both parts."""
    (folder / "text").symlink_to(out / "text")
    run = [
        str(Path(sys.executable).with_name("taskmoe")), "evaluate", str(out / "data-bin"),
        "--path", str(folder / CHECKPOINT), "--out", str(folder / "evaluation"), "--lang-pairs",
        ",".join(model.scored), "--references", str(out / "text"), "--cpu", "--beam",
        str(SEARCH.beam), "--max-len-b", str(SEARCH.max_len_b), "--max-tokens",
        str(BATCHING.max_tokens),
    ]
    run_logged(run, folder / "evaluate.log")
    return {pair: by_part(pair, read_rows(folder, pair)) for pair in model.scored}


def compare_old(folder: Path) -> List[int]:
    """Return how many translations of old directions differ from the first model's, of how many."""

    def translations(name: str) -> List[str]:
        hypotheses = folder.parent / name / "evaluation" / "hypotheses"
        return [
            line for pair in OLD
            for line in read_lines(str(hypotheses / f"test.{pair}.{pair.split('-')[1]}"))
        ]

    before = translations("base")
    return [sum(map(ne, translations(folder.name), before)), len(before)]


def measure(model: Model, seed: int, out: Path, folder: Path) -> Dict[str, Any]:
    """Train and score a model, and return everything that the report needs."""
    seconds = train(model, seed, out, folder)
    scores = score(model, out, folder) if model.scored else {}
    has_old = model.start and set(OLD) <= set(scores)
    return {
        "name": model.name, "seed": seed, "cpu_seconds": round(seconds, 1), "scores": scores,
        "changed": compare_old(folder) if has_old else None, "provenance": provenance(),
    }


def make(
    model: Model, seed: int, out: Path, start: Optional["Future[Dict[str, Any]]"]
) -> Dict[str, Any]:
    """Return the result of a model; make it if it is not there, after the one it starts from."""
    if start:
        start.result()
    folder = out / f"seed{seed}"
    stamps = [out / "prepare.txt", *([folder / f"{model.start}.txt"] if start else [])]
    stamp = folder / f"{model.name}.txt"
    ran = run_stage(
        stamp, lambda: measure(model, seed, out, folder / model.name),
        {"flags": model.command(seed)}, stamps, [folder / model.name / CHECKPOINT], announce=False,
    )
    result: Dict[str, Any] = stage_result(stamp)
    print(f"seed {seed}, {model.title}: "
          f"{result['cpu_seconds']:.0f} s{'' if ran else ', done earlier'}", flush=True)
    return result


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--seeds", type=int, default=1, help="number of seeds, from 1 on")
    parser.add_argument("--workers", type=int, default=available_cores(),
                        help="models that are trained at the same time, each with one thread")
    args = parser.parse_args(argv)
    out = args.out.resolve()
    with only_run(out / "lock"):
        prepared = out / "prepare.txt"
        run_stage(prepared, lambda: prepare_data(out), prepare.SETTINGS, [prepare.CORPUS],
                  [out / "data-bin", out / "data-bin-old"])
        with ThreadPoolExecutor(args.workers) as pool:
            done: Dict[Tuple[int, str], "Future[Dict[str, Any]]"] = {}
            for seed in range(1, args.seeds + 1):
                for model in MODELS:  # a model comes after the one it starts from
                    start = done.get((seed, str(model.start)))
                    done[seed, model.name] = pool.submit(make, model, seed, out, start)
            results = [one.result() for one in done.values()]
    write_atomically(args.out / "results.md", report(results))
    print(f"wrote {args.out}/results.md")


if __name__ == "__main__":
    with command():
        main()
