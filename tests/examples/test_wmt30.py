"""The recipe of the paper's WMT experiments, on a miniature mirror of its data."""

import bisect
import contextlib
import multiprocessing
import os
import random
import runpy
import signal
import sys
import time
from pathlib import Path

import pytest
import sentencepiece
import yaml
from fairseq.data import Dictionary
from fairseq.data.indexed_dataset import MMapIndexedDataset
from refusals import refusal

pytest.importorskip("pycld2", reason="the extra [data]")
ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # preprocess and examples are not installed
    sys.path.insert(0, str(ROOT))

import miniature_mirror as miniature  # noqa: E402

from examples.wmt30 import prepare  # noqa: E402
from preprocess import binarize, fetch, sentencepiece_model  # noqa: E402
from preprocess.config import load_config  # noqa: E402
from preprocess.fetching.sources import Archive, read_sources  # noqa: E402
from preprocess.manifest import language_classes  # noqa: E402
from preprocess.text_files import read_lines, write_lines  # noqa: E402

WMT30 = ROOT / "examples" / "wmt30"
SMALL = {"vocab_size": 2000, "sample_lines": 20000, "sentencepiece_threads": 1, "shards": 1,
         "chunk_lines": 50}


@pytest.fixture(scope="module")
def sources():
    return read_sources(WMT30 / "sources.yaml")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mirror")
    miniature.build(WMT30 / "sources.yaml", folder)
    return folder


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The recipe's configuration, with a vocabulary that fits the miniature text."""
    config = yaml.safe_load((WMT30 / "corpus.yaml").read_text(encoding="utf-8"))
    path = tmp_path_factory.mktemp("config") / "corpus.yaml"
    path.write_text(yaml.safe_dump({**config, **SMALL}), encoding="utf-8")
    return path


def test_the_corpus_is_the_papers(sources):
    """Languages, counts and classes of table 3; SentencePiece 64k, T = 5."""
    config = load_config(WMT30 / "corpus.yaml")
    assert (config.vocab_size, config.temperature) == (64000, 5)
    assert config.all_pairs == list(sources.expected) and config.zero_shot_pairs == ["fr-de"]
    published = {pair: sources.expected[pair]["train"] for pair in config.pairs}
    assert round(sum(published.values()) / 1e6, 1) == 200.5
    classes = yaml.safe_load("\n".join(language_classes(config, published)))
    by_class = [[code for code in classes if classes[code]["class"] == name]
                for name in ("high", "low")]
    assert by_class == ["cs fr ru zh es fi de et".split(), "lv lt ro hi kk tr gu".split()]
    assert sources.expected["fr-de"] == {"year": "WMT19", "valid": 1512, "test": 1701}


def test_every_data_set_has_a_licence_and_every_checksum_a_data_set(sources):
    archives = {prepare.key_of(part.source)
                for part in sources.parts if isinstance(part.source, Archive)}
    assert set(sources.checksums) <= archives
    assert {part.dataset for part in sources.parts} == set(sources.licences)
    assert all(len(known["sha256"]) == 64 for known in sources.checksums.values())


def test_the_multi_parallel_set_is_encoded_as_the_corpus_is(tmp_path):
    """The same sentences for all pairs, encoded with an existing model and dictionary."""
    config, raw, data = WMT30 / "multi_parallel.yaml", tmp_path / "raw", tmp_path / "data-bin"
    pairs = load_config(WMT30 / "corpus.yaml").pairs
    miniature.build(config, tmp_path / "mirror")
    with miniature.serve(tmp_path / "mirror") as address:
        fetch.main([str(config), "--raw", str(raw), "--mirror", address])
    english = read_lines(raw / "test" / "en-cs.en")
    text = tmp_path / "some.txt"
    write_lines(text, [line for row in miniature.read_rows()[:300] for line in row.values()])
    sentencepiece_model.main([f"all={text}", "--out", str(tmp_path), "--vocab-size", "3000"])
    model, dictionary = tmp_path / "spm.model", tmp_path / "dict.txt"
    binarize.main([str(raw), "--pairs", *pairs, "--out", str(data), "--dict", str(dictionary),
                   "--sentencepiece-model", str(model)])
    words = Dictionary.load(str(dictionary))
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(model))
    for pair in pairs:
        assert read_lines(raw / "test" / f"{pair}.en") == english and len(english) == 25
        assert (data / f"valid.{pair}.en.bin").exists()
        for language in pair.split("-"):
            stored = MMapIndexedDataset(str(data / f"test.{pair}.{language}"))
            lines = read_lines(raw / "test" / f"{pair}.{language}")
            for line, tokens in zip(lines, stored, strict=True):
                encoded = words.encode_line(" ".join(pieces.encode_as_pieces(line)),
                                            add_if_not_exist=False)
                assert tokens.equal(encoded.to(tokens.dtype))


def test_a_dry_run_lists_all_that_would_be_downloaded(sources, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # offline
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    prepare.main(["--dry-run"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["MB", "licence", "address", "used", "for"]
    assert lines[-1] == "61 archives, 14.4 GB and 27 of unknown size"
    for part in sources.parts:
        assert any(part.stem in line.split() for line in lines), part
    (common_crawl,) = [line for line in lines if "training-parallel-commoncrawl.tgz" in line]
    assert common_crawl.startswith("918.3 ") and "Common Crawl's terms of use" in common_crawl
    (czeng,) = [line for line in lines if "czeng17" in line]
    assert czeng.startswith("unknown ") and "by hand from https://ufal.mff.cuni.cz" in czeng
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("faults, total", [({}, "0.0"), ({"/checksums.json": "404"}, "14.4")])
def test_a_dry_run_asks_the_mirror_for_sizes(built, capsys, faults, total):
    """It has the files to download by hand; without checksums.json, its files are the originals."""
    with miniature.serve(built, faults=faults) as address:
        prepare.main(["--dry-run", "--mirror", address])
    _, *lines, last = capsys.readouterr().out.splitlines()
    assert last == f"61 archives, {total} GB and 0 of unknown size"
    assert all(f" {address}/" in line for line in lines)
    assert any(f"{address}/by-hand/czeng17.cs-en.tsv.gz" in line for line in lines)
    assert sum(line.startswith("0.0 ") for line in lines) >= 27


def test_a_dry_run_lists_all_archives_of_a_held_out_set(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # offline
    held_out = {"sacrebleu": "iwslt17/tst2015", "direction": "en-fr"}
    (tmp_path / "sources.yaml").write_text(
        yaml.safe_dump({"pairs": {"en-fr": {"valid": held_out, "test": held_out}}})
    )
    (tmp_path / "corpus.yaml").write_text("pairs: [en-fr]\n")
    prepare.main(["--dry-run", *(f"--{name}={tmp_path}/{name}.yaml"
                                 for name in ("sources", "corpus"))])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "6 archives, 0.0 GB and 6 of unknown size"
    assert sum("valid/en-fr test/en-fr" in line for line in lines) == 6


def test_pairs_that_only_one_file_has_are_refused(tmp_path):
    corpus = tmp_path / "corpus.yaml"
    corpus.write_text("pairs: [en-cs, en-xx]\n")
    line = refusal(prepare.main, ["--corpus", str(corpus)])
    assert f"{corpus} and {WMT30 / 'sources.yaml'}: only one of them has the pair en-de" in line


def command(small, address, folder):
    options = ["--corpus", small, "--raw", folder / "raw", "--out", folder / "out",
               "--mirror", address, "--workers", "2"]
    return [str(WMT30 / "prepare.py"), *map(str, options)]


def start(arguments):
    """Run the command in a process with its own process group; return the process and its output.

    Forked: the imports would take longer than the work itself.
    """
    output, end = os.pipe()
    context = multiprocessing.get_context("fork")
    process = context.Process(target=prepare_into, args=(end, arguments))
    process.start()
    os.close(end)
    return process, os.fdopen(output, encoding="utf-8")


def prepare_into(output, arguments):
    os.setsid()
    for standard in (1, 2):
        os.dup2(output, standard)
    sys.stdout = sys.stderr = os.fdopen(output, "w", buffering=1, encoding="utf-8")
    sys.argv = arguments
    runpy.run_path(arguments[0], run_name="__main__")


class Timeline:
    """The steps of a preparation and their start times, from its output."""

    def __init__(self, output):
        self.lines, self.starts, self.times = [], [], []
        for line in output:
            self.lines.append(line)
            if line.endswith(" ...\n"):
                self.starts.append(line.removesuffix(" ...\n"))
                self.times.append(time.monotonic())
        self.end = time.monotonic()

    def moments(self, number, chance):
        """Draw sorted moments; yield the index of the running step and the time since its start."""
        for moment in sorted(chance.uniform(self.times[0], self.end) for _ in range(number)):
            last = bisect.bisect_right(self.times, moment) - 1
            yield last, moment - self.times[last]

    def wait_for(self, start, output):
        """Read the output of another run until it starts this step, or a later one, or skips it."""
        reached = set(self.starts[start:])
        for line in output:
            if line.removesuffix(" ...\n") in reached or line.partition(": ")[0] in reached:
                return


def killed(process, with_workers):
    """Kill a preparation; return whether it was still running."""
    with contextlib.suppress(ProcessLookupError):
        if with_workers:
            os.killpg(process.pid, signal.SIGKILL)
        else:  # the workers run until they notice the end of their parent
            process.kill()
    process.join()
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def results(folder):
    """Read all results."""
    left = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        ours = name.parts[:2] not in (("raw", "archives"), ("out", "work"))
        if path.is_file() and ours and path.name not in ("preprocess.log", ".lock"):
            left[str(name)] = path.read_bytes()
    return left


@pytest.mark.slow
def test_a_preparation_killed_at_ten_moments_ends_as_an_uninterrupted_one(built, small, tmp_path):
    """From the mirror to data-bin. SEED=... in the environment repeats the moments of a run."""
    seed = os.environ.get("SEED", str(random.SystemRandom().randrange(10**6)))
    print(f"SEED={seed}")
    with miniature.serve(built) as address:
        whole, output = start(command(small, address, tmp_path / "whole"))
        timeline = Timeline(output)
        whole.join()
        assert whole.exitcode == 0, timeline.lines[-5:]
        reference = results(tmp_path / "whole")
        arguments, kills = command(small, address, tmp_path / "killed"), 0
        for number, (begun, seconds) in enumerate(timeline.moments(10, random.Random(seed))):
            process, output = start(arguments)
            timeline.wait_for(begun, output)
            process.join(seconds)
            kills += killed(process, with_workers=bool(number % 2))
            print(f"{seconds:.2f} s after {timeline.starts[begun]}: {process.exitcode}")
        last, output = start(arguments)
        lines = output.readlines()
        last.join()
        assert last.exitcode == 0, lines[-5:]
    assert kills >= 5
    assert results(tmp_path / "killed") == reference
    assert {"out/spm.model", "out/data-bin/train.en-gu.gu.bin", "out/text/test.fr-de.fr",
            "raw/train/en-de/europarl.en"} <= set(reference)
