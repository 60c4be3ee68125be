"""The demo: train a Task-MoE model, score it, and extract a sub-network for each direction.

Writes to runs/demo, in about five minutes on two idle cores. It can be stopped at any time and
started again: finished stages are skipped, and training goes on.
"""

import argparse
import json
import logging
import os
import resource
import shutil
import sys
import time
import warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Callable, Dict

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "2")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # waiting threads do not occupy a core
# before fairseq is imported, which configures logging itself
logging.basicConfig(format="%(levelname)s: %(message)s", level=logging.ERROR)
warnings.simplefilter("ignore")

from examples.demo import prepare, train  # noqa: E402
from examples.demo.stages import Stages, duration, quiet  # noqa: E402
from fairseq_taskmoe.errors import command  # noqa: E402
from fairseq_taskmoe.text_tables import aligned  # noqa: E402
from preprocess.stages import fingerprint  # noqa: E402

NUM_STAGES = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "demo", help="output folder")
    out = parser.parse_args().out.resolve()
    data, best = out / "data-bin", out / "checkpoints" / "checkpoint_best.pt"
    stages = Stages(out / "stages", NUM_STAGES)
    prepared = stages.run(
        "prepare", "text, vocabulary, binarized data", lambda: in_child(prepare.prepare, out),
        prepare.SETTINGS, [prepare.CORPUS], [out / "text", data, out / "spm.model"],
    )
    remove_outdated(out, fingerprint({"flags": train.FLAGS}, [prepared]))
    trained = stages.run(
        "train", "train", lambda: train.train(data, best.parent, out / "train.log"),
        {"flags": train.FLAGS}, [prepared], [best],
    )

    from examples.demo import deploy, report  # not before: their imports take memory

    def after_training(name: str, title: str, action: Callable[[], str], *outputs: Path) -> None:
        search = report.SEARCH._asdict()
        stages.run(name, title, action, {"search": search}, [trained, best], outputs)

    after_training(
        "evaluate", "translate and score", lambda: report.translate_and_score(data, best, out),
        *(out / name for name in (*report.RESULTS, "parts.json")),
    )
    after_training(
        "extract", "extract a sub-network for each direction",
        lambda: deploy.extract_directions(best, out),
        *(out / "subnets" / pair / deploy.FAIRSEQ_MODEL for pair in prepare.DIRECTIONS),
    )
    after_training(
        "int8", "extract again, for CTranslate2 in int8", lambda: deploy.export_targets(best, out),
        *(out / "int8" / target / deploy.CTRANSLATE2_MODEL for target in deploy.TARGETS),
    )
    after_training(
        "routing", "draw the experts of each direction", lambda: plot_routing(data, best, out),
        out / "routing.png",
    )

    def check() -> str:
        started = time.monotonic()
        facts = {**deploy.check_subnets(data, best, out), **deploy.measure(data, best, out)}
        facts["wall_seconds"] = round(stages.seconds() + time.monotonic() - started, 1)
        facts["peak_memory_mb"] = peak_memory_mb()
        (out / "demo.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
        if problem := deploy.problem(facts):
            sys.exit(problem)
        return f"{facts['subnet_hypotheses']:,} translations of both compared"

    after_training("check", "compare sub-networks with the full model", check, out / "demo.json")
    facts = json.loads((out / "demo.json").read_text(encoding="utf-8"))
    print(f"\n{report.tables(out)}\n\n{report.samples(out)}\n\n{summary(facts, out)}")


def in_child(action: Callable[[Path], str], out: Path) -> str:
    """Run action in a process of its own, so that its memory is free during training."""
    with ProcessPoolExecutor(1, get_context("fork")) as child:
        return child.submit(action, out).result()


def remove_outdated(out: Path, current: str) -> None:
    """Remove results with other settings or of other text: their training cannot be resumed."""
    mark = out / "stages" / "run.txt"
    if mark.exists() and mark.read_text(encoding="utf-8") == current:
        return
    for name in ("checkpoints", "evaluation", "subnets", "int8", "routing"):
        shutil.rmtree(out / name, ignore_errors=True)
    mark.write_text(current, encoding="utf-8")


def plot_routing(data: Path, checkpoint: Path, out: Path) -> str:
    """Write the routing statistics, and copy their figure to out."""
    from examples.demo.report import BATCHING
    from fairseq_taskmoe.routing.collect import write_routing

    shutil.rmtree(out / "routing", ignore_errors=True)
    with quiet():
        write_routing(
            str(data), str(checkpoint), str(out / "routing"), prepare.DIRECTIONS, "valid",
            BATCHING,
        )
    shutil.copyfile(out / "routing" / "routing.png", out / "routing.png")
    return "routing.png"


def peak_memory_mb() -> int:
    """Return the peak memory, in MB: of this process, or of the ranks in training."""
    own, rank = (
        resource.getrusage(who).ru_maxrss
        for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    return max(own, train.RANKS * rank) // 1024


def summary(facts: Dict[str, Any], out: Path) -> str:
    """Return what the models take, and commands to try."""

    def shown(*parts: str) -> str:
        return os.path.relpath(out.joinpath(*parts))

    header = [facts["measured"], "parameters", "MB", "sentences/s"]
    full, subnet = facts["params_full"], facts["params_subnet"]
    sizes = {
        "full model": ("full", full, full * 4),
        "sub-network": ("subnet", subnet, facts["subnet_bytes"]),
        "sub-network, int8": ("int8", subnet, facts["int8_bytes"]),
    }
    table = [header] + [
        [title, f"{number:,}", f"{size / 1e6:.1f}", f"{facts[f'{name}_sentences_per_second']:,}"]
        for title, (name, number, size) in sizes.items()
    ]
    different = facts["subnet_hypotheses_different"]
    lines = [
        *aligned(table),
        "",
        f"Sub-networks and full model: log-probabilities differ by at most "
        f"{facts['subnet_max_abs_logprob_diff']:.0e}, {different} of "
        f"{facts['subnet_hypotheses']:,} translations differ"
        + (f" ({facts['of_which_ties']} of them by ties)." if different else "."),
        f"int8: {facts['int8_same']:.0%} of the translations equal the full model's, chrF "
        f"{facts['int8_chrf_change']:+.1f}.",
        f"All stages took {duration(facts['wall_seconds'])} and at most "
        f"{facts['peak_memory_mb']:,} MB. The scores are in {shown('results.md')}.",
        "",
        "Try:",
        f"  echo '3 weeks ago' | .venv/bin/taskmoe translate {shown('subnets', 'en-de')}",
        f"  .venv/bin/taskmoe serve {shown('int8')}     # all directions, on a web page",
        f"  xdg-open {shown('routing.png')}     # the experts that each direction uses",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    with command():
        main()
