"""`taskmoe bench subnet` measures equal work, compares translations, and refuses what fails."""

import argparse
import json
import sys

import pytest
from console import run, stir
from refusals import refusal

from fairseq_taskmoe.benchmarks.evaluate import timed
from fairseq_taskmoe.benchmarks.subnet_compare import best_texts, share_identical, share_tied
from fairseq_taskmoe.benchmarks.subnet_runs import STARTER, Run, last_words
from fairseq_taskmoe.benchmarks.subnet_work import Sentences, Work
from fairseq_taskmoe.errors import Refusal
from fairseq_taskmoe.serving.engine import Tags
from fairseq_taskmoe.verbs import bench_subnet

VARIANTS = ["full", "fairseq", "float32", "int8", "int8_trimmed"]
SENTENCES = Sentences(
    [["a"], ["b"], ["c"]], Tags(["__de__"], []), frozenset({"__de__", "__en__"}), False
)
WORK = Work("data", "model.pt", "en-de")


class Lengths:
    """An engine to whom a translation is the more probable the longer it is."""

    def score(self, lang_pair, sources, targets):
        return [-1.0 / (1 + len(target)) for target in targets]


def parse(flags):
    parser = argparse.ArgumentParser()
    bench_subnet.add_arguments(parser)
    return parser.parse_args(flags)


def test_the_speed_is_what_fairseq_generate_says(tmp_path):
    out = tmp_path / "out"
    out.write_text("H-0\t-1.0\tTranslated\n")
    (tmp_path / "out.log").write_text(
        "INFO | Translated 1,012 sentences (26,312 tokens) in 0.0s "
        "(34567.12 sentences/s, 890123.45 tokens/s)\n"
    )
    assert last_words(out) == (1012, 26312, 890123.45)
    (tmp_path / "out.log").write_text("INFO | loading model(s)\n")
    with pytest.raises(Refusal, match="in how many seconds"):
        last_words(out)


def test_a_process_does_not_answer_for_the_memory_of_who_measures_it(tmp_path):
    held = bytearray(300 * 2**20)
    took = tmp_path / "took"
    command = [sys.executable, STARTER, "variant", "small", str(tmp_path), str(took)]
    timed([*command, sys.executable, "-c", "open('here', 'w')"], tmp_path / "out", threads=1)
    assert json.loads(took.read_text())["peak_bytes"] < len(held) / 3
    assert (tmp_path / "here").exists()


def test_a_process_that_fails_is_refused(tmp_path):
    command = [sys.executable, STARTER, "variant", "small", str(tmp_path), str(tmp_path / "took")]
    failing = [*command, sys.executable, "-c", "exit('bad news')"]
    line = refusal(timed, failing, tmp_path / "out", threads=1)
    assert "variant small ended with status 1: bad news" in line


def test_translations_are_compared_without_tags():
    full = {0: "x y", 1: "x __en__", 2: "z"}
    assert share_identical({0: "x __de__ y", 1: "x", 2: "u v"}, full, SENTENCES) == 2 / 3
    assert share_identical({0: "x y", 1: "x"}, full, SENTENCES) == 2 / 3
    judge = Lengths()
    assert share_tied({0: "u v", 1: "u v w", 2: "z"}, full, SENTENCES, WORK, judge) == 1 / 3


def test_hypotheses_that_were_cut_off_are_ranked_with_their_end():
    found = Run(1.0, 1.0, 1, 1, {0: ["x", "y z"], 2: ["u v", "w"]})
    assert best_texts(found, SENTENCES, WORK, None) == {0: "x", 2: "u v"}
    assert best_texts(found, SENTENCES, WORK, Lengths()) == {0: "y z", 2: "u v"}


@pytest.mark.parametrize(
    "flags,named",
    [
        ("--path model.pt --data bin", "--lang-pair"),
        ("--path model.pt --data bin --lang-pair en-de --arch tiny", "--arch tiny"),
        ("--references test.de", "--references test.de"),
        ("--lang-pair ende", "--lang-pair ende"),
        ("--lang-pair de-fr", "--lang-pair de-fr"),
        ("--quantizations int7", "int7"),
        ("--variants full,int16", "--variants int16"),
        ("--beam 0", "--beam 0"),
        ("--output-length 0", "--output-length 0"),
        ("--out no/such/folder.json", "--out no/such/folder.json"),
    ],
)
def test_what_cannot_be_measured_is_refused(flags, named):
    assert named in refusal(bench_subnet.run, parse(flags.split()))


@pytest.mark.slow
def test_random_models(tmp_path):
    out = tmp_path / "report.json"
    printed = run(
        "taskmoe", "bench", "subnet", "--arch", "tiny", "--moe-expert-count", 4, "--vocab-size",
        2000, "--sentences", 10, "--output-length", 7, "--max-tokens", 300, "--threads", 1,
        "--repeats", 1, "--out", out,
    ).stdout
    report = json.loads(out.read_text())
    rows = report["variants"]
    assert list(rows) == VARIANTS
    assert {row["pieces"] for row in rows.values()} == {10 * 7}
    assert rows["fairseq"]["identical"] == 1 and rows["float32"]["identical"] > 0.8
    assert rows["full"]["bytes"] > rows["float32"]["bytes"] > rows["int8"]["bytes"]
    assert rows["int8"]["bytes"] > rows["int8_trimmed"]["bytes"] > 0
    assert rows["full"]["parameters"] > rows["fairseq"]["parameters"]
    assert rows["fairseq"]["parameters"] > rows["int8"]["parameters"]  # padding included
    assert 300 < rows["int8_trimmed"]["vocabulary"] < rows["int8"]["vocabulary"] == 2004
    # no torch in there
    assert 2e7 < rows["int8"]["peak_bytes"] < rows["full"]["peak_bytes"] / 3
    assert all(row["load_seconds"] > 0 for row in rows.values())
    assert all(row["extraction_seconds"] > 0 for name, row in rows.items() if name != "full")
    assert rows["full"]["extraction_seconds"] is None and "extraction: at most" in printed
    ratio = rows["int8"]["tokens_per_second"] / rows["full"]["tokens_per_second"]
    assert rows["int8"]["speed_of_full"] == ratio and rows["full"]["speed_of_full"] == 1
    assert report["settings"]["num_experts"] == 4 and "bleu" not in rows["full"]
    assert "int8_trimmed" in printed and "10 sentences of en-de" in printed


@pytest.mark.slow
def test_a_model_of_ones_own(corpus, train, tmp_path):
    trained = train("for-bench-subnet", "--max-update", 5, "--decoder-langtok")
    model = stir(trained, tmp_path / "model.pt")
    flags = [
        "--path", str(model), "--data", str(corpus.data), "--lang-pair", "de-en", "--gen-subset",
        "valid", "--beam", "2", "--threads", "1", "--repeats", "1",
    ]
    few = tmp_path / "few"
    few.write_text("one line\n")
    line = refusal(bench_subnet.run, parse([*flags, "--references", str(few)]))
    assert "1 lines for the 40 sentences" in line
    out = tmp_path / "report.json"
    printed = run(
        "taskmoe", "bench", "subnet", *flags, "--references", corpus.text / "valid.en-de.en",
        "--variants", "full,fairseq,float32,int8_trimmed", "--out", out,
    ).stdout
    rows = json.loads(out.read_text())["variants"]
    full = rows["full"]
    assert full["pieces"] == rows["fairseq"]["pieces"]
    assert rows["fairseq"]["identical"] + rows["fairseq"]["tied"] > 0.95
    assert rows["float32"]["identical"] + rows["float32"]["tied"] > 0.9
    assert rows["float32"]["pieces"] == pytest.approx(full["pieces"], rel=0.05)
    assert full["chrf"] > 0 and abs(rows["float32"]["chrf_difference"]) < 1
    assert "BLEU" in printed and "state of training" in printed
