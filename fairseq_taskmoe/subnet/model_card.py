"""The README of the format huggingface, which is a model card."""

import json
from typing import List, Optional

from ..checkpoint.contents import TrainedModel
from ..engines.manifest import Manifest
from ..errors import refuse
from ..evaluation.results import load_results
from ..metrics.lang_pairs import languages_of
from .extract import Subnet
from .readme import as_code


def card_header(manifest: Manifest, license: Optional[str]) -> str:
    """Return the YAML at the start of a model card, which Hugging Face's site reads."""
    langs = "".join(f"- {json.dumps(lang)}\n" for lang in languages_of(manifest.directions))
    return (
        f"---\nlanguage:\n{langs}license: {json.dumps(license or 'unknown')}\n"
        "library_name: transformers\npipeline_tag: translation\ntags:\n- translation\n---\n\n"
    )


def with_transformers(manifest: Manifest, subnet: Subnet, trained: TrainedModel) -> str:
    """Return how transformers runs the format `huggingface`, and how the model was made."""
    pair, tags = subnet.lang_pairs[0], subnet.tags
    source, target = tags.of_pair(pair)
    different = [
        len({tuple(tags.of_pair(each)[side]) for each in subnet.lang_pairs}) > 1 for side in (0, 1)
    ]
    tag = f"{source[0]} " if different[0] else ""
    forced = ""
    if different[1]:
        forced = f', forced_bos_token_id=tokenizer.convert_tokens_to_ids("{target[0]}")'
    code = as_code(f"or in Python ({pair}; of texts in a list, each is one sentence)", [
        "from transformers import AutoModelForSeq2SeqLM, AutoTokenizer",
        'tokenizer = AutoTokenizer.from_pretrained(".")',
        'model = AutoModelForSeq2SeqLM.from_pretrained(".")',
        f'inputs = tokenizer(["{tag}..."], return_tensors="pt", padding=True)',
        f"found = model.generate(**inputs{forced})",
        "print(tokenizer.batch_decode(found, skip_special_tokens=True))",
    ])
    made, routers = manifest.source_checkpoint, [
        f"{stack} {trained.cfg[f'{stack}_moe_router']}" for stack in ("encoder", "decoder")
    ]
    return (
        f"{code}\nLabels for further training have no source tag: `tokenizer(text, "
        "add_special_tokens=False)`, and `</s>` after it.\n\n## How it was made\n\n"
        f"fairseq-taskmoe {manifest.versions.get('fairseq-taskmoe', '')} extracted it from "
        f"`{made['file']}` (SHA-256 {made['sha256']}), a mixture of experts with "
        f"{made['parameters']:,} parameters (routers: {', '.join(routers)}). Its "
        f"{manifest.parameters:,} parameters give the same log-probabilities within 1e-4.\n"
    )


def scores(lang_pairs: List[str], results: str) -> str:
    """Return the scores of a results.json for some directions, as a section of a README."""
    found = load_results(results).directions
    missing = [pair for pair in lang_pairs if pair not in found]
    if missing:
        refuse(f"--results {results}: has no scores of {', '.join(missing)}")
    rows = [
        f"| {pair} | {row['bleu']:.1f} | {row['chrf']:.1f} | {row['sentences']} | "
        f"`{row['signature']}` |\n" for pair in lang_pairs for row in [found[pair]]
    ]
    return (
        "\n## Scores\n\nOf the model that this one was extracted from.\n\n"
        "| direction | BLEU | chrF | sentences | signature |\n|---|---|---|---|---|\n"
        + "".join(rows)
    )
