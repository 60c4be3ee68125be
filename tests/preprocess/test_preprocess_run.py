"""The whole preparation of a corpus: its results, after kills, and on bad input."""

import gzip
import json
import multiprocessing
import os
import random
import resource
import signal
import sys
import time
from collections import Counter
from functools import partial
from itertools import groupby
from pathlib import Path

import pytest
import yaml
from console import TRAIN, logged, read_table, run
from locks import held_by_another_process
from refusals import refusal

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # preprocess is not installed
    sys.path.insert(0, str(ROOT))

from preprocess.cleaning import clean, identify, rules, sentence_keys  # noqa: E402
from preprocess.config import load_config  # noqa: E402
from preprocess.run import STEPS, main, prepare  # noqa: E402
from preprocess.text_files import read_lines, write_lines  # noqa: E402

CONFIG = {
    "pairs": ["en-de", "en-ru"],
    "zero_shot_pairs": ["de-ru"],
    "vocab_size": 300,
    "sample_lines": 600,
    "shards": 2,
    "high_resource_pairs": 560,
    "chunk_lines": 40,
}


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    """A corpus of two data sets a pair, one of them zipped, with every kind of bad pair."""
    folder = tmp_path_factory.mktemp("raw")
    rows = [(row["en"], row["de"], row["ru"]) for row in read_table() if all(row.values())]
    held_out, trained = rows[:60], rows[60:]
    for split, part in (("valid", held_out[:30]), ("test", held_out[30:])):
        for pair, columns in (("en-de", (0, 1)), ("en-ru", (0, 2)), ("de-ru", (1, 2))):
            for language, column in zip(pair.split("-"), columns, strict=True):
                write_lines(folder / split / f"{pair}.{language}", [row[column] for row in part])
    for pair, column, count in (("en-de", 1, 300), ("en-ru", 2, 260)):
        first = [(row[0], row[column]) for row in trained[:count]]
        second = [(row[0], row[column]) for row in trained[count - 50 : 2 * count]]
        first[5] = held_out[0][0].upper() + "!", first[5][1]
        second[7] = ("See <b>this</b> file", second[7][1])
        for position, language in enumerate(pair.split("-")):
            path = folder / "train" / pair / f"first.{language}"
            write_lines(path, [row[position] for row in first])
            zipped = path.with_name(f"second.{language}.gz")
            text = "".join(row[position] + "\n" for row in second)
            zipped.write_bytes(gzip.compress(text.encode(), mtime=0))
    return folder


def copied(raw, folder):
    for path in raw.rglob("*"):
        if path.is_file():
            target = folder / path.relative_to(raw)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return folder


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "corpus.yaml"
    path.write_text(yaml.safe_dump(CONFIG))
    return path


@pytest.fixture(scope="module")
def prepared(raw, config, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "out"
    rejected = str(out.with_name("rejected"))
    main([str(config), "--raw", str(raw), "--out", str(out), "--rejected", rejected])
    return out


def contents(out):
    """Return the results of a preparation by file name."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and "work" not in path.parts
    }


def test_the_results_of_a_preparation(prepared, raw):
    manifest = json.loads((prepared / "manifest.json").read_text())
    german = manifest["pairs"]["en-de"]
    assert german["clean"]["first"]["lines"] == 300
    assert german["clean"]["second"]["dropped"]["markup"] == 1
    assert german["dedup"]["first"]["held out"] >= 1
    # the second begins with the first's last 50 pairs
    assert german["dedup"]["second"]["duplicates"] >= 40
    kept = sum(one["kept"]["lines"] for one in german["dedup"].values())
    assert kept == len(read_lines(prepared / "text" / "train.en-de.de"))
    assert german["encoded"]["train"]["lines"] == kept
    stored = [german["data-bin"][f"shard0{n}"]["train.en-de.de"]["sentences"] for n in (0, 1)]
    assert sum(stored) == kept and abs(stored[0] - stored[1]) <= 1
    assert manifest["settings"]["vocab_size"] == 300
    assert manifest["sentencepiece"]["pieces"] == len(read_lines(prepared / "dict.txt")) == 297
    languages = yaml.safe_load((prepared / "languages.yaml").read_text())
    assert languages["de"] == {"train_pairs": kept, "class": "low" if kept <= 560 else "high"}
    assert set(languages) == {"de", "ru"}
    for split in ("valid", "test"):  # no line lost, zero-shot pairs too
        for pair in ("en-de", "de-ru"):
            for side in pair.split("-"):
                copy = prepared / "text" / f"{split}.{pair}.{side}"
                assert copy.read_bytes() == (raw / split / f"{pair}.{side}").read_bytes()


@pytest.mark.parametrize("pair, name", [("en-de", "first"), ("en-de", "second")])
def test_dropped_pairs_are_written_by_rule(pair, name, prepared):
    manifest = json.loads((prepared / "manifest.json").read_text())
    dropped = {rule: min(count, 100) for rule, count
               in manifest["pairs"][pair]["clean"][name]["dropped"].items() if count}
    rows = [line.split("\t") for line
            in read_lines(prepared.with_name("rejected") / f"{pair}.{name}.tsv")]
    assert Counter(rule for rule, _, _ in rows) == dropped
    if name == "second":
        assert ["See <b>this</b> file"] == [row[1] for row in rows if row[0] == "markup"]


def test_no_training_sentence_is_in_a_test_set(prepared):
    held_out = {
        line.lower()
        for path in (prepared / "text").glob("*.en-*.en")
        if not path.name.startswith("train")
        for line in read_lines(path)
    }
    trained = read_lines(prepared / "text" / "train.en-de.en")
    trained += read_lines(prepared / "text" / "train.en-ru.en")
    assert not held_out & {line.lower() for line in trained}


def test_a_rule_that_drops_most_of_a_data_set_is_named(raw, tmp_path, capsys):
    """At the end, also if all is done already; not if the language code names the script."""
    path = tmp_path / "corpus.yaml"
    for pair, heavy in (("en-ru_Latn", True), ("en-rus_Cyrl", False)):
        for split, name in (("train", "/a"), ("valid", ""), ("test", "")):
            for language, original in zip(pair.split("-"), ("en", "ru"), strict=True):
                lines = read_lines(raw / "test" / f"en-ru.{original}")
                write_lines(tmp_path / split / f"{pair}{name}.{language}", lines)
        path.write_text(yaml.safe_dump({"pairs": [pair]}))
        for _ in range(2):
            out = ["--raw", str(tmp_path), "--out", str(tmp_path / pair), "--steps", "clean"]
            main([str(path), *out])
            warnings = [line for line in capsys.readouterr().err.splitlines() if "warn" in line]
            wanted = f"warning: {pair} a: the rule 'script' dropped 100 % of 30 pairs"
            assert warnings == [wanted] * heavy


def test_a_second_run_does_nothing(prepared, raw, config, capsys):
    before = {path: path.stat().st_mtime_ns for path in prepared.rglob("*.bin")}
    capsys.readouterr()
    main([str(config), "--raw", str(raw), "--out", str(prepared)])
    assert "clean.en-de.first: done already" in capsys.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in prepared.rglob("*.bin")}


@pytest.mark.parametrize(
    "module, step", [(identify, "clean"), (rules, "clean"), (sentence_keys, "dedup")]
)
def test_changed_code_runs_the_step_again(raw, config, tmp_path, capsys, monkeypatch, module, step):
    arguments = [str(config), "--raw", str(raw), "--out", str(tmp_path / "out")]
    arguments += ["--steps", "clean,dedup"]
    main(arguments)
    changed = tmp_path / "changed.py"
    changed.write_bytes(Path(module.__file__).read_bytes() + b"# more\n")
    monkeypatch.setattr(module, "__file__", str(changed))
    capsys.readouterr()
    main(arguments)
    said = capsys.readouterr().err
    dataset = ".second" if step == "clean" else ""
    assert f"{step}.en-ru{dataset} ...\n" in said and "copy.test.en-ru: done already\n" in said
    assert f"{step}.en-ru{dataset}: done already" not in said


@pytest.mark.slow
def test_fairseq_trains_on_two_shards(prepared, tmp_path):
    data = f"{prepared}/data-bin/shard00:{prepared}/data-bin/shard01"
    trained = run(
        "fairseq-train", data, *TRAIN, "--langs", "de,en,ru", "--max-epoch", 2, "--max-tokens",
        12000, "--save-dir", tmp_path, "--disable-validation", "--no-save",
    )  # fmt: skip
    losses = logged(trained.said, "loss")
    assert losses[-1] < losses[0]
    loaded = [
        shard
        for line in trained.said.splitlines()
        for shard in ("shard00", "shard01")
        if "examples from" in line and f"{shard}/train.en-de.en" in line
    ]
    assert [shard for shard, _ in groupby(loaded)][:2] == ["shard00", "shard01"]


def killed_at_random(action, num_kills, longest, rng):
    """Start action in a process, kill it, start it again, and at last let it end."""
    context = multiprocessing.get_context("fork")
    kills = 0
    while True:
        process = context.Process(target=action)
        process.start()
        if kills < num_kills:
            process.join(rng.uniform(0.02, longest))
        else:
            process.join()
        if process.exitcode is not None:
            return kills, process.exitcode
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        kills += 1


@pytest.mark.slow
@pytest.mark.parametrize("workers, seed", [(1, 1), (2, 2)])
def test_killed_at_random_moments(prepared, raw, config, tmp_path, workers, seed):
    """Whatever the moments, the files are those of an uninterrupted run, byte for byte."""
    settings = load_config(config)

    def action(out="out"):
        sys.stderr = sys.stdout = open(os.devnull, "w")  # noqa: SIM115
        prepare(settings, raw, tmp_path / out, workers)

    # measured: a fixed time could be longer than the whole run on a fast machine
    started = time.monotonic()
    killed_at_random(partial(action, "uninterrupted"), 0, 0.0, random.Random(seed))
    duration = time.monotonic() - started
    kills, exitcode = killed_at_random(action, 10, duration / 4, random.Random(seed))
    assert exitcode == 0 and kills >= 3
    expected, found = contents(prepared), contents(tmp_path / "out")
    assert sorted(found) == sorted(expected)
    assert [name for name in expected if found[name] != expected[name]] == []


def test_an_interrupted_step_repeats_the_data_set_that_it_was_at(
    raw, config, tmp_path, monkeypatch, capsys
):
    settings, out = load_config(config), tmp_path / "out"
    clean_chunk = clean.clean_chunk

    def interrupted(cleaner, chunk):
        if chunk.paths and chunk.paths[0].name == "second.en.gz" and chunk.first_line:
            raise KeyboardInterrupt
        return clean_chunk(cleaner, chunk)

    monkeypatch.setattr(clean, "clean_chunk", interrupted)
    with pytest.raises(KeyboardInterrupt):
        prepare(settings, raw, out, steps=["clean"])
    assert not list(out.rglob("second.*")) and not list(out.rglob("*.partial"))
    monkeypatch.undo()
    capsys.readouterr()
    prepare(settings, raw, out, steps=["clean"])
    said = capsys.readouterr().err
    assert "clean.en-de.first: done already" in said and "clean.en-de.second ..." in said


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda raw: cut(raw / "train/en-de/first.de", -30), "first.de has 299"),
        (lambda raw: (raw / "train/en-ru/first.ru").unlink(), "first.ru: no such file"),
        (lambda raw: (raw / "test/en-ru.ru").unlink(), "test/en-ru.ru: no such file"),
        (lambda raw: cut(raw / "train/en-de/second.de.gz", 900), "second.de.gz: truncated"),
        (
            lambda raw: (raw / "train/en-de/second.en.gz").write_bytes(b"<html>404</html>"),
            "second.en.gz: truncated or damaged",
        ),
        (
            lambda raw: (raw / "valid/en-de.de").write_bytes(b"\xff\n" * 30),
            "valid/en-de.de, line 1: not valid UTF-8",
        ),
        (lambda raw: cut(raw / "valid/en-de.de", 40), "valid/en-de.de has"),
    ],
)
def test_bad_input_is_named_and_work_continues_after_the_repair(
    prepared, raw, config, tmp_path, damage, message
):
    own, out = copied(raw, tmp_path / "raw"), tmp_path / "out"
    damage(own)
    arguments = [str(config), "--raw", str(own), "--out", str(out), "--steps", "clean,dedup"]
    assert message in refusal(lambda: main(arguments))
    copied(raw, own)
    main(arguments)
    expected = contents(prepared / "text")
    assert contents(out / "text") == expected


@pytest.mark.parametrize("limit", [500, 5000, 9000])
def test_a_full_disk_is_reported_in_one_line_and_damages_nothing(
    prepared, raw, config, tmp_path, limit
):
    """With a limit on file sizes a write is cut short and then fails, as on a full disk."""
    arguments = [str(config), "--raw", str(raw), "--out", str(tmp_path / "out")]
    arguments += ["--steps", "clean,dedup,sample,train"]
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        line = refusal(lambda: main(arguments))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert str(tmp_path / "out") in line and "File too large" in line
    main(arguments)
    for name in ("spm.model", "dict.txt", "spm.sample.txt"):
        assert (tmp_path / "out" / name).read_bytes() == (prepared / name).read_bytes()


def test_a_full_disk_during_fairseq_preprocess_is_reported_too(prepared, raw, config, tmp_path):
    arguments = [str(config), "--raw", str(raw), "--out", str(tmp_path / "out"), "--steps"]
    main([*arguments, "clean,dedup,sample,train,encode"])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (3000, hard))
    try:
        line = refusal(lambda: main([*arguments, "binarize"]))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "binarized2/shard00" in line and "File too large" in line
    assert not (tmp_path / "out" / "data-bin").exists()
    main([*arguments, "binarize,manifest"])
    assert contents(tmp_path / "out") == contents(prepared)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"pairs": []}, "needs a list of pairs"),
        ({"pairs": ["ende"]}, "'ende' is no pair"),
        ({"zero_shot_pairs": ["en-de"]}, "named twice"),
        ({"vocabulary": 3}, "unknown setting vocabulary"),
        ({"pairs": ["en-de", "en-../fr"]}, "'en-../fr' is no pair"),
        ({"vocab_size": "big"}, "vocab_size: 'big' is not"),
        ({"vocab_size": 0}, "vocab_size: 0 is not 1 or more"),
        ({"vocab_size": 10**12, "sample_lines": 10**12}, "vocab_size: 1000000000000 is not"),
        ({"shards": 0}, "shards: 0 is not 1 or more"),
        ({"seed": True}, "seed: True is not of type int"),
        ({"temperature": float("nan")}, "temperature: nan is not 0.1 or more"),
        ({"temperature": float("inf")}, "temperature: inf is not 0.1 or more"),
        ({"temperature": 0.0001}, "temperature: 0.0001 is not 0.1 or more"),
        ({"character_coverage": 5}, "character_coverage: 5 is not from 0.98 to 1"),
        ({"character_coverage": 0.9}, "character_coverage: 0.9 is not from 0.98 to 1"),
        ({"sentencepiece_threads": 0}, "sentencepiece_threads: 0 is not from 1 to 1024"),
        ({"sample_lines": 1}, "sample_lines: 1 are too few for a vocab_size of 300"),
        ({"high_resource_pairs": -1}, "high_resource_pairs: -1 is not 0 or more"),
        ({"rules": {"min_script_share": 50}}, "rules: min_script_share: 50 is not from 0 to 1"),
        ({"rules": {"min_letter_share": float("nan")}}, "min_letter_share: nan is not from 0 to 1"),
        ({"rules": {"max_words": -1}}, "rules: max_words: -1 is not 0 or more"),
        ({"rules": {"max_length_ratio": 0.5}}, "max_length_ratio: 0.5 is below 1"),
        ({"rules": {"max_word": 3}}, "rules: unknown setting max_word"),
        ({"rules": {"drop_markup": 3}}, "drop_markup: 3 is not"),
        ({"pairs": ["en-de", "en-fr"]}, "train/en-fr: no training data"),
        (
            {"vocab_size": 100000, "sample_lines": 100000},
            "corpus.yaml: vocab_size: 100000: SentencePiece reports",
        ),
    ],
)
def test_bad_settings_are_refused(raw, tmp_path, change, message):
    path = tmp_path / "corpus.yaml"
    path.write_text(yaml.safe_dump({**CONFIG, **change}))
    arguments = [str(path), "--raw", str(raw), "--out", str(tmp_path / "out")]
    arguments += ["--steps", "clean,dedup,sample,train"]
    line = refusal(lambda: main(arguments))
    assert message in line and (str(path) in line or "no training data" in line)


@pytest.mark.parametrize("text", ["pairs: [", "pairs: 2020-13-45", "- en-de", "", "[" * 2000])
def test_a_file_that_is_no_configuration_is_refused(tmp_path, text):
    path = tmp_path / "corpus.yaml"
    path.write_text(text)
    assert str(path) in refusal(lambda: main([str(path), "--raw", "raw", "--out", "out"]))


@pytest.mark.parametrize(
    "damage", [b"", b"{", b"\xff", b"[]", b"3", b'{"a": 1}', b'{"a": ["x", 1, "00"]}', b"\0" * 99]
)
def test_a_damaged_cache_of_hashes_is_ignored(prepared, raw, config, tmp_path, capsys, damage):
    out = copied(prepared, tmp_path / "out")
    for path in (out / "work" / "stages").glob("*.hashes"):
        path.write_bytes(damage)
    main([str(config), "--raw", str(raw), "--out", str(out), "--steps", "clean,dedup,sample,train"])
    said = capsys.readouterr().err
    assert "done already" in said and "..." not in said


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff", b"\0" * 99])
def test_stamps_damaged_by_a_crash_are_detected(
    prepared, raw, config, tmp_path, damage
):
    out = copied(prepared, tmp_path / "out")
    for path in (out / "work" / "stages").glob("c*.*"):
        header, _, rest = path.read_bytes().partition(b"\n")
        path.write_bytes(header + b"\n" + rest[: len(rest) // 2] + damage + b"\n")
    main([str(config), "--raw", str(raw), "--out", str(out)])
    assert contents(out) == contents(prepared)


def test_steps_need_those_before_them(raw, config, tmp_path):
    arguments = [str(config), "--raw", str(raw), "--out", str(tmp_path / "out"), "--steps"]
    for step, before in zip(list(STEPS)[1:], STEPS, strict=False):
        assert f"run the step {before} first" in refusal(
            lambda step=step: main([*arguments, step])
        )
    assert "--steps cleen" in refusal(lambda: main([*arguments, "cleen"]))


def test_two_runs_at_once_are_refused(raw, config, tmp_path):
    arguments = [str(config), "--raw", str(raw), "--out", str(tmp_path / "out"), "--steps", "clean"]
    with held_by_another_process(tmp_path / "out" / "work" / "lock"):
        assert "another process is at work" in refusal(lambda: main(arguments))
    main(arguments)


def test_workers_end_with_their_parent(tmp_path):
    """A worker whose parent is killed does not wait for work forever."""
    context = multiprocessing.get_context("fork")

    def work():
        from preprocess.pool import worker_pool

        with worker_pool(2) as pool:
            for pid in pool.ordered_map(_pid, range(4)):
                with (tmp_path / "pids").open("a") as file:
                    file.write(f"{pid}\n")
            time.sleep(60)

    process = context.Process(target=work)
    process.start()
    until = time.monotonic() + 30
    while not (tmp_path / "pids").exists() or len(read_lines(tmp_path / "pids")) < 4:
        assert time.monotonic() < until
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    pids = set(map(int, read_lines(tmp_path / "pids")))
    while any(Path(f"/proc/{pid}/stat").exists() and _alive(pid) for pid in pids):
        assert time.monotonic() < until
        time.sleep(0.05)


def _pid(_):
    return os.getpid()


def _alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
