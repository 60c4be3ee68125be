"""The choice of a device, and what is moved there: all of it as on a machine with a GPU."""

import pytest
import torch
from refusals import refusal

from fairseq_taskmoe import devices
from fairseq_taskmoe.devices import TOKENS, choose_device, device_of, moved, place
from fairseq_taskmoe.serving import open_model


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
    assert open_model.choose_device(asked, has_gpu) == chosen


def test_a_gpu_that_is_not_there_is_refused():
    assert "--device cuda" in refusal(open_model.choose_device, "cuda", False)
