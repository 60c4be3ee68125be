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

from fairseq_taskmoe.plotting import new_figure, save_figure
from fairseq_taskmoe.routing.collect import write_routing
from fairseq_taskmoe.routing.figures import draw_figures, find_trees, heat_map_figures
from fairseq_taskmoe.routing.heat_maps import draw_heat_maps
from fairseq_taskmoe.routing.shares import RoutingShares, load_shares
from fairseq_taskmoe.routing.similarity import jensen_shannon

PAIRS = ["de-en", "fr-en", "zh-en", "en-de", "en-fr", "en-zh", "fr-de"]
MODEL = {"decoder reads": "references", "model": "a model"}
TOKEN = {**MODEL, "encoder routed by": "token", "decoder routed by": "token"}
TARGET = {
    **MODEL, "encoder routed by": "target language", "decoder routed by": "target language",
    "encoder experts": "constant for a direction", "decoder experts": "constant for a direction",
}


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
    """Give a function that writes the table that figures are drawn from."""

    def write(shares):
        arrays = {f"{stack}.layers.{i}": rows for (stack, i), rows in shares.layers.items()}
        about = np.array(list(shares.about.items()))
        np.savez(tmp_path / "routing.npz", lang_pairs=np.array(PAIRS), about=about, **arrays)
        return tmp_path

    return write


def titles(lines):
    return [panel.title for line in lines for panel in line]


def test_figures_of_a_token_model_are_the_papers():
    shares = by_token()
    figures = {figure.name: figure for figure in heat_map_figures(shares)}
    assert list(figures) == [
        "routing", "last_layers", "encoder_xx-en", "encoder_en-xx", "decoder_xx-en",
        "decoder_en-xx",
    ]
    last = figures["last_layers"]
    assert last.title == "a model\ndecoder reads references"
    assert titles(last.lines) == [
        "Encoder, MoE layer 3 of 3 (layer 6)\ninto en, routed by token",
        "Decoder, MoE layer 3 of 3 (layer 6)\nfrom en, routed by token",
    ]
    [(encoder, decoder)] = last.lines
    np.testing.assert_array_equal(encoder.shares, shares.layers["encoder", 5][:3])
    np.testing.assert_array_equal(decoder.shares, shares.layers["decoder", 5][3:6])
    assert decoder.labels == ["en-de", "en-fr", "en-zh"]
    ends = figures["decoder_xx-en"]
    assert titles(ends.lines) == [
        f"Decoder, MoE layer {n} of 3 (layer {i})\ninto en, routed by token"
        for n, i in ((1, 2), (3, 6))
    ]
    np.testing.assert_array_equal(ends.lines[0][0].shares, shares.layers["decoder", 1][:3])


def test_directions_are_in_groups_with_headings():
    shares = by_token()
    panel = next(heat_map_figures(shares)).lines[0][0]
    assert panel.labels == [
        "into en", "de-en", "fr-en", "zh-en", "from en", "en-de", "en-fr", "en-zh", "others",
        "fr-de",
    ]
    headings = np.isnan(panel.shares).all(axis=1)
    assert headings.tolist() == [label in ("into en", "from en", "others")
                                 for label in panel.labels]
    np.testing.assert_array_equal(panel.shares[~headings], shares.layers["encoder", 1])


def test_a_single_task_is_not_drawn():
    figures = {figure.name: figure for figure in heat_map_figures(by_target())}
    assert list(figures) == ["routing", "last_layers", "encoder_en-xx", "decoder_en-xx"]
    title = "Decoder, MoE layer 1 of 1 (layer 2)\nfrom en, routed by target language"
    assert titles(figures["last_layers"].lines) == [title]
    assert titles(figures["decoder_en-xx"].lines) == [title]  # the first layer is the last one
    assert figures["decoder_en-xx"].title == "a model"  # what a task router reads does not matter


@pytest.mark.parametrize("shares, legend", [(by_target(), True), (by_token(), False)])
def test_task_routing_has_two_colours_and_a_legend(shares, legend, tmp_path):
    pytest.importorskip("matplotlib")
    figure = new_figure()
    draw_heat_maps(figure, next(heat_map_figures(shares)).lines)
    save_figure(figure, tmp_path / "figure.svg")
    text = (tmp_path / "figure.svg").read_text()
    assert ("<!-- used by the direction -->" in text) == legend
    assert ("<!-- 50% -->" in text) != legend


def test_a_stack_without_moe_layers_is_not_drawn():
    shares = by_token()
    decoder = {name: rows for name, rows in shares.layers.items() if name[0] == "decoder"}
    names = [figure.name for figure in heat_map_figures(shares._replace(layers=decoder))]
    assert names == ["routing", "last_layers", "decoder_xx-en", "decoder_en-xx"]


def test_the_tree_is_average_linkage_of_the_distances():
    # de and fr are alike, zh is not
    rows = np.array([[0.5, 0.5, 0], [0.4, 0.6, 0], [0, 0.1, 0.9], *np.eye(3), [1, 0, 0]])
    similarity = jensen_shannon(rows)
    shares = RoutingShares(PAIRS, {("encoder", 1): rows}, TOKEN)
    into, out_of = find_trees(shares)
    assert into.title == "Encoder, MoE layer 1 of 1 (layer 2)\ninto en, routed by token"
    assert into.lang_pairs == ["de-en", "fr-en", "zh-en"]
    far = 1 - similarity[:2, 2].mean()
    expected = [[0, 1 - similarity[0, 1], far], [1 - similarity[0, 1], 0, far], [far, far, 0]]
    np.testing.assert_allclose(squareform(cophenet(into.merges)), expected)
    assert out_of.merges is None  # nothing in common


def test_a_direction_of_which_nothing_was_routed_is_no_leaf():
    rows = np.array([[0.5, 0.5], [0, 0], [0.1, 0.9], *3 * [[1, 0]], [1, 0]])
    shares = RoutingShares(PAIRS, {("encoder", 1): rows}, TOKEN)
    [tree] = find_trees(shares)
    assert tree.lang_pairs == ["de-en", "zh-en"]


def test_figures_are_drawn_again_from_the_tables(folder):
    pytest.importorskip("matplotlib")
    path = folder(by_target())
    drawn = draw_figures(path)
    names = ["routing", "last_layers", "encoder_en-xx", "decoder_en-xx", "dendrogram"]
    assert drawn == [f"{name}.{ending}" for name in names for ending in ("png", "pdf")]
    first = {name: (path / name).read_bytes() for name in drawn}
    begins = {"png": b"\x89PNG", "pdf": b"%PDF"}
    assert all(data.startswith(begins[name[-3:]]) for name, data in first.items())
    for name in drawn:
        (path / name).unlink()
    assert draw_figures(path) == drawn
    assert {name: (path / name).read_bytes() for name in drawn} == first


def test_directions_without_a_common_expert_have_no_tree(folder, capsys):
    pytest.importorskip("matplotlib")
    rows = np.eye(4)[[0, 0, 0, 1, 2, 3, 1]]
    drawn = draw_figures(folder(RoutingShares(PAIRS, {("decoder", 1): rows}, TARGET)))
    assert "decoder_en-xx.png" in drawn and "dendrogram.png" not in drawn
    assert "from en, routed by target language: no two directions share" in capsys.readouterr().err


DRAW_WITHOUT_MODEL = """
import sys
sys.modules["torch"] = sys.modules["fairseq"] = None  # importing them is now an error
from fairseq_taskmoe.cli import run_verb
run_verb(["routing", "--plot", sys.argv[1]])
"""


@pytest.mark.slow
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
    about = load_shares(tmp_path / "out" / "routing.npz").about
    assert about["encoder router"] == about["encoder routed by"] == "token"
    assert about["model"] == "transformer_task_moe, 5 experts, top 2"


@pytest.mark.parametrize("damage", ["missing", "cut off"])
def test_a_damaged_table_is_refused(damage, folder):
    path = folder(by_token())
    file = path / "routing.npz"
    data = file.read_bytes()
    file.unlink()
    if damage == "cut off":
        file.write_bytes(data[: len(data) // 2])
    assert "routing.npz" in refusal(draw_figures, path)
    assert not list(path.glob("*.png"))
