"""Capacity: the sorted computation against a queue, and what it means for padding."""

import math
from fractions import Fraction

import pytest
import torch
from helpers import ragged_mask, routing_inputs
from hypothesis import given
from hypothesis import strategies as st

from fairseq_taskmoe.modules.routers import RouterOptions, SentenceRouter, within_capacity

FACTORS = (0.25, 0.5, 1.0, 1.25, 2.0, 100.0)


def queue(expert_ids, dispatched, sizes, num_experts, factor):
    """Let units queue at their experts, one by one: the slow and plain within_capacity."""
    capacity = math.ceil(Fraction(factor) * sum(sizes) / num_experts)
    length = [0] * num_experts
    room = [[False] * len(expert_ids[0]) for _ in expert_ids]
    for k in range(len(expert_ids[0])):
        for unit, size in enumerate(sizes):
            if dispatched[unit][k]:
                expert = expert_ids[unit][k]
                length[expert] += size
                room[unit][k] = length[expert] <= capacity
    return room


@st.composite
def choices(draw):
    """Draw (expert_ids, dispatched, sizes, num_experts, factor); units of size 0 are padding."""
    num_experts = draw(st.integers(1, 6))
    top_k = draw(st.integers(1, num_experts))
    num_units = draw(st.integers(1, 20))
    rows = draw(st.lists(
        st.permutations(range(num_experts)), min_size=num_units, max_size=num_units
    ))
    booleans = st.lists(st.booleans(), min_size=top_k, max_size=top_k)
    dispatched = draw(st.lists(booleans, min_size=num_units, max_size=num_units))
    sizes = draw(st.lists(st.integers(0, 9), min_size=num_units, max_size=num_units))
    return (
        torch.tensor([row[:top_k] for row in rows]), torch.tensor(dispatched),
        torch.tensor(sizes), num_experts, draw(st.sampled_from(FACTORS)),
    )


@given(choices())
def test_capacity_equals_a_simple_queue(case):
    expert_ids, dispatched, sizes, num_experts, factor = case
    room = within_capacity(*case)
    expected = torch.tensor(
        queue(expert_ids.tolist(), dispatched.tolist(), sizes.tolist(), num_experts, factor)
    )
    real = sizes > 0
    assert torch.equal(room[real], expected[real])


@given(choices())
def test_no_expert_takes_more_than_its_capacity(case):
    expert_ids, _, sizes, num_experts, factor = case
    taken = within_capacity(*case) * sizes.unsqueeze(1)
    loads = torch.zeros(num_experts, dtype=torch.long)
    loads.index_add_(0, expert_ids.flatten(), taken.flatten())
    assert int(loads.max()) <= math.ceil(Fraction(factor) * int(sizes.sum()) / num_experts)


@given(choices())
def test_undispatched_choices_are_not_kept(case):
    assert not (within_capacity(*case) & ~case[1]).any()


@given(choices())
def test_padding_does_not_use_capacity(case):
    expert_ids, dispatched, sizes, num_experts, factor = case
    real = sizes > 0
    without = within_capacity(
        expert_ids[real], dispatched[real], sizes[real], num_experts, factor
    )
    assert torch.equal(within_capacity(*case)[real], without)


def test_first_choices_come_before_second_choices():
    # two experts take ceil(0.75 * 4 / 2) = 2 tokens each; the last two tokens' first choices
    # fill expert 1, which is the second choice of the first two
    expert_ids = torch.tensor([[0, 1], [0, 1], [1, 0], [1, 0]])
    room = within_capacity(expert_ids, torch.ones(4, 2).bool(), torch.ones(4).long(), 2, 0.75)
    assert room.tolist() == [[True, False]] * 4


def test_second_choices_use_the_remaining_capacity():
    # capacity 3: after two first choices each expert has room for one second choice
    expert_ids = torch.tensor([[0, 1], [0, 1], [1, 0], [1, 0]])
    room = within_capacity(expert_ids, torch.ones(4, 2).bool(), torch.ones(4).long(), 2, 1.5)
    assert room.tolist() == [[True, True], [True, False]] * 2


def test_sentences_are_kept_or_dropped_whole():
    # 12 tokens, 2 experts and factor 1: six tokens each. All want the same expert: the sentence
    # of 4 tokens finds room, that of 5 does not, and the queue behind it has no room either
    router = SentenceRouter(4, 2, RouterOptions(top_k=1, capacity_factor=1.0)).train()
    x = torch.randn(4).expand(3, 5, 4)
    routing = router(x, routing_inputs(ragged_mask([4, 5, 3])))
    assert (routing.gates > 0).flatten().tolist() == [True, False, False]


@pytest.mark.parametrize(
    "num_tokens, num_experts, factor, capacity",
    [(21, 7, 1.0, 3), (45, 15, 2.0, 6), (50, 5, 1.5, 15), (22, 7, 1.0, 4), (1, 128, 1.0, 1)],
)
def test_capacity_is_rounded_up_and_not_beyond(num_tokens, num_experts, factor, capacity):
    ones = torch.ones(num_tokens, dtype=torch.long)
    choice = torch.zeros(num_tokens, 1, dtype=torch.long)
    room = within_capacity(choice, choice == 0, ones, num_experts, factor)
    assert int(room.sum()) == capacity
