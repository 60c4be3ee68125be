"""The demo: train a Task-MoE model, score it, and extract a sub-network for each direction.

Writes to runs/demo, in ten minutes on two cores. It can be stopped at any time and started again:
finished stages are skipped.
"""

import argparse
import atexit
import json
import logging
import os
import resource
import shutil
import sys
import time
import warnings
from pathlib import Path
from typing import Any, Dict

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads do not occupy a core
# before fairseq is imported, which configures logging itself
logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.WARNING)
warnings.simplefilter("ignore")

from examples.demo.prepare import prepare  # noqa: E402
from examples.demo.train import DIRECTIONS, FLAGS, train  # noqa: E402
from fairseq_taskmoe.errors import command  # noqa: E402
from preprocess.stages import fingerprint, run_stage  # noqa: E402


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "demo", help="output folder")
    out = parser.parse_args().out.resolve()
    started = time.monotonic()
    data, stages, best = out / "data-bin", out / "stages", out / "checkpoints/checkpoint_best.pt"
    facts_file = out / "demo.json"
    prepare(out)
    spent = earlier_seconds(stages / "seconds.txt", started)
    prepared = [stages / "binarize.txt"]  # changes with the text, the vocabulary and data-bin
    remove_outdated(out, fingerprint({"flags": FLAGS}, prepared))
    run_stage(
        stages / "train.txt",
        lambda: train(data, best.parent, out / "train.log"),
        settings={"flags": FLAGS},
        inputs=prepared,
        outputs=[best],
    )

    from examples.demo import deploy, report

    after_training: Dict[str, Any] = {
        "settings": {"beam": report.SEARCH.beam},
        "inputs": [best, *prepared],
    }
    run_stage(
        stages / "evaluate.txt",
        lambda: report.score_directions(data, best, out),
        outputs=[out / name for name in report.RESULTS],
        **after_training,
    )
    subnets = out / "subnets"
    run_stage(
        stages / "extract.txt",
        lambda: report.extract_directions(best, subnets, out / "spm.model"),
        outputs=[subnets / pair / "model.pt" for pair in DIRECTIONS],
        **after_training,
    )
    exports = [
        deploy.folder_of(out, format, pair) / deploy.MODEL
        for format in deploy.FORMATS for pair in DIRECTIONS
    ]
    run_stage(
        stages / "ctranslate2.txt",
        lambda: deploy.export_directions(data, best, out),
        outputs=exports,
        **after_training,
    )
    run_stage(
        stages / "routing.txt",
        lambda: report.plot_directions(data, best, out),
        outputs=[out / "routing.png"],
        **after_training,
    )

    def check() -> None:
        facts = report.check_subnets(data, best, out)
        facts.update(deploy.check_exports(out, report.SEARCH.beam))
        facts["wall_seconds"] = round(spent + time.monotonic() - started, 1)
        facts["peak_memory_mb"] = peak_memory_mb()
        facts_file.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        failures = [*report.failures(facts), *deploy.failures(facts)]
        if failures:
            sys.exit("\n".join(failures))

    after_training["inputs"] = [best, *prepared, *exports]
    run_stage(stages / "check.txt", check, outputs=[facts_file], **after_training)
    print(f"\n{report.table(out)}\n")
    print(summary(json.loads(facts_file.read_text(encoding="utf-8")), out))


def earlier_seconds(record: Path, started: float) -> float:
    """Return the seconds of earlier runs; at exit, add those of this run to record."""
    earlier = float(record.read_text(encoding="utf-8")) if record.exists() else 0.0
    atexit.register(
        lambda: record.write_text(str(earlier + time.monotonic() - started), encoding="utf-8")
    )
    return earlier


def peak_memory_mb() -> int:
    """Return the peak memory of the largest process of the demo, in MB."""
    processes = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(who).ru_maxrss for who in processes) // 1024


def remove_outdated(out: Path, current: str) -> None:
    """Remove results with other settings or of other text: their training cannot be resumed."""
    mark = out / "stages" / "run.txt"
    if mark.exists() and mark.read_text(encoding="utf-8") == current:
        return
    for name in ("checkpoints", "evaluation", "subnets", "ctranslate2", "routing"):
        shutil.rmtree(out / name, ignore_errors=True)
    mark.write_text(current, encoding="utf-8")


def summary(facts: Dict[str, Any], out: Path) -> str:
    def shown(*parts: str) -> str:
        return os.path.relpath(out.joinpath(*parts))

    ratio = facts["params_full"] / facts["params_subnet"]
    lines = {
        "full model": f"{facts['params_full']:,} parameters, {len(DIRECTIONS)} directions",
        "sub-network": f"{facts['params_subnet']:,} parameters, one direction: {ratio:.1f} times "
        "smaller, and runs in fairseq without this plugin",
        "same model?": "log-probabilities differ by at most "
        f"{facts['subnet_max_abs_logprob_diff']:.1e}; {facts['subnet_hypotheses_different']} of "
        f"{facts['subnet_hypotheses']} hypotheses differ, {facts['of_which_ties']} of them ties",
        "no plugin": f"{facts['without_plugin_different']} translations of the sub-networks differ "
        "in plain fairseq-generate",
        "CTranslate2": f"{facts['ctranslate2_float32_same']:.1%} of the translations equal the "
        f"full model's; int8: {facts['ctranslate2_int8_same']:.1%}, chrF "
        f"{facts['ctranslate2_int8_chrf_change']:+.2f}, a file of "
        f"{facts['ctranslate2_int8_bytes'] / 1e6:.1f} MB; "
        f"with only the training data's words: {facts['ctranslate2_trimmed_same']:.1%}, chrF "
        f"{facts['ctranslate2_trimmed_chrf_change']:+.2f}",
        "routing": shown("routing.png"),
        "results": f"{shown('results.md')}, {shown('results.json')}",
        "try one": "echo 'Open the file' | .venv/bin/taskmoe translate "
        f"{shown('ctranslate2', 'int8', 'en-de')}",
        "cost": f"{facts['wall_seconds']:.0f} s, {facts['peak_memory_mb']:,} MB",
    }
    return "\n".join(f"{name:12} {text}" for name, text in lines.items())


if __name__ == "__main__":
    with command():
        main()
