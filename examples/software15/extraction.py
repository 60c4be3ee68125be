"""Cut out the sub-networks of one row, and see whether they translate as the full model does.

Leaves RUNS/ROW/subnets/PAIR (the models), subnets/evaluation/ (their scores) and, last,
subnets/checks.json: hypotheses that differ from the full model's, and how many of those are ties.
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
from fairseq_taskmoe.subnet.folder import MODEL, Extraction, extract

BATCHING = Batching(max_tokens=4000)


def extract_pairs(path: Path, subnets: Path, spm: Path) -> List[str]:
    """Cut out each trained direction that is not there yet; return them.

    In the format `taskmoe`, which keeps layers of different widths as they are, and the experts of
    a stack that routes by token.
    """
    pairs = read_model(str(path)).pairs
    for pair in tqdm(pairs, desc="extract", leave=False, disable=None):
        if not (subnets / pair).exists():
            what = Extraction("taskmoe", sentencepiece_model=str(spm))
            extract(str(path), [pair], str(subnets / pair), what)
    return pairs


def check(runs: Path, row: str, data: Path, settings: Settings) -> Dict[str, Any]:
    """Compare all sub-networks of a row with its full model, which routes each token."""
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
        assert results is not None  # no other ranks
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
        "bleu_full": {pair: whole[pair].bleu for pair in pairs},
        "bleu_subnet": {pair: scores[pair].bleu for pair in pairs},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", type=Path, help="folder of an experiment")
    parser.add_argument("row", help="name of a row, as target_target")
    parser.add_argument("--data", type=Path, required=True, help="its binarized test sets")
    parser.add_argument("--beam", type=int, default=4)
    parser.add_argument("--max-len-b", type=int, default=200, help="most pieces of a translation")
    parser.add_argument("--tokenize", help="sacreBLEU's tokenizer, as for taskmoe evaluate")
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
