"""Train all models of the study, and write results.md and mechanism.png.

    python examples/mechanism/run.py --out runs/mechanism

Models whose results are there already are skipped: repeat the command after a kill.
"""

import argparse
import json
import logging
import multiprocessing
import sys
import time
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any, Dict

import torch

from fairseq_taskmoe.errors import command, refuse
from fairseq_taskmoe.evaluation.results import provenance
from fairseq_taskmoe.files import write_atomically
from fairseq_taskmoe.host import available_cores

if str(Path(__file__).resolve().parents[2]) not in sys.path:  # examples/ is not installed
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from examples.mechanism.ciphers import Ciphers  # noqa: E402
from examples.mechanism.models import (  # noqa: E402
    accuracy,
    can_extract,
    extraction,
    flops_per_word,
    train,
)
from examples.mechanism.plan import Training, trainings  # noqa: E402
from examples.mechanism.report import draw, report  # noqa: E402


def measure(training: Training, num_updates: int) -> Dict[str, Any]:
    """Train one model, and return everything that the report needs."""
    torch.set_num_threads(1)
    began, ciphers = time.process_time(), Ciphers.make(training.ciphers)
    model = train(training.row, ciphers, training.seed, num_updates)
    seconds = time.process_time() - began
    exact = can_extract(training.row)
    return {
        **training._asdict(), "updates": num_updates, "accuracy": accuracy(model, ciphers),
        "extraction": extraction(model, training.row, ciphers)._asdict() if exact else None,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "flops_per_word": flops_per_word(model, ciphers), "cpu_seconds": round(seconds, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--updates", type=int, default=600, help="updates of each model")
    parser.add_argument("--workers", type=int, default=available_cores(),
                        help="models that are trained at the same time, each with one thread")
    args = parser.parse_args()
    logging.disable(logging.INFO)
    models = args.out / "models"
    models.mkdir(parents=True, exist_ok=True)
    missing = [one for one in trainings() if not (models / f"{one.name}.json").exists()]
    where = provenance()
    with multiprocessing.Pool(args.workers) as pool:
        done = pool.imap_unordered(partial(measure, num_updates=args.updates), missing)
        for number, result in enumerate(done, start=1):
            name = Training(result["row"], result["ciphers"], result["seed"]).name
            text = json.dumps({**result, "provenance": where})
            write_atomically(models / f"{name}.json", text + "\n")
            print(f"[{number}/{len(missing)}] {name}: {100 * mean(result['accuracy']):.1f} %",
                  flush=True)
    results = [json.loads(path.read_text()) for path in sorted(models.glob("*.json"))]
    if {result["updates"] for result in results} != {args.updates}:
        refuse(f"{models} has models of another number of updates: choose another --out")
    draw(results, args.out / "mechanism.png")
    write_atomically(args.out / "results.md", report(results))
    print(f"wrote {args.out}/results.md and {args.out}/mechanism.png")


if __name__ == "__main__":
    with command():
        main()
