"""At evaluation a sentence's scores depend neither on its neighbours nor on padding."""

import pytest
import torch
from helpers import ROUTERS, make_batch, make_model, random_sentences

LENGTHS = ([7, 3, 5, 9, 1], [4, 8, 5, 6, 3])
TASKS = [2, 0, 1, 3, 2]
STACKS = [(router, router) for router in ROUTERS] + [("token", "target"), ("pair", "sentence")]


@pytest.fixture(params=STACKS, ids="-".join)
def model(request):
    encoder, decoder = request.param
    return make_model(encoder_moe_router=encoder, decoder_moe_router=decoder)


@torch.no_grad()
def scores(model, sources, targets, tasks, pad_to=0):
    """Return the log-probabilities (T, V) of each sentence's own positions."""
    batch = make_batch(sources, targets, tasks, pad_to)
    output = model(**batch["net_input"])
    log_probs = model.get_normalized_probs(output, log_probs=True)
    return [row[: len(target)] for row, target in zip(log_probs, targets, strict=True)]


def one_by_one(model, sources, targets, tasks):
    return [
        scores(model, [source], [target], [task])[0]
        for source, target, task in zip(sources, targets, tasks, strict=True)
    ]


def assert_same(found, expected):
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_scores_do_not_depend_on_sentences_of_other_tasks(model):
    sources, targets = map(random_sentences, LENGTHS)
    together = scores(model, sources, targets, TASKS)
    assert_same(together, one_by_one(model, sources, targets, TASKS))


def test_scores_do_not_depend_on_the_amount_of_padding(model):
    sources, targets = map(random_sentences, LENGTHS)
    expected = scores(model, sources, targets, TASKS)
    assert_same(scores(model, sources, targets, TASKS, pad_to=9), expected)


def test_scores_do_not_depend_on_the_order_of_sentences(model):
    sources, targets = map(random_sentences, LENGTHS)
    expected = scores(model, sources, targets, TASKS)
    reverse = scores(model, sources[::-1], targets[::-1], TASKS[::-1])
    assert_same(reverse[::-1], expected)


def test_scores_do_not_depend_on_the_run(model):
    sources, targets = map(random_sentences, LENGTHS)
    expected = scores(model, sources, targets, TASKS)
    torch.manual_seed(99)
    assert_same(scores(model, sources, targets, TASKS), expected)


def test_mixed_tasks_in_one_batch_are_single_task_batches(model):
    sources, targets = map(random_sentences, LENGTHS)
    together = scores(model, sources, targets, TASKS)
    for task in set(TASKS):
        rows = [i for i, other in enumerate(TASKS) if other == task]
        apart = scores(model, [sources[i] for i in rows], [targets[i] for i in rows],
                       [task] * len(rows))
        assert_same([together[i] for i in rows], apart)


@pytest.mark.parametrize("router", ["source", "target", "pair", "group", "static"])
def test_task_matters_for_task_routers(router):
    model = make_model(router=router)
    sources, targets = random_sentences([5]), random_sentences([5])
    first, second = (scores(model, sources, targets, [task])[0] for task in (1, 0))
    assert not torch.allclose(first, second, atol=1e-3)


@pytest.mark.parametrize("router", ["token", "sentence", "random"])
def test_task_does_not_matter_for_text_routers(router):
    model = make_model(router=router)
    sources, targets = random_sentences([5]), random_sentences([5])
    assert_same(*(scores(model, sources, targets, [task]) for task in (1, 0)))


@pytest.mark.parametrize("router", ["token", "sentence"])
def test_with_capacity_at_evaluation_scores_depend_on_other_sentences(router):
    # so the tests above are able to fail
    model = make_model(router=router, moe_eval_capacity_factor=0.5)
    sources, targets = map(random_sentences, LENGTHS)
    together = scores(model, sources, targets, TASKS)
    alone = one_by_one(model, sources, targets, TASKS)
    assert any(
        not torch.allclose(*pair, atol=1e-3) for pair in zip(together, alone, strict=True)
    )
