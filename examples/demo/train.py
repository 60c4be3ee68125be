"""The demo's training: fairseq-train on six directions, with one line of progress."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Iterable, Iterator, List, TextIO

from tqdm import tqdm

ROOT = Path(__file__).resolve().parents[2]
USER_DIR = ROOT / "fairseq_taskmoe"
LANGUAGES = ("de", "ru", "zh")
DIRECTIONS = tuple(pair for lang in LANGUAGES for pair in (f"en-{lang}", f"{lang}-en"))
THREADS = 2
MAX_UPDATE = 4200
# On slow machines the training ends here, before MAX_UPDATE
STOP_TIME_HOURS = 0.12

ENVIRONMENT = {
    "OMP_NUM_THREADS": str(THREADS),
    "OMP_WAIT_POLICY": "PASSIVE",  # waiting threads do not occupy a core
    "MALLOC_MMAP_THRESHOLD_": str(2**32),  # keep freed memory: allocating it again takes time
    "MALLOC_TRIM_THRESHOLD_": str(2**33),
    "PYTHONUNBUFFERED": "1",
}
FLAGS = f"""
    --task translation_task_moe --lang-pairs {",".join(DIRECTIONS)} --encoder-langtok tgt
    --arch transformer_task_moe --encoder-moe-router target --decoder-moe-router target
    --moe-expert-count 8 --moe-top-k 2 --moe-freq 2 --share-all-embeddings
    --encoder-layers 2 --decoder-layers 2 --encoder-attention-heads 4 --decoder-attention-heads 4
    --encoder-embed-dim 192 --decoder-embed-dim 192
    --encoder-ffn-embed-dim 768 --decoder-ffn-embed-dim 768 --moe-expert-ffn-dim 384
    --encoder-normalize-before --decoder-normalize-before --dropout 0.1
    --criterion moe_label_smoothed_cross_entropy --label-smoothing 0.1
    --optimizer adam --adam-betas (0.9,0.98) --clip-norm 1.0
    --lr 0.0025 --lr-scheduler polynomial_decay --warmup-updates 300
    --total-num-update {MAX_UPDATE} --max-update {MAX_UPDATE}
    --max-tokens 800 --seed 1 --stop-time-hours {STOP_TIME_HOURS}
    --sampling-method temperature --sampling-temperature 1
    --save-interval-updates 500 --keep-interval-updates 1 --no-epoch-checkpoints
    --cpu --num-workers 0 --log-format json --log-interval 20
"""


def train(data: Path, checkpoints: Path, log: Path) -> None:
    """Train, or resume from checkpoints; write the full log to a file."""
    command = [
        sys.executable, "-m", "fairseq_cli.train", str(data), "--user-dir", str(USER_DIR),
        "--save-dir", str(checkpoints), *FLAGS.split(),
    ]
    environment = {**os.environ, **ENVIRONMENT}
    with open(log, "a", encoding="utf-8") as record:
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert process.stdout is not None
        try:
            last = show_progress(logged_lines(process.stdout, record))
        except BaseException:
            process.terminate()
            raise
        finally:
            status = process.wait()
    if status:
        sys.exit(f"training failed; the end of {log}:\n" + "".join(last))


def logged_lines(lines: Iterable[str], log: TextIO) -> Iterator[str]:
    """Yield lines, and write each to log first."""
    for line in lines:
        print(line, end="", file=log, flush=True)
        yield line


def show_progress(lines: Iterator[str]) -> List[str]:
    """Show the updates and losses that fairseq logs; return the last lines."""
    last: List[str] = []
    on_terminal = sys.stderr.isatty()
    bar = tqdm(total=MAX_UPDATE, desc="train", unit="update", disable=not on_terminal)
    printed = time.monotonic()
    for line in lines:
        last = [*last[-9:], line]
        _, is_progress, values = line.partition("| train_inner | ")
        if not is_progress:
            continue
        logged = json.loads(values)
        updates, loss = int(logged["num_updates"]), logged["loss"]
        bar.update(updates - bar.n)
        bar.set_postfix(loss=loss)
        if not on_terminal and time.monotonic() - printed > 30:
            printed = time.monotonic()
            print(f"  update {updates} of at most {MAX_UPDATE}, loss {loss}", flush=True)
    bar.close()
    return last
