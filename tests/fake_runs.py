"""A made-up experiment: a folder of results as `taskmoe evaluate` leaves them, without models."""

import json
from pathlib import Path
from typing import Any, Dict, Iterable, Optional

import yaml

from fairseq_taskmoe.evaluation.results import Results
from fairseq_taskmoe.metrics.scoring import averages

LANGUAGES = {
    "de": {"train_pairs": 2000, "class": "high"},
    "ru": {"train_pairs": 1000, "class": "high"},
    "no": {"train_pairs": 10, "class": "low"},  # which YAML takes for a truth value
}
PAIRS = ("de-en", "ru-en", "no-en", "en-de", "en-ru", "en-no", "de-ru")
SIGNATURE = "nrefs:1|case:mixed|eff:no|tok:13a|smooth:exp|version:2.6.0"


def score(bleu: float, signature: str = SIGNATURE, chrfpp: Optional[float] = None) -> Any:
    """Return the scores of a direction, all computed from BLEU."""
    return {
        "signature": signature, "bleu": bleu, "chrf": bleu + 20, "sentences": 200,
        "floor_copy_chrf": 10.0, "floor_nearest_chrf": 15.0, "chrf_signature": "nrefs:1|nc:6",
        "chrfpp": bleu + 18 if chrfpp is None else chrfpp,
        "chrfpp_signature": "nrefs:1|nc:6|nw:2",
    }


def save_results(folder: Path, scores: Dict[str, Any]) -> None:
    """Write folder/evaluation/results.json."""
    machine = {"cpu": "a CPU", "cores": 2, "gpus": []}
    Results("made up", "0123abc", machine, scores, averages(scores)).save(folder / "evaluation")


def row(runs: Path, name: str, first: float, pairs: Iterable[str] = PAIRS) -> None:
    """Write results whose BLEU grows by one from a direction to the next."""
    save_results(runs / name, {pair: score(first + i) for i, pair in enumerate(pairs)})


def make_runs(runs: Path) -> Path:
    """Write an experiment: two seeds of one row, bilingual models, and a row of 2 directions."""
    for i, pair in enumerate(PAIRS[:6]):
        save_results(runs / "bilingual" / pair, {pair: score(5.0 + i)})
    row(runs, "dense_base", 10.0)
    row(runs, "token_token", 13.0)
    row(runs, "token_target", 14.0)
    row(runs, "token_target.seed2", 15.5)
    row(runs, "distilled", 11.0, PAIRS[:2])
    (runs / "languages.yaml").write_text(yaml.safe_dump(LANGUAGES), encoding="utf-8")
    (runs / "text").mkdir()
    return runs


def throughput(speeds: Dict[str, Iterable[float]], experts: int = 32) -> Dict[str, Any]:
    """Return a report of `taskmoe bench decode`, of batches of 1, 2, 4, ... sentences."""
    return {
        "settings": {"arch": "base", "beam": 4, "dtype": "float32", "device": "cpu"},
        "hardware": {"cpu": "a CPU", "gpus": []},
        "rows": [
            {"variant": name, "label": name, "experts": experts, "batch_size": 2**i,
             "fits": speed > 0, **({"tokens_per_second": speed} if speed > 0 else {})}
            for name, values in speeds.items() for i, speed in enumerate(values)
        ],
    }


def write_json(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
