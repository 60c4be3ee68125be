"""Which text is measured: own translations as the search routed them, sentences that all have."""

import numpy as np
import pytest
import torch
from fairseq.dataclass.configs import GenerationConfig
from hypothesis import given
from hypothesis import strategies as st
from refusals import refusal
from routing_cases import both, random_set, write_checkpoint, write_data

from fairseq_taskmoe.evaluation.test_sets import TextOf
from fairseq_taskmoe.evaluation.translate import Batching, batches, load_for_pairs, translate_pairs
from fairseq_taskmoe.routing.collect import collect, write_routing
from fairseq_taskmoe.routing.text import (
    RoutedText,
    TextChoice,
    common_sentences,
    only_sentences,
    shared_language,
)

PAIRS = ["de-en", "en-de", "en-fr"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Write test sets of de-en and en-fr that have five English sentences in common."""
    torch.manual_seed(2)
    words = random_set(16)
    # number 8 twice; the order differs
    english = {"de-en": [*range(0, 9), 8], "en-fr": [12, 8, 7, 6, 5, 4, 13, 14]}
    sets = {
        "de-en": (random_set(10), [words[i] for i in english["de-en"]]),
        "en-fr": ([words[i] for i in english["en-fr"]], random_set(8)),
    }
    return write_data(tmp_path_factory.mktemp("data"), sets)


@pytest.fixture
def load(data, tmp_path):
    """Give a function that loads a small model: load(pairs, **overrides)."""

    def load(pairs=PAIRS, **overrides):
        # translations end nowhere by themselves: nothing was learned
        settings = {"max_target_positions": 16, **overrides}
        path = write_checkpoint(tmp_path / "checkpoint.pt", **settings)
        return load_for_pairs(data, path, pairs)

    return load


# -- own translations


@torch.no_grad()
def counted_while_searching(model, task, pair):
    """Return by layer the choices (E,) that a greedy search makes, word by word."""
    counts = {(stack, i): np.zeros(5) for stack in ("encoder", "decoder") for i in range(2)}

    def note(name, args, routing):
        x, inputs = args
        assert inputs.token_mask.all() and x.size(0) == 1
        for position in range(x.size(1)):
            decision = position if routing.probs.size(1) > 1 else 0
            for expert in routing.expert_ids[0, decision].tolist():
                counts[name][expert] += 1

    handles = [
        getattr(model, stack).layers[i].moe.router.register_forward_hook(
            lambda router, args, routing, name=(stack, i): note(name, args, routing)
        )
        for stack, i in counts
    ]
    generator = task.build_generator([model], GenerationConfig(beam=1))
    for batch in batches(model, task, pair, "test", Batching(None, 1)):
        task.inference_step(generator, [model], batch)
    for handle in handles:
        handle.remove()
    return counts


@pytest.mark.parametrize(
    "router, tags", [("token", False), ("token", True), ("sentence", True), ("target", False)]
)
def test_reading_a_translation_is_routed_as_writing_it_was(router, tags, load):
    model, task = load(["en-fr"], **both(router), tags=tags)
    statistics = collect(model, task, TextChoice(beam=1), Batching(max_tokens=40))
    for name, counts in counted_while_searching(model, task, "en-fr").items():
        np.testing.assert_array_equal(statistics.layers[name].load[0], counts)
    references = collect(model, task, TextChoice(), Batching(max_tokens=40))
    for name, use in references.layers.items():
        same = np.array_equal(use.load, statistics.layers[name].load)
        assert same == (name[0] == "encoder")  # which reads the sources either way


@pytest.mark.parametrize("tags", [False, True])
def test_the_decoder_reads_what_evaluation_writes(tags, load):
    model, task = load(["de-en"], **both("token"), tags=tags)
    choice, batching = TextChoice(beam=3), Batching(max_tokens=60)
    text, read = TextOf(task.dictionary, task.tags), {}
    for batch in RoutedText(model, task, choice, batching).batches("de-en"):
        rows = batch["net_input"]["prev_output_tokens"]
        assert (rows[:, 0] == task.dictionary.eos()).all()
        if tags:
            assert (rows[:, 1] == task.dictionary.index("__en__")).all()
        for index, row in zip(batch["id"].tolist(), rows, strict=True):
            read[index] = text(row)
    [(_, translations)] = translate_pairs(
        model, task, ["de-en"], "test", GenerationConfig(beam=3), batching
    )
    assert [read[index] for index in range(10)] == translations


def test_batches_do_not_matter(load):
    model, task = load(["de-en"], **both("token"))
    one, other = (
        collect(model, task, TextChoice(beam=2), Batching(None, size)) for size in (1, 100)
    )
    for name, use in one.layers.items():
        np.testing.assert_array_equal(use.load, other.layers[name].load)
        np.testing.assert_array_equal(use.first, other.layers[name].first)


# -- sentences that all directions have


def test_common_sentences_by_hand(load):
    _, task = load()
    # English number 4, 5, 6, 7, 8 of the file above, wherever they stand
    assert common_sentences(task, "test", PAIRS) == {
        "de-en": {4, 5, 6, 7, 8}, "en-de": {4, 5, 6, 7, 8}, "en-fr": {1, 2, 3, 4, 5}
    }
    # one pair alone loses only what it has twice
    assert common_sentences(task, "test", ["en-fr"]) == {"en-fr": set(range(8))}
    assert common_sentences(task, "test", ["de-en"]) == {"de-en": set(range(9))}


def test_tags_are_no_part_of_a_sentence(load):
    _, task = load(tags=True)
    found = common_sentences(task, "test", PAIRS)
    assert found["en-fr"] == {1, 2, 3, 4, 5} and found["de-en"] == {4, 5, 6, 7, 8}


@pytest.mark.parametrize("beam", [0, 2])
def test_rows_have_the_same_content(beam, load):
    model, task = load(**both("token"))
    statistics = collect(
        model, task, TextChoice(beam=beam, multi_parallel=True), Batching(max_tokens=60)
    )
    assert statistics.sentences == [5, 5, 5]
    text = RoutedText(model, task, TextChoice(multi_parallel=True), Batching())
    words = [
        sorted(
            tuple(token for token in row.tolist() if token > 2)
            for batch in text.batches(pair)
            for row in batch["net_input"]["src_tokens"]
        )
        for pair in ("en-de", "en-fr")
    ]
    assert words[0] == words[1] and len(words[0]) == 5


def test_the_others_count_nowhere(load):
    model, task = load(**both("token"))
    kept = {1, 2, 3, 4, 5}
    expected = np.zeros(5)
    for batch in batches(model, task, "en-fr", "test", Batching(None, 1)):
        if batch["id"].item() in kept:
            with torch.no_grad():
                expected += model(**batch["net_input"])[1]["gate_stats"][1].load.numpy()
    statistics = collect(model, task, TextChoice(multi_parallel=True), Batching(max_tokens=60))
    np.testing.assert_array_equal(statistics.layers["decoder", 1].load[2], expected)


@given(st.sets(st.integers(0, 9)))
def test_only_those_sentences_are_left(kept):
    batch = {
        "id": torch.arange(7, -1, -1),
        "net_input": {"src_tokens": torch.arange(8).unsqueeze(1), "task_ids": torch.arange(8)},
    }
    left = only_sentences(batch, kept)
    assert set(left["id"].tolist()) == kept & set(range(8))
    assert left["net_input"]["src_tokens"].tolist() == [[7 - i] for i in left["id"].tolist()]
    assert left["net_input"]["task_ids"].tolist() == [7 - i for i in left["id"].tolist()]


@pytest.mark.parametrize(
    "pairs, language",
    [
        (["de-en", "en-fr"], "en"), (["de-en", "en-de"], "en"), (["de-fr", "fr-de"], "de"),
        (["de-fr", "zh-de"], "de"),
    ],
)
def test_the_language_that_all_share(pairs, language):
    assert shared_language(pairs) == language


def test_pairs_without_a_common_language_are_refused():
    line = refusal(shared_language, ["de-en", "fr-de", "en-fr"])
    assert "de-en, fr-de, en-fr have no language in common" in line


def test_pairs_without_a_common_sentence_are_refused(tmp_path):
    data = write_data(tmp_path)
    path = write_checkpoint(tmp_path / "checkpoint.pt")
    before = sorted(tmp_path.iterdir())
    line = refusal(
        write_routing, data, path, str(tmp_path / "out"), ["de-en", "en-fr"], multi_parallel=True
    )
    assert "no en sentence of de-en is in the test set of en-fr" in line
    assert sorted(tmp_path.iterdir()) == before
