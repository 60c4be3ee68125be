"""Raw text -> cleaned -> SentencePiece -> binarized, and the demo's corpus and split."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # preprocess and examples are not installed
    sys.path.insert(0, str(ROOT))

from examples.demo import prepare  # noqa: E402
from examples.demo.build_corpus import plain_text, rejection  # noqa: E402
from examples.demo.split import of_common_words, overlap, split_strings  # noqa: E402
from preprocess import binarize, clean, sentencepiece_model  # noqa: E402
from preprocess.stages import run_stage  # noqa: E402
from preprocess.text_files import atomic_output, read_lines, write_lines  # noqa: E402


def run_clean(folder, source, target, *options):
    """Clean two files of these bytes; return the lines that come out."""
    (folder / "in.en").write_bytes(source)
    (folder / "in.de").write_bytes(target)
    out = [folder / "out.en", folder / "out.de"]
    paths = [folder / "in.en", folder / "in.de", "--out-source", out[0], "--out-target", out[1]]
    clean.main([*map(str, paths), *options])
    return [path.read_bytes().split(b"\n")[:-1] for path in out]


BAD_SOURCE = b"Open\n\xff\xfe\n\nOpen\nLibreOffice\nvery long line here\nClose\n"
BAD_TARGET = "Öffnen\nzwei\ndrei\nÖffnen\nLibreOffice\nlang\nSchließen\n".encode()


def test_training_text_loses_bad_lines_and_says_so(tmp_path, capsys):
    source, target = run_clean(tmp_path, BAD_SOURCE, BAD_TARGET, "--max-words=3", "--drop-copies")
    assert source == [b"Open", b"Close"]
    assert target == ["Öffnen".encode(), "Schließen".encode()]
    assert capsys.readouterr().err.splitlines() == [
        "dropped 1 invalid UTF-8: line 2",
        "dropped 1 empty: line 3",
        "dropped 1 duplicates: line 4",
        "dropped 1 copies: line 5",
        "dropped 1 over-long: line 6",
        "kept 2 of 7 sentence pairs",
    ]


def test_first_five_bad_lines_are_named(tmp_path, capsys):
    run_clean(tmp_path, b"\n" * 7 + b"a\n", b"x\n" * 8)
    assert "dropped 7 empty: line 1, 2, 3, 4, 5, ...\n" in capsys.readouterr().err


def test_only_newlines_end_a_line(tmp_path):
    """U+2028, U+0085 and a carriage return inside a sentence must not shift one side."""
    text = "one\u2028two\x85three\rfour\nfive\n"
    source, target = run_clean(tmp_path, text.encode(), "eins\nfünf\n".encode())
    assert source == [b"one two three four", b"five"]
    assert len(target) == 2


def test_nfkc_is_left_to_sentencepiece_unless_asked_for(tmp_path):
    assert run_clean(tmp_path, "Ｏｐｅｎ…\n".encode(), b"x\n")[0] == ["Ｏｐｅｎ…".encode()]
    assert run_clean(tmp_path, "Ｏｐｅｎ…\n".encode(), b"x\n", "--nfkc", "--overwrite")[0] == [
        b"Open..."
    ]


def test_test_text_loses_no_line(tmp_path, capsys):
    test_text = b"a b c d\n\nOpen\nOpen\n"
    source, target = run_clean(tmp_path, test_text, b"x\ny\nz\nz\n", "--test", "--max-words=3")
    assert source == [b"a b c d", b"", b"Open", b"Open"]
    assert target == [b"x", b"y", b"z", b"z"]
    err = capsys.readouterr().err
    assert "kept 1 over-long: line 1\n" in err and "kept 1 empty: line 2\n" in err


def refused(capsys, action):
    """Expect action to refuse with status 2 and one line; return the line."""
    with pytest.raises(SystemExit) as exit_info:
        action()
    assert exit_info.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_invalid_test_text_is_refused_by_line(tmp_path, capsys):
    line = refused(capsys, lambda: run_clean(tmp_path, b"a\n\xff\n", b"x\ny\n", "--test"))
    assert "in.en, line 2: not valid UTF-8" in line
    assert not (tmp_path / "out.en").exists()


@pytest.mark.parametrize("options", [[], ["--test"]])
def test_sides_of_different_length_are_refused(tmp_path, capsys, options):
    line = refused(capsys, lambda: run_clean(tmp_path, b"a\nb\n", b"x\n", *options))
    assert "in.en has 2 lines" in line and "in.de has 1" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.de", "in.en"]


def test_existing_outputs_are_kept(tmp_path, capsys):
    run_clean(tmp_path, b"a\n", b"x\n")
    capsys.readouterr()
    assert "--overwrite" in refused(capsys, lambda: run_clean(tmp_path, b"b\n", b"y\n"))
    assert (tmp_path / "out.en").read_bytes() == b"a\n"


def test_a_missing_file_is_refused(tmp_path, capsys):
    arguments = ["no.en", "no.de", "--out-source", "a", "--out-target", "b"]
    assert "no.en: No such file" in refused(capsys, lambda: clean.main(arguments))


def test_an_interrupted_output_does_not_appear(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_output(tmp_path / "out") as stream:
        stream.write(b"half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_clean_runs_as_a_module(tmp_path):
    write_lines(tmp_path / "a.en", ["Open file"])
    write_lines(tmp_path / "a.de", ["Datei öffnen", "zu viel"])
    command = [sys.executable, "-m", "preprocess.clean", "a.en", "a.de"]
    command += ["--out-source", "b.en", "--out-target", "b.de"]
    done = subprocess.run(
        command, cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("taskmoe: error: a.en has 1 lines")


def test_temperature_evens_languages_out():
    counts = {"en": 1000, "gu": 10}
    assert sentencepiece_model.line_quotas(counts, 1010, 1.0) == counts
    tempered = sentencepiece_model.line_quotas(counts, 1010, 5.0)
    # (1000 / 10) ** (1 / 5) = 2.51
    assert tempered["en"] / tempered["gu"] == pytest.approx(2.51, abs=0.01)


def test_a_sample_repeats_only_what_it_must():
    sample = sentencepiece_model.sample_lines(["a", "b", "c"], 7, "1 en")
    assert sorted(sample.count(line) for line in "abc") == [2, 2, 3]
    assert sample == sentencepiece_model.sample_lines(["a", "b", "c"], 7, "1 en")


@pytest.fixture(scope="module")
def corpus():
    return prepare.read_corpus(prepare.CORPUS)


@pytest.fixture(scope="module")
def text(corpus, tmp_path_factory):
    """A few hundred sentence pairs of the demo's corpus as raw text files, one side with traps."""
    folder = tmp_path_factory.mktemp("text")
    both = [(english, row["de"]) for english, row in corpus.items() if "de" in row]
    for split, pairs in (("train", both[:600]), ("test", both[600:640])):
        source, target = ([*side] for side in zip(*pairs, strict=True))
        source[3] = "carriage\rreturn \u2028 and separator"
        write_lines(folder / f"{split}.en-de.en", source)
        write_lines(folder / f"{split}.en-de.de", target)
    return folder


def train_sentencepiece(text, out, *options):
    files = [f"{side}={text}/train.en-de.{side}" for side in ("en", "de")]
    sentencepiece_model.main([*files, "--out", str(out), "--vocab-size=400", *options])


def test_sentencepiece_is_reproducible(text, tmp_path):
    for name in ("once", "again"):
        train_sentencepiece(text, tmp_path / name, "--sample-lines=500")
    for file in ("spm.model", "dict.txt"):
        assert (tmp_path / "once" / file).read_bytes() == (tmp_path / "again" / file).read_bytes()


def test_dictionary_holds_the_pieces_without_fairseqs_own(text, tmp_path):
    train_sentencepiece(text, tmp_path)
    pieces = [line.rsplit(" ", 1)[0] for line in read_lines(tmp_path / "dict.txt")]
    assert len(pieces) == len(set(pieces)) == 400 - 3
    assert not set(pieces) & {"<unk>", "<s>", "</s>"}


def test_an_impossible_vocabulary_is_refused(text, tmp_path, capsys):
    with pytest.raises(SystemExit) as exit_info:
        train_sentencepiece(text, tmp_path, "--vocab-size=100000")
    assert exit_info.value.code == 2
    assert "--vocab-size 100000" in capsys.readouterr().err.splitlines()[-1]
    assert not (tmp_path / "spm.model").exists()


def test_binarized_text_comes_back(text, tmp_path):
    """All lines, both sides, in order, from fairseq's files; one dictionary for all languages."""
    import sentencepiece
    from fairseq.data import Dictionary
    from fairseq.data.indexed_dataset import MMapIndexedDataset

    train_sentencepiece(text, tmp_path)
    data, model = tmp_path / "data-bin", tmp_path / "spm.model"
    binarize.binarize(text, ["en-de"], model, tmp_path / "dict.txt", data)
    assert (data / "dict.en.txt").read_bytes() == (data / "dict.de.txt").read_bytes()
    assert not list(tmp_path.glob("*.partial*"))
    dictionary = Dictionary.load(str(data / "dict.en.txt"))
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    for side in ("en", "de"):
        stored = MMapIndexedDataset(str(data / f"train.en-de.{side}"))
        lines = read_lines(text / f"train.en-de.{side}")
        decoded = [processor.decode(dictionary.string(tokens).split()) for tokens in stored]
        assert len(decoded) == len(lines)
        assert decoded[3] == "carriage return and separator" or side == "de"
        same = [read == line for read, line in zip(decoded, lines, strict=True)]
        assert sum(same) > 0.95 * len(lines)  # rare characters become unknown


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda folder: (folder / "train.en-de.de").unlink(), "one side only"),
        (lambda folder: write_lines(folder / "train.en-de.de", ["x"]), "has 1"),
        (lambda folder: [path.unlink() for path in folder.iterdir()], "no train, valid, test"),
    ],
)
def test_binarize_refuses_a_broken_pair(tmp_path, capsys, damage, message):
    for side in ("en", "de"):
        write_lines(tmp_path / f"train.en-de.{side}", ["a", "b"])
    damage(tmp_path)
    missing = tmp_path / "none"
    line = refused(
        capsys, lambda: binarize.binarize(tmp_path, ["en-de"], missing, missing, tmp_path / "data")
    )
    assert message in line


def test_a_stage_runs_again_only_if_something_changed(tmp_path):
    given, made, runs = tmp_path / "in", tmp_path / "out", []

    def action():
        runs.append(given.read_text())
        made.write_text("done")

    def run(setting):
        return run_stage(tmp_path / "stamp", action, {"setting": setting}, [given], [made])

    given.write_text("a")
    assert run(1) and not run(1)
    given.write_text("b")
    assert run(1) and not run(1)
    assert run(2) and not run(2)
    made.unlink()
    assert run(2) and runs == ["a", "b", "b", "b"]


@pytest.mark.parametrize(
    "raw, plain",
    [
        ("打印(_P)...", "打印..."),
        ("~Save As…", "Save As..."),
        ("F_ormat <b>cell</b>", "Format cell"),
        ("About %PRODUCTNAME", "About LibreOffice"),
    ],
)
def test_plain_text(raw, plain):
    assert plain_text(raw) == plain


@pytest.mark.parametrize(
    "english, translation, language, reason",
    [
        ("Open file", "Datei öffnen", "de", None),
        ("Heading 1", "HEADING 2", "de", "copy"),
        ("%1 files", "%1 Dateien", "de", "placeholder"),
        ("10 %", "10 процентов", "ru", "no text"),
        ("Open file", "Open фaйл", "ru", "script"),
        ("Inserts the contents of a file", "Datei", "de", "length ratio"),
    ],
)
def test_filters_of_the_corpus(english, translation, language, reason):
    assert rejection(english, translation, language) == reason


def test_overlap_counts_the_words_of_the_first():
    assert overlap("Insert a new Row", "insert row") == 0.5
    assert overlap("insert row", "Insert a new row") == 1.0
    assert overlap("cell by cell", "in a cell") == pytest.approx(2 / 3)


def test_common_words_are_counted_among_the_strings_kept():
    # without the rare "big", "row" is in one string only: that one goes as well
    strings = ["open file", "open file type", "file type", "open type", "big row", "row type"]
    assert of_common_words(strings, 2) == strings[:4]


def test_neighbours_of_held_out_sentences_leave_training():
    strings = [
        "open the big file",
        "open the window",
        "save all",
        "file type of chart",
        "the big one",
    ]
    split = split_strings(strings, {"open the big file"}, 0, 1, max_cost=3, seed=1)
    assert split.test == ["open the big file"]
    assert split.dropped == ["open the window", "the big one"]
    assert split.train == ["save all", "file type of chart"]


def test_demo_split_is_clean(corpus):
    """What the demo promises: every pair's test sentences, none near any pair's training text."""
    split = prepare.choose_split(corpus)
    assert len(split.test) >= 200 and len(split.train) > 7500
    assert not set(split.train) & {*split.valid, *split.test}
    for sentence in split.test:
        assert len(sentence.split()) >= 4 and len(corpus[sentence]) == len(prepare.LANGUAGES)
    # other ways to count words than the split's own: white space, each occurrence
    train_words = [set(string.lower().split()) for string in split.train]
    for sentence in split.test:
        own = sentence.lower().split()
        shared = max(sum(word in theirs for word in own) for theirs in train_words)
        assert shared < 0.5 * len(own)
    for sentence in split.test[::10]:
        assert max(overlap(sentence, string) for string in split.train) < 0.5
