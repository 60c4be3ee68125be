"""fairseq's own commands on a tiny corpus of made-up words, run inside the tests' process."""

import logging
import sys
from pathlib import Path
from typing import Any, Dict, List, NamedTuple

import pytest
import torch
from fairseq import options
from fairseq.dataclass.utils import convert_namespace_to_omegaconf
from fairseq_cli import generate, interactive, validate
from fairseq_cli import train as fairseq_train

from fairseq_taskmoe import register  # noqa: F401
from fairseq_taskmoe.data.indexed_files import write_sentences

NUM_WORDS = 30
EOS = 2
PAIRS = ("en-de", "en-fr")
TRAIN = (
    "--task", "translation_task_moe", "--lang-pairs", "en-de,en-fr", "--langs", "de,en,fr",
    "--arch", "transformer_task_moe_tiny", "--criterion", "moe_label_smoothed_cross_entropy",
    "--encoder-moe-router", "target", "--decoder-moe-router", "target", "--moe-expert-count", "2",
    "--encoder-layers", "1", "--decoder-layers", "1", "--encoder-embed-dim", "8",
    "--decoder-embed-dim", "8", "--encoder-ffn-embed-dim", "8", "--decoder-ffn-embed-dim", "8",
    "--encoder-attention-heads", "2", "--decoder-attention-heads", "2", "--moe-freq", "1",
    "--optimizer", "adam", "--lr", "0.01", "--max-update", "1", "--cpu", "--num-workers", "0",
    "--no-epoch-checkpoints", "--log-format", "json", "--log-interval", "1", "--seed", "1",
)


class Commands(NamedTuple):
    """Where the commands run: what they leave goes to folder."""

    folder: Path
    monkeypatch: Any
    capsys: Any

    def run(self, name: str, *flags: Any) -> str:
        """Run `fairseq-<name>` with flags, and return what it printed."""
        words = [str(flag) for flag in flags]
        self.monkeypatch.setattr(sys, "argv", [f"fairseq-{name}"])
        parser = {
            "train": options.get_training_parser, "validate": options.get_validation_parser,
            "generate": options.get_generation_parser,
            "interactive": options.get_interactive_generation_parser,
        }[name]
        args = options.parse_args_and_arch(parser(), words)
        self.capsys.readouterr()
        cfg = convert_namespace_to_omegaconf(args)
        if name == "validate":
            given = options.parse_args_and_arch(parser(), words, suppress_defaults=True)
            handlers = logging.root.handlers[:]
            try:
                validate.main(cfg, given)
            finally:
                logging.root.handlers[:] = handlers  # it puts its own in their place
        else:
            {"train": fairseq_train, "generate": generate, "interactive": interactive}[
                name
            ].main(cfg)
        return self.capsys.readouterr().out


@pytest.fixture
def commands(tmp_path, monkeypatch, capsys) -> Commands:
    return Commands(tmp_path, monkeypatch, capsys)


def write_dictionary(path: Path) -> None:
    path.write_text("".join(f"w{word} 1\n" for word in range(NUM_WORDS)))


def write_set(data: Path, split: str, pair: str, sources: List[int], targets: List[int]) -> None:
    """Write sentences of these lengths, their end counted."""
    generator = torch.Generator().manual_seed(len(sources))
    for lang, lengths in zip(pair.split("-"), (sources, targets), strict=True):
        sentences = [
            [*torch.randint(4, 4 + NUM_WORDS, (n - 1,), generator=generator).tolist(), EOS]
            for n in lengths
        ]
        write_sentences(data / f"{split}.{pair}.{lang}", sentences, 4 + NUM_WORDS)


def write_data(data: Path, **longest: Dict[str, int]) -> Path:
    """Write sets of 12 sentences of 3 to 8 tokens for both pairs.

    longest says for a split how long the last sentence of en-de is, {"en": 30, "de": 20}.
    """
    data.mkdir()
    for lang in ("de", "en", "fr"):
        write_dictionary(data / f"dict.{lang}.txt")
    for split in ("train", "valid", "test"):
        for pair in PAIRS:
            sources, targets = [3 + n % 6 for n in range(12)], [3 + n % 5 for n in range(12)]
            if pair == "en-de" and split in longest:
                sources[-1] = longest[split].get("en", sources[-1])
                targets[-1] = longest[split].get("de", targets[-1])
            write_set(data, split, pair, sources, targets)
    return data
