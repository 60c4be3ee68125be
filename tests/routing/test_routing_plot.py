"""Routing figures come from files alone; what is no routing file is refused."""

import io
import os
import pickle
import re
import sys
import zipfile

import numpy as np
import pytest
from refusals import refusal

from fairseq_taskmoe.errors import Refusal
from fairseq_taskmoe.plotting import new_figure, save_figure
from fairseq_taskmoe.routing.heat_maps import all_layers, draw_heat_maps
from fairseq_taskmoe.routing.shares import load_shares

PAIRS = np.array(["de-en", "en-de", "en-zh"])
STACKS = np.array([[0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0.5, 0.5]])


@pytest.fixture
def write(tmp_path):
    def write(lang_pairs=PAIRS, **arrays):
        arrays = {name.replace("_layers_", ".layers."): array for name, array in arrays.items()}
        if lang_pairs is not None:
            arrays["lang_pairs"] = lang_pairs
        np.savez(tmp_path / "routing.npz", **arrays)
        return tmp_path / "routing.npz"

    return write


def plot_routing(path, out_path):
    figure = new_figure()
    draw_heat_maps(figure, all_layers(load_shares(path)))
    save_figure(figure, out_path)


def png_size(path):
    header = path.read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    return int.from_bytes(header[16:20], "big"), int.from_bytes(header[20:24], "big")


def test_layers_come_in_the_models_order(write):
    names = ("decoder_layers_10", "decoder_layers_2", "encoder_layers_1", "encoder_layers_11")
    shares = load_shares(write(**dict.fromkeys(names, STACKS), totals=np.ones(3)))
    assert shares.lang_pairs == ["de-en", "en-de", "en-zh"]
    assert list(shares.layers) == [("encoder", 1), ("encoder", 11), ("decoder", 2), ("decoder", 10)]
    np.testing.assert_array_equal(shares.layers["decoder", 2], STACKS)


def test_a_direction_of_which_nothing_was_routed_is_accepted(write):
    unused = STACKS.astype(np.float16) * [[1], [0], [1]]
    np.testing.assert_array_equal(
        load_shares(write(encoder_layers_1=unused)).layers["encoder", 1], unused
    )


@pytest.mark.parametrize(
    "encoder, decoder",
    [([1], []), ([], [1]), ([1, 3, 5], [1]), (range(5), range(2))],
    ids=["encoder only", "decoder only", "unequal", "more than a line of panels"],
)
def test_figure_has_room_for_every_panel(encoder, decoder, write, tmp_path):
    pytest.importorskip("matplotlib")
    arrays = {f"encoder_layers_{i}": STACKS for i in encoder}
    arrays |= {f"decoder_layers_{i}": STACKS for i in decoder}
    plot_routing(write(**arrays), tmp_path / "routing.png")
    width, height = png_size(tmp_path / "routing.png")
    # 150 dots an inch, a panel of 3.3 x 2.4 inches, at most 4 of them on a line
    lines = -(-len(encoder) // 4) + -(-len(decoder) // 4)
    columns = min(4, max(len(encoder), len(decoder)))
    assert (width, height) == pytest.approx((columns * 495 + 135, lines * 360), abs=2)
    assert sorted(os.listdir(tmp_path)) == ["routing.npz", "routing.png"]


def test_figure_grows_with_pairs_and_experts(write, tmp_path):
    pytest.importorskip("matplotlib")
    pairs = np.array([f"en-x{i}" for i in range(30)])
    shares = np.full((30, 32), 1 / 32)
    plot_routing(write(pairs, decoder_layers_1=shares), tmp_path / "routing.png")
    width, height = png_size(tmp_path / "routing.png")
    # at least 0.16 inches for every row and column of cells
    assert width > 32 * 0.16 * 150 and height > 30 * 0.16 * 150


def test_the_panels_are_labelled_and_share_one_scale(write, tmp_path):
    pytest.importorskip("matplotlib")
    path = write(encoder_layers_1=STACKS, decoder_layers_3=STACKS)
    plot_routing(path, tmp_path / "routing.SVG")
    svg = (tmp_path / "routing.SVG").read_text()
    # matplotlib writes every text beside its outlines, as a comment
    for text in ("Encoder, MoE layer 1 of 1 (layer 2)", "Decoder, MoE layer 1 of 1 (layer 4)",
                 "expert", "into en", "de-en", "en-zh", "0%", "100%"):
        assert f"<!-- {text} -->" in svg
    assert svg.count("share of the direction") == 1


@pytest.mark.parametrize(
    "arrays, message",
    [
        ({"lang_pairs": None, "encoder_layers_1": STACKS}, "no list of strings 'lang_pairs'"),
        ({"lang_pairs": np.arange(3), "encoder_layers_1": STACKS}, "no list of strings"),
        ({}, "nothing to draw"),
        ({"lang_pairs": PAIRS[:0], "encoder_layers_1": STACKS[:0]}, "nothing to draw"),
        ({"encoder_layers_1": STACKS[:2]}, "encoder.layers.1 is not an array of 3 rows"),
        ({"encoder_layers_1": STACKS[0]}, "encoder.layers.1 is not an array of 3 rows"),
        ({"encoder_layers_1": STACKS.astype(str)}, "encoder.layers.1 is not an array"),
        ({"encoder_layers_1": STACKS * 2}, "rows that are not shares"),
        ({"encoder_layers_1": STACKS * np.nan}, "rows that are not shares"),
        ({"encoder_layers_1": STACKS[:, :2] * [3, -1]}, "rows that are not shares"),
        ({"encoder_layers_1": STACKS[:, :0]}, "nothing to draw"),
    ],
)
def test_other_contents_are_refused(arrays, message, write):
    path = write(**arrays)
    line = refusal(load_shares, path)
    assert str(path) in line and re.search(message, line)


class Bomb:
    def __reduce__(self):
        return os._exit, (77,)


def npy():
    buffer = io.BytesIO()
    np.save(buffer, STACKS)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data", [b"", b"text\n", pickle.dumps(Bomb()), npy()], ids=["empty", "text", "pickle", "npy"]
)
def test_other_files_are_refused(data, tmp_path):
    (tmp_path / "routing.npz").write_bytes(data)
    with pytest.raises(Refusal, match="is not a routing file"):
        load_shares(tmp_path / "routing.npz")


@pytest.mark.parametrize("content", [b"no array", npy()[:10] + b"{'descr': ('" + npy()[21:]])
def test_archives_of_something_else_are_refused(content, tmp_path):
    with zipfile.ZipFile(tmp_path / "routing.npz", "w") as archive:
        archive.writestr("lang_pairs.npy", content)
    with pytest.raises(Refusal, match="is not a routing file"):
        load_shares(tmp_path / "routing.npz")


def test_pickled_objects_inside_are_never_opened(write):
    path = write(encoder_layers_1=np.array([Bomb()], dtype=object))
    with pytest.raises(Refusal, match="is not a routing file"):
        load_shares(path)


def test_damaged_archives_are_refused(write):
    path = write(encoder_layers_1=STACKS)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Refusal, match="is not a routing file"):
        load_shares(path)
    position = whole.index(STACKS.tobytes())
    path.write_bytes(whole[:position] + b"\x01" + whole[position + 1 :])
    with pytest.raises(Refusal, match="is not a routing file"):
        load_shares(path)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(Refusal, match="cannot read .*missing.npz: No such file"):
        load_shares(tmp_path / "missing.npz")


@pytest.mark.parametrize(
    "out, message",
    [
        ("routing.txt", "its ending is none of .*png"),
        ("routing", "its ending"),
        ("no/r.png", "No s"),
    ],
)
def test_unwritable_figures_are_refused(out, message, write, tmp_path):
    pytest.importorskip("matplotlib")
    path = write(encoder_layers_1=STACKS)
    with pytest.raises(Refusal, match=message):
        plot_routing(path, tmp_path / out)
    assert os.listdir(tmp_path) == ["routing.npz"]


def test_without_matplotlib_the_extra_is_named(write, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(Refusal, match=r"pip install fairseq-taskmoe\[plot\]"):
        plot_routing(write(encoder_layers_1=STACKS), tmp_path / "routing.png")
