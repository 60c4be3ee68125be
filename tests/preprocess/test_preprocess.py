"""SentencePiece, binarization and stages."""

import random
import sys
from pathlib import Path

import pytest
from console import read_table
from refusals import refusal

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # preprocess is not installed
    sys.path.insert(0, str(ROOT))

from preprocess import binarize, sentencepiece_model  # noqa: E402
from preprocess.stages import run_stage, stage_result  # noqa: E402
from preprocess.text_files import atomic_output, read_lines, write_lines  # noqa: E402


def test_an_interrupted_output_does_not_appear(tmp_path):
    with pytest.raises(KeyboardInterrupt), atomic_output(tmp_path / "out") as stream:
        stream.write(b"half")
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


def test_temperature_makes_shares_of_languages_more_equal():
    counts = {"en": 1000, "gu": 10}
    assert sentencepiece_model.line_quotas(counts, 1010, 1.0) == counts
    tempered = sentencepiece_model.line_quotas(counts, 1010, 5.0)
    # (1000 / 10) ** (1 / 5) = 2.51
    assert tempered["en"] / tempered["gu"] == pytest.approx(2.51, abs=0.01)


def test_a_sample_repeats_lines_only_if_needed():
    repeats, drawn = sentencepiece_model.drawn_lines(3, 7, "1 en")
    assert repeats == 2 and len(drawn) == 1 and drawn[0] in range(3)
    assert (repeats, drawn) == sentencepiece_model.drawn_lines(3, 7, "1 en")


@pytest.mark.parametrize("total", [40, 90, 200])
def test_a_sample_equals_one_drawn_in_memory(tmp_path, total):
    """Streaming by line number, without blank lines, gives the same as drawing from lists."""
    files = {}
    for language, names in (("en", ("one", "two")), ("gu", ("three",))):
        for name in names:
            path = tmp_path / f"{name}.{language}"
            write_lines(path, [f"{name}  {n}" if n % 3 else " " for n in range(45)])
            files.setdefault(language, []).append(path)
    quotas = sentencepiece_model.write_sample(files, tmp_path / "sample", total, 5.0, 1)
    expected = []
    for language, paths in files.items():
        lines = [" ".join(line.split()) for path in paths for line in read_lines(path)]
        lines = [line for line in lines if line]
        repeats, rest = divmod(quotas[language], len(lines))
        drawn = random.Random(f"1 {language}").sample(range(len(lines)), rest)
        expected += lines * repeats + [lines[index] for index in sorted(drawn)]
    assert read_lines(tmp_path / "sample") == expected


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """Sentence pairs of real text as raw text; one has unusual line separators."""
    folder = tmp_path_factory.mktemp("text")
    both = [(row["en"], row["de"]) for row in read_table() if row["de"]]
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


def test_dictionary_has_the_pieces_without_fairseqs_symbols(text, tmp_path):
    train_sentencepiece(text, tmp_path)
    pieces = [line.rsplit(" ", 1)[0] for line in read_lines(tmp_path / "dict.txt")]
    assert len(pieces) == len(set(pieces)) == 400 - 3
    assert not set(pieces) & {"<unk>", "<s>", "</s>"}


def test_an_impossible_vocabulary_is_refused(text, tmp_path):
    line = refusal(train_sentencepiece, text, tmp_path, "--vocab-size=100000")
    assert "--vocab-size 100000" in line
    assert not (tmp_path / "spm.model").exists()


@pytest.mark.parametrize("flag, value", [
    ("vocab-size", "0"), ("sample-lines", "0"), ("threads", "0"), ("character-coverage", "0.5"),
    ("temperature", "nan"), ("temperature", "0.0001"),
])  # fmt: skip
def test_impossible_settings_of_sentencepiece_are_refused(text, tmp_path, flag, value):
    line = refusal(lambda: train_sentencepiece(text, tmp_path, f"--{flag}", value))
    assert f"--{flag} {value}: must be" in line
    assert list(tmp_path.iterdir()) == []


def test_binarized_text_decodes_to_the_input(text, tmp_path):
    """All lines of both sides in order; one dictionary for all languages."""
    import sentencepiece
    from fairseq.data import Dictionary
    from fairseq.data.indexed_dataset import MMapIndexedDataset

    train_sentencepiece(text, tmp_path)
    data, model = tmp_path / "data-bin", tmp_path / "spm.model"
    binarize.binarize(text, ["en-de"], model, tmp_path / "dict.txt", data)
    assert (data / "dict.en.txt").read_bytes() == (data / "dict.de.txt").read_bytes()
    assert not list(tmp_path.glob("*.partial*")) and not list(tmp_path.glob("*.work"))
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


def test_shards_and_workers_change_no_sentence(text, tmp_path, monkeypatch):
    """Line n is line n // 2 of shard n % 2; two workers write the same as one."""
    from fairseq.data.indexed_dataset import MMapIndexedDataset

    monkeypatch.setattr(binarize, "BYTES_PER_WORKER", 1 << 12)  # the text is short
    train_sentencepiece(text, tmp_path)
    for name, workers, shards in (("one", 1, 1), ("two", 2, 2), ("many", 2, 1)):
        arguments = [text, "--pairs", "en-de", "--out", tmp_path / name, "--workers", workers]
        arguments += ["--sentencepiece-model", tmp_path / "spm.model", "--shards", shards]
        binarize.main([*map(str, arguments), "--dict", str(tmp_path / "dict.txt")])
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "many" / path.name).read_bytes()
    whole = MMapIndexedDataset(str(tmp_path / "one" / "train.en-de.de"))
    shards = [
        MMapIndexedDataset(str(tmp_path / "two" / f"shard0{n}" / "train.en-de.de")) for n in (0, 1)
    ]
    assert [len(shard) for shard in shards] == [300, 300]
    for number, tokens in enumerate(whole):
        assert tokens.equal(shards[number % 2][number // 2])
    # fairseq reads test sets from the first shard only
    assert (tmp_path / "two" / "shard00" / "test.en-de.de.bin").exists()
    assert not (tmp_path / "two" / "shard01" / "test.en-de.de.bin").exists()


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda folder: (folder / "train.en-de.de").unlink(), "one side only"),
        (lambda folder: write_lines(folder / "train.en-de.de", ["x"]), "has 1"),
        (lambda folder: [path.unlink() for path in folder.iterdir()], "no train, valid, test"),
    ],
)
def test_binarize_refuses_a_broken_pair(tmp_path, damage, message):
    for side in ("en", "de"):
        write_lines(tmp_path / f"train.en-de.{side}", ["a", "b"])
    damage(tmp_path)
    missing = tmp_path / "none"
    line = refusal(
        lambda: binarize.binarize(tmp_path, ["en-de"], missing, missing, tmp_path / "data")
    )
    assert message in line


def test_a_stage_runs_again_only_if_something_changed(tmp_path):
    given, made, runs = tmp_path / "in", tmp_path / "out", []

    def action():
        runs.append(given.read_text())
        made.write_text("done")
        return {"runs": len(runs)}

    def run(setting):
        return run_stage(tmp_path / "stamp", action, {"setting": setting}, [given], [made])

    given.write_text("a")
    assert run(1) and not run(1)
    given.write_text("b")
    assert run(1) and not run(1)
    assert run(2) and not run(2)
    made.unlink()
    assert run(2) and runs == ["a", "b", "b", "b"]
    assert stage_result(tmp_path / "stamp") == {"runs": 4}


def test_a_stage_that_failed_is_not_done(tmp_path):
    made = tmp_path / "out"

    def fail():
        made.write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage(tmp_path / "stamp", fail, {}, [], [made])
    assert run_stage(tmp_path / "stamp", lambda: made.write_text("whole"), {}, [], [made])
    assert made.read_text() == "whole"


def test_a_stage_reads_only_changed_files(tmp_path):
    given, made = tmp_path / "in", tmp_path / "out"

    def run():
        return run_stage(tmp_path / "stamp", lambda: made.write_text("done"), {}, [given], [made])

    given.write_text("a")
    assert run() and not run()
    given.touch()  # a new time, the same content
    assert not run()
    given.write_text("b")
    assert run()
