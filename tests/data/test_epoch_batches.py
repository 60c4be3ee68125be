"""Runs stopped and resumed at other numbers of ranks, against one run of one rank.

Sentence i of the made-up datasets is the number i; every rank has fairseq's real iterators over it,
with torch's DataLoader, and goes through them as fairseq-train does.
"""

import pytest
from epoch_cases import go, load_task, sentences, state_of
from fairseq.data import FairseqDataset, iterators
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fairseq_taskmoe.data.epoch_batches import redraw_virtual_epoch, world_size_independent_batches
from fairseq_taskmoe.errors import Refusal

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
BATCHED = settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])


class Numbers(FairseqDataset):
    def __init__(self, size):
        self.size = size

    def __getitem__(self, index):
        return index

    def __len__(self):
        return self.size

    def collater(self, samples):
        return samples


def stock_batches(num_batches, num_ranks, rank, **flags):
    """Return fairseq's iterator over batches of two sentences."""
    dataset = Numbers(2 * num_batches)
    batches = [[2 * i, 2 * i + 1] for i in range(num_batches)]
    flags = {"reuse_dataloader": True, **flags}
    return iterators.EpochBatchIterator(
        dataset, dataset.collater, batches, 1, num_ranks, rank, **flags
    )


def ranks_of(num_batches, num_ranks, update_freq, state=None, **flags):
    """Return our iterators of all ranks, resumed from a state."""
    ranks = [
        world_size_independent_batches(
            stock_batches(num_batches, num_ranks, rank, **flags), [update_freq]
        )
        for rank in range(num_ranks)
    ]
    if state is not None:
        for rank in ranks:
            rank.load_state_dict(state)
    return ranks


def whole_epoch(num_batches, epoch=1):
    """Return the batches of an epoch in the order in which one rank of fairseq's trains on them."""
    return list(stock_batches(num_batches, 1, 0, epoch=epoch).next_epoch_itr())


# -- any number of ranks


numbers_of_ranks = st.integers(1, 5)
frequencies = st.integers(1, 4)
legs = st.lists(st.tuples(numbers_of_ranks, frequencies, st.integers(1, 6)), max_size=4)


@BATCHED
@given(st.integers(1, 50), legs, numbers_of_ranks, frequencies)
def test_stopped_and_resumed_runs_train_on_every_batch_once(num_batches, legs, last, last_freq):
    trained, state = [], None
    for num_ranks, update_freq, num_updates in legs:
        ranks = ranks_of(num_batches, num_ranks, update_freq, state)
        trained += go(ranks, update_freq, num_updates)
        state = state_of(ranks)
        if state["epoch"] == 2:
            break
        assert state["batches_trained"] == len(trained)
    else:
        ranks = ranks_of(num_batches, last, last_freq, state)
        trained += go(ranks, last_freq)
    assert trained == whole_epoch(num_batches)

    state = state_of(ranks)
    assert (state["epoch"], state["iterations_in_epoch"], state["batches_trained"]) == (2, 0, 0)
    ranks = ranks_of(num_batches, last, last_freq, state, epoch=2)
    assert go(ranks, last_freq) == whole_epoch(num_batches, epoch=2)


def test_four_two_one_and_three_ranks_continue_with_the_same_updates():
    """Twelve batches an update, as --update-freq 3, 6, 12, 4; the epoch's last update is small."""
    trained, state = [], None
    for num_ranks in (4, 2, 1):
        ranks = ranks_of(100, num_ranks, 12 // num_ranks, state)
        trained += go(ranks, 12 // num_ranks, 2)
        state = state_of(ranks)
    ranks = ranks_of(100, 3, 4, state)
    progress = iterators.GroupedIterator(ranks[0].next_epoch_itr(), 4)
    assert (progress.n, len(progress)) == (6, 9)  # what the progress bar counts
    ranks = ranks_of(100, 3, 4, state)
    assert trained + go(ranks, 4) == whole_epoch(100)


def test_the_next_epoch_of_the_same_iterator_is_whole():
    ranks = ranks_of(10, 2, 1)
    go(ranks, 1, 2)
    resumed = ranks_of(10, 3, 1, state_of(ranks))
    assert go(resumed, 1) == whole_epoch(10)[4:]
    assert go(resumed, 1) == whole_epoch(10, epoch=2)


def test_a_state_taken_before_the_first_step_keeps_the_position():
    ranks = ranks_of(100, 2, 1)
    go(ranks, 1, 1)
    state = state_of(ranks)
    ranks = ranks_of(100, 5, 4, state)
    go(ranks, 4, 0)
    assert state_of(ranks) == {**state, "iterations_in_epoch": 1}
    assert go(ranks_of(100, 1, 1, state_of(ranks)), 1) == whole_epoch(100)[2:]


@pytest.mark.parametrize("ahead", [{"num_workers": 1}, {"buffer_size": 2}])
def test_workers_and_buffers_read_ahead_without_moving_the_position(ahead):
    ranks = ranks_of(13, 2, 1, buffer_size=2)
    trained = go(ranks, 1, 2)
    ranks = ranks_of(13, 1, 1, state_of(ranks), **ahead)
    trained += go(ranks, 1, 3)
    assert trained + go(ranks_of(13, 3, 1, state_of(ranks)), 1) == whole_epoch(13)


def test_a_curriculum_resumes_in_order():
    ranks = ranks_of(10, 2, 1)
    trained = go(ranks, 1, 2, shuffle=False)
    ranks = ranks_of(10, 3, 1, state_of(ranks))
    assert trained + go(ranks, 1) == [[2 * i, 2 * i + 1] for i in range(10)]


@BATCHED
@given(st.integers(25, 60), frequencies, legs.filter(len), numbers_of_ranks)
def test_skipped_remainders_are_the_end_of_the_epoch(num_batches, freq, legs, last):
    skip = {"skip_remainder_batch": True}
    trained, state = [], None
    for num_ranks, _, num_updates in [*legs, (last, freq, None)]:
        try:
            ranks = ranks_of(num_batches, num_ranks, freq, state, **skip)
        except Refusal as refusal:
            assert "resume without --skip-remainder-batch" in str(refusal)
            assert num_batches - len(trained) <= num_ranks * (freq + 1)
            break
        more = go(ranks, freq, num_updates, **skip)
        assert more  # fairseq-train fails on an epoch without updates
        trained += more
        state = state_of(ranks)
        if state["epoch"] == 2:
            break
    assert trained == whole_epoch(num_batches)[: len(trained)]
    assert num_batches - len(trained) <= num_ranks * (freq + 1) or state["epoch"] == 1


# -- what fairseq does


def empty_first(batches, update_freq):
    """Return a rank's batches with those that are empty at the beginning of their update."""
    updates = [batches[i : i + update_freq] for i in range(0, len(batches), update_freq)]
    return [batch for update in updates for batch in sorted(update, key=bool)]


@pytest.mark.parametrize(
    ("num_batches", "num_ranks", "update_freq", "last_updates"),
    [(8, 3, 2, [[7], [8], [0]]), (4, 3, 2, [[1, 4], [0, 2], [0, 3]]), (1, 2, 4, [[1], [0]]),
     (5, 2, 3, [[1, 3, 5], [0, 2, 4]])],
)
def test_an_update_ends_with_an_empty_batch_only_if_all_are_empty(
    num_batches, num_ranks, update_freq, last_updates
):
    ranks = ranks_of(num_batches, num_ranks, update_freq)
    for rank, expected in zip(ranks, last_updates, strict=True):
        *_, last = iterators.GroupedIterator(rank.next_epoch_itr(shuffle=False), update_freq)
        assert [batch[1] // 2 + 1 if batch else 0 for batch in last] == expected


@BATCHED
@given(st.integers(1, 40), numbers_of_ranks, frequencies, st.booleans())
def test_an_uninterrupted_run_equals_fairseqs(num_batches, num_ranks, update_freq, shuffle):
    for rank in range(num_ranks):
        stock, again = (stock_batches(num_batches, num_ranks, rank) for _ in range(2))
        own = world_size_independent_batches(
            stock_batches(num_batches, num_ranks, rank), [update_freq]
        )
        assert len(own) == len(stock) and own.first_batch == stock.first_batch
        for epoch in (1, 2):
            assert own.next_epoch_idx == stock.next_epoch_idx == epoch
            one, other = (itr.next_epoch_itr(shuffle=shuffle) for itr in (own, stock))
            assert (one.n, len(one)) == (other.n, len(other))
            expected = empty_first(list(again.next_epoch_itr(shuffle=shuffle)), update_freq)
            for batch, _ in zip(expected, other, strict=True):
                assert next(one) == batch
                assert own.iterations_in_epoch == stock.iterations_in_epoch
                assert own.state_dict().items() >= stock.state_dict().items()
            assert not one.has_next() and own.end_of_epoch()


@BATCHED
@given(st.integers(3, 40), numbers_of_ranks, frequencies, st.data())
def test_states_of_fairseq_resume_as_in_fairseq(num_batches, num_ranks, freq, data):
    num_updates = -(-num_batches // (num_ranks * freq))
    iterations = freq * data.draw(st.integers(0, num_updates - 1))
    state = {"version": 2, "epoch": 3, "iterations_in_epoch": iterations, "shuffle": True}
    for rank in range(num_ranks):
        stock = stock_batches(num_batches, num_ranks, rank, epoch=3)
        own = world_size_independent_batches(
            stock_batches(num_batches, num_ranks, rank, epoch=3), [1, freq]
        )
        stock.load_state_dict(state)
        own.load_state_dict(state)
        one, other = (itr.next_epoch_itr() for itr in (own, stock))
        assert (one.n, len(one)) == (other.n, len(other))
        assert list(one) == empty_first(list(other), freq)


def test_fairseqs_oldest_states_continue_with_the_next_epoch():
    (rank,) = ranks_of(5, 1, 1, {"epoch": 1, "iterations_in_epoch": 5})
    assert rank.next_epoch_idx == 2


# -- bad input


def test_grouped_shuffling_is_refused():
    with pytest.raises(Refusal, match="--grouped-shuffling: its order depends on the number"):
        ranks_of(10, 2, 1, grouped_shuffling=True)


def test_a_position_beyond_the_epoch_is_refused():
    state = {"version": 2, "epoch": 1, "iterations_in_epoch": 4, "shuffle": True}
    with pytest.raises(Refusal, match="after 12 batches of epoch 1, which has only 10"):
        ranks_of(10, 3, 1, state)


def test_a_changed_number_of_batches_gives_a_warning(caplog):
    ranks = ranks_of(10, 2, 1)
    go(ranks, 1, 2)
    ranks_of(11, 1, 1, state_of(ranks))
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "epoch 1 has 11 batches and had 10 when the checkpoint was saved" in warning


# -- real data


def drawn(dataset):
    """Return the sentences of a dataset's epoch: pair and number in the pair."""
    return [dataset._get_dataset_and_index(i) for i in range(len(dataset))]


def test_a_resumed_run_has_the_virtual_epoch_of_an_uninterrupted_one(corpus):
    flags = ("--sampling-method", "temperature", "--virtual-epoch-size", 500)
    running = load_task(corpus, *flags).dataset("train")
    for epoch in range(1, 7):
        task = load_task(corpus, *flags)
        resumed = task.data_manager.load_split("train", True, epoch, False)
        redraw_virtual_epoch(resumed, epoch)
        running.set_epoch(epoch)
        assert drawn(resumed) == drawn(running)
        assert not resumed.load_next_shard
    assert running.num_virtual_epochs == 4  # a whole pass, and the middle of another


def task_ranks(corpus, num_ranks, epoch, state=None):
    """Return the iterators that the real task gives to all ranks."""
    task = load_task(corpus, "--sampling-method", "temperature")
    ranks = [
        world_size_independent_batches(
            task.get_batch_iterator(
                task.dataset("train"), max_tokens=600, max_positions=task.max_positions(),
                ignore_invalid_inputs=True, seed=1, num_shards=num_ranks, shard_id=rank,
                epoch=epoch,
            ),
            [1],
        )
        for rank in range(num_ranks)
    ]
    if state is not None:
        for rank in ranks:
            rank.load_state_dict(state)
    return ranks


def test_epochs_of_real_sentences_resume_at_other_numbers_of_ranks(corpus):
    """Each epoch has new samples: the resumed run must draw the same and continue in it."""
    whole = [sentences(batch) for batch in go(task_ranks(corpus, 1, epoch=2), 1)]
    ranks = task_ranks(corpus, 4, epoch=2)
    trained = go(ranks, 1, 3)
    for num_ranks, num_updates in ((3, 2), (5, None)):
        ranks = task_ranks(corpus, num_ranks, 2, state_of(ranks))
        trained += go(ranks, 1, num_updates)
    assert [sentences(batch) for batch in trained] == whole
    assert len(whole) > 4 * 3 + 3 * 2 and sum(map(len, whole)) == 1600
