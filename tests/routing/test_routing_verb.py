"""`taskmoe routing`: the effect of its flags, and refusals in one line."""

import re

import numpy as np
import pytest
from refusals import refusal
from routing_cases import both, write_checkpoint, write_data

from fairseq_taskmoe.cli import run_verb


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    """Give the arguments that every run needs; figures have tests of their own."""
    monkeypatch.setattr("fairseq_taskmoe.routing.collect.can_plot", lambda: False)
    path = write_checkpoint(
        tmp_path / "checkpoint.pt", **both("token"), max_target_positions=16
    )
    return [write_data(tmp_path), "--path", path, "--cpu", "--lang-pairs", "de-en,en-de"]


def about(folder):
    arrays = np.load(folder / "routing.npz")
    return dict(arrays["about"].tolist()), arrays["sentences"].tolist()


@pytest.mark.parametrize(
    "flags, reads, sentences",
    [
        ([], "references", "all"),
        (["--decode", "--beam", "2"], "own translations, beam 2", "all"),
        (["--decode", "--multi-parallel"], "own translations, beam 5", "common to all pairs"),
    ],
)
def test_files_record_how_they_were_made(flags, reads, sentences, inputs, tmp_path, capsys):
    run_verb(["routing", *inputs, "--out", str(tmp_path / "out"), *flags])
    found, numbers = about(tmp_path / "out")
    assert (found["decoder reads"], found["sentences"]) == (reads, sentences)
    assert (found["encoder router"], found["split"], numbers) == ("token", "test", [11, 11])
    printed = capsys.readouterr()
    assert "routing.npz" in printed.out and "no figures without matplotlib" in printed.out
    assert "de-en: 11 sentences\n" in printed.err


@pytest.mark.parametrize(
    "words, message",
    [
        ([], "the data folder is missing"),
        (["data"], "--path is missing"),
        (["data", "--path", "c.pt"], "--out is missing"),
        (["data", "--plot", "out"], "--plot out takes no data"),
        (["--plot", "out", "--out", "new"], "takes no data, --path or --out"),
        (["data", "--path", "c.pt", "--out", "new", "--beam", "4"], "--beam 4: needs --decode"),
        (["data", "--path", "c.pt", "--out", "new", "--decode", "--beam", "0"], "--beam 0: give 1"),
        (["data", "--path", "c.pt", "--out", "new", "--max-tokens", "0"], "--max-tokens 0: give 1"),
        (["--plot", "missing"], "cannot read missing/routing.npz: No such file"),
    ],
)
def test_mistakes_are_answered_in_one_line(words, message):
    assert re.search(message, refusal(run_verb, ["routing", *words]))


def test_results_are_never_overwritten(inputs, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "routing.tsv").write_text("mine")
    line = refusal(run_verb, ["routing", *inputs, "--out", str(tmp_path / "out")])
    assert "exists; nothing was overwritten" in line
    assert (tmp_path / "out" / "routing.tsv").read_text() == "mine"
