"""The paper's figures come from tables alone, and show what there is to see."""

import subprocess
import sys

import numpy as np
import pytest
from helpers import LANG_PAIRS
from refusals import refusal
from routing_cases import both, write_checkpoint, write_data
from scipy.cluster.hierarchy import cophenet
from scipy.spatial.distance import squareform

from fairseq_taskmoe.routing.collect import write_routing
from fairseq_taskmoe.routing.figures import (
    draw_figures,
    find_trees,
    heat_map_figures,
)
from fairseq_taskmoe.routing.shares import RoutingShares, load_shares
from fairseq_taskmoe.routing.similarity import (
    JensenShannon,
    jensen_shannon,
    save_similarity,
)

PAIRS = ["de-en", "fr-en", "zh-en", "en-de", "en-fr", "en-zh", "fr-de"]
TOKEN = {"encoder router": "token", "decoder router": "token", "decoder reads": "references"}
TARGET = {"encoder router": "target", "decoder router": "target", "decoder reads": "references"}


def by_token(layers=(1, 3, 5), experts=6):
    """Return shares in which every direction and layer differs."""
    random = np.random.default_rng(1)
    names = [(stack, i) for stack in ("encoder", "decoder") for i in layers]
    return RoutingShares(
        PAIRS, {name: random.dirichlet(np.ones(experts), len(PAIRS)) for name in names}, TOKEN
    )


def by_target():
    """Return shares of a model that routes by the target language."""
    row = {"en": [0.5, 0.5, 0, 0], "de": [0, 0.5, 0.5, 0], "fr": [0, 0, 0.5, 0.5],
           "zh": [0.5, 0, 0, 0.5]}
    rows = np.array([row[pair.split("-")[1]] for pair in PAIRS])
    return RoutingShares(PAIRS, {("encoder", 1): rows, ("decoder", 1): rows}, TARGET)


@pytest.fixture
def folder(tmp_path):
    """Give a function that writes the tables that figures are drawn from."""

    def write(shares):
        arrays = {f"{stack}.layers.{i}": rows for (stack, i), rows in shares.layers.items()}
        about = np.array(list(shares.about.items()))
        np.savez(tmp_path / "routing.npz", lang_pairs=np.array(PAIRS), about=about, **arrays)
        save_similarity(load_shares(tmp_path / "routing.npz"), tmp_path)
        return tmp_path

    return write


def test_figures_of_a_token_model_are_the_papers():
    shares = by_token()
    figures = {figure.name: figure for figure in heat_map_figures(shares)}
    assert list(figures) == [
        "last_layers.png", "encoder_xx-en.png", "encoder_en-xx.png", "decoder_xx-en.png",
        "decoder_en-xx.png",
    ]
    last = figures["last_layers.png"]
    assert "figure 5" in last.title
    assert [panel.title for panel in last.panels] == [
        "encoder layer 5, xx-en", "decoder layer 5, en-xx"
    ]
    np.testing.assert_array_equal(last.panels[0].shares, shares.layers["encoder", 5][:3])
    np.testing.assert_array_equal(last.panels[1].shares, shares.layers["decoder", 5][3:6])
    assert last.panels[1].lang_pairs == ["en-de", "en-fr", "en-zh"]
    ends = figures["decoder_xx-en.png"]
    assert "routed by token, reading references" in ends.title and "figures 6-9" in ends.title
    assert [panel.title for panel in ends.panels] == [
        "decoder layer 1, xx-en", "decoder layer 5, xx-en"
    ]
    np.testing.assert_array_equal(ends.panels[0].shares, shares.layers["decoder", 1][:3])
    assert "reading" not in figures["encoder_xx-en.png"].title


def test_a_single_task_is_not_drawn():
    figures = {figure.name: figure for figure in heat_map_figures(by_target())}
    assert list(figures) == ["last_layers.png", "encoder_en-xx.png", "decoder_en-xx.png"]
    assert [panel.title for panel in figures["last_layers.png"].panels] == [
        "decoder layer 1, en-xx"
    ]
    assert "figures 10-11" in figures["decoder_en-xx.png"].title
    assert len(figures["decoder_en-xx.png"].panels) == 1  # the first layer is the last one


def test_a_stack_without_moe_layers_is_not_drawn():
    shares = by_token()
    decoder = {name: rows for name, rows in shares.layers.items() if name[0] == "decoder"}
    names = [figure.name for figure in heat_map_figures(shares._replace(layers=decoder))]
    assert names == ["last_layers.png", "decoder_xx-en.png", "decoder_en-xx.png"]


def test_the_tree_is_average_linkage_of_the_distances():
    # de and fr are alike, zh is not
    rows = np.array([[0.5, 0.5, 0], [0.4, 0.6, 0], [0, 0.1, 0.9], *np.eye(3), [1, 0, 0]])
    similarity = jensen_shannon(rows)
    shares = RoutingShares(PAIRS, {("encoder", 1): rows}, TOKEN)
    into, out_of = find_trees(shares, JensenShannon(PAIRS, {("encoder", 1): similarity}))
    assert into.title == "encoder layer 1, xx-en"
    assert into.lang_pairs == ["de-en", "fr-en", "zh-en"]
    far = 1 - similarity[:2, 2].mean()
    expected = [[0, 1 - similarity[0, 1], far], [1 - similarity[0, 1], 0, far], [far, far, 0]]
    np.testing.assert_allclose(squareform(cophenet(into.merges)), expected)
    np.testing.assert_allclose(out_of.merges[:, 2], 1)  # nothing in common


def test_a_direction_of_which_nothing_was_routed_is_no_leaf():
    rows = np.array([[0.5, 0.5], [0, 0], [0.1, 0.9], *3 * [[1, 0]], [1, 0]])
    shares = RoutingShares(PAIRS, {("encoder", 1): rows}, TOKEN)
    [tree] = find_trees(shares, JensenShannon(PAIRS, {("encoder", 1): jensen_shannon(rows)}))
    assert tree.lang_pairs == ["de-en", "zh-en"]


def test_figures_are_drawn_again_from_the_tables(folder):
    pytest.importorskip("matplotlib")
    path = folder(by_target())
    drawn = draw_figures(path)
    assert drawn == ["routing.png", "last_layers.png", "encoder_en-xx.png", "decoder_en-xx.png",
                     "dendrogram.png"]
    first = {name: (path / name).read_bytes() for name in drawn}
    assert all(data.startswith(b"\x89PNG") for data in first.values())
    for name in drawn:
        (path / name).unlink()
    assert draw_figures(path) == drawn
    assert {name: (path / name).read_bytes() for name in drawn} == first


DRAW_WITHOUT_MODEL = """
import sys
sys.argv[0] = "taskmoe"
sys.modules["torch"] = sys.modules["fairseq"] = None  # importing them is now an error
from fairseq_taskmoe.cli import run_verb
run_verb(["routing", "--plot", sys.argv[1]])
"""


def test_drawing_needs_no_model(folder):
    pytest.importorskip("matplotlib")
    path = folder(by_token())
    command = [sys.executable, "-c", DRAW_WITHOUT_MODEL, str(path)]
    ended = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "dendrogram.png" in ended.stdout and (path / "dendrogram.png").exists()


def test_one_direction_is_enough(tmp_path):
    pytest.importorskip("matplotlib")
    path = write_checkpoint(tmp_path / "checkpoint.pt", LANG_PAIRS, **both("token"))
    written = write_routing(write_data(tmp_path), path, str(tmp_path / "out"), ["en-fr"])
    assert "decoder_en-xx.png" in written and "last_layers.png" in written
    assert "decoder_xx-en.png" not in written and "dendrogram.png" not in written
    assert load_shares(tmp_path / "out" / "routing.npz").about["encoder router"] == "token"


def test_tables_of_two_runs_are_refused(folder):
    path = folder(by_token())
    shares = by_token(layers=(1, 3))
    save_similarity(shares, path)
    assert "routing.npz and similarity.npz have different" in refusal(draw_figures, path)


@pytest.mark.parametrize("name", ["routing.npz", "similarity.npz"])
@pytest.mark.parametrize("damage", ["missing", "cut off"])
def test_damaged_tables_are_refused(name, damage, folder):
    path = folder(by_token())
    data = (path / name).read_bytes()
    (path / name).unlink()
    if damage == "cut off":
        (path / name).write_bytes(data[: len(data) // 2])
    assert name in refusal(draw_figures, path)
    assert not list(path.glob("*.png"))
