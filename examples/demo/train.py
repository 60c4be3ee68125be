"""The demo's training: fairseq-train on thirty directions."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Iterable, Iterator, TextIO

from examples.demo.prepare import DIRECTIONS
from examples.demo.stages import Progress

ROOT = Path(__file__).resolve().parents[2]
RANKS = 2  # processes, which are faster than two threads in one
# a fixed number: a slow machine takes longer, and gets the same model
MAX_UPDATE = 1500

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MALLOC_MMAP_THRESHOLD_": str(2**32),  # keep freed memory: allocating it again takes time
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "PYTHONUNBUFFERED": "1",
}
FLAGS = f"""
    --task translation_task_moe --lang-pairs {",".join(DIRECTIONS)} --encoder-langtok tgt
    --arch transformer_task_moe --encoder-moe-router target --decoder-moe-router target
    --moe-expert-count 16 --moe-top-k 2 --moe-freq 2 --share-all-embeddings
    --encoder-layers 2 --decoder-layers 2 --encoder-attention-heads 4 --decoder-attention-heads 4
    --encoder-embed-dim 128 --decoder-embed-dim 128
    --encoder-ffn-embed-dim 256 --decoder-ffn-embed-dim 256 --moe-expert-ffn-dim 128
    --encoder-normalize-before --decoder-normalize-before --dropout 0
    --criterion moe_label_smoothed_cross_entropy --label-smoothing 0.05
    --optimizer adam --adam-betas (0.9,0.98) --clip-norm 1.0
    --lr 0.005 --lr-scheduler polynomial_decay --warmup-updates 100
    --total-num-update {MAX_UPDATE} --max-update {MAX_UPDATE}
    --max-tokens 1200 --seed 1 --sampling-method temperature --sampling-temperature 1
    --ddp-backend legacy_ddp --distributed-backend gloo --moe-expert-parallel-size 1
    --save-interval-updates 400 --keep-interval-updates 1 --no-epoch-checkpoints
    --cpu --num-workers 0 --log-format json --log-interval 20
"""


def train(data: Path, checkpoints: Path, log: Path) -> str:
    """Train, or resume from checkpoints; write the full log to a file."""
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={RANKS}",
        "-m", "fairseq_cli.train", str(data),
        "--user-dir", str(ROOT / "fairseq_taskmoe"), "--save-dir", str(checkpoints), *FLAGS.split(),
    ]
    environment = {**os.environ, **ENVIRONMENT}
    with open(log, "a", encoding="utf-8") as record:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None
        try:
            show_progress(logged_lines(process.stdout, record))
        except BaseException:
            process.terminate()
            raise
        finally:
            status = process.wait()
    if status:
        last = log.read_text(encoding="utf-8").splitlines()[-10:]
        sys.exit(f"training failed; the end of {log}:\n" + "\n".join(last))
    return f"{MAX_UPDATE:,} updates on {len(DIRECTIONS)} directions"


def logged_lines(lines: Iterable[str], log: TextIO) -> Iterator[str]:
    """Yield lines, and write each to log first."""
    for line in lines:
        print(line, end="", file=log, flush=True)
        yield line


def show_progress(lines: Iterable[str]) -> None:
    """Show the updates and losses that fairseq logs."""
    shown = Progress(MAX_UPDATE, "updates")
    for line in lines:
        _, is_progress, values = line.partition("| train_inner | ")
        if is_progress:
            logged = json.loads(values)
            shown.show(int(logged["num_updates"]), f"loss {float(logged['loss']):.2f}")
    shown.close()
