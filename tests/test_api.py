"""The functions of `fairseq_taskmoe` for Python programs agree with the commands."""

import shutil
import subprocess
import sys

import pytest
import torch
from checkpoint_cases import make_checkpoint
from fairseq_commands import TRAIN, write_data

import fairseq_taskmoe
from fairseq_taskmoe.evaluation.results import load_results

TEXTS = ["w1 w2 w3", "", "w9 w4"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint of de-en, en-de, en-fr and fr-de that was not trained, without SentencePiece."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("run") / "checkpoint.pt"
    torch.save(make_checkpoint("target", "target")[2], path)
    return str(path)


@pytest.fixture(scope="module")
def model(checkpoint):
    return fairseq_taskmoe.load(checkpoint, threads=1)


def test_the_import_is_cheap_and_loads_names_when_they_are_used():
    program = (
        "import sys, fairseq_taskmoe as package; light = set(sys.modules)\n"
        "assert set(package.__all__) <= set(dir(package)); package.load\n"
        "print(sorted({'torch', 'fairseq', 'numpy', 'ctranslate2'} & set(sys.modules)))\n"
        "print(len(light - set(sys.stdlib_module_names)) < 200, hasattr(package, 'missing'))\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.stdout == "[]\nTrue False\n", ended.stderr


def test_fairseq_is_imported_quietly_and_with_the_plugin():
    program = (
        "import logging, fairseq_taskmoe\n"
        "try: fairseq_taskmoe.load('missing.pt')\n"
        "except fairseq_taskmoe.Refusal as problem: print(problem)\n"
        "print(logging.getLogger().level, logging.getLogger().handlers)\n"
        "from fairseq.tasks import TASK_REGISTRY; print('translation_task_moe' in TASK_REGISTRY)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    expected = "missing.pt: no such checkpoint\n30 []\nTrue\n"
    assert (ended.stdout, ended.stderr) == (expected, "")


def test_a_checkpoint_and_its_extracted_folder_translate_alike(model, checkpoint, tmp_path):
    assert model.lang_pairs == ["de-en", "en-de", "en-fr", "fr-de"]
    manifest = fairseq_taskmoe.extract(checkpoint, "en-fr", str(tmp_path / "en-fr"))
    assert (list(manifest.directions), manifest.format) == (["en-fr"], "fairseq")
    folder = fairseq_taskmoe.load(str(tmp_path / "en-fr"))
    assert folder.lang_pairs == ["en-fr"]
    found = model.translate(TEXTS, source="en", target="fr", max_length=9)
    assert found == folder.translate(TEXTS, max_length=9)
    assert found != model.translate(TEXTS, target="en", max_length=9) and found[1] == ""


def test_n_best_gives_scores_and_the_first_is_the_translation(model):
    ranked = model.translate(TEXTS, "en", "de", beam=4, n_best=3, max_length=9)
    assert [len(each) for each in ranked] == [3, 1, 3]
    assert [each[0].text for each in ranked] == model.translate(TEXTS, "en", "de", max_length=9)
    scores = [each.score for each in ranked[0]]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("call, words", [
    (lambda model: model.translate(["w1"], "en", "de", beam=2, n_best=3), "at most the beam of 2"),
    (lambda model: model.translate(["w1"], "en"), "fits 2 of its directions"),
    (lambda model: model.translate(["w1 " * 70], "en", "de"), "70 pieces.*at most 63"),
    (lambda model: model.translate(["w1"], "en", "de", max_length=0), "max_length 0: give 1"),
    (lambda model: model.translate(["w1"], "en", "de", length_penalty=float("nan")),
     "length_penalty nan: give a number"),
    (lambda model: fairseq_taskmoe.load("any.pt", device="gpu"), "device gpu: choose one of cpu"),
    (lambda model: fairseq_taskmoe.load("any.pt", threads=-1), "threads -1: give 1 or more"),
    (lambda model: fairseq_taskmoe.extract("any.pt", [], "out"), "lang_pairs: give at least one"),
    (lambda model: fairseq_taskmoe.extract("any.pt", "en-de", "out", format="onnx"),
     "format onnx: choose one of fairseq"),
])
def test_what_cannot_be_translated_is_refused(call, words, model):
    with pytest.raises((fairseq_taskmoe.Refusal, fairseq_taskmoe.TooLong), match=words):
        call(model)
    with pytest.raises(TypeError, match="list of texts"):
        model.translate("w1")


def test_a_training_run_is_evaluated_and_opened_in_the_hub(commands):
    data = write_data(commands.folder / "data")
    commands.run("train", data, *TRAIN, "--max-tokens", 60, "--save-dir", commands.folder)
    trained = str(commands.folder / "checkpoint_last.pt")
    out = commands.folder / "out"
    results = fairseq_taskmoe.evaluate(str(data), trained, str(out), ["en-de"], beam=1, cpu=True)
    assert results == load_results(out / "results.json")
    assert results.directions["en-de"]["sentences"] == 12 and results.config["beam"] == 1
    shutil.rmtree(data)
    texts = ["w1 w2 w3", "w9 w4"]
    for pair in ("en-de", "en-fr", "de-fr"):  # de-fr was never trained
        expected = fairseq_taskmoe.load(trained).translate(texts, *pair.split("-"), max_length=9)
        hub = fairseq_taskmoe.from_pretrained(trained, *pair.split("-"))
        assert hub.translate(texts, beam=4, max_len_b=9) == expected
