"""Repairs of faults of fairseq 0.12.3, some only with current torch or NumPy; each has a test.

They are applied when the plugin is imported, and change no file of fairseq.
"""

import argparse
import atexit
import functools
from pathlib import Path
from typing import Any, Callable

import torch
from fairseq import checkpoint_utils
from fairseq.data.indexed_dataset import MMapIndexedDatasetBuilder
from fairseq.nan_detector import NanDetector

from .files import missing_folders, remove_empty


def without_tpu(architecture: Callable[[argparse.Namespace], None]) -> Callable[[Any], None]:
    """Wrap an architecture function so that --bf16 works without a TPU.

    fairseq's options.py takes --bf16 for a request of torch_xla; architecture functions run after.
    """

    def apply(args: argparse.Namespace) -> None:
        architecture(args)
        if getattr(args, "bf16", False):
            args.tpu = False

    return apply


def leave_no_empty_save_dir() -> None:
    """Let a run that saves nothing, such as a refused one, remove the folders that it made.

    fairseq makes --save-dir before it sets up the task.
    """
    verify = checkpoint_utils.verify_checkpoint_directory

    @functools.wraps(verify)
    def verify_and_clear(save_dir: str) -> None:
        made = missing_folders(Path(save_dir))
        verify(save_dir)
        if made:
            atexit.register(remove_empty, made)

    checkpoint_utils.verify_checkpoint_directory = verify_and_clear


def fix_nan_detector_hooks() -> None:
    """Let fairseq report where NaN comes from, and let training end with its FloatingPointError.

    The kind of hook that NanDetector registers for gradients makes current torch raise
    StopIteration in a module that returns a dictionary of lists, as all of fairseq's encoders do.
    """

    def add_hooks(detector: NanDetector, module: torch.nn.Module) -> None:
        detector.fhooks.append(module.register_forward_hook(detector.fhook_fn))
        detector.bhooks.append(module.register_full_backward_hook(detector.bhook_fn))

    NanDetector.add_hooks = add_hooks


def place_sentences_beyond_2_gib() -> None:
    """Let data that is put together from parts, as by several workers, be of any size.

    Sizes of sentences that fairseq reads back are 32-bit numbers, and since NumPy 2 so are their
    sums: beyond 2 GiB the positions of sentences in an index are wrong.
    """
    finalize = MMapIndexedDatasetBuilder.finalize

    @functools.wraps(finalize)
    def finalize_exactly(builder: MMapIndexedDatasetBuilder, index_file: str) -> None:
        builder._sizes = list(map(int, builder._sizes))
        finalize(builder, index_file)

    MMapIndexedDatasetBuilder.finalize = finalize_exactly
