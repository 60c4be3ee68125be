"""Experts on several cores at once give what they give one after the other."""

import threading

import pytest
import torch

from fairseq_taskmoe.modules import expert_threads, looped_products
from fairseq_taskmoe.modules.expert_assignments import sort_by_expert
from fairseq_taskmoe.modules.expert_threads import Block, each_expert
from fairseq_taskmoe.modules.experts import Experts
from fairseq_taskmoe.modules.looped_products import make_loop

E, C, F, ROWS, K = 12, 8, 24, 160, 2


@pytest.fixture
def two_threads(monkeypatch):
    """Two threads, which small experts are given to as well."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    monkeypatch.setattr(expert_threads, "LEAST_WEIGHTS", 1)
    yield
    torch.set_num_threads(before)


def make_assignments(gates):
    torch.manual_seed(3)
    experts = torch.rand(ROWS, E).topk(K).indices
    experts[:, 0] = torch.where(experts[:, 0] == 5, E, experts[:, 0])  # some choices are not there
    (assignments,) = sort_by_expert([experts], [gates], [E])
    return assignments


def outputs_and_gradients(experts):
    torch.manual_seed(4)
    rows = torch.randn(ROWS, C, requires_grad=True)
    gates = torch.rand(ROWS, K, requires_grad=True)
    out = experts(rows, make_assignments(gates))
    inputs = [rows, gates, *experts.parameters()]
    return [out, *torch.autograd.grad((out * out.detach().cos()).sum(), inputs)]


def test_outputs_and_gradients_are_those_of_one_thread(two_threads, monkeypatch):
    experts = Experts(E, C, F)
    used = set()
    original = looped_products._run_each

    def listening(work, *args, **kwargs):
        def heard(block):
            used.add(threading.current_thread())
            return work(block)
        return original(heard, *args, **kwargs)

    monkeypatch.setattr(looped_products, "_run_each", listening)
    on_two = outputs_and_gradients(experts)
    assert threading.main_thread() not in used and len(used) > 1
    used.clear()
    torch.set_num_threads(1)
    on_one = outputs_and_gradients(experts)
    assert used == {threading.main_thread()}
    torch.testing.assert_close(on_two, on_one)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_modes_of_the_caller_hold_in_the_threads(two_threads, mode):
    experts, gates = Experts(E, C, F), torch.rand(ROWS, K)
    rows = torch.randn(ROWS, C)
    expected = experts(rows, make_assignments(gates))
    with mode():
        torch.testing.assert_close(experts(rows, make_assignments(gates)), expected.detach())


def blocks_of(counts):
    starts = [sum(counts[:i]) for i in range(len(counts))]
    places = [slice(start, start + n) for start, n in zip(starts, counts, strict=True)]
    return [Block(i, place, place) for i, place in enumerate(places)]


def test_large_blocks_have_all_cores_and_come_first(two_threads):
    most = 2 * expert_threads.MOST_ROWS_A_THREAD

    def work(block):
        return torch.get_num_threads(), threading.current_thread() is threading.main_thread()

    done = list(each_expert(work, blocks_of([3, most, 5, 6, most + 1, 8]), 2, 1))
    assert [block.expert for block, _ in done] == [1, 4, 0, 2, 3, 5]
    assert [result for _, result in done] == [(2, True)] * 2 + [(1, False)] * 4
    assert torch.get_num_threads() == 2
    seen = []
    later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
    later.start()
    later.join()
    assert seen == [2]  # a thread that is made later has all cores again


def test_a_gpu_has_one_thread(two_threads):
    assert make_loop(make_assignments(torch.rand(ROWS, K)), on_cpu=True).threads == 2
    loop = make_loop(make_assignments(torch.rand(ROWS, K)), on_cpu=False)
    threads = {thread for _, thread in each_expert(
        lambda block: threading.current_thread(), loop.blocks, loop.threads, 2**20
    )}
    assert threads == {threading.main_thread()}


def test_an_error_of_one_expert_reaches_the_caller(two_threads):
    def work(block):
        if block.expert == 2:
            raise ValueError("expert 2")

    with pytest.raises(ValueError, match="expert 2"):
        list(each_expert(work, blocks_of([4] * 6), 2, 1))
    assert torch.get_num_threads() == 2
