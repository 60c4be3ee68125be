"""Repairs of what fairseq 0.12.3 and current torch do to each other; each has a test.

They are applied when the package is imported, and change no file and no source of fairseq's.
"""

import argparse
from typing import Any, Callable

import torch


def allow_checkpoint_types() -> None:
    """Let torch.load read fairseq checkpoints under weights_only, its default since torch 2.6.

    fairseq stores a Namespace where a checkpoint was made from flags. Naming the type keeps the
    safe loader: a hostile pickle is still refused, and never executed.
    """
    torch.serialization.add_safe_globals([argparse.Namespace])


def without_tpu(architecture: Callable[[argparse.Namespace], None]) -> Callable[[Any], None]:
    """Wrap an architecture function so that --bf16 works without a TPU.

    fairseq's options.py takes --bf16 for a request of torch_xla; architecture functions run after.
    """

    def apply(args: argparse.Namespace) -> None:
        architecture(args)
        if getattr(args, "bf16", False):
            args.tpu = False

    return apply
