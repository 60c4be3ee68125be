"""`taskmoe translate`: one line for each line, in order, in all formats, and interactively."""

import math
import select
import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece
import torch
from console import NUM_TEST, generate, hypotheses, refused, run

from fairseq_taskmoe.engines.engine import SearchOptions
from fairseq_taskmoe.engines.open_model import open_model
from fairseq_taskmoe.subnet.folder import Extraction, extract

pytest.importorskip(
    "fairseq_taskmoe.engines.ctranslate2_cpu", reason="the extra `serve` is not installed"
)
SHORT = ("--max-len", 15)
# with characters that end lines elsewhere; the last line has no line end
ODD = "Good day.\r\n\r\n\n \t\nGood\u2028day.\n\u0085\x0bGood\x0c day. \x1e\nGood day."


@pytest.fixture(scope="module")
def folders(share, served):
    """Folders of extracted models, by name."""
    def make(folder):
        folder.mkdir()
        saved = torch.load(served / "stirred.pt", weights_only=False)
        saved["cfg"]["task"]["data"] = "nowhere"  # no SentencePiece model beside it
        torch.save(saved, folder / "nowhere.pt")
        for name, checkpoint, pairs, format in [
            ("fairseq", served / "stirred.pt", ["en-de"], "fairseq"),
            ("taskmoe", served / "stirred.pt", ["en-de"], "taskmoe"),
            ("routed", served / "stirred.pt", ["en-de", "en-ru"], "taskmoe"),
            ("dense", served / "stirred.pt", ["en-de", "ru-de"], "ctranslate2"),
            ("pieces", folder / "nowhere.pt", ["en-de"], "ctranslate2"),
        ]:
            extract(str(checkpoint), pairs, str(folder / name), Extraction(format))

    made = share("translated-models", make)
    return {"ctranslate2": served / "en-de", "checkpoint": served / "stirred.pt",
            **{each.name: each for each in made.iterdir()}}


@pytest.fixture(scope="module")
def text(corpus):
    return (corpus.text / "test.en-de.en").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def fast(folders):
    """Give a function that translates with the format that loads fastest."""
    def translated(stdin, *flags, model="ctranslate2", **options):
        return run("taskmoe", "translate", folders[model], *SHORT, *flags, stdin=stdin, **options)

    return translated


def lines_of(result):
    *lines, rest = result.stdout.split("\n")
    assert (rest, result.stderr) == ("", "")
    return lines


def scored(lines):
    return [(float(score), text) for score, text in (line.split("\t") for line in lines)]


def assert_same(found, expected):
    """Compare pairs of score and text; a few texts may differ, where two are equally good."""
    (scores, texts), (wanted, wanted_texts) = zip(*found, strict=True), zip(*expected, strict=True)
    assert scores == pytest.approx(wanted, abs=1e-4)
    assert num_same(texts, wanted_texts) >= 0.98 * len(texts)


def num_same(texts, others):
    return sum(map(str.__eq__, texts, others))


@pytest.fixture(scope="module")
def generated(served, corpus):
    """The translations of fairseq-generate with the full model: score and text."""
    beam = ("--beam", 4, "--max-len-b", 15)
    found = hypotheses(generate(corpus.data, "en-de", served / "stirred.pt", *beam).stdout)
    spm = sentencepiece.SentencePieceProcessor(model_file=str(corpus.sentencepiece))
    ranked = [found[number] for number in range(NUM_TEST)]  # with scores in bits
    return [(best.score * math.log(2), spm.decode(best.text.split())) for best in ranked]


@pytest.mark.parametrize("format", ["fairseq", "taskmoe", "ctranslate2"])
def test_every_line_has_the_full_models_translation(format, folders, text, generated):
    batching = ("--max-tokens", 150, "--buffer", 40) if format == "taskmoe" else ()
    words = ("taskmoe", "translate", folders[format], *SHORT, "--scores", *batching)
    found = scored(lines_of(run(*words, stdin=text + ODD)))
    odd = [text for _, text in found[NUM_TEST:]]
    assert odd[0] and odd == [odd[0], "", "", "", odd[0], odd[0], odd[0]]
    assert len({score for score, _ in generated}) > NUM_TEST / 2  # a wrong order is detected
    if format != "ctranslate2":  # its search differs
        assert_same(found[:NUM_TEST], generated)
    else:
        texts = ([text for _, text in side[:NUM_TEST]] for side in (found, generated))
        assert num_same(*texts) >= 0.95 * NUM_TEST


@pytest.mark.parametrize("format", ["fairseq", "ctranslate2"])
def test_scores_include_the_end_of_sentence_at_max_len(format, folders, text):
    model = open_model(str(folders[format]), threads=1)
    options = SearchOptions(beam=4, n_best=3, length_penalty=0.7, max_length=3)
    sources = [model.encode(line) for line in text.splitlines()[:9]]
    num_cut = 0
    for source, found in zip(
        sources, model.engine.translate("en-de", sources, options), strict=True
    ):
        scores = [each.score for each in found]
        assert scores == sorted(scores, reverse=True)
        for pieces, score in found:
            num_cut += len(pieces) == 3
            (log_prob,) = model.engine.score("en-de", [source], [pieces])
            assert score == pytest.approx(log_prob / (len(pieces) + 1) ** 0.7, abs=1e-2)
    assert num_cut > 9


def test_batches_change_nothing(fast, text):
    expected = scored(lines_of(fast(text + ODD, "--scores")))
    for flags in (["--max-tokens", 1], ["--max-tokens", 99, "--buffer", 7], ["--buffer", 1]):
        assert_same(scored(lines_of(fast(text + ODD, "--scores", *flags))), expected)


@pytest.mark.parametrize(
    "flag, option, value",
    [("--beam", "beam", 1), ("--lenpen", "length_penalty", 0.1), ("--max-len", "max_length", 3)],
)
def test_flags_reach_the_search(flag, option, value, fast, folders, text):
    model = open_model(str(folders["ctranslate2"]), threads=1)
    usual = SearchOptions(max_length=15)
    found = scored(lines_of(fast(text, "--scores", flag, value)))
    other, same = (
        [(best.score, best.text) for (best,) in model.translate("en-de", text.splitlines(), search)]
        for search in (usual, usual._replace(**{option: value}))
    )
    assert_same(found, same)
    with pytest.raises(AssertionError):
        assert_same(found, other)


def test_scores_and_the_best_ones(fast):
    stdin = "Good day.\n\nClose the window.\n"
    best = scored(lines_of(fast(stdin, "--scores")))
    assert [text for _, text in best] == lines_of(fast(stdin)) and best[1] == (0, "")
    rows = [line.split("\t") for line in lines_of(fast(stdin, "--n-best", 3))]
    assert [number for number, *_ in rows] == ["1"] * 3 + ["2"] + ["3"] * 3
    for line, number in enumerate("123"):
        ranked = [(float(score), text) for n, score, text in rows if n == number]
        assert ranked == sorted(ranked, reverse=True) and len(set(ranked)) == len(ranked)
        assert_same(ranked[:1], [best[line]])


def test_a_model_of_several_directions_needs_the_direction(fast, folders, text):
    for flags in ([], ["--lang-pair", "en-ru"]):
        assert "en-de, ru-de" in refused(fast("", *flags, model="dense", check=False))
    assert fast(text, "--lang-pair", "en-de", model="dense") == fast(text)
    one, routed = (open_model(str(folders[name]), threads=1) for name in ("fairseq", "routed"))
    few, search = text.splitlines()[:9], SearchOptions(max_length=15)
    alone = [best.text for (best,) in one.translate("en-de", few, search)]
    assert alone == [best.text for (best,) in routed.translate("en-de", few, search)]
    assert alone != [best.text for (best,) in routed.translate("en-ru", few, search)]


def test_without_a_sentencepiece_model_text_is_pieces(fast, corpus, text):
    spm = sentencepiece.SentencePieceProcessor(model_file=str(corpus.sentencepiece))
    pieces = "".join(" ".join(spm.encode(line, out_type=str)) + "\n" for line in text.splitlines())
    found = lines_of(fast(pieces, model="pieces"))
    assert [spm.decode(line.split(" ")) for line in found] == lines_of(fast(text))
    assert max(len(line.split(" ")) for line in found) == 15


def test_files(fast, text, tmp_path):
    source, out = tmp_path / "in.txt", tmp_path / "out.txt"
    source.write_text(text, encoding="utf-8")
    flags = ("--input", source, "--output")
    assert fast("not this\n", *flags, out)[1:] == ("", "")
    assert out.read_text(encoding="utf-8") == fast(text).stdout
    out.write_text("mine")
    assert f"{out} exists" in refused(fast("", *flags, out, check=False))
    assert out.read_text() == "mine"
    source.write_bytes(b"one\ntwo\n\xff\n")
    broken = fast("", *flags, tmp_path / "new", "--buffer", 1, check=False)
    assert f"line 3 of {tmp_path}/in.txt is not UTF-8" in refused(broken)
    assert sorted(tmp_path.iterdir()) == [source, out]
    assert "out.txt/new: " in refused(fast("", *flags, out / "new", check=False))


@pytest.mark.slow
def test_output_is_utf8_whatever_the_locale(fast, text, monkeypatch):
    expected = fast(text)
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    assert fast(text) == expected and not expected.stdout.isascii()


class Pipe(subprocess.Popen):
    """`taskmoe translate` with a standard input that stays open."""

    def __init__(self, folder):
        words = [Path(sys.executable).parent / "taskmoe", "translate", folder, "--max-len", "15"]
        super().__init__(words, bufsize=0, stdin=-1, stdout=-1, stderr=-1)  # pipes

    def answer(self, line):
        """Write a line and return its translation, which comes before the next one."""
        self.stdin.write(line)
        assert select.select([self.stdout], [], [], 60)[0]
        return self.stdout.readline()


def test_a_line_is_translated_before_the_next_is_written(folders, fast, text):
    lines = [*text.splitlines(keepends=True)[:3], "\n"]
    with Pipe(folders["ctranslate2"]) as pipe:
        answers = b"".join(pipe.answer(line.encode()) for line in lines)
        assert answers.decode() == fast("".join(lines)).stdout
        assert pipe.communicate(b"and the last one", timeout=60)[0].endswith(b"\n")


@pytest.mark.slow
def test_it_ends_while_its_input_stays_open(folders):
    for line, status, said in ((b"\xff\n", 2, 1), (b"Nobody reads this.\n", 141, 0)):
        with Pipe(folders["ctranslate2"]) as pipe:
            assert pipe.answer(b"Good day.\n")
            pipe.stdout.close()
            pipe.stdin.write(line)
            assert pipe.wait(timeout=60) == status
            assert pipe.stderr.read().count(b"\n") == said


def test_a_closed_output_ends_it_without_a_message(folders):
    command = f"yes Good day. | taskmoe translate {folders['ctranslate2']} --max-len 5 | head -n 1"
    assert len(lines_of(run("bash", "-c", command))) == 1


def test_long_lines_are_refused_or_empty(fast, text):
    lines = text.splitlines()[:3]
    stdin = f"{lines[0]}\n{lines[1] * 20}\n{lines[2]}\n{'Good day. ' * 99}\n"
    line = refused(fast(stdin, check=False))
    assert "line 2 of the input has " in line and "at most 126" in line and "--skip-long" in line
    first, second, third, fourth = lines_of(fast(stdin, "--skip-long"))
    assert (second, fourth) == ("", "")
    assert [first, third] == lines_of(fast(f"{lines[0]}\n{lines[2]}\n"))


def test_sentences_of_a_line_are_translated_one_by_one_and_joined_in_place(fast, text):
    pytest.importorskip("sentencex")
    one, two, three = (line.rstrip(".!?") + "." for line in text.splitlines()[:3])
    alone = lines_of(fast(f"{one}\n{two}\n{three}\n"))
    stdin = f"{one}  {two}\n\n{three}\n  {two} {one} {three}\n{one} " + f"{two} " * 40 + "\n"
    assert lines_of(fast(stdin, "--split-sentences")) == [
        f"{alone[0]}  {alone[1]}", "", alone[2], " ".join([alone[1], alone[0], alone[2]]),
        " ".join([alone[0], *[alone[1]] * 40]),
    ]


def test_a_checkpoint_translates_as_the_model_that_is_extracted_from_it(fast, folders, text):
    checkpoint = folders["checkpoint"]
    before = sorted(checkpoint.parent.iterdir())
    assert fast(text, "-s", "en", "-t", "de", model="checkpoint") == fast(text, model="fairseq")
    assert sorted(checkpoint.parent.iterdir()) == before
    line = refused(fast("", "-s", "en", model="checkpoint", check=False))
    assert "en-de" in line and "en-ru" in line and "name the source" in line


@pytest.mark.parametrize(
    "flags",
    [["--beam", 0], ["--n-best", 0], ["--n-best", 5], ["--max-len", 0], ["--max-tokens", -1],
     ["--buffer", 0], ["--lenpen", "nan"], ["--lenpen", "inf"], ["--threads", -1],
     ["--split-sentences", "--scores"], ["-s", "en", "--lang-pair", "en-de"],
     ["--lang-pair", ""], ["--input", ""], ["--output", ""], ["--lang-pair", "de-en"],
     ["--input", "missing.txt"], ["--beam", "many"], ["--no-such-flag"],
     pytest.param(["--device", "cuda"], marks=pytest.mark.skipif(
         torch.cuda.is_available(), reason="needs a machine without GPU"))],
)
def test_invalid_flags(flags, fast):
    result = fast("Good day.\n", *flags, check=False)
    assert result.returncode == 2 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert " error: " in line and str(flags[-1] or flags[0]) in line
