"""The process that translates with an extracted model; subnet_runs.py starts it.

As in `taskmoe translate`, nothing is imported that the model's format does not need.
"""

import json
import sys
import time
from pathlib import Path

from ..serving.engine import SearchOptions
from ..serving.open_model import open_model


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    search = SearchOptions(**job["search"])
    translator = open_model(job["folder"], "cpu", job["threads"])
    search = search._replace(max_length=min(search.max_length, translator.max_target_pieces))
    hypotheses = {}
    seconds = 0.0
    pieces = tokens = 0
    for batch in job["batches"]:
        batch = [number for number in batch if job["pieces"][number]]  # the rest is not translated
        if not batch:
            continue
        start = time.perf_counter()
        found = translator.engine.translate(
            job["lang_pair"], [job["pieces"][number] for number in batch], search
        )
        seconds += time.perf_counter() - start
        for number, ranked in zip(batch, found, strict=True):
            hypotheses[number] = [" ".join(each.pieces) for each in ranked]
            length = len(ranked[0].pieces)
            pieces += length
            # one that was cut off has no end: fairseq takes a step more for it
            tokens += length + (length < search.max_length)
    Path(job["out"]).write_text(
        json.dumps({
            "seconds": seconds, "pieces": pieces, "tokens": tokens, "hypotheses": hypotheses,
        }),
        encoding="utf-8",
    )
