"""Bytes that one does not see, names that are no text, formats of data: the same, or refused."""

import os
import shutil
import sys
from pathlib import Path

import pytest
from console import refused, run
from damage import run_fairseq, run_main, run_verb
from damage_world import CPU, SEARCH
from fairseq_cli import generate, preprocess, train

from fairseq_taskmoe.data.dictionary_file import read_dictionary
from fairseq_taskmoe.errors import Refusal
from fairseq_taskmoe.evaluation.results import load_results
from fairseq_taskmoe.piece_model import load_pieces
from fairseq_taskmoe.read_files import read_lines

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # preprocess is not installed
    sys.path.insert(0, str(ROOT))

from preprocess import binarize  # noqa: E402
from preprocess import run as preprocess_run  # noqa: E402

BOM = "\ufeff"
EVALUATE = ("evaluate", "FOLDER/data", "--path", "FOLDER/a.pt", "--lang-pairs", "en-de", *CPU)
UNDECODABLE = os.fsdecode(b"daten\xe4")


@pytest.fixture
def folder(world, tmp_path):
    return shutil.copytree(world, tmp_path / "folder")


def evaluated(folder, out, *words):
    run_verb(*EVALUATE, "--out", f"FOLDER/{out}", *words)(folder)
    return load_results(folder / out / "results.json").directions["en-de"]


def rewrite(path, change):
    path.write_bytes(change(path.read_text(encoding="utf-8")).encode())


WINDOWS = {
    "byte order mark": lambda text: BOM + text,
    "carriage returns": lambda text: text.replace("\n", "\r\n"),
    "both, and no last end": lambda text: (BOM + text).rstrip("\n").replace("\n", "\r\n"),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_references_of_windows_give_the_same_scores(name, folder):
    as_they_are = evaluated(folder, "one", "--references", "FOLDER/text", "--floors")
    for lang in ("en", "de"):
        rewrite(folder / "text" / f"test.en-de.{lang}", WINDOWS[name])
    assert evaluated(folder, "two", "--references", "FOLDER/text", "--floors") == as_they_are
    for file in ("references/test.en-de.de", "sources/test.en-de.en"):
        assert (folder / "one" / file).read_bytes() == (folder / "two" / file).read_bytes()
    run_verb("compare", "FOLDER/one", "FOLDER/two", "--out", "FOLDER/new.json", "--samples",
             10)(folder)


@pytest.mark.parametrize("name", WINDOWS)
def test_test_sets_that_are_prepared_have_their_text_alone(name, folder):
    expected = {}
    for lang in ("en", "de"):
        path = folder / "raw" / "test" / f"en-de.{lang}"
        expected[lang] = path.read_bytes()
        rewrite(path, WINDOWS[name])
    run_main(preprocess_run.main, "FOLDER/corpus.yaml", "--raw", "FOLDER/raw", "--out",
             "FOLDER/out", "--steps", "clean")(folder)
    for lang in ("en", "de"):
        assert (folder / "out/text" / f"test.en-de.{lang}").read_bytes() == expected[lang]


LINES = [
    "Open\u2028the file", "Save\x85it", "a\x0cb", "", "a\x00b", "\ufeffa", "a\u200bb", "a\rb", " ",
]


def test_every_line_of_a_text_is_a_sentence_of_the_data(folder):
    """Whatever is in it: line breaks of other standards, control characters, nothing."""
    for lang in ("en", "de"):
        for split in ("train", "test"):
            path = folder / "text" / f"{split}.en-de.{lang}"
            path.write_text("\n".join(LINES), encoding="utf-8", newline="")
    run_main(binarize.main, "FOLDER/text", "--pairs", "en-de", "--sentencepiece-model",
             "FOLDER/spm.model", "--dict", "FOLDER/dict.txt", "--out", "FOLDER/new")(folder)
    run_verb("evaluate", "FOLDER/new", *EVALUATE[2:], "--out", "FOLDER/out", "--references",
             "FOLDER/text")(folder)
    assert len(read_lines(folder / "out/hypotheses/test.en-de.de")) == len(LINES)
    assert read_lines(folder / "out/references/test.en-de.de") == LINES


def test_every_line_in_is_a_line_out_of_translate(folder):
    (folder / "text.txt").write_text(
        BOM + "\n".join(LINES) + "\r\nSave\r\n", encoding="utf-8", newline=""
    )
    run_verb("translate", "FOLDER/models/ctranslate2", "--input", "FOLDER/text.txt", "--output",
             "FOLDER/out.txt", "--beam", 1, "--max-len", 5)(folder)
    out = read_lines(folder / "out.txt")
    assert len(out) == len(LINES) + 1
    (folder / "plain.txt").write_text(f"{LINES[0]}\nSave\n", encoding="utf-8", newline="")
    run_verb("translate", "FOLDER/models/ctranslate2", "--input", "FOLDER/plain.txt", "--output",
             "FOLDER/plain.out", "--beam", 1, "--max-len", 5)(folder)
    assert read_lines(folder / "plain.out") == [out[0], out[-1]]


# -- names


@pytest.mark.parametrize("verb", [
    ("evaluate", UNDECODABLE, "--path", "a.pt", "--out", "new"),
    ("evaluate", "data", "--path", "a.pt", "--out", UNDECODABLE),
    ("extract", UNDECODABLE, "--lang-pair", "en-de", "--out", "new"),
    ("extract", "a.pt", "--lang-pair", "en-de", "--out", f"{UNDECODABLE}/new"),
    ("translate", UNDECODABLE), ("serve", UNDECODABLE),
    ("average", "a.pt", UNDECODABLE, "--out", "new"),
    ("consolidate", "a.pt", "--out", UNDECODABLE),
    ("reshard", "a.pt", "--ranks", "2", "--out", f"{UNDECODABLE}/last.pt"),
    ("params", UNDECODABLE), ("routing", "--plot", UNDECODABLE),
    ("compare", "a", UNDECODABLE, "--out", "new.json"),
    ("tabulate", UNDECODABLE, "--out", "new"),
    ("distill", UNDECODABLE, "--path", "a.pt", "--out", "new"),
    ("bench", "layer", "--out", f"{UNDECODABLE}.json"),
], ids=lambda verb: verb[0])
def test_names_that_are_no_text_are_refused_before_any_work(verb, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((Refusal, SystemExit)):
        run_verb(*verb)(tmp_path)
    assert "UTF-8" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_such_a_name_on_the_way_is_refused_too(tmp_path):
    inside = tmp_path / UNDECODABLE
    inside.mkdir()
    line = refused(run("taskmoe", "params", "a.pt", cwd=inside, check=False))
    assert "daten\\xe4" in line and "UTF-8" in line


# -- formats


def binarize_as(folder, impl):
    """Binarize the text anew with fairseq-preprocess, in one of its formats."""
    pieces, out = load_pieces(folder / "spm.model"), folder / "pieces"
    out.mkdir()
    words = ["fairseq", "-s", "en", "-t", "de", "--destdir", f"{folder}/{impl}", "--dataset-impl",
             impl, "--srcdict", f"{folder}/dict.txt", "--tgtdict", f"{folder}/dict.txt"]
    for split in ("train", "valid", "test"):
        words += [f"--{split}pref", f"{out}/{split}"]
        for lang in ("en", "de"):
            lines = read_lines(folder / "text" / f"{split}.en-de.{lang}")
            text = "".join(" ".join(pieces.encode(x, out_type=str)) + "\n" for x in lines)
            (out / f"{split}.{lang}").write_text(text, encoding="utf-8")
    sys.argv = words
    preprocess.cli_main()
    assert read_dictionary(f"{folder}/{impl}/dict.de.txt").symbols


@pytest.fixture
def lazy(folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)
    binarize_as(folder, "lazy")
    return folder


def test_the_older_format_gives_what_the_newer_gives(lazy, capsys):
    for name in ("data", "lazy"):
        run_verb("evaluate", f"FOLDER/{name}", *EVALUATE[2:], "--floors", "--out",
                 f"FOLDER/{name}-scores")(lazy)
        run_verb("distill", f"FOLDER/{name}", "--path", "FOLDER/a.pt", "--lang-pairs", "en-de",
                 "--out", f"FOLDER/{name}-distilled", *CPU)(lazy)
        run_verb("routing", f"FOLDER/{name}", "--path", "FOLDER/a.pt", "--out",
                 f"FOLDER/{name}-routing", "--cpu")(lazy)
    one, other = (load_results(lazy / f"{name}-scores/results.json") for name in ("data", "lazy"))
    assert one.directions == other.directions
    assert one.directions["en-de"]["floor_nearest_chrf"] is not None
    for file in ("distilled/train.en-de.de.bin", "routing/routing.tsv"):
        assert (lazy / f"data-{file}").read_bytes() == (lazy / f"lazy-{file}").read_bytes()

    path = ("--path", "FOLDER/trained/checkpoint_last.pt", "-s", "en", "-t", "de", *SEARCH)
    printed = []
    for words in (["FOLDER/data"], ["FOLDER/lazy"], ["FOLDER/lazy", "--dataset-impl", "cached"]):
        capsys.readouterr()
        run_fairseq(generate.cli_main, *words, *path)(lazy)
        lines = capsys.readouterr().out.split("\n")
        printed.append([line for line in lines if line.startswith(("S-", "T-", "H-"))])
    assert printed[0] == printed[1] == printed[2] and len(printed[0]) == 36


@pytest.mark.parametrize("impl", ["raw", "fasta", "huffman"])
def test_formats_that_are_not_read_are_refused_at_the_start(impl, folder, monkeypatch):
    monkeypatch.setattr(sys, "argv", sys.argv)
    words = ("FOLDER/data", "--dataset-impl", impl)
    for call in (
        run_fairseq(generate.cli_main, *words, "--path", "nowhere", "-s", "en", "-t", "de"),
        run_fairseq(train.cli_main, *words, "--lang-pairs", "en-de", "--arch",
                    "transformer_task_moe_tiny", "--criterion", "moe_label_smoothed_cross_entropy",
                    "--max-tokens", 100, "--save-dir", "FOLDER/new"),
    ):
        with pytest.raises(Refusal, match=f"--dataset-impl {impl}"):
            call(folder)


def test_text_where_data_should_be_is_named(folder, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", sys.argv)
    binarize_as(folder, "raw")
    with pytest.raises((Refusal, SystemExit)):
        run_verb("evaluate", "FOLDER/raw", *EVALUATE[2:], "--out", "FOLDER/new")(folder)
    assert "test.en-de.en: test data of en-de as text; binarize" in capsys.readouterr().err
    assert not (folder / "new").exists()
