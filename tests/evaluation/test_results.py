"""results.json keeps its contract, files are whole or not there, broken ones are refused."""

import json
import os
import re
import subprocess

import pytest
import sacrebleu
import torch
from refusals import refusal

from fairseq_taskmoe.errors import Refusal
from fairseq_taskmoe.evaluation.results import (
    Results,
    commit,
    hardware,
    load_results,
    markdown,
    terminal_table,
)
from fairseq_taskmoe.files import write_atomically
from fairseq_taskmoe.metrics.scoring import averages, score_fields

DIRECTIONS = {
    "de-en": {
        "signature": "nrefs:1|tok:13a", "bleu": 20.26, "chrf": 45.0, "sentences": 200,
        "floor_copy_chrf": 12.5, "floor_nearest_chrf": 31.04, "chrf_signature": "nrefs:1|nc:6",
        "chrfpp": 43.0, "chrfpp_signature": "nrefs:1|nw:2",
    },
    "en-zh": {
        "signature": "nrefs:1|tok:zh", "bleu": 10.0, "chrf": 35.0, "sentences": 1000,
        "floor_copy_chrf": None, "floor_nearest_chrf": None, "chrf_signature": "nrefs:1|nc:6",
        "chrfpp": 34.0, "chrfpp_signature": "nrefs:1|nw:2",
    },
}


@pytest.fixture
def results():
    return Results(
        config={"arch": "transformer_task_moe_tiny", "top_k": 2},
        commit="0123abc-dirty",
        hardware={"cpu": "a CPU", "cores": 2, "gpus": []},
        directions=DIRECTIONS,
        averages=averages(DIRECTIONS),
        versions={"sacrebleu": "2.6.0"},
    )


def git(folder, *arguments):
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    done = subprocess.run(
        ["git", "-C", folder, *identity, *arguments], check=True, capture_output=True
    )
    return done.stdout.decode().strip()


def test_json_keeps_the_contract(results, tmp_path):
    results.save(tmp_path / "new" / "folder")
    content = json.loads((tmp_path / "new" / "folder" / "results.json").read_text())
    assert list(content)[:5] == ["config", "commit", "hardware", "directions", "averages"]
    assert content["directions"]["de-en"] == {
        "signature": "nrefs:1|tok:13a",
        "bleu": 20.26,
        "chrf": 45.0,
        "sentences": 200,
        "floor_copy_chrf": 12.5,
        "floor_nearest_chrf": 31.04,
        "chrf_signature": "nrefs:1|nc:6",
        "chrfpp": 43.0,
        "chrfpp_signature": "nrefs:1|nw:2",
    }
    assert content["directions"]["en-zh"]["floor_copy_chrf"] is None
    assert content["averages"]["all"]["bleu"] == pytest.approx(15.13)
    assert content["averages"]["all"]["directions"] == 2
    assert {"all", "xx-en", "en-xx"} == set(content["averages"])


def test_load_after_save_is_identity(results, tmp_path):
    results.save(tmp_path)
    assert load_results(tmp_path / "results.json") == results


def test_a_file_with_no_more_than_the_contract_loads(tmp_path):
    scores = {"signature": "s", "bleu": 1, "chrf": 2.5, "sentences": 3, "comet": 4}
    content = {
        "config": "c",
        "commit": None,
        "hardware": {},
        "directions": {"de-en": scores},
        "averages": {},
    }
    path = tmp_path / "results.json"
    path.write_text(json.dumps(content))
    loaded = load_results(path)
    known = {"signature": "s", "bleu": 1, "chrf": 2.5, "sentences": 3}
    expected = {**dict.fromkeys(score_fields()), **known}
    assert loaded.directions == {"de-en": expected}
    assert "commit: `unknown`" in markdown(loaded)
    assert terminal_table(loaded).splitlines()[1].split() == "de-en 3 1.0 2.5 - - -".split()


def test_collect_adds_the_provenance():
    results = Results.collect("configs/a.yaml", DIRECTIONS)
    assert results.averages == averages(DIRECTIONS)
    assert results.hardware == hardware()
    assert results.versions == {"sacrebleu": sacrebleu.__version__, "torch": torch.__version__}
    json.loads(results.to_json())


def test_markdown(results):
    assert markdown(results).splitlines() == [
        "# Results",
        "",
        "| direction | sentences | BLEU | chrF | chrF++ | copy chrF | nearest chrF |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| de-en | 200 | 20.3 | 45.0 | 43.0 | 12.5 | 31.0 |",
        "| en-zh | 1000 | 10.0 | 35.0 | 34.0 | - | - |",
        "",
        "| average | directions | BLEU | chrF | chrF++ | copy chrF | nearest chrF |",
        "| --- | ---: | ---: | ---: | ---: | ---: | ---: |",
        "| all | 2 | 15.1 | 40.0 | 38.5 | - | - |",
        "| xx-en | 1 | 20.3 | 45.0 | 43.0 | 12.5 | 31.0 |",
        "| en-xx | 1 | 10.0 | 35.0 | 34.0 | - | - |",
        "",
        "copy chrF: the source is scored as if it were the translation; nearest chrF: the",
        "translation of the most similar training sentence is.",
        "",
        "- BLEU signature: `nrefs:1|tok:13a` (de-en)",
        "- BLEU signature: `nrefs:1|tok:zh` (en-zh)",
        "- chrF signature: `nrefs:1|nc:6` (de-en, en-zh)",
        "- chrF++ signature: `nrefs:1|nw:2` (de-en, en-zh)",
        '- config: `{"arch": "transformer_task_moe_tiny", "top_k": 2}`',
        "- commit: `0123abc-dirty`",
        "- hardware: cpu a CPU, cores 2, gpus []",
        "- versions: sacrebleu 2.6.0",
    ]


def test_terminal_table(results):
    assert terminal_table(results).splitlines() == [
        "direction   sentences  BLEU  chrF  chrF++  copy chrF  nearest chrF",
        "de-en             200  20.3  45.0    43.0       12.5          31.0",
        "en-zh            1000  10.0  35.0    34.0          -             -",
        "",
        "average    directions  BLEU  chrF  chrF++  copy chrF  nearest chrF",
        "all                 2  15.1  40.0    38.5          -             -",
        "xx-en               1  20.3  45.0    43.0       12.5          31.0",
        "en-xx               1  10.0  35.0    34.0          -             -",
    ]


def test_saving_replaces_and_leaves_nothing_else(results, tmp_path):
    (tmp_path / "results.json").write_text("old")
    results.save(tmp_path)
    results.save(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["results.json", "results.md"]


@pytest.mark.parametrize("config", [float("nan"), object()])
def test_what_cannot_be_written_destroys_nothing(config, tmp_path):
    (tmp_path / "results.json").write_text("old")
    with pytest.raises((ValueError, TypeError)):
        Results(config, None, {}, {}, {}).save(tmp_path)
    assert os.listdir(tmp_path) == ["results.json"]
    assert (tmp_path / "results.json").read_text() == "old"


def test_an_interrupted_write_destroys_nothing(tmp_path, monkeypatch):
    path = tmp_path / "results.json"
    path.write_text("old")

    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "new")
    assert os.listdir(tmp_path) == ["results.json"]
    assert path.read_text() == "old"


def test_a_folder_that_is_a_file_is_refused(results, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(Refusal, match="cannot write results to"):
        results.save(tmp_path / "file")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda c: c.pop("commit"), "'commit' is missing"),
        (lambda c: c.pop("averages"), "'averages' is missing"),
        (lambda c: c.update(commit=3), "'commit' is neither"),
        (lambda c: c.update(directions=[]), "'directions' is not an object"),
        (lambda c: c.update(versions="2.6"), "'versions' is not an object"),
        (lambda c: c["directions"].update({"de-en": 3}), "'de-en' has no count 'sentences'"),
        (lambda c: c["directions"]["de-en"].pop("bleu"), "'de-en' has no 'bleu'"),
        (lambda c: c["directions"]["de-en"].update(bleu="20"), "'de-en' has no 'bleu'"),
        (lambda c: c["directions"]["de-en"].update(bleu=True), "'de-en' has no 'bleu'"),
        (lambda c: c["directions"]["de-en"].update(chrf=float("nan")), "'de-en' has no 'chrf'"),
        (lambda c: c["directions"]["de-en"].update(chrf=10**400), "'de-en' has no 'chrf'"),
        (lambda c: c["directions"]["de-en"].update(floor_copy_chrf=[]), "no 'floor_copy_chrf'"),
        (lambda c: c["directions"]["de-en"].update(sentences=2.5), "no count 'sentences'"),
        (lambda c: c["directions"]["de-en"].update(signature=None), "'de-en' has no 'signature'"),
        (lambda c: c["directions"]["de-en"].update(chrf_signature=[]), "'chrf_signature' is not"),
        (lambda c: c["directions"]["de-en"].update(chrfpp="43"), "'de-en' has no 'chrfpp'"),
        (lambda c: c["averages"].update(all=20.1), "'all' has no count 'directions'"),
        (lambda c: c["averages"]["all"].update(bleu=-1), "averages: 'all' has no 'bleu'"),
    ],
)
def test_broken_contents_are_refused(change, message, results, tmp_path):
    content = json.loads(results.to_json())
    change(content)
    path = tmp_path / "results.json"
    path.write_text(json.dumps(content))
    line = refusal(load_results, path)
    assert str(path) in line and re.search(message, line)


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[]", b"\xff\xfe\x00", b"[" * 100_000, b'{"config": 1}'],
    ids=["empty", "cut off", "list", "no UTF-8", "deep", "too little"],
)
def test_broken_files_are_refused(data, tmp_path):
    path = tmp_path / "results.json"
    path.write_bytes(data)
    with pytest.raises(Refusal, match="is not a results file"):
        load_results(path)


@pytest.mark.parametrize("name", ["missing.json", "."])
def test_unreadable_files_are_refused(name, tmp_path):
    with pytest.raises(Refusal, match="cannot read"):
        load_results(tmp_path / name)


def test_hardware_is_complete_and_serializable():
    facts = hardware()
    assert list(facts) == ["cpu", "cores", "memory_gb", "gpus", "platform"]
    assert facts["cores"] >= 1
    assert len(facts["gpus"]) == torch.cuda.device_count()
    json.dumps(facts)


def test_commit(tmp_path, monkeypatch):
    assert commit(tmp_path / "missing") is None
    assert commit(tmp_path) is None
    git(tmp_path, "init", "-q")
    assert commit(tmp_path) is None  # nothing committed yet
    (tmp_path / "file").write_text("one")
    git(tmp_path, "add", "file")
    git(tmp_path, "commit", "-q", "-m", "first")
    first = git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "untracked").write_text("")
    assert commit(tmp_path) == first
    (tmp_path / "file").write_text("two")
    assert commit(tmp_path) == f"{first}-dirty"
    (tmp_path / "site-packages").mkdir()
    assert commit(tmp_path / "site-packages") is None  # another project's checkout
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))  # as in a hook
    assert commit(tmp_path) == f"{first}-dirty"
    monkeypatch.setenv("PATH", "")
    assert commit(tmp_path) is None  # no git
