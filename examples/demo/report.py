"""The demo after training: scores, sub-networks and their check, routing heat-map."""

import shutil
from pathlib import Path
from typing import Any, Dict

from tqdm import tqdm

from examples.demo.train import DIRECTIONS
from fairseq_taskmoe import register  # noqa: F401
from fairseq_taskmoe.analysis.routing_statistics import write_routing
from fairseq_taskmoe.checkpoint.subnet_folder import extract
from fairseq_taskmoe.evaluation.compare import compare, load_stock_model
from fairseq_taskmoe.evaluation.evaluate import Settings, evaluate
from fairseq_taskmoe.evaluation.results import load_results, terminal_table
from fairseq_taskmoe.evaluation.translate import Batching, load_for_pairs

BEAM = 4
BATCHING = Batching(max_tokens=4000)
RESULTS = ("results.json", "results.md")


def score_directions(data: Path, checkpoint: Path, out: Path) -> None:
    """Translate and score the test set; the report lands in out."""
    evaluate(
        str(data),
        str(checkpoint),
        str(out / "evaluation"),
        DIRECTIONS,
        Settings(beam=BEAM),
        BATCHING,
        references=str(out / "text"),
        floors=True,
        cpu=True,
    )
    for name in RESULTS:
        shutil.copyfile(out / "evaluation" / name, out / name)


def extract_directions(checkpoint: Path, subnets: Path, spm: Path) -> None:
    """Cut out the sub-network of each direction into a folder of its own."""
    for pair in tqdm(DIRECTIONS, desc="extract", leave=False, disable=None):
        shutil.rmtree(subnets / pair, ignore_errors=True)
        extract(str(checkpoint), pair, str(subnets / pair), "fairseq", str(spm))


def check_subnets(data: Path, checkpoint: Path, subnets: Path) -> Dict[str, Any]:
    """Compare every sub-network with the full model, which routes each token; count parameters."""
    full, task = load_for_pairs(str(data), str(checkpoint), DIRECTIONS)
    checks = []
    for pair in DIRECTIONS:
        subnet = load_stock_model(str(subnets / pair), pair)
        checks.append(compare(full, subnet, task, pair, "test", BEAM, BATCHING))
    return {
        "subnet_max_abs_logprob_diff": max(check.max_abs_logprob_diff for check in checks),
        "subnet_hypotheses": sum(check.hypotheses for check in checks),
        "subnet_hypotheses_different": sum(check.different for check in checks),
        "of_which_ties": sum(check.ties for check in checks),
        "params_full": sum(parameter.numel() for parameter in full.parameters()),
        "params_subnet": sum(parameter.numel() for parameter in subnet.parameters()),
    }


def plot_directions(data: Path, checkpoint: Path, out: Path) -> None:
    """Write the routing statistics, and their heat-map to out."""
    shutil.rmtree(out / "routing", ignore_errors=True)
    write_routing(str(data), str(checkpoint), str(out / "routing"), DIRECTIONS, "test", BATCHING)
    shutil.copyfile(out / "routing" / "routing.png", out / "routing.png")


def table(out: Path) -> str:
    """Return the results as a table for the terminal."""
    return terminal_table(load_results(out / "results.json"))
