"""The demo's sub-networks in CTranslate2: small files, and the same translations?"""

import shutil
from pathlib import Path
from typing import Any, Dict, List

from tqdm import tqdm

from examples.demo.train import DIRECTIONS
from fairseq_taskmoe.checkpoint.subnet_folder import Extraction, extract
from fairseq_taskmoe.evaluation.evaluate import read_lines
from fairseq_taskmoe.evaluation.scoring import score_direction
from fairseq_taskmoe.serving.engine import SearchOptions
from fairseq_taskmoe.serving.open_model import open_model

QUANTIZATIONS = ("float32", "int8")
MODEL = "model.bin"


def folder_of(out: Path, quantization: str, lang_pair: str) -> Path:
    """Return the folder of a direction's model."""
    return out / "ctranslate2" / quantization / lang_pair


def export_directions(checkpoint: Path, out: Path) -> None:
    """Cut out the sub-network of each direction for CTranslate2, exact and quantized."""
    shutil.rmtree(out / "ctranslate2", ignore_errors=True)
    spm = str(out / "spm.model")
    for pair in tqdm(DIRECTIONS, desc="CTranslate2", leave=False, disable=None):
        for quantization in QUANTIZATIONS:
            what = Extraction("ctranslate2", spm, quantization)
            extract(str(checkpoint), [pair], str(folder_of(out, quantization, pair)), what)


def check_exports(out: Path, beam: int) -> Dict[str, Any]:
    """Translate the test set with them; compare with the translations of the full model."""
    same, total = dict.fromkeys(QUANTIZATIONS, 0), 0
    chrf: Dict[str, List[float]] = {name: [] for name in ("full", *QUANTIZATIONS)}
    for pair in tqdm(DIRECTIONS, desc="translate", leave=False, disable=None):
        source, target = pair.split("-")
        text = out / "text" / f"test.en-{source if target == 'en' else target}"
        references = read_lines(f"{text}.{target}")
        full = read_lines(str(out / "evaluation" / "hypotheses" / f"test.{pair}.{target}"))
        total += len(full)
        chrf["full"].append(score_direction(pair, full, references).chrf)
        for quantization in QUANTIZATIONS:
            translator = open_model(str(folder_of(out, quantization, pair)))
            found = translator.translate(
                pair, read_lines(f"{text}.{source}"), SearchOptions(beam=beam)
            )
            texts = [ranked[0].text for ranked in found]
            same[quantization] += sum(a == b for a, b in zip(texts, full, strict=True))
            chrf[quantization].append(score_direction(pair, texts, references).chrf)
    facts: Dict[str, Any] = {}
    for quantization in QUANTIZATIONS:
        changes = [a - b for a, b in zip(chrf[quantization], chrf["full"], strict=True)]
        facts[f"ctranslate2_{quantization}_same"] = round(same[quantization] / total, 4)
        facts[f"ctranslate2_{quantization}_chrf_change"] = round(mean(changes), 3)
        files = [folder_of(out, quantization, pair) / MODEL for pair in DIRECTIONS]
        facts[f"ctranslate2_{quantization}_bytes"] = max(file.stat().st_size for file in files)
    return facts


def mean(values: List[float]) -> float:
    return sum(values) / len(values)
