"""The demo's sub-networks in CTranslate2: sizes, and comparison of their translations."""

import shutil
from pathlib import Path
from statistics import fmean
from typing import Any, Dict, List, Sequence

from tqdm import tqdm

from examples.demo.train import DIRECTIONS
from fairseq_taskmoe.engines.engine import SearchOptions
from fairseq_taskmoe.engines.open_model import open_model
from fairseq_taskmoe.evaluation.evaluate import read_lines
from fairseq_taskmoe.metrics.scoring import score_direction
from fairseq_taskmoe.subnet.folder import Extraction, extract

FORMATS = ("float32", "int8", "trimmed")  # trimmed: float32, with the training data's words
MODEL = "model.bin"
# Share of float32 translations that equal the full model's: mean over the directions, and of one
# direction. It varies between trainings; a lower one indicates an error, not another beam search
MIN_SAME, MIN_SAME_OF_ONE = 0.9, 0.8
MAX_CHRF_CHANGE = 1.0  # of int8, on average over the directions
Comparisons = Dict[str, Dict[str, Dict[str, float]]]  # format -> direction -> figures


def folder_of(out: Path, format: str, lang_pair: str) -> Path:
    """Return the folder of a direction's model."""
    return out / "ctranslate2" / format / lang_pair


def export_directions(data: Path, checkpoint: Path, out: Path) -> None:
    """Extract the sub-network of each direction for CTranslate2, in all formats."""
    shutil.rmtree(out / "ctranslate2", ignore_errors=True)
    plain = Extraction("ctranslate2", str(out / "spm.model"))
    extractions = dict(zip(FORMATS, (
        plain, plain._replace(quantization="int8"), plain._replace(trim_vocabulary=str(data))
    ), strict=True))
    for pair in tqdm(DIRECTIONS, desc="CTranslate2", leave=False, disable=None):
        for format, extraction in extractions.items():
            extract(str(checkpoint), [pair], str(folder_of(out, format, pair)), extraction)


def check_exports(out: Path, beam: int) -> Dict[str, Any]:
    """Translate the test set with all formats; compare with the full model's translations."""
    found: Comparisons = {format: {} for format in FORMATS}
    for pair in tqdm(DIRECTIONS, desc="translate", leave=False, disable=None):
        source, target = pair.split("-")
        text = out / "text" / f"test.en-{source if target == 'en' else target}"
        full = read_lines(str(out / "evaluation" / "hypotheses" / f"test.{pair}.{target}"))
        for format in FORMATS:
            folder = folder_of(out, format, pair)
            translations = open_model(str(folder)).translate(
                pair, read_lines(f"{text}.{source}"), SearchOptions(beam=beam)
            )
            found[format][pair] = {
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
    own, other = (score_direction(lang_pair, side, references)["chrf"] for side in (texts, full))
    same = sum(a == b for a, b in zip(texts, full, strict=True))
    return {"same": round(same / len(full), 4), "chrf_change": round(own - other, 3)}


def overall(found: Comparisons) -> Dict[str, float]:
    """Return the means over the directions, and the largest files, by format."""
    facts: Dict[str, float] = {}
    for format, by_pair in found.items():
        of: Dict[str, List[float]] = {
            name: [figures[name] for figures in by_pair.values()]
            for name in ("same", "chrf_change", "bytes")
        }
        facts[f"ctranslate2_{format}_same"] = round(fmean(of["same"]), 4)
        facts[f"ctranslate2_{format}_chrf_change"] = round(fmean(of["chrf_change"]), 3)
        facts[f"ctranslate2_{format}_bytes"] = max(of["bytes"])
    return facts


def failures(facts: Dict[str, Any]) -> List[str]:
    """Return a line for each limit that the exported models miss."""
    shares = {pair: figures["same"] for pair, figures in facts["ctranslate2"]["float32"].items()}
    found = [
        f"{name}: CTranslate2 in float32 makes {share:.1%} of the full model's translations, less "
        f"than {least:.0%}"
        for name, share, least in (
            ("all directions", facts["ctranslate2_float32_same"], MIN_SAME),
            *((pair, share, MIN_SAME_OF_ONE) for pair, share in shares.items()),
        )
        if not share >= least
    ]
    change = facts["ctranslate2_int8_chrf_change"]
    if not abs(change) <= MAX_CHRF_CHANGE:
        found.append(f"CTranslate2 in int8 changes chrF by {change:+.2f} on average, by more than "
                     f"{MAX_CHRF_CHANGE:g}")
    return found
