"""The demo after training: scores, sub-networks and their check, routing heat map."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List

from tqdm import tqdm

from examples.demo.train import DIRECTIONS
from fairseq_taskmoe import register  # noqa: F401
from fairseq_taskmoe.checkpoint.load_models import load_stock
from fairseq_taskmoe.engines.manifest import read_manifest
from fairseq_taskmoe.evaluation.compare import compare
from fairseq_taskmoe.evaluation.evaluate import Settings, evaluate, read_lines
from fairseq_taskmoe.evaluation.results import load_results, terminal_table
from fairseq_taskmoe.evaluation.translate import Batching, Search, load_for_pairs
from fairseq_taskmoe.routing.collect import write_routing
from fairseq_taskmoe.subnet.folder import Extraction, extract

SEARCH = Search(beam=4)
BATCHING = Batching(max_tokens=4000)
TOLERANCE = 1e-4  # of log-probabilities in float32
RESULTS = ("results.json", "results.md")


def score_directions(data: Path, checkpoint: Path, out: Path) -> None:
    """Translate and score the test set; write the results to out."""
    evaluate(
        str(data), str(checkpoint), str(out / "evaluation"), DIRECTIONS, Settings(search=SEARCH),
        BATCHING, references=str(out / "text"), floors=True, cpu=True,
    )
    for name in RESULTS:
        shutil.copyfile(out / "evaluation" / name, out / name)


def extract_directions(checkpoint: Path, subnets: Path, spm: Path) -> None:
    """Extract the sub-network of each direction."""
    for pair in tqdm(DIRECTIONS, desc="extract", leave=False, disable=None):
        shutil.rmtree(subnets / pair, ignore_errors=True)
        extraction = Extraction("fairseq", sentencepiece_model=str(spm))
        extract(str(checkpoint), [pair], str(subnets / pair), extraction)


def check_subnets(data: Path, checkpoint: Path, out: Path) -> Dict[str, Any]:
    """Compare every sub-network with the full model, and with fairseq without the plugin."""
    full, task = load_for_pairs(str(data), str(checkpoint), DIRECTIONS)
    generation = SEARCH.config()
    checks = []
    for pair in DIRECTIONS:
        subnet = load_stock(str(out / "subnets" / pair)).model
        checks.append(compare(full, subnet, task, pair, "test", generation, BATCHING))
    manifest = read_manifest(str(out / "subnets" / DIRECTIONS[-1]))
    facts = {
        "subnet_max_abs_logprob_diff": max(check.max_abs_logprob_diff for check in checks),
        "subnet_hypotheses": sum(check.hypotheses for check in checks),
        "subnet_hypotheses_different": sum(check.different for check in checks),
        "of_which_ties": sum(check.ties for check in checks),
        "without_plugin_different": translate_without_plugin(data, out),
        "params_full": manifest.source_checkpoint["parameters"],
        "params_subnet": manifest.parameters,
    }
    print(json.dumps(facts, indent=2), file=sys.stderr)
    return facts


def failures(facts: Dict[str, Any]) -> List[str]:
    """Return how the sub-networks differ from the full model, apart from ties."""
    found = []
    not_tied = facts["subnet_hypotheses_different"] - facts["of_which_ties"]
    if not facts["subnet_max_abs_logprob_diff"] <= TOLERANCE or not_tied:
        found.append("the sub-networks do not compute what the full model computes")
    if facts["without_plugin_different"] > facts["of_which_ties"]:
        found.append(f"without the plugin {facts['without_plugin_different']} translations differ, "
                     f"of which at most {facts['of_which_ties']} are ties")
    return found


def translate_without_plugin(data: Path, out: Path) -> int:
    """Return how many translations of plain fairseq-generate differ from those of `evaluate`."""
    script = Path(__file__).with_name("without_plugin.py")
    folder = out / "without-plugin"
    subprocess.run(
        [sys.executable, script, data, out / "subnets", folder, str(SEARCH.beam), *DIRECTIONS],
        check=True, stdout=subprocess.DEVNULL,
    )
    different = 0
    for pair in DIRECTIONS:
        lines = (folder / pair / "generate-test.txt").read_text(encoding="utf-8").split("\n")
        rows = [line.split("\t") for line in lines if line.startswith("H-")]
        pieces = {int(name[2:]): text for name, _, text in rows}
        texts = [pieces[i].replace(" ", "").replace("\u2581", " ").strip() for i in sorted(pieces)]
        target = pair.split("-")[1]
        own = read_lines(str(out / "evaluation" / "hypotheses" / f"test.{pair}.{target}"))
        different += sum(a != b for a, b in zip(texts, own, strict=True))
    return different


def plot_directions(data: Path, checkpoint: Path, out: Path) -> None:
    """Write the routing statistics, and copy their heat map to out."""
    shutil.rmtree(out / "routing", ignore_errors=True)
    write_routing(str(data), str(checkpoint), str(out / "routing"), DIRECTIONS, "test", BATCHING)
    shutil.copyfile(out / "routing" / "routing.png", out / "routing.png")


def table(out: Path) -> str:
    """Return the results as a table for the terminal."""
    return terminal_table(load_results(out / "results.json"))
