"""Extract the sub-networks of one row, and check that they translate as the full model does.

Writes RUNS/ROW/subnets/PAIR (the models), subnets/evaluation/ (their scores) and, at the end,
subnets/checks.json: the hypotheses that differ from the full model's, and the ties among them.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Dict, List

from tqdm import tqdm

from fairseq_taskmoe import register  # noqa: F401
from fairseq_taskmoe.checkpoint.load_models import load_task_moe
from fairseq_taskmoe.checkpoint.reading import read_model
from fairseq_taskmoe.engines.manifest import read_manifest
from fairseq_taskmoe.errors import command
from fairseq_taskmoe.evaluation.compare import Comparison, compare
from fairseq_taskmoe.evaluation.evaluate import Settings, evaluate
from fairseq_taskmoe.evaluation.results import Results, load_results
from fairseq_taskmoe.evaluation.translate import Batching, Search, load_for_pairs
from fairseq_taskmoe.files import write_atomically
from fairseq_taskmoe.metrics.scoring import DirectionScore
from fairseq_taskmoe.subnet.folder import extract
from fairseq_taskmoe.subnet.formats import MODEL, Extraction

BATCHING = Batching(max_tokens=4000)


def extract_pairs(path: Path, subnets: Path, spm: Path) -> List[str]:
    """Extract each trained direction, unless it exists; return the directions.

    The format is `taskmoe`, which supports layers of different widths, and token routing in one of
    the stacks.
    """
    pairs = read_model(str(path)).pairs
    for pair in tqdm(pairs, desc="extract", leave=False, disable=None):
        if not (subnets / pair).exists():
            extraction = Extraction("taskmoe", sentencepiece_model=str(spm))
            extract(str(path), [pair], str(subnets / pair), extraction)
    return pairs


def check(runs: Path, row: str, data: Path, settings: Settings) -> Dict[str, Any]:
    """Compare all sub-networks of a row with its full model."""
    path, subnets = runs / row / "checkpoint_best.pt", runs / row / "subnets"
    pairs = extract_pairs(path, subnets, runs / "spm.model")
    full, task = load_for_pairs(str(data), str(path), pairs)
    generation = settings.search.config()
    compared: Dict[str, Comparison] = {}
    scores: Dict[str, DirectionScore] = {}
    parameters = [read_manifest(str(subnets / pair)).parameters for pair in pairs]
    for pair in tqdm(pairs, desc="compare", leave=False, disable=None):
        path = subnets / pair / MODEL
        model = load_task_moe(read_model(str(path)), [pair]).model
        compared[pair] = compare(full, model, task, pair, "test", generation, BATCHING)
        results = evaluate(
            str(data), str(path), str(subnets / "evaluation" / pair), [pair], settings,
            references=str(runs / "text"),
        )
        assert results is not None  # there is one rank
        scores.update(results.directions)
    Results.collect({"row": row, **settings.record()}, scores).save(subnets / "evaluation")
    whole = load_results(runs / row / "evaluation" / "results.json").directions
    return {
        "parameters_full": sum(parameter.numel() for parameter in full.parameters()),
        "parameters_subnet": max(parameters),
        "hypotheses": sum(one.hypotheses for one in compared.values()),
        "different": sum(one.different for one in compared.values()),
        "of_which_ties": sum(one.ties for one in compared.values()),
        "max_abs_logprob_diff": max(one.max_abs_logprob_diff for one in compared.values()),
        "bleu_full": {pair: whole[pair]["bleu"] for pair in pairs},
        "bleu_subnet": {pair: scores[pair]["bleu"] for pair in pairs},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, help="folder of the experiment")
    parser.add_argument("row", help="name of a row, such as target_target")
    parser.add_argument("--data", type=Path, required=True, help="binarized test sets")
    parser.add_argument("--beam", type=int, default=4)
    parser.add_argument("--max-len-b", type=int, default=200, help="maximum pieces of an output")
    parser.add_argument("--tokenize", help="tokenizer of sacreBLEU, as for taskmoe evaluate")
    args = parser.parse_args()
    search = Search(args.beam, max_len_b=args.max_len_b)
    settings = Settings(search=search, tokenize=args.tokenize)
    facts = check(args.runs, args.row, args.data, settings)
    text = json.dumps(facts, indent=2) + "\n"
    print(text, end="")
    if facts["different"] > facts["of_which_ties"]:
        sys.exit(f"{args.row}: the sub-networks do not translate as the full model does")
    if facts["different"] == 0 and facts["bleu_subnet"] != facts["bleu_full"]:
        sys.exit(f"{args.row}: the same translations were scored differently")
    write_atomically(args.runs / args.row / "subnets" / "checks.json", text)


if __name__ == "__main__":
    with command():
        main()
