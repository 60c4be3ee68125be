"""Routing statistics: what the routers do, whatever the batches, in files that other tools read."""

import csv

import numpy as np
import pytest
import torch
from helpers import GROUPS, LANG_PAIRS, ROUTERS
from routing_cases import both, write_checkpoint, write_data

from fairseq_taskmoe.errors import Refusal
from fairseq_taskmoe.evaluation.translate import Batching, batches, load_for_pairs
from fairseq_taskmoe.modules.folding import task_route
from fairseq_taskmoe.routing.collect import collect, write_routing
from fairseq_taskmoe.routing.shares import load_shares
from fairseq_taskmoe.routing.text import TextChoice
from fairseq_taskmoe.subnet.expert_importance import load_importance

TABLES = {"experts.tsv", "load.tsv", "routing.npz", "routing.tsv", "similarity.tsv",
          "summary.tsv"}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture
def checkpoint(tmp_path):
    """Give a function that writes a checkpoint of a small model: checkpoint(**overrides)."""
    return lambda *args, **overrides: write_checkpoint(
        tmp_path / "checkpoint.pt", *args, **overrides
    )


@pytest.fixture
def no_figures(monkeypatch):
    """Figures take most of the time of a small run."""
    monkeypatch.setattr("fairseq_taskmoe.routing.collect.can_plot", lambda: False)


@pytest.mark.parametrize("router", ROUTERS)
def test_every_token_is_counted_once_for_each_choice(router, data, checkpoint):
    model, task = load_for_pairs(data, checkpoint(**both(router)), LANG_PAIRS)
    statistics = collect(model, task, TextChoice(), Batching(max_tokens=40))
    assert statistics.lang_pairs == list(LANG_PAIRS)
    assert list(statistics.layers) == [("encoder", 0), ("encoder", 1), ("decoder", 0),
                                       ("decoder", 1)]
    for (side, _), use in statistics.layers.items():
        for row, pair in enumerate(LANG_PAIRS):
            dataset = task.data_manager.load_pair("test", pair)
            sizes = dataset.src_sizes if side == "encoder" else dataset.dataset.tgt_sizes
            assert use.load[row].sum() == 2 * sizes.sum()
            assert use.first[row].sum() == sizes.sum()
        assert (use.first <= use.load).all()
        np.testing.assert_allclose(use.shares.sum(axis=1), 1)


@pytest.mark.parametrize("router", ["token", "sentence", "target"])
def test_a_loop_over_the_tokens_counts_the_same(router, data, checkpoint):
    model, task = load_for_pairs(data, checkpoint(**both(router)), LANG_PAIRS)
    statistics = collect(model, task, TextChoice(), Batching(max_tokens=40))
    assert statistics.sentences == [11] * 4
    for row, pair in enumerate(LANG_PAIRS):
        expected = counted_by_a_loop(model, task, pair)
        for name, use in statistics.layers.items():
            load, gates, first, probs = expected[name]
            np.testing.assert_array_equal(use.load[row], load)
            np.testing.assert_allclose(use.gate_sum[row], gates, rtol=1e-4)
            np.testing.assert_array_equal(use.first[row], first)
            np.testing.assert_allclose(use.first_prob_sum[row], probs, rtol=1e-4)
            assert not use.dropped.any()


@torch.no_grad()
def counted_by_a_loop(model, task, pair):
    """Return by layer load, gates, first choices, their probabilities: sentence by sentence."""
    sums = {(stack, i): np.zeros((4, 5)) for stack in ("encoder", "decoder") for i in range(2)}

    def note(name, args, routing):
        for position in range(args[0].size(1)):
            decision = position if routing.probs.size(1) > 1 else 0
            ids = routing.expert_ids[0, decision].tolist()
            for expert, gate in zip(ids, routing.gates[0, decision].tolist(), strict=True):
                sums[name][:2, expert] += 1, gate
            sums[name][2:, ids[0]] += 1, float(routing.probs[0, decision, ids[0]])

    handles = [
        getattr(model, stack).layers[i].moe.router.register_forward_hook(
            lambda router, args, routing, name=(stack, i): note(name, args, routing)
        )
        for stack, i in sums
    ]
    for batch in batches(model, task, pair, "test", Batching(None, 1)):
        model(**batch["net_input"])
    for handle in handles:
        handle.remove()
    return sums


@pytest.mark.parametrize("router", ["token", "sentence"])
def test_what_has_no_room_is_overflow(router, data, checkpoint):
    path = checkpoint(**both(router), moe_eval_capacity_factor=1.0)
    model, task = load_for_pairs(data, path, LANG_PAIRS)
    batching = Batching(None, 100)
    for (stack, i), use in collect(model, task, TextChoice(), batching).layers.items():
        assert (0 < use.overflow).all() and (use.overflow < 1).all()
        np.testing.assert_array_equal(
            (use.load + use.dropped).sum(axis=1), 2 * use.first.sum(axis=1)
        )
        for row, pair in enumerate(LANG_PAIRS):
            (batch,) = batches(model, task, pair, "test", batching)
            _, extra = model(**batch["net_input"])
            stats = extra["encoder_gate_stats" if stack == "encoder" else "gate_stats"][i]
            assert use.overflow[row] == pytest.approx(float(stats.overflow), rel=1e-5)
            # an expert that turns tokens away is full: 1.0 * tokens / E, up to a sentence's length
            full = np.ceil(use.first[row].sum() / 5)
            assert (use.load[row] <= full).all()
            if router == "token":
                assert (use.load[row][use.dropped[row] > 0] == full).all()


@pytest.mark.parametrize("router", ["source", "target", "pair", "group", "static"])
def test_a_task_uses_the_experts_of_its_route(router, data, checkpoint):
    # en-fr is served without having been trained, with the route that it takes in the model
    trained = ["de-en", "en-de", "fr-de", "de-fr"]
    path = checkpoint(trained, **both(router)) if router != "group" else checkpoint(**both(router))
    model, task = load_for_pairs(data, path, LANG_PAIRS)
    if router == "group":
        assert dict(task.task_table.groups).keys() == GROUPS.keys()
    for (side, layer), use in collect(model, task, TextChoice(), Batching()).layers.items():
        for row, pair in enumerate(LANG_PAIRS):
            moe = getattr(model, side).layers[layer].moe
            route = task_route(moe.router, task.task_table.task_id(pair))
            expected = np.zeros(5)
            expected[route.expert_ids] = 0.5
            np.testing.assert_array_equal(use.shares[row], expected)
            assert np.flatnonzero(use.first[row]) == route.expert_ids[0]


@pytest.mark.parametrize("router", ["token", "sentence", "random"])
def test_batches_do_not_matter(router, data, checkpoint):
    model, task = load_for_pairs(data, checkpoint(**both(router)), LANG_PAIRS)
    one, other = (
        collect(model, task, TextChoice(), Batching(None, batch_size)) for batch_size in (1, 100)
    )
    for name, use in one.layers.items():
        np.testing.assert_array_equal(use.load, other.layers[name].load)
        np.testing.assert_array_equal(use.first, other.layers[name].first)
        np.testing.assert_allclose(use.first_probs, other.layers[name].first_probs, rtol=1e-5)
        assert (use.load > 0).sum(axis=1).max() > 2  # the text decides


def test_mean_gates_are_those_of_the_route(data, checkpoint):
    model, task = load_for_pairs(data, checkpoint(**both("pair")), LANG_PAIRS)
    for (side, layer), use in collect(model, task, TextChoice(), Batching(40)).layers.items():
        for row, pair in enumerate(LANG_PAIRS):
            moe = getattr(model, side).layers[layer].moe
            route = task_route(moe.router, task.task_table.task_id(pair))
            expected = np.zeros(5)
            expected[route.expert_ids] = route.gates
            np.testing.assert_allclose(use.mean_gates[row], expected, rtol=1e-5)


def test_files_agree(data, checkpoint, tmp_path, no_figures):
    path = checkpoint(encoder_moe_router="token", encoder_moe_freq=2)
    written = write_routing(data, path, str(tmp_path / "new" / "out"), ["fr-de", "de-en"])
    out = tmp_path / "new" / "out"
    assert TABLES <= set(written) == {file.name for file in out.iterdir()}
    shares = load_shares(out / "routing.npz")
    assert shares.lang_pairs == ["fr-de", "de-en"]
    assert list(shares.layers) == [("encoder", 1), ("decoder", 0), ("decoder", 1)]
    importance = load_importance(out / "routing.npz")
    assert (importance.lang_pairs, list(importance.layers)) == (
        shares.lang_pairs, list(shares.layers)
    )
    arrays = np.load(out / "routing.npz")
    with open(out / "routing.tsv", encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert len(rows) == 3 * 2 * 5
    for row in rows:
        name = f"{row['side']}.layers.{row['layer']}"
        at = shares.lang_pairs.index(row["lang_pair"]), int(row["expert"])
        share = shares.layers[row["side"], int(row["layer"])][at]
        assert float(row["share"]) == pytest.approx(share, abs=1e-6)
        assert int(row["first"]) == arrays[f"{name}.first"][at]
        assert float(row["first_prob"]) == pytest.approx(arrays[f"{name}.first_prob"][at], abs=1e-6)


def test_figure_is_drawn_only_with_matplotlib(data, checkpoint, tmp_path, monkeypatch):
    path = checkpoint()
    pytest.importorskip("matplotlib")
    assert "routing.png" in write_routing(data, path, str(tmp_path / "with"), ["de-en"])
    monkeypatch.setattr(
        "fairseq_taskmoe.routing.collect.can_plot", lambda: False
    )
    written = write_routing(data, path, str(tmp_path / "without"), ["de-en"])
    assert set(written) == TABLES


def test_default_is_all_trained_pairs_of_the_data(data, checkpoint, tmp_path, no_figures):
    path = checkpoint(["de-en", "en-de", "fr-en", "de-zh"])
    write_routing(data, path, str(tmp_path / "out"))
    assert load_shares(tmp_path / "out" / "routing.npz").lang_pairs == ["de-en", "en-de", "fr-en"]


@pytest.mark.parametrize(
    "overrides, arguments, named",
    [
        ({}, {"lang_pairs": ["de-zh"]}, "zh"),
        ({}, {"lang_pairs": ["de"]}, "'de'"),
        ({}, {"split": "valid"}, "holds no valid data"),
        ({}, {"data": "missing"}, "missing: no such folder of data"),
        ({"moe_expert_count": 0}, {}, "no MoE layers"),
        (both("dense"), {}, "no MoE layers"),
    ],
)
def test_mistakes_leave_nothing(overrides, arguments, named, data, checkpoint, tmp_path):
    path = checkpoint(**overrides)
    with pytest.raises(Refusal, match=named):
        write_routing(**{"data": data, "path": path, "out": str(tmp_path / "out"), **arguments})
    assert [file.name for file in tmp_path.iterdir()] == ["checkpoint.pt"]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_a_folder_with_other_content_is_refused(kind, data, checkpoint, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    chosen = out if kind == "folder" else out / "notes.txt"
    with pytest.raises(Refusal, match="exists; nothing was overwritten"):
        write_routing(data, checkpoint(), str(chosen))
    assert (out / "notes.txt").read_text() == "mine"


def test_an_empty_folder_is_taken(data, checkpoint, tmp_path, no_figures):
    (tmp_path / "out").mkdir()
    write_routing(data, checkpoint(), str(tmp_path / "out"), ["en-fr"])
    assert (tmp_path / "out" / "routing.npz").exists()
