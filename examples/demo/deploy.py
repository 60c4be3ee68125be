"""The demo's sub-networks in CTranslate2: small files, and the same translations?"""

import shutil
from pathlib import Path
from typing import Any, Dict, List, Sequence

from tqdm import tqdm

from examples.demo.train import DIRECTIONS
from fairseq_taskmoe.engines.engine import SearchOptions
from fairseq_taskmoe.engines.open_model import open_model
from fairseq_taskmoe.evaluation.evaluate import read_lines
from fairseq_taskmoe.metrics.scoring import score_direction
from fairseq_taskmoe.subnet.folder import Extraction, extract

VARIANTS = ("float32", "int8", "trimmed")  # the last has the words of the training data, in float32
MODEL = "model.bin"
# Of the translations in float32, on average over the directions and of one. Trainings differ in it;
# less is no matter of searching by different rules any more
LEAST_SAME, LEAST_SAME_OF_ONE = 0.9, 0.8
MOST_CHRF_CHANGE = 1.0  # of int8, on average over the directions
Comparisons = Dict[str, Dict[str, Dict[str, float]]]  # variant -> direction -> figures


def folder_of(out: Path, variant: str, lang_pair: str) -> Path:
    """Return the folder of a direction's model."""
    return out / "ctranslate2" / variant / lang_pair


def export_directions(data: Path, checkpoint: Path, out: Path) -> None:
    """Cut out the sub-network of each direction for CTranslate2: exact, quantized and trimmed."""
    shutil.rmtree(out / "ctranslate2", ignore_errors=True)
    plain = Extraction("ctranslate2", str(out / "spm.model"))
    variants = dict(zip(VARIANTS, (
        plain, plain._replace(quantization="int8"), plain._replace(trim_vocabulary=str(data))
    ), strict=True))
    for pair in tqdm(DIRECTIONS, desc="CTranslate2", leave=False, disable=None):
        for variant, what in variants.items():
            extract(str(checkpoint), [pair], str(folder_of(out, variant, pair)), what)


def check_exports(out: Path, beam: int) -> Dict[str, Any]:
    """Translate the test set with them; compare with the translations of the full model."""
    found: Comparisons = {variant: {} for variant in VARIANTS}
    for pair in tqdm(DIRECTIONS, desc="translate", leave=False, disable=None):
        source, target = pair.split("-")
        text = out / "text" / f"test.en-{source if target == 'en' else target}"
        full = read_lines(str(out / "evaluation" / "hypotheses" / f"test.{pair}.{target}"))
        for variant in VARIANTS:
            folder = folder_of(out, variant, pair)
            translations = open_model(str(folder)).translate(
                pair, read_lines(f"{text}.{source}"), SearchOptions(beam=beam)
            )
            found[variant][pair] = {
                **compare(
                    pair, [ranked[0].text for ranked in translations], full,
                    read_lines(f"{text}.{target}"),
                ),
                "bytes": (folder / MODEL).stat().st_size,
            }
    return {"ctranslate2": found, **overall(found)}


def compare(
    lang_pair: str, texts: Sequence[str], full: Sequence[str], references: Sequence[str]
) -> Dict[str, float]:
    """Compare translations with those of the full model."""
    own, other = (score_direction(lang_pair, side, references).chrf for side in (texts, full))
    same = sum(a == b for a, b in zip(texts, full, strict=True))
    return {"same": round(same / len(full), 4), "chrf_change": round(own - other, 3)}


def overall(found: Comparisons) -> Dict[str, float]:
    """Return means over the directions (of equally many sentences), and the largest files."""
    facts: Dict[str, float] = {}
    for variant, by_pair in found.items():
        of: Dict[str, List[float]] = {
            name: [figures[name] for figures in by_pair.values()]
            for name in ("same", "chrf_change", "bytes")
        }
        facts[f"ctranslate2_{variant}_same"] = round(mean(of["same"]), 4)
        facts[f"ctranslate2_{variant}_chrf_change"] = round(mean(of["chrf_change"]), 3)
        facts[f"ctranslate2_{variant}_bytes"] = max(of["bytes"])
    return facts


def failures(facts: Dict[str, Any]) -> List[str]:
    """Return how the exported models fall short of what they must be."""
    shares = {pair: figures["same"] for pair, figures in facts["ctranslate2"]["float32"].items()}
    found = [
        f"{name}: CTranslate2 in float32 makes {share:.1%} of the full model's translations, less "
        f"than {least:.0%}"
        for name, share, least in (
            ("all directions", facts["ctranslate2_float32_same"], LEAST_SAME),
            *((pair, share, LEAST_SAME_OF_ONE) for pair, share in shares.items()),
        )
        if not share >= least
    ]
    change = facts["ctranslate2_int8_chrf_change"]
    if not abs(change) <= MOST_CHRF_CHANGE:
        found.append(f"CTranslate2 in int8 changes chrF by {change:+.2f} on average, by more than "
                     f"{MOST_CHRF_CHANGE:g}")
    return found


def mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
