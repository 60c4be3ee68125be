"""A variant in a process of its own, so that its memory can be told from that of the others.

Variants would share the memory that their process keeps, and the kernels that oneDNN compiles.
"""

import multiprocessing
import warnings
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, Dict, List, NamedTuple, Optional, Sequence

import torch

from ...data.languages import numbered_dictionary
from ...data.task_table import TaskTable
from ...host import keep_freed_memory
from ..measure import synchronize, timed
from ..memory_limit import attempt, limited_memory
from ..resources import flops, measured_weights
from .batch import BatchSize, random_batches
from .models import TrainingVariant, build
from .step import training_step


class TrainingLoad(NamedTuple):
    """The computation of one step."""

    arch: str = "base"
    vocab_size: int = 8000
    text: BatchSize = BatchSize()
    full_step: bool = False
    dtype: str = "float32"
    model: Sequence[str] = ()  # settings NAME=VALUE that change the architecture


class VariantProcess:
    """Runs training steps of one variant, one whenever it is asked."""

    def __init__(
        self, variant: TrainingVariant, load: TrainingLoad, lang_pairs: Sequence[str],
        num_batches: int, device: str,
    ):
        """Start the process, which builds the model and counts the work of the first batch."""
        # a process that used a GPU cannot be copied; on a CPU a copy starts at once
        context: Any = multiprocessing.get_context("spawn" if device == "cuda" else "fork")
        self.connection, other = context.Pipe()
        self.process = context.Process(target=_serve, daemon=True, args=(
            other, variant, load, lang_pairs, num_batches, device, torch.get_num_threads()
        ))
        self.process.start()
        other.close()
        self.work: Optional[Dict[str, Any]] = self._receive()

    def step(self, batch: int) -> Optional[Dict[str, float]]:
        """Return the seconds of each phase of a step, None if the process is out of memory."""
        return self._ask(batch)

    def finish(self) -> Optional[int]:
        """End the process, and return the peak of its memory since it was started, in bytes."""
        return self._ask(None)

    def _ask(self, request: Optional[int]) -> Any:
        try:
            self.connection.send(request)
        except OSError:  # the system ended the process
            return None
        return self._receive()

    def _receive(self) -> Any:
        try:
            answer = self.connection.recv()
        except (EOFError, OSError):
            return None
        if isinstance(answer, Exception):
            raise answer
        return answer


def _serve(
    connection: Connection, variant: TrainingVariant, load: TrainingLoad,
    lang_pairs: Sequence[str], num_batches: int, device: str, threads: int,
) -> None:
    """Answer the requests of VariantProcess; end when a computation does not fit memory."""
    # torch warns about the stock model's masks
    warnings.filterwarnings("ignore", message="Support for mismatched key_padding_mask")
    torch.set_num_threads(threads)
    if device == "cpu":
        keep_freed_memory()
    before = _peak_bytes(device)
    try:
        with limited_memory(device, None):
            prepared = attempt(lambda: _Training(variant, load, lang_pairs, num_batches, device))
            answer = attempt(prepared.value.count_work) if prepared.fits else prepared
            while answer.fits:
                connection.send(answer.value)
                request = connection.recv()
                if request is None:
                    connection.send(_peak_bytes(device) - before)
                    return
                answer = attempt(partial(prepared.value.step, request))
    except Exception as error:
        connection.send(error)


class _Training:
    """A model, its optimizer and its batches."""

    def __init__(
        self, variant: TrainingVariant, load: TrainingLoad, lang_pairs: Sequence[str],
        num_batches: int, device: str,
    ):
        dictionary = numbered_dictionary(load.vocab_size)
        table = TaskTable.from_pairs(lang_pairs)
        dtype = getattr(torch, load.dtype)
        self.device = device
        self.trained = build(variant, load.arch, dictionary, table, load.model)
        self.trained.model.to(device, dtype).train()
        self.batches: List[Dict[str, Any]] = random_batches(
            num_batches, load.text, dictionary, len(table.lang_pairs)
        )
        self.phases = training_step(self.trained, variant, load.full_step, dtype)

    def count_work(self) -> Dict[str, Any]:
        batch = self._load(0)
        forward_backward = next(iter(self.phases.values()))
        counted = flops(lambda: forward_backward(batch))
        weights = measured_weights(list(self.trained.model.parameters()))
        return {"flops": counted, **weights._asdict()}

    def step(self, number: int) -> Dict[str, float]:
        batch = self._load(number)
        return {name: timed(partial(run, batch), self.device) for name, run in self.phases.items()}

    def _load(self, number: int) -> Dict[str, Any]:
        batch = self.batches[number]
        inputs = {name: value.to(self.device) for name, value in batch["net_input"].items()}
        return {**batch, "net_input": inputs, "target": batch["target"].to(self.device)}


def _peak_bytes(device: str) -> int:
    """Return the peak memory of this process: on a CPU with all libraries, on a GPU of torch."""
    if device == "cuda":
        synchronize(device)
        return torch.cuda.max_memory_allocated()
    with open("/proc/self/status") as status:
        lines = dict(line.split(":", 1) for line in status)
    return int(lines["VmHWM"].split()[0]) * 1024
