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
    translator = open_model(job["folder"], "cpu", job["threads"], for_throughput=True)
    search = search._replace(max_length=min(search.max_length, translator.max_target_pieces))
    full = [number for number, pieces in enumerate(job["pieces"]) if pieces]  # as a translator does
    sources = [job["pieces"][number] for number in full]
    start = time.perf_counter()
    found = translator.engine.translate(job["lang_pair"], sources, search, job["max_batch_tokens"])
    seconds = time.perf_counter() - start
    hypotheses = {
        number: [" ".join(each.pieces) for each in ranked]
        for number, ranked in zip(full, found, strict=True)
    }
    pieces = sum(len(ranked[0].pieces) for ranked in found)
    Path(job["out"]).write_text(
        json.dumps({"seconds": seconds, "pieces": pieces, "hypotheses": hypotheses}),
        encoding="utf-8",
    )
