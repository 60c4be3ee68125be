"""Upcycled against trained from scratch, on ciphers: a dense model becomes a mixture of experts.

    .venv/bin/python examples/upcycling/run.py --out runs/upcycling    # about 10 minutes

Six languages replace each word of a made-up source language by one of their own; three of them
also reverse the sentence. The table compares the losses of the validation sets in bits: of a dense
model, of a mixture of experts that starts from it, and of one from scratch that has as many
updates, or as much computation in all.
"""

import argparse
import json
import random
import statistics
import subprocess
from pathlib import Path
from typing import Dict, List, Optional, Sequence

NUM_WORDS, NUM_TRAIN, NUM_VALID, LONGEST = 300, 4000, 200, 9
LANGS = [f"l{number}" for number in range(6)]
PAIRS = [f"en-{lang}" for lang in LANGS]
MOE = (
    "--moe-expert-count", "6", "--encoder-moe-router", "target", "--decoder-moe-router", "target",
)
DENSE = ("--moe-expert-count", "0")
# multiplications of a token in transformer_task_moe_tiny, in matrices of 64 x 64: 4 of
# self-attention in each of 4 layers, 4 of attention to the source in 2, 4 of a dense network (128
# wide) in each, 10 of the output layer; K = 2 experts take the place of one network in 2 layers
COST = {"dense": 16 + 8 + 16 + 10, "moe": 16 + 8 + 16 + 8 + 10}


def write_text(folder: Path) -> None:
    """Write pieces of all pairs: random words, the first ones the most frequent, and ciphers."""
    draw = random.Random(1)
    weights = [1 / (rank + 5) for rank in range(NUM_WORDS)]
    folder.mkdir(parents=True)
    for lang in LANGS:
        ciphers = draw.sample(range(NUM_WORDS), NUM_WORDS)
        for split, number in (("train", NUM_TRAIN), ("valid", NUM_VALID)):
            sources, targets = [], []
            for _ in range(number):
                words = draw.choices(range(NUM_WORDS), weights, k=draw.randint(3, LONGEST))
                sources.append(" ".join(f"s{word}" for word in words))
                order = reversed(words) if LANGS.index(lang) % 2 else words
                targets.append(" ".join(f"t{ciphers[word]}" for word in order))
            for side, lines in (("en", sources), (lang, targets)):
                text = "".join(line + "\n" for line in lines)
                (folder / f"{split}.en-{lang}.{side}").write_text(text)
    words = [f"{side}{word} 1\n" for side in "st" for word in range(NUM_WORDS)]
    (folder / "dict.txt").write_text("".join(words))


def prepare(out: Path) -> Path:
    """Binarize the text; return the folder of the data."""
    text, data = out / "text", out / "data-bin"
    if not data.exists():
        write_text(text)
        for pair in PAIRS:
            run("fairseq-preprocess", "-s", "en", "-t", pair[3:], "--destdir", data, "--srcdict",
                text / "dict.txt", "--tgtdict", text / "dict.txt", "--trainpref",
                text / f"train.{pair}", "--validpref", text / f"valid.{pair}")
    return data


def run(*words: object) -> str:
    """Run a command; return what it says."""
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(map(str, words))}\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def train(
    data: Path, folder: Path, updates: int, seed: int, flags: Sequence[str],
    start: Optional[Path] = None,
) -> float:
    """Train a model if its folder does not exist; return its validation loss in bits."""
    log = folder / "train.log"
    if not log.exists():
        begin = ("--finetune-from-model", start) if start else ()
        user_dir = run("taskmoe", "user-dir").strip()
        said = run(
            "fairseq-train", data, "--user-dir", user_dir, "--task", "translation_task_moe",
            "--lang-pairs", ",".join(PAIRS), "--encoder-langtok", "tgt", "--arch",
            "transformer_task_moe_tiny", "--dropout", "0.1", "--criterion",
            "moe_label_smoothed_cross_entropy", "--label-smoothing", "0.1", "--optimizer", "adam",
            "--lr", "0.003", "--lr-scheduler", "inverse_sqrt", "--warmup-updates", "50",
            "--max-tokens", "1500", "--seed", seed, "--cpu", "--num-workers", "0",
            "--log-format", "json", "--no-epoch-checkpoints", "--validate-interval", "100",
            "--save-dir", folder, "--max-update", updates, *begin, *flags,
        )
        log.write_text(said)
    losses = [json.loads(line[line.index("{"):])["valid_nll_loss"]
              for line in log.read_text().splitlines() if '"valid_nll_loss"' in line]
    return float(losses[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--dense-updates", type=int, default=300)
    parser.add_argument("--updates", type=int, default=200, help="of the mixture of experts")
    args = parser.parse_args()
    data = prepare(args.out)
    equal = args.updates + args.dense_updates * COST["dense"] // COST["moe"]
    losses: Dict[str, List[float]] = {}
    for seed in range(1, args.seeds + 1):
        folder = args.out / f"seed{seed}"
        dense = folder / "dense"
        found = {"dense": train(data, dense, args.dense_updates, seed, DENSE)}
        start = folder / "upcycled.pt"
        if not start.exists():
            run("taskmoe", "upcycle", dense / "checkpoint_last.pt", "--out", start, *MOE)
        found["upcycled"] = train(data, folder / "upcycled", args.updates, seed, MOE, start)
        found["scratch, equal updates"] = train(data, folder / "scratch", args.updates, seed, MOE)
        found["scratch, equal computation"] = train(data, folder / "long", equal, seed, MOE)
        for name, loss in found.items():
            losses.setdefault(name, []).append(loss)
    updates = [str(args.dense_updates), f"{args.dense_updates} + {args.updates}",
               str(args.updates), str(equal)]
    rows = ["| model | updates | bits a word, mean | seeds |", "|---|---|---|---|"]
    for (name, values), number in zip(losses.items(), updates, strict=True):
        each = ", ".join(f"{value:.2f}" for value in values)
        rows.append(f"| {name} | {number} | {statistics.mean(values):.2f} | {each} |")
    (args.out / "results.md").write_text("\n".join(rows) + "\n")
    print("\n".join(rows))


if __name__ == "__main__":
    main()
