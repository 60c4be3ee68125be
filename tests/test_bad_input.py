"""Users' mistakes: one clear line and status 2, nothing executed, overwritten or half-written."""

import os
import pickle
import shutil

import pytest
import torch
from console import (
    GENERATE,
    TASK,
    TRAIN,
    assert_same_hypotheses,
    binarize,
    generate,
    hypotheses,
    refused,
    run,
    stir,
)


@pytest.fixture(scope="session")
def checkpoint(train):
    """A model that routes by target language, the same as in test_end_to_end.py."""
    return train(
        "target-target", "--encoder-moe-router", "target", "--decoder-moe-router", "target",
        "--max-update", 5,
    )


@pytest.fixture
def data(corpus, tmp_path):
    """A copy of the data folder, to damage."""
    return shutil.copytree(corpus.data, tmp_path / "damaged")


def refused_training(data, tmp_path, *flags):
    """Return the line with which training is refused, before it leaves anything."""
    save_dir = tmp_path / "checkpoints"
    result = run(
        "fairseq-train", data, *TRAIN, "--max-update", 1, "--save-dir", save_dir, *flags,
        check=False,
    )
    assert not list(save_dir.glob("*"))
    return refused(result)


def refused_extraction(checkpoint, tmp_path, *flags):
    """Return the line with which an extraction is refused, leaving no part of it."""
    folder = tmp_path / "extracted"
    folder.mkdir(exist_ok=True)
    pair = () if "--lang-pair" in flags else ("--lang-pair", "en-de")
    result = run(
        "taskmoe", "extract", checkpoint, "--out", folder / "en-de", *pair, *flags, check=False
    )
    assert list(folder.iterdir()) == []
    return refused(result)


# -- languages and data


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--lang-pairs", "en-de,en-xx", "--langs", "de,en,xx"], "xx"),
        (["--lang-pairs", "en-de,en-ru", "--langs", "de,en"], "--langs"),
        (["--lang-pairs", "en-de,enru"], "enru"),
        (["--lang-pairs", "en-de,de-ru"], "de-ru"),
    ],
    ids=["unknown-language", "language-without-tag", "no-pair", "pair-not-in-data"],
)
def test_training_on_languages_that_are_not_there(flags, words, corpus, tmp_path):
    assert words in refused_training(corpus.data, tmp_path, *flags)


def test_translating_languages_that_are_not_there(checkpoint, corpus, data):
    assert "xx" in refused(generate(corpus.data, "en-xx", checkpoint, check=False))
    shutil.copy(data / "dict.en.txt", data / "dict.xx.txt")
    assert "xx" in refused(generate(data, "en-xx", checkpoint, check=False))
    result = generate(data, "de-ru", checkpoint, "--gen-subset", "valid", check=False)
    assert "de-ru" in refused(result)


@pytest.mark.parametrize("pair", ["en-xx", "ende", "en-zh"])
def test_extracting_a_pair_that_is_not_there(pair, checkpoint, tmp_path):
    line = refused_extraction(checkpoint, tmp_path, "--lang-pair", pair)
    assert pair in line or "xx" in line


def test_flags_that_contradict_the_checkpoint(checkpoint, corpus):
    for flags in (["--encoder-langtok", "src"], ["--langs", "de,en"], ["--decoder-langtok"]):
        assert flags[0] in refused(generate(corpus.data, "en-de", checkpoint, *flags, check=False))


def test_sides_of_different_length(checkpoint, data, tmp_path):
    for suffix in ("bin", "idx"):
        for split in ("train", "test"):
            shutil.copy(data / f"valid.en-de.de.{suffix}", data / f"{split}.en-de.de.{suffix}")
    line = refused_training(data, tmp_path)
    assert "400 in en" in line and "40 sentences in de" in line
    line = refused(generate(data, "en-de", checkpoint, check=False))
    assert "101 sentences in en" in line and "40 in de" in line


@pytest.mark.parametrize("damage", ["one-more", "other-order"])
def test_dictionary_that_is_not_the_checkpoints(damage, checkpoint, data):
    for file in data.glob("dict.*.txt"):
        lines = file.read_text().splitlines(keepends=True)
        if damage == "one-more":
            lines.append("unheard 1\n")
        else:
            lines[100], lines[101] = lines[101], lines[100]
        file.write_text("".join(lines))
    assert "dictionary" in refused(generate(data, "en-de", checkpoint, check=False))


def test_languages_with_different_dictionaries(data, tmp_path):
    with (data / "dict.ru.txt").open("a") as file:
        file.write("unheard 1\n")
    assert "dict.ru.txt" in refused_training(data, tmp_path)


# -- models


@pytest.mark.parametrize(
    "flags, words",
    [
        (["--moe-capacity-factor", 1.25], "--moe-capacity-factor"),
        (["--moe-eval-capacity-factor", 2, "--encoder-moe-router", "token"], "--decoder-moe-rout"),
        (["--moe-top-k", 5], "--moe-top-k 5"),
        (["--moe-top-k", 0], "--moe-top-k 0"),
        (["--decoder-moe-router", "group"], "--moe-task-groups"),
        (["--decoder-moe-router", "group", "--moe-task-groups", "/nowhere"], "/nowhere"),
        (["--arch", "transformer_tiny"], "--arch"),
    ],
    ids=["capacity", "eval-capacity", "top-k", "no-top-k", "no-groups", "groups-file", "arch"],
)
def test_models_that_cannot_be(flags, words, corpus, tmp_path):
    assert words in refused_training(corpus.data, tmp_path, *flags)


# -- checkpoints


def test_truncated_checkpoint(checkpoint, corpus, tmp_path):
    truncated = tmp_path / "truncated.pt"
    truncated.write_bytes(checkpoint.read_bytes()[: checkpoint.stat().st_size // 2])
    assert "truncated.pt" in refused_extraction(truncated, tmp_path)
    # fairseq fails before it meets the plugin: in its own words
    assert generate(corpus.data, "en-de", truncated, check=False).returncode != 0


def test_empty_and_missing_checkpoint(tmp_path):
    (tmp_path / "empty.pt").touch()
    assert "empty.pt" in refused_extraction(tmp_path / "empty.pt", tmp_path)
    assert "missing.pt" in refused_extraction(tmp_path / "missing.pt", tmp_path)


def test_checkpoint_of_another_architecture(corpus, tmp_path):
    run(
        "fairseq-train", corpus.data, "--task", "translation", "-s", "en", "-t", "de", "--arch",
        "transformer_tiny", "--optimizer", "sgd", "--lr", 0.1, "--max-tokens", 500, "--max-update",
        1, "--cpu", "--num-workers", 0, "--disable-validation", "--no-epoch-checkpoints",
        "--save-dir", tmp_path,
    )
    stock = tmp_path / "checkpoint_last.pt"
    assert "another architecture" in refused_extraction(stock, tmp_path)
    result = generate(corpus.data, "en-de", stock, check=False)
    assert "translation_task_moe" in refused(result)


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker):
        self.marker = str(marker)

    def __reduce__(self):
        return os.mkdir, (self.marker,)


@pytest.mark.parametrize("written_by", ["torch", "pickle"])
def test_hostile_checkpoint_is_never_executed(written_by, checkpoint, corpus, tmp_path):
    marker, path = tmp_path / "executed", tmp_path / "hostile.pt"
    saved = torch.load(checkpoint, weights_only=False)
    saved["extra_state"]["hostile"] = Hostile(marker)
    with path.open("wb") as file:
        (torch.save if written_by == "torch" else pickle.dump)(saved, file)
    assert "hostile.pt" in refused_extraction(path, tmp_path)
    assert not marker.exists()
    assert generate(corpus.data, "en-de", path, check=False).returncode != 0
    assert not marker.exists()
    # it is hostile: an unguarded reader executes it
    if written_by == "torch":
        torch.load(path, weights_only=False)
    else:
        pickle.loads(path.read_bytes())
    assert marker.exists()


def test_output_folder_that_exists(checkpoint, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "model.pt").write_text("mine")
    extract = ("taskmoe", "extract", checkpoint, "--lang-pair", "en-de", "--out")
    assert str(out) in refused(run(*extract, out, check=False))
    assert [file.name for file in out.iterdir()] == ["model.pt"]
    assert (out / "model.pt").read_text() == "mine"
    assert "model.pt" in refused(run(*extract, out / "model.pt", check=False))
    assert (out / "model.pt").read_text() == "mine"


# -- text to translate


def test_long_and_empty_sentences_are_never_lost(checkpoint, corpus, tmp_path):
    stirred = stir(checkpoint, tmp_path / "stirred.pt")  # it reads 128 tokens
    lines = (corpus.text / "test.en-de.en").read_text().splitlines()[:6]
    text = tmp_path / "text"
    text.mkdir()
    for name, test in (
        ("short", lines), ("long", [lines[0], lines[1] * 20, *lines[2:4], "", *lines[4:]])
    ):
        folder = text / name
        folder.mkdir()
        for lang in ("en", "de"):
            (folder / f"test.en-de.{lang}").write_text("".join(f"{line}\n" for line in test))
        binarize(folder, ["en-de"], corpus, tmp_path / name)
    beam = ("--max-len-b", 10)
    line = refused(generate(tmp_path / "long", "en-de", stirred, *beam, check=False))
    assert "128" in line and "number 1," in line

    empty_long = "--skip-invalid-size-inputs-valid-test"
    short = hypotheses(generate(tmp_path / "short", "en-de", stirred, *beam).stdout)
    result = generate(tmp_path / "long", "en-de", stirred, *beam, empty_long)
    translated = hypotheses(result.stdout)
    assert sorted(translated) == list(range(7))
    assert translated.pop(1).text == translated.pop(4).text == ""
    kept = dict(enumerate(translated[number] for number in sorted(translated)))
    del short[1]
    assert_same_hypotheses(kept, dict(enumerate(short[number] for number in sorted(short))))


def test_interactive_refuses_or_empties_long_sentences(checkpoint, corpus):
    command = (
        "fairseq-interactive", corpus.data, *TASK, "-s", "en", "-t", "de", "--path", checkpoint,
        "--max-len-b", 5, *GENERATE,
    )
    typed = "▁a\n" + "▁a " * 200 + "\n▁a\n"
    assert "128" in refused(run(*command, "--buffer-size", 3, stdin=typed, check=False))
    result = run(
        *command, "--buffer-size", 3, "--skip-invalid-size-inputs-valid-test", stdin=typed
    )
    translated = hypotheses(result.stdout)
    assert sorted(translated) == [0, 1, 2]
    assert translated[1].text == "" and translated[0] == translated[2]
