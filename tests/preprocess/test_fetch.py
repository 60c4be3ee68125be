"""Fetching a corpus: the text is that of the archives, or one line says why not."""

import hashlib
import json
import lzma
import multiprocessing
import random
import re
import shutil
import sys
import time
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from locks import held_by_another_process
from refusals import refusal

pytest.importorskip("pycld2", reason="the extra [data]")
ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # preprocess is not installed
    sys.path.insert(0, str(ROOT))

import miniature_mirror as miniature  # noqa: E402

from preprocess.fetch import fetch, main  # noqa: E402
from preprocess.fetching.download import SizesByHead, key_of, mirror_path  # noqa: E402
from preprocess.fetching.read_pairs import BadArchive, one_line, read_pairs  # noqa: E402
from preprocess.fetching.sources import Archive, read_sources  # noqa: E402
from preprocess.text_files import partial_name  # noqa: E402

WMT30 = ROOT / "examples" / "wmt30" / "sources.yaml"
# with text in a tgz, tmx.gz and zipped tmx, tables, plain zip, held-out sets of both kinds
PAIRS = ("en-fi", "en-hi", "en-ro", "en-gu")


def write_config(path, pairs=PAIRS, change=lambda config: None):
    """Write the configuration of some of WMT-30's pairs, without checksums."""
    config = yaml.safe_load(WMT30.read_text(encoding="utf-8"))
    config = {"pairs": {pair: config["pairs"][pair] for pair in pairs}}
    change(config)
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return write_config(tmp_path_factory.mktemp("config") / "sources.yaml")


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The archives of all of WMT-30."""
    folder = tmp_path_factory.mktemp("mirror")
    miniature.build(WMT30, folder)
    return folder


@pytest.fixture
def folder(built, tmp_path):
    """A copy of built, to be damaged by a test."""
    return Path(shutil.copytree(built, tmp_path / "mirror"))


@pytest.fixture
def faults():
    """Faults of the mirror by path."""
    return {}


@pytest.fixture
def mirror(folder, faults):
    with miniature.serve(folder, faults=faults) as address:
        yield address


def texts(raw):
    """Read all fetched files."""
    return {path.relative_to(raw).as_posix(): path.read_bytes()
            for split in ("train", "valid", "test") for path in (raw / split).rglob("*.*")}


@pytest.fixture(scope="module")
def reference(config, built, tmp_path_factory):
    raw = tmp_path_factory.mktemp("reference")
    with miniature.serve(built) as address:
        fetch(read_sources(config), raw, address)
    return texts(raw)


def refused(capsys, sources, raw, mirror=None):
    """Expect fetching to be refused; return the one line that says so."""
    capsys.readouterr()
    line = refusal(fetch, sources, raw, mirror)
    printed = capsys.readouterr().err.splitlines()
    assert all(re.search(r"\.\.\.$|: done already$|^\[", progress) for progress in printed), printed
    return line


def test_every_format_of_wmt30_is_read(built, tmp_path):
    """Compare all 87 data sets with the table that they were made from."""
    rows = miniature.read_rows()
    sources = read_sources(WMT30)
    with miniature.serve(built) as address:
        numbers = fetch(sources, tmp_path, address)
    kinds = set()
    for part in sources.parts:
        if isinstance(part.source, Archive):
            name, size = mirror_path(key_of(part.source)), 120 if part.split == "train" else 25
            kinds.add((part.source.kind, Path(part.source.file).suffix))
        else:
            name, size = part.source.name, 25
        wanted = miniature.rows_of(rows, part.split, name, size)
        for language, file in zip(part.pair.split("-"), part.files, strict=True):
            lines = (tmp_path / file).read_text(encoding="utf-8").split("\n")
            assert lines.pop() == ""
            assert lines == [row[language].strip() for row in wanted], file
        assert numbers[part.stem] == len(wanted)
    assert kinds == {("text", ".tgz"), ("text", ".tar"), ("text", ".gz"), ("text", ".zip"),
                     ("tsv", ".gz"), ("tsv", ".tgz"), ("tsv", ".zip"), ("tmx", ".gz"),
                     ("tmx", ".zip")}


def test_finished_parts_need_no_server(config, built, tmp_path, capsys):
    sources = read_sources(config)
    with miniature.serve(built) as address:
        fetch(sources, tmp_path, address)
    before = texts(tmp_path)
    capsys.readouterr()
    fetch(sources, tmp_path, address)  # which no longer answers
    assert capsys.readouterr().err.count("done already") == len(sources.parts)
    assert texts(tmp_path) == before


ARCHIVES = {  # one of every kind of download
    "europarl.tsv.gz": "www.statmt.org/europarl/v9/training/europarl-v9.fi-en.tsv.gz",
    "paracrawl.tmx.gz": "paracrawl/release3/en-fi.bicleaner07.tmx.gz",
    "wiki-titles.tgz": "www.statmt.org/wmt14/wiki-titles.tgz",
    "setimes.zip": "OPUS-SETIMES/v2/moses/en-ro.txt.zip",
    "sacrebleu": "data.statmt.org/wmt19/translation-task/test.tgz",
}
FAULTS = {
    "404": "status 404",
    "503": "status 503",
    "web page": "web page",
    "broken off": "broke off",
    "truncated": ("bytes received", "wrong checksum"),
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("archive", ["paracrawl.tmx.gz", "setimes.zip", "sacrebleu"])
def test_a_bad_answer_is_refused_and_the_repaired_server_completes(
    config, mirror, faults, reference, tmp_path, capsys, archive, fault
):
    raw, sources = tmp_path / "raw", read_sources(config)
    faults[ARCHIVES[archive]] = fault
    line = refused(capsys, sources, raw, mirror)
    assert ARCHIVES[archive] in line
    reasons = FAULTS[fault] if isinstance(FAULTS[fault], tuple) else (FAULTS[fault],)
    assert any(reason in line for reason in reasons), line
    kept = texts(raw)
    assert 0 < len(kept) < len(reference)
    assert kept.items() <= reference.items()
    faults.clear()
    fetch(sources, raw, mirror)
    assert texts(raw) == reference


@pytest.mark.parametrize("archive", ["europarl.tsv.gz", "paracrawl.tmx.gz", "wiki-titles.tgz",
                                     "setimes.zip"])
def test_a_truncated_archive_is_detected_without_a_checksum(
    config, folder, mirror, faults, reference, tmp_path, capsys, archive
):
    (folder / "checksums.json").unlink()
    raw, sources = tmp_path / "raw", read_sources(config)
    sources = sources._replace(  # without those of sacreBLEU, which has checksums itself
        parts=[part for part in sources.parts if isinstance(part.source, Archive)]
    )
    faults[ARCHIVES[archive]] = "truncated"
    line = refused(capsys, sources, raw, mirror)
    assert ARCHIVES[archive] in line
    faults.clear()
    fetch(sources, raw, mirror)
    assert texts(raw).items() <= reference.items()


def test_a_checksum_of_the_configuration_counts(folder, mirror, tmp_path, capsys):
    (folder / "checksums.json").unlink()
    key = "https://s3.amazonaws.com/web-language-models/paracrawl/release3/en-fi.bicleaner07.tmx.gz"

    def add(config):
        config["checksums"] = {key: {"sha256": "0" * 64}}

    sources = read_sources(write_config(tmp_path / "sources.yaml", change=add))
    line = refused(capsys, sources, tmp_path / "raw", mirror)
    assert ARCHIVES["paracrawl.tmx.gz"] in line and "expected " + "0" * 64 in line


def test_a_full_disk_during_a_download_is_refused(config, mirror, reference, tmp_path, capsys):
    """Every write to /dev/full fails as on a full disk."""
    raw, sources = tmp_path / "raw", read_sources(config)
    host = raw / "archives" / "s3.amazonaws.com" / "web-language-models"
    full = host / ARCHIVES["paracrawl.tmx.gz"]
    full.parent.mkdir(parents=True)
    partial_name(full).symlink_to("/dev/full")
    line = refused(capsys, sources, raw, mirror)
    assert line == f"{full}: No space left on device"
    fetch(sources, raw, mirror)
    assert texts(raw) == reference


class FullDisk(list):
    """A list of parts; before one of them the disk becomes full."""

    def __init__(self, parts, raw):
        super().__init__(parts)
        self.raw = raw

    def __iter__(self):
        for part in super().__iter__():
            if part.stem == "train/en-fi/paracrawl" and (self.raw / "stages").exists():
                (self.raw / "train/en-fi/paracrawl.fi.partial").symlink_to("/dev/full")
            yield part


def test_a_full_disk_while_writing_text_is_refused(config, mirror, reference, tmp_path, capsys):
    raw, sources = tmp_path / "raw", read_sources(config)
    line = refused(capsys, sources._replace(parts=FullDisk(sources.parts, raw)), raw, mirror)
    assert line == f"{raw}/train/en-fi/paracrawl.fi: No space left on device"
    assert "train/en-fi/europarl.fi" in texts(raw)
    fetch(sources, raw, mirror)
    assert texts(raw) == reference


def replace_member(path, change):
    """Rewrite one of the mirror's archives; change gets its members, by name."""
    members = {}
    with miniature.zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            members[name] = archive.read(name)
    change(members)
    path.write_bytes(miniature.pack(path.name, members))


def shorten(members):
    members["part1.ro"] = members["part1.ro"].partition(b"\n")[2]


def test_unequal_line_counts_are_named(config, folder, mirror, reference, tmp_path, capsys):
    (folder / "checksums.json").unlink()
    check_refusal_and_repair(
        config, folder, mirror, reference, tmp_path, capsys, shorten,
        "setimes of en-ro: *.en has 120 lines, *.ro has 119",
    )


def test_a_missing_language_is_named(config, folder, mirror, reference, tmp_path, capsys):
    (folder / "checksums.json").unlink()
    check_refusal_and_repair(
        config, folder, mirror, reference, tmp_path, capsys,
        lambda members: members.pop("part1.ro"), "setimes of en-ro: it has no *.ro",
    )


def check_refusal_and_repair(
    config, folder, mirror, reference, tmp_path, capsys, change, message
):
    raw, sources = tmp_path / "raw", read_sources(config)
    sources = sources._replace(parts=[p for p in sources.parts if p.split == "train"])
    archive = next(folder.rglob("en-ro.txt.zip"))
    whole = archive.read_bytes()
    replace_member(archive, change)
    line = refused(capsys, sources, raw, mirror)
    assert message in line and ARCHIVES["setimes.zip"] in line
    archive.write_bytes(whole)
    fetch(sources, raw, mirror)
    assert texts(raw).items() <= reference.items()


def test_a_tmx_without_the_language_is_refused(folder, mirror, tmp_path, capsys):
    (folder / "checksums.json").unlink()
    archive = next(folder.rglob("rapid2016.en-fi.tmx.zip"))
    replace_member(archive, lambda members: members.update(
        {name: text.replace(b'"fi"', b'"sv"') for name, text in members.items()}
    ))
    sources = read_sources(write_config(tmp_path / "sources.yaml", ["en-fi"]))
    line = refused(capsys, sources, tmp_path / "raw", mirror)
    assert "rapid2016.en-fi.tmx.zip: rapid of en-fi: it has no units in en and fi" in line


def test_a_table_without_the_column_is_refused(tmp_path):
    path = tmp_path / "table.tsv.xz"
    path.write_bytes(lzma.compress(b"eins\n" * 98 + b"zwei\ttwo\n" * 2))
    table = Archive("http://x/table.tsv.xz", path.name, "tsv", {"de": 0, "en": 1})
    with pytest.raises(BadArchive, match="98 of 100 rows lack column 2"):
        list(read_pairs(path, table, ("en", "de")))
    # one in a hundred rows is accepted, and counted as a pair with empty sides
    path.write_bytes(lzma.compress(b"eins\n" + b"zwei\ttwo\n" * 99))
    assert list(read_pairs(path, table, ("en", "de"))) == [(b"", b""), *[(b"two", b"zwei")] * 99]


def test_files_of_a_killed_run_are_removed_and_unknown_ones_refused(
    config, built, reference, tmp_path, capsys
):
    sources = read_sources(config)
    with miniature.serve(built) as address:
        fetch(sources, tmp_path, address)
        (tmp_path / "train/en-fi/rapid.fi").unlink()
        (tmp_path / "train/en-fi/rapid.en.partial").write_bytes(b"half")
        fetch(sources, tmp_path, address)
        assert texts(tmp_path) == reference
        unknown = tmp_path / "train/en-fi/old.fi"
        unknown.write_bytes(b"x\n")
        assert f"{unknown} belongs to no data set" in refused(capsys, sources, tmp_path, address)


@pytest.mark.slow
def test_only_one_process_fetches_into_a_folder(config, tmp_path, capsys):
    with held_by_another_process(tmp_path / ".lock"):
        line = refused(capsys, read_sources(config), tmp_path)
    assert f"{tmp_path}: another process" in line


def test_archives_to_download_by_hand_are_named(built, tmp_path, capsys):
    sources = read_sources(write_config(tmp_path / "sources.yaml", ["en-cs"]))
    czeng = next(part for part in sources.parts if part.dataset == "czeng")
    only = sources._replace(parts=[czeng])
    line = refused(capsys, only, tmp_path / "raw")
    wanted = tmp_path / "raw/by-hand/czeng17.cs-en.tsv.gz"
    place = "czeng17.cs-en.tsv.gz (from https://ufal.mff.cuni.cz/czeng"
    assert f"{wanted.parent} lacks files that have to be downloaded by hand: {place}" in line
    wanted.parent.mkdir()
    shutil.copy(built / "by-hand" / wanted.name, wanted)
    assert fetch(only, tmp_path / "raw") == {"train/en-cs/czeng": 120}
    wanted.write_bytes(b"<!DOCTYPE html>")
    (tmp_path / "raw/train/en-cs/czeng.cs").unlink()
    assert f"{wanted}: the answer is a web page" in refused(capsys, only, tmp_path / "raw")
    assert wanted.exists()  # files of the user are not removed


def test_all_archives_to_download_by_hand_are_named_before_the_first_download(tmp_path, capsys):
    sources = read_sources(write_config(tmp_path / "sources.yaml", ["en-cs", "en-zh"]))
    line = refused(capsys, sources, tmp_path / "raw")
    assert line.count(" (from http") == 7
    assert all(name in line for name in ("czeng17.cs-en.tsv.gz", "casia2015.zip", "neu2017.zip"))
    assert not list((tmp_path / "raw/archives").rglob("*.*"))


def test_data_sets_can_be_left_out(config, built, tmp_path):
    with miniature.serve(built) as address:
        main([str(config), "--raw", str(tmp_path), "--mirror", address, "--without", "rapid"])
    assert not (tmp_path / "train/en-fi/rapid.fi").exists()
    assert (tmp_path / "train/en-fi/paracrawl.fi").exists()


def broken(change):
    return lambda config: change(config["pairs"]["en-fi"])


def table(**changes):
    """Add a table of two columns to the configuration, of which something is changed."""
    good = {"url": "http://x/a.tsv.gz", "en": 0, "fi": 1}
    return broken(lambda pair: pair["train"].update(x={**good, **changes}))


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda config: config.pop("pairs"), "expected the key pairs"),
        (broken(lambda pair: pair.pop("test")), "en-fi has no test"),
        (broken(lambda pair: pair["train"].update(x={})), "en-fi: x: expected one of the keys"),
        (broken(lambda pair: pair["train"].update(x={"url": "http://x/a.zip", "en": "a"})),
         "en-fi: x: the language fi is missing"),
        (broken(lambda pair: pair.update(test={"sacrebleu": "wmt19", "direction": "de-en"})),
         "direction 'de-en' is none of en-fi"),
        (broken(lambda pair: pair.update(test={"sacrebleu": "wmt05", "direction": "fi-en"})),
         "sacreBLEU has no fi-en of wmt05"),
        (lambda config: config.update(pairs=["en-fi"]), "pairs: ['en-fi'] is not a mapping"),
        (lambda config: config["pairs"].update({5: {}}), "pairs: 5 is not a name"),
        (lambda config: config["pairs"].update({"enfi": {}}), "pairs: enfi: expected a pair"),
        (lambda config: config.update(licences=[]), "licences: [] is not a mapping"),
        (lambda config: config.update(checksums={"http://x": 3}), "checksums: http://x: 3 is not"),
        (lambda config: config.update(checksums={"x": {"size": "3"}}), "x: size: '3' is not"),
        (lambda config: config.update(checksums={"x": {"md5": "3"}}), "x: unknown key 'md5'"),
        (broken(lambda pair: pair.update(train=["a", "b"])), "train: ['a', 'b'] is not a mapping"),
        (broken(lambda pair: pair.update(tests={})), "en-fi: unknown key 'tests'"),
        (broken(lambda pair: pair.update(paper={"train": "many"})), "paper: train: 'many' is not"),
        (broken(lambda pair: pair.update(paper={"test": 0})), "paper: test: 0 is not"),
        (broken(lambda pair: pair["train"].update({3: {}})), "en-fi: train: 3 is not a name"),
        (broken(lambda pair: pair["train"].update({"../a": {}})), "train: '../a' is not the name"),
        (broken(lambda pair: pair["train"].update(x=[1])), "x: expected one of the keys"),
        (table(url=5), "x: url: 5 is not a text"),
        (table(url=""), "x: url: '' is not a text"),
        (table(url="ftp://x/a.zip"), "x: 'ftp://x/a.zip' is not an address"),
        (table(url="http://x/"), "x: http://x/: add the key file"),
        (table(file="../a.zip"), "add the key file"),
        (table(separater=","), "x: unknown key 'separater'"),
        (table(separator=""), "separator: '' is not a text"),
        (table(en=-1), "x: en: -1 is not"),
        (table(en=True), "x: en: True is not"),
        (table(en=["a"]), "x: en: ['a'] is not"),
        (table(en="a.en"), "both must be files, or both columns"),
        (broken(lambda pair: pair.update(test={"sacrebleu": ["x"], "direction": "fi-en"})),
         "en-fi: test: sacrebleu: ['x'] is not a text"),
        (broken(lambda pair: pair.update(test={"sacrebleu": "wmt19", "direction": 5})),
         "direction: 5 is not a text"),
        (broken(lambda pair: pair.update(test={"mtdata": "a"})), "test: expected one of the keys"),
    ],
)
def test_a_wrong_configuration_is_refused(tmp_path, change, message):
    path = write_config(tmp_path / "sources.yaml", change=change)
    line = refusal(read_sources, path)
    assert str(path) in line and message in line


def held_out_only(path):
    sources = read_sources(write_config(path, ["en-fi"]))
    return sources._replace(parts=sources.parts[-1:])  # newstest2019


def test_a_truncated_archive_of_sacrebleu_is_downloaded_again(mirror, folder, tmp_path):
    """sacreBLEU itself neither checks nor unpacks an existing file."""
    raw, sources = tmp_path / "raw", held_out_only(tmp_path / "sources.yaml")
    half = raw / "archives/sacrebleu/wmt19/raw/wmt19.test.tgz"
    half.parent.mkdir(parents=True)
    half.write_bytes((folder / ARCHIVES["sacrebleu"]).read_bytes()[:500])
    fetch(sources, raw, mirror)
    assert len((raw / "test/en-fi.fi").read_text(encoding="utf-8").splitlines()) == 25


def test_a_held_out_set_of_unequal_sides_is_refused(mirror, folder, tmp_path, capsys):
    archive = folder / ARCHIVES["sacrebleu"]
    whole = archive.read_bytes(), (folder / "checksums.json").read_text()
    text = b"<doc>\n<seg id=\"1\">yksi</seg>\n</doc>\n"
    archive.write_bytes(miniature.pack(archive.name, {
        "sgm/newstest2019-fien-src.fi.sgm": text,
        "sgm/newstest2019-fien-ref.en.sgm": text.replace(b"</doc>", b"<seg id=\"2\">two</seg>\n"),
    }))
    checksums = json.loads((folder / "checksums.json").read_text())
    checksums[ARCHIVES["sacrebleu"]]["md5"] = hashlib.md5(archive.read_bytes()).hexdigest()
    (folder / "checksums.json").write_text(json.dumps(checksums))
    sources = held_out_only(tmp_path / "sources.yaml")
    line = refused(capsys, sources, tmp_path / "raw", mirror)
    assert ARCHIVES["sacrebleu"] in line
    assert "fi-en has 1 source sentences and 2 references" in line
    archive.write_bytes(whole[0])
    (folder / "checksums.json").write_text(whole[1])
    assert fetch(sources, tmp_path / "raw", mirror) == {"test/en-fi": 25}


SENTENCES = st.text(st.characters(exclude_characters="\n", codec="utf-8"), max_size=8)


@given(st.lists(st.tuples(SENTENCES, SENTENCES), min_size=1, max_size=8))
def test_no_line_is_lost_or_shifted_whatever_is_in_it(tmp_path_factory, pairs):
    """Carriage returns, U+2028 and similar characters do not end a line."""
    folder = tmp_path_factory.mktemp("archive")
    sides = [[side.encode() for side in column] for column in zip(*pairs, strict=True)]
    members = {name: b"".join(line + b"\n" for line in side)
               for name, side in zip(("a.de", "a.en"), sides, strict=True)}
    expected = [(one_line(second), one_line(first)) for first, second in zip(*sides, strict=True)]
    for name in ("a.zip", "a.tgz", "a.tar"):
        (folder / name).write_bytes(miniature.pack(name, members))
        archive = Archive(f"http://x/{name}", name, "text", {"de": "a.de", "en": "a.en"})
        assert list(read_pairs(folder / name, archive, ("en", "de"))) == expected


def test_an_unreachable_server_is_asked_for_sizes_once(mirror, folder, monkeypatch):
    sizes = SizesByHead()
    assert sizes.size(f"{mirror}/checksums.json") == (folder / "checksums.json").stat().st_size
    assert sizes.size(f"{mirror}/nothing") is None
    assert sizes.size("http://127.0.0.1:9/a") is None and "127.0.0.1" in sizes.unreachable


def test_a_fetch_killed_at_ten_moments_ends_as_an_uninterrupted_one(
    config, built, reference, tmp_path
):
    context = multiprocessing.get_context("fork")  # no imports: the kills hit the fetching
    moments, unfinished = random.Random(7), 0
    sources, raw = read_sources(config), tmp_path / "raw"
    with miniature.serve(built) as address:
        started = time.monotonic()
        fetch(sources, tmp_path / "timed", address)
        duration = time.monotonic() - started
        for kill in range(10):
            process = context.Process(target=fetch, args=(sources, raw, address))
            process.start()
            time.sleep(moments.uniform(0.0, duration / 2))
            process.kill()
            process.join()
            present = texts(raw)
            unfinished += present.keys() != reference.keys()
            for part in sources.parts:
                if (raw / "stages" / f"{part.stem.replace('/', '.')}.txt").exists():
                    for name in part.files:
                        assert present[name] == reference[name], (kill, name)
        fetch(sources, raw, address)
    assert unfinished >= 5
    assert texts(raw) == reference
