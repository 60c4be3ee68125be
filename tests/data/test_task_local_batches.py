"""Batches of one task, and which rank computes them: who changes, what is trained on does not."""

import itertools
from collections import Counter

import numpy as np
import pytest
import torch
from epoch_cases import go, load_task, sentences, state_of
from fairseq.data import ConcatDataset, iterators
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from fairseq_taskmoe.data.epoch_batches import assign_in_turn, world_size_independent_batches
from fairseq_taskmoe.data.task_local_batches import (
    AffinityAssignment,
    OneTaskBatches,
    sentence_tasks,
)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
TEMPERATURE = ("--sampling-method", "temperature")
MAX_TOKENS = 300


class AssignmentOf(AffinityAssignment):
    """Deals batches of which it is known what they keep on each place."""

    def __init__(self, kept):
        self.kept = kept

    def tokens_kept(self, batches):
        return self.kept[batches]


def total(kept, assigned):
    """Return the tokens that an assignment (steps, W) keeps local, given those by place (N, P)."""
    places = np.arange(assigned.shape[1]) % kept.shape[1]
    return np.where(assigned < 0, 0, kept[assigned, places]).sum()


# -- assignment


@st.composite
def steps(draw):
    places = draw(st.integers(1, 4))
    num_ranks = places * draw(st.integers(1, 4 // places))
    shape = (draw(st.integers(1, 12)), places)
    return draw(arrays.arrays(np.float64, shape, elements=st.integers(0, 9))), num_ranks


@given(steps())
def test_the_assignment_of_each_step_is_optimal(drawn):
    kept, num_ranks = drawn
    batches = np.arange(len(kept))
    assigned = AssignmentOf(kept)(batches, num_ranks)
    for own, in_turn in zip(assigned, assign_in_turn(batches, num_ranks), strict=True):
        assert sorted(own) == sorted(in_turn)  # the same batches, another order
        ways = itertools.permutations(in_turn)
        best = max(total(kept, np.array([way])) for way in ways)
        assert total(kept, own[None]) == best


def test_an_assignment_by_hand():
    kept = np.array([[1, 9], [0, 5], [2, 2], [9, 0], [0, 3]])
    assigned = AssignmentOf(kept)(np.arange(5), 2)
    # 1 + 5 < 9 + 0; 2 + 0 < 9 + 2; a lone batch goes where it keeps most
    assert assigned.tolist() == [[1, 0], [3, 2], [-1, 4]]


# -- real data


@pytest.fixture(scope="module")
def task(corpus):
    return load_task(corpus, *TEMPERATURE)


def batches_of(task, dataset, max_tokens=MAX_TOKENS, **settings):
    """Return the iterator that the real task makes for a training dataset, of one rank."""
    return task.get_batch_iterator(
        dataset, max_tokens=max_tokens, max_positions=task.max_positions(),
        ignore_invalid_inputs=True, seed=1, **settings,
    )


@pytest.mark.parametrize("flags", [(), TEMPERATURE, (*TEMPERATURE, "--virtual-epoch-size", 500)])
def test_the_task_of_a_sentence_is_that_of_its_example(flags, corpus):
    dataset = load_task(corpus, *flags).dataset("train")
    for epoch in (1, 2, 3):
        dataset.set_epoch(epoch)
        indices = np.random.default_rng(epoch).integers(0, len(dataset), 200)
        carried = [dataset[i][1]["task_id"] for i in indices]
        assert sentence_tasks(dataset, indices).tolist() == carried
        assert len(set(carried)) == 4


def test_tasks_are_known_in_other_datasets_of_pairs_too(task):
    pairs = task.dataset("train").datasets
    joined = ConcatDataset(pairs, sample_ratios=[1, 2, 1, 1])
    carried = [joined[i]["task_id"] for i in range(len(joined))]
    assert sentence_tasks(OneTaskBatches(joined), np.arange(len(joined))).tolist() == carried
    assert sentence_tasks(pairs[2], np.arange(3)).tolist() == [pairs[2].task_id] * 3


@pytest.mark.parametrize("limits", [{}, {"max_tokens": None, "max_sentences": 7}])
def test_one_task_batches_hold_the_sentences_of_the_epoch_and_keep_the_limits(task, limits):
    dataset = task.dataset("train")
    dataset.set_epoch(2)
    mixed, own = (
        batches_of(task, data, **{"epoch": 2, **limits})
        for data in (dataset, OneTaskBatches(dataset))
    )
    in_own, in_mixed = (np.concatenate(itr.frozen_batches) for itr in (own, mixed))
    assert sorted(in_own) == sorted(in_mixed) == list(range(len(dataset)))
    for batch in own.frozen_batches:
        assert len(set(sentence_tasks(dataset, batch))) == 1
        longest = dataset.num_tokens_vec(batch).max()
        assert len(batch) <= 7 if limits else len(batch) * longest <= MAX_TOKENS
    # the lengths in a batch differ more; and each task has a last batch that is not full
    assert len(own.frozen_batches) <= 1.08 * len(mixed.frozen_batches) + 4


def test_batches_of_a_task_are_those_of_its_sentences_alone(task):
    dataset = task.dataset("train")
    indices = dataset.ordered_indices()
    own = OneTaskBatches(dataset).batch_by_size(indices, max_tokens=MAX_TOKENS)
    alone = [
        batch
        for task_id in range(4)
        for batch in dataset.batch_by_size(
            indices[sentence_tasks(dataset, indices) == task_id], max_tokens=MAX_TOKENS
        )
    ]
    assert [batch.tolist() for batch in own] == [batch.tolist() for batch in alone]


def test_a_new_epoch_reaches_the_dataset_below(task):
    dataset = task.dataset("train")
    dataset.set_epoch(1)
    OneTaskBatches(dataset).set_epoch(5)
    assert dataset._cur_epoch == 5
    assert not task.can_reuse_epoch_itr(OneTaskBatches(dataset))


def assigned_ranks(task, num_ranks, epoch, affinity, state=None):
    """Return the iterators of all ranks with task-local batches, or in turn without affinity."""
    dataset = OneTaskBatches(task.dataset("train"))
    assign = assign_in_turn if affinity is None else AffinityAssignment(dataset, affinity)
    ranks = [
        world_size_independent_batches(
            batches_of(task, dataset, num_shards=num_ranks, shard_id=rank, epoch=epoch), [1], assign
        )
        for rank in range(num_ranks)
    ]
    if state is not None:
        for rank in ranks:
            rank.load_state_dict(state)
    return ranks


def steps_of(trained, num_ranks):
    """Return for each step the batches in any order, each a tuple of its sentences."""
    batches = [tuple(sentences(batch)) for batch in trained]
    return [
        Counter(batches[first : first + num_ranks]) for first in range(0, len(batches), num_ranks)
    ]


AFFINITY = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.7, 0.3], [0.5, 0.5]])


def test_every_step_trains_on_the_same_batches_as_in_turn(task):
    in_turn = go(assigned_ranks(task, 4, 2, None), 1)
    assigned = go(assigned_ranks(task, 4, 2, lambda: AFFINITY), 1)
    assert steps_of(assigned, 4) == steps_of(in_turn, 4)
    assert [sentences(batch) for batch in assigned] != [sentences(batch) for batch in in_turn]


def test_epochs_resume_with_other_numbers_of_ranks_and_other_gates(task):
    """The gates have changed since the start of the epoch: the rest is assigned by the new ones."""
    whole = go(assigned_ranks(task, 1, 3, None), 1)
    ranks = assigned_ranks(task, 4, 3, lambda: AFFINITY)
    trained = go(ranks, 1, 3)
    ranks = assigned_ranks(task, 2, 3, lambda: AFFINITY.flip(0), state_of(ranks))
    trained += go(ranks, 1, 1)
    ranks = assigned_ranks(task, 6, 3, lambda: AFFINITY.flip(1), state_of(ranks))
    trained += go(ranks, 1)
    assert Counter(map(str, map(sentences, trained))) == Counter(map(str, map(sentences, whole)))
    assert len(trained) == len(whole) > 4 * 3 + 2 + 6


def test_more_tokens_stay_than_in_turn(task):
    """Counted on the batches that ranks get: each task's experts are all on one of two places."""
    fixed = torch.eye(2)[[0, 1, 1, 0]]
    stays = {}
    for name, affinity in (("assigned", lambda: fixed), ("in turn", None)):
        stays[name] = all_tokens = 0
        for number, rank in enumerate(assigned_ranks(task, 4, 1, affinity)):
            for batch in filter(None, rank.next_epoch_itr()):
                inputs = batch["net_input"]
                num_tokens = int(inputs["src_lengths"].sum()) + batch["ntokens"]
                all_tokens += num_tokens
                stays[name] += num_tokens * float(fixed[inputs["task_ids"][0], number % 2])
    assert stays["assigned"] > stays["in turn"] + 0.15 * all_tokens


def test_tokens_are_those_of_both_sides(task):
    dataset = task.dataset("train")
    dataset.set_epoch(1)
    itr = batches_of(task, OneTaskBatches(dataset))
    kept = AffinityAssignment(dataset, lambda: AFFINITY).tokens_kept(itr.frozen_batches)
    for batch, row in zip(itr.next_epoch_itr(shuffle=False), kept, strict=True):
        inputs = batch["net_input"]
        num_tokens = inputs["src_lengths"].sum() + batch["ntokens"]
        expected = num_tokens * AFFINITY[inputs["task_ids"][0]].double()
        np.testing.assert_allclose(row, expected.numpy())


def test_affinity_is_computed_once_for_each_epoch(task):
    asked = []

    def affinity():
        asked.append(True)
        return AFFINITY.requires_grad_()

    (rank,) = assigned_ranks(task, 1, 1, affinity)
    assert len(asked) == 0
    go([rank], 1)
    assert len(asked) == 1


def test_a_data_loader_worker_gets_the_assigned_batches(task):
    (rank,) = assigned_ranks(task, 1, 1, lambda: AFFINITY)
    dataset = rank.dataset
    reader = iterators.EpochBatchIterator(
        dataset, dataset.collater, list(rank.frozen_batches), 1, num_workers=1
    )
    assignment = AffinityAssignment(dataset, lambda: AFFINITY)
    read = go([world_size_independent_batches(reader, [1], assignment)], 1)
    assert [sentences(batch) for batch in read] == [sentences(batch) for batch in go([rank], 1)]
