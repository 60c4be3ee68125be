"""The choice of a device, and what is moved there: all of it as on a machine with a GPU."""

from types import SimpleNamespace

import pytest
import torch
from refusals import refusal

from fairseq_taskmoe import devices
from fairseq_taskmoe.benchmarks.measure import synchronize
from fairseq_taskmoe.benchmarks.memory_limit import attempt, limited_memory
from fairseq_taskmoe.benchmarks.resources import peak_bytes
from fairseq_taskmoe.devices import (
    TOKENS,
    backend_of,
    choose_device,
    device_of,
    device_of_rank,
    make_current,
    moved,
    place,
)
from fairseq_taskmoe.distributed.expert_groups import collective_device
from fairseq_taskmoe.engines import formats


@pytest.mark.parametrize("cpu, has_gpu, chosen", [
    (False, True, "cuda"), (True, True, "cpu"), (False, False, "cpu"), (True, False, "cpu"),
])  # fmt: skip
def test_the_gpu_is_taken_where_there_is_one(cpu, has_gpu, chosen):
    assert choose_device(cpu, has_gpu) == torch.device(chosen)
    assert chosen in TOKENS


@pytest.mark.parametrize("device, searches, keeps", [
    ("cpu", True, True), ("cpu", False, False), ("meta", True, False),
])  # fmt: skip
def test_only_a_search_on_cpu_keeps_freed_memory(monkeypatch, device, searches, keeps):
    kept = []
    monkeypatch.setattr(devices, "keep_freed_memory", lambda: kept.append(True))
    model = torch.nn.Linear(2, 2)
    place(model, torch.device(device), searches)
    assert bool(kept) is keeps and device_of(model) == torch.device(device)


def test_batches_are_moved_with_all_that_is_in_them():
    batches = [{"id": torch.arange(3), "net_input": {"src_tokens": torch.ones(3, 2)}}, {}]
    there, empty = moved(batches, torch.device("meta"))
    assert there["id"].is_meta and there["net_input"]["src_tokens"].shape == (3, 2)
    assert there["net_input"]["src_tokens"].is_meta and empty == {}


@pytest.mark.parametrize("asked, has_gpu, chosen", [
    ("auto", True, "cuda"), ("auto", False, "cpu"), ("cuda", True, "cuda"), ("cpu", True, "cpu"),
])  # fmt: skip
def test_an_extracted_model_runs_where_it_is_asked_to(asked, has_gpu, chosen):
    assert formats.choose_device(asked, has_gpu) == chosen


def test_a_gpu_that_is_not_there_is_refused():
    assert "--device cuda" in refusal(formats.choose_device, "cuda", False)


@pytest.mark.parametrize("cpu, local_rank, num_gpus, device, backend", [
    (False, 3, 8, "cuda:3", "nccl"),
    (False, 3, 1, "cuda:0", "nccl"),  # each process sees a GPU of its own
    (False, None, 2, "cuda:0", "nccl"),
    (True, 3, 8, "cpu", "gloo"),
    (False, 3, 0, "cpu", "gloo"),
])  # fmt: skip
def test_a_rank_has_the_gpu_of_its_number(cpu, local_rank, num_gpus, device, backend):
    chosen, current = device_of_rank(cpu, local_rank, num_gpus), []
    assert chosen == torch.device(device) and backend_of(chosen) == backend
    make_current(chosen, current.append)
    assert current == ([chosen] if backend == "nccl" else [])
    assert collective_device(backend, lambda: chosen.index) == chosen


class Allocator:
    """What benchmarks ask of torch.cuda, with numbers of its own."""

    def __init__(self):
        self.calls, self.fractions = [], []
        self.set_per_process_memory_fraction = self.fractions.append
        self.current_device = lambda: 0
        self.is_initialized = lambda: True
        self.memory_reserved = lambda: 2 * 10**9
        self.memory_allocated = lambda: 100
        self.max_memory_allocated = lambda: 350
        for name in ("reset_peak_memory_stats", "synchronize", "empty_cache"):
            setattr(self, name, lambda name=name: self.calls.append(name))

    def get_device_properties(self, device):
        return SimpleNamespace(total_memory=10 * 10**9)


def test_memory_of_a_gpu_is_measured_and_limited_by_its_allocator():
    cuda = Allocator()
    peak = peak_bytes(lambda: cuda.calls.append("step"), [], "cuda", cuda)
    assert peak == 250 and cuda.calls == ["reset_peak_memory_stats", "step", "synchronize"]
    with limited_memory("cuda", 3.0, cuda=cuda):
        assert cuda.fractions == [0.5]
    with limited_memory("cuda", None, cuda=cuda):
        pass
    assert cuda.fractions == [0.5, 1.0]


def test_what_does_not_fit_a_gpu_is_given_back_and_time_is_taken_when_it_is_done():
    def too_large():
        raise torch.OutOfMemoryError("CUDA out of memory")

    cuda = Allocator()
    assert not attempt(too_large, cuda).fits and cuda.calls == ["empty_cache"]
    synchronize("cuda", cuda)
    synchronize("cpu", cuda)
    assert cuda.calls == ["empty_cache", "synchronize"]
