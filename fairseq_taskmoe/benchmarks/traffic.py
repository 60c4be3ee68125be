"""What ranks send to one another in training: counted, and compared with what it could be.

Each variant is trained for some updates on real data, by real processes over gloo.
"""

import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections import Counter
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence

from ..distributed.layout import expert_layout
from ..errors import refuse
from ..models.config import TASK_ROUTERS

BATCHES = {
    "mixed": "sentences of all tasks in a batch",
    "one task": "batches of one task each, dealt in turn",
    "local": "batches of one task each, dealt to ranks that hold its experts",
}
# those of --encoder-moe-router and --decoder-moe-router, less `group`, which needs a file
ROUTERS = ("token", "sentence", "source", "target", "pair", "static", "random")


class Load(NamedTuple):
    """What is trained."""

    data: str  # folder of binarized data
    lang_pairs: Sequence[str]
    ranks: int
    num_experts: int
    arch: str = "tiny"
    moe_freq: int = 1  # every N-th layer is an MoE layer
    max_tokens: int = 800
    updates: int = 24
    virtual_epoch_size: Optional[int] = None  # sentences


class Variant(NamedTuple):
    """One training: routers of both halves, precision, and what its batches are made of."""

    routers: str  # as token_token
    precision: str
    batches: str

    @property
    def name(self) -> str:
        return f"{self.routers} {self.precision} {self.batches}"


def list_variants(routers: Sequence[str], precisions: Sequence[str]) -> List[Variant]:
    """Return what to train: mixed batches; for routers of tasks the others too, once."""
    return [
        Variant(pair, precision, batches)
        for pair, precision, batches in itertools.product(routers, precisions, BATCHES)
        if batches == "mixed" or (precision == precisions[0] and routes_by_task(pair))
    ]


def routes_by_task(routers: str) -> bool:
    return any(router in TASK_ROUTERS for router in routers.split("_"))


def training_flags(load: Load, variant: Variant, save_dir: str) -> List[str]:
    """Return the flags of fairseq-train."""
    encoder, decoder = variant.routers.split("_")
    words = f"""
        --task translation_task_moe --lang-pairs {",".join(load.lang_pairs)} --encoder-langtok tgt
        --arch transformer_task_moe_{load.arch}
        --moe-expert-count {load.num_experts} --moe-freq {load.moe_freq}
        --encoder-moe-router {encoder} --decoder-moe-router {decoder}
        --criterion moe_label_smoothed_cross_entropy --label-smoothing 0.1
        --optimizer adam --lr 0.003 --max-tokens {load.max_tokens} --seed 1
        --cpu --num-workers 0 --no-save --log-format none --ddp-backend legacy_ddp
    """.split()
    if variant.precision == "bf16":
        words.append("--bf16")
    if variant.batches != "mixed":
        words.append("--moe-task-local-batches")
    if load.virtual_epoch_size:
        words += ["--virtual-epoch-size", str(load.virtual_epoch_size)]
    return [load.data, *words, "--save-dir", save_dir]


def count_traffic(load: Load, variants: Sequence[Variant]) -> Iterator[Dict[str, Any]]:
    """Train the variants and give a report of each when it is done."""
    check_data(load)
    if expert_layout(load.num_experts, load.ranks).size == 1:
        refuse(
            f"--ranks {load.ranks} and --moe-expert-count {load.num_experts} have no common "
            "divisor: each rank would hold all experts and send none of its tokens"
        )
    with tempfile.TemporaryDirectory() as save_dir:
        jobs = [
            (training_flags(load, variant, save_dir), load.updates, variant.batches == "one task")
            for variant in variants
        ]
        for variant, line in zip(variants, start_ranks(load.ranks, jobs), strict=True):
            yield {**variant._asdict(), **summarise(json.loads(line))}


def check_data(load: Load) -> None:
    """Refuse a folder that has not been binarized for all pairs."""
    for pair in load.lang_pairs:
        source, _, target = pair.partition("-")
        files = [f"train.{name}.{source}.idx" for name in (pair, f"{target}-{source}")]
        if not any(os.path.exists(os.path.join(load.data, file)) for file in files):
            refuse(f"--data {load.data} has no training data of {pair}: {files[0]} is missing")


def start_ranks(ranks: int, jobs: Sequence[Any]) -> Iterator[str]:
    """Run `counted_training` on ranks of this machine, and give the lines that rank 0 prints."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node",
        str(ranks), "-m", f"{__package__}.counted_training", json.dumps(jobs),
    ]
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore", "LOGLEVEL": "WARNING",
    }
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        for line in process.stdout:
            if line.startswith("["):
                yield line
    except BaseException:
        process.terminate()
        raise
    finally:
        status = process.wait()
    if status:
        refuse("the training ended early; what its ranks said stands above")


def summarise(updates: List[Dict[str, Any]]) -> Dict[str, Any]:
    """Return what was sent per update, all ranks together, and of what the gates changed in time.

    What fairseq logs leaves out ranks that have no batch left, so that only updates in which all
    have one are compared with it.
    """
    whole = [update for update in updates if update["batches"]["idle"] == 0]
    quarter = max(1, len(updates) // 4)
    total = averages(updates)
    return {
        **total,
        "is_minimum": all(u["sent"].get("rows", 0) == u["needed"]["minimum"] for u in updates),
        "is_logged": all(u["sent"].get("rows", 0) == u["logged"] for u in whole),
        "updates": len(updates),
        "updates_compared_with_log": len(whole),
        "first_quarter": averages(updates[:quarter]),
        "last_quarter": averages(updates[-quarter:]),
    }


def add_counts(counts: Sequence[Dict[str, int]]) -> "Counter[str]":
    """Return the sums of all counts of the same name."""
    total: "Counter[str]" = Counter()
    for each in counts:
        total.update(each)
    return total


def averages(updates: List[Dict[str, Any]]) -> Dict[str, Any]:
    """Return means of some updates, in bytes per update and per target token."""
    sent, calls, needed, batches = (
        add_counts([update[part] for update in updates])
        for part in ("sent", "calls", "needed", "batches")
    )
    num = len(updates)
    exchanged = sent["rows"] + sent["facts"] + sent["counts"]
    return {
        "bytes_sent": {name: sent[name] / num for name in ("rows", "facts", "counts")},
        "bytes_all_reduced": sent["all_reduce"] / num,
        "calls": {name: number / num for name, number in calls.items()},
        "bytes_needed": {name: number / num for name, number in needed.items()},
        "share_of_facts_and_counts": (sent["facts"] + sent["counts"]) / max(1, exchanged),
        "share_that_stays": needed["stay"] / max(1, needed["stay"] + needed["minimum"]),
        "bytes_per_target_token": exchanged / batches["tokens"],
        "target_tokens_per_batch": batches["tokens"] / batches["number"],
        "padding": 1 - batches["tokens"] / batches["positions"],
    }
