"""Routing statistics: what the routers do, whatever the batches, in files that other tools read."""

import csv

import numpy as np
import pytest
import torch
from fairseq.data import Dictionary
from fairseq.data.indexed_dataset import make_builder
from helpers import GROUPS, LANG_PAIRS, ROUTERS, make_config, make_model, make_task
from omegaconf import OmegaConf

from fairseq_taskmoe.analysis.expert_importance import load_importance
from fairseq_taskmoe.analysis.routing_plot import load_shares
from fairseq_taskmoe.analysis.routing_statistics import collect, write_routing
from fairseq_taskmoe.errors import Refusal
from fairseq_taskmoe.evaluation.translate import Batching, load_for_pairs
from fairseq_taskmoe.modules.folding import task_route

LANGS = ("de", "en", "fr")
NUM_SENTENCES = 11


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Binarized test sets of random words, de-en for both directions, en-fr and fr-de for one."""
    folder = tmp_path_factory.mktemp("data")
    dictionary = Dictionary()
    for word in range(30):
        dictionary.add_symbol(f"w{word}")
    torch.manual_seed(1)
    for lang in LANGS:
        dictionary.save(str(folder / f"dict.{lang}.txt"))
    for pair in ("de-en", "en-fr", "fr-de"):
        for lang in pair.split("-"):
            prefix = str(folder / f"test.{pair}.{lang}")
            builder = make_builder(f"{prefix}.bin", "mmap", vocab_size=len(dictionary))
            for length in torch.randint(1, 15, (NUM_SENTENCES,)).tolist():
                words = torch.randint(4, len(dictionary), (length,))
                builder.add_item(torch.cat([words, torch.tensor([2])]).int())
            builder.finalize(f"{prefix}.idx")
    return str(folder)


@pytest.fixture
def checkpoint(tmp_path):
    """Give a function that writes a checkpoint of a small model: checkpoint(**overrides)."""

    def checkpoint(lang_pairs=LANG_PAIRS, **overrides):
        task = make_task(lang_pairs)
        cfg = OmegaConf.to_container(make_config(**overrides), enum_to_str=True)
        state = {
            "args": None,
            "cfg": {
                "model": {**cfg, "_name": "transformer_task_moe"},
                "task": {"_name": "translation_task_moe", "max_source_positions": 64,
                         "max_target_positions": 64},
            },
            "model": make_model(task, **overrides).state_dict(),
            "task_state": task.state_dict(),
            "optimizer_history": [{"optimizer_name": "", "lr_scheduler_state": {},
                                   "num_updates": 0}],
            "extra_state": {"train_iterator": {"epoch": 0, "iterations_in_epoch": 0}},
        }
        torch.save(state, tmp_path / "checkpoint.pt")
        return str(tmp_path / "checkpoint.pt")

    return checkpoint


def both(router):
    return {"encoder_moe_router": router, "decoder_moe_router": router}


@pytest.mark.parametrize("router", ROUTERS)
def test_every_token_is_counted_once_for_each_choice(router, data, checkpoint):
    model, task = load_for_pairs(data, checkpoint(**both(router)), LANG_PAIRS)
    statistics = collect(model, task, "test", Batching(max_tokens=40))
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


@pytest.mark.parametrize("router", ["source", "target", "pair", "group", "static"])
def test_a_task_uses_the_experts_of_its_route(router, data, checkpoint):
    # en-fr is served without having been trained, with the route that it takes in the model
    trained = ["de-en", "en-de", "fr-de", "de-fr"]
    path = checkpoint(trained, **both(router)) if router != "group" else checkpoint(**both(router))
    model, task = load_for_pairs(data, path, LANG_PAIRS)
    if router == "group":
        assert dict(task.task_table.groups).keys() == GROUPS.keys()
    for (side, layer), use in collect(model, task, "test", Batching()).layers.items():
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
        collect(model, task, "test", Batching(None, batch_size)) for batch_size in (1, 100)
    )
    for name, use in one.layers.items():
        np.testing.assert_array_equal(use.load, other.layers[name].load)
        np.testing.assert_array_equal(use.first, other.layers[name].first)
        np.testing.assert_allclose(use.first_probs, other.layers[name].first_probs, rtol=1e-5)
        assert (use.load > 0).sum(axis=1).max() > 2  # the text decides


def test_mean_gates_are_those_of_the_route(data, checkpoint):
    model, task = load_for_pairs(data, checkpoint(**both("pair")), LANG_PAIRS)
    for (side, layer), use in collect(model, task, "test", Batching(40)).layers.items():
        for row, pair in enumerate(LANG_PAIRS):
            moe = getattr(model, side).layers[layer].moe
            route = task_route(moe.router, task.task_table.task_id(pair))
            expected = np.zeros(5)
            expected[route.expert_ids] = route.gates
            np.testing.assert_allclose(use.mean_gates[row], expected, rtol=1e-5)


def test_files_agree(data, checkpoint, tmp_path):
    path = checkpoint(encoder_moe_router="token", encoder_moe_freq=2)
    written = write_routing(data, path, str(tmp_path / "new" / "out"), ["fr-de", "de-en"])
    out = tmp_path / "new" / "out"
    assert {"routing.npz", "routing.tsv"} <= set(written) == {file.name for file in out.iterdir()}
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
        "fairseq_taskmoe.analysis.routing_statistics.find_spec", lambda name: None
    )
    written = write_routing(data, path, str(tmp_path / "without"), ["de-en"])
    assert written == ["routing.npz", "routing.tsv"]


def test_default_is_all_trained_pairs_of_the_data(data, checkpoint, tmp_path):
    path = checkpoint(["de-en", "en-de", "fr-en", "de-zh"])
    write_routing(data, path, str(tmp_path / "out"))
    assert load_shares(tmp_path / "out" / "routing.npz").lang_pairs == ["de-en", "en-de", "fr-en"]


@pytest.mark.parametrize(
    "overrides, arguments, named",
    [
        ({}, {"lang_pairs": ["de-zh"]}, "zh"),
        ({}, {"lang_pairs": ["de"]}, "'de'"),
        ({}, {"split": "valid"}, "holds no valid data"),
        ({}, {"data": "missing"}, "missing holds no test data"),
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


def test_an_empty_folder_is_taken(data, checkpoint, tmp_path):
    (tmp_path / "out").mkdir()
    write_routing(data, checkpoint(), str(tmp_path / "out"), ["en-fr"])
    assert (tmp_path / "out" / "routing.npz").exists()
