"""A batch of several pairs: each sentence with its own task, those of a task side by side."""

import torch
from fairseq.data import Dictionary, LanguagePairDataset, ListDataset
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fairseq_taskmoe.data.task_pair_dataset import TaskPairDataset

EOS = Dictionary().eos()


def sentence(words: int, mark: int) -> Tensor:
    """Return a sentence of words that tells by its first one which example it is of."""
    return torch.tensor([4 + mark, *[4] * (words - 1), EOS])


def dataset(task_id, lengths, first_mark):
    sources = [sentence(n, first_mark + i) for i, n in enumerate(lengths)]
    targets = [sentence(n + 1, first_mark + i) for i, n in enumerate(lengths)]
    words = Dictionary()
    for word in range(200):
        words.add_symbol(str(word))
    sizes = [len(source) for source in sources]
    pair = LanguagePairDataset(
        ListDataset(sources, sizes), sizes, words,
        ListDataset(targets, [n + 1 for n in sizes]), [n + 1 for n in sizes], words,
    )
    return TaskPairDataset(pair, task_id)


@given(
    tasks=st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=4), min_size=1, max_size=4),
    order=st.randoms(use_true_random=False),
)
def test_batches_are_sorted_by_task_in_all_entries(tasks, order):
    examples, known = [], {}
    for task_id, lengths in enumerate(tasks):
        pair = dataset(task_id, lengths, first_mark=len(known))
        for i, length in enumerate(lengths):
            mark = len(known)
            known[mark] = (task_id, length)
            examples.append({**pair[i], "id": 1000 + mark})
    order.shuffle(examples)
    batch = pair.collater(examples)
    net_input = batch["net_input"]
    assert sorted(batch["id"].tolist()) == [1000 + mark for mark in known]
    assert net_input["task_ids"].tolist() == sorted(net_input["task_ids"].tolist())
    last = None
    for row, number in enumerate(batch["id"].tolist()):
        mark = number - 1000
        task_id, length = known[mark]
        assert net_input["task_ids"][row] == task_id
        source = net_input["src_tokens"][row]
        assert torch.equal(source[source != 1], sentence(length, mark))  # 1 is padding
        assert net_input["src_lengths"][row] == length + 1
        target = batch["target"][row]
        assert torch.equal(target[target != 1], sentence(length + 1, mark))
        shifted = net_input["prev_output_tokens"][row]
        assert shifted[shifted != 1].tolist() == [EOS, *sentence(length + 1, mark)[:-1].tolist()]
        if last is not None and last[0] == task_id:
            assert last[1] >= length
        last = (task_id, length)


def test_batch_of_sources_alone_has_no_target():
    pair = dataset(3, [2, 1], first_mark=0)
    pair.dataset.tgt = None
    batch = pair.collater([pair[1], pair[0]])
    assert batch["net_input"]["task_ids"].tolist() == [3, 3]
    assert batch["id"].tolist() == [0, 1] and batch["target"] is None
