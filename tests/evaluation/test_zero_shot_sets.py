"""Zero-shot test sets over identical English, raw text beside hypotheses, averages by class."""

import json
import shutil

import pytest
from console import refused, run
from fairseq.data import Dictionary, indexed_dataset

from fairseq_taskmoe.errors import Refusal
from fairseq_taskmoe.evaluation.evaluate import evaluate
from fairseq_taskmoe.evaluation.folder import write_lines
from fairseq_taskmoe.evaluation.pivot import pivot_missing_pairs, pivot_pair
from fairseq_taskmoe.evaluation.test_sets import read_test_set
from fairseq_taskmoe.evaluation.translate import load_for_pairs
from fairseq_taskmoe.metrics.languages_file import Language, read_languages
from fairseq_taskmoe.read_files import read_lines

# lines of one test set in all languages; some twice, some not in both sets
DE_LINES = [7, 3, 50, 3, 20, 11, 90]
RU_LINES = [11, 4, 3, 90, 3, 66]
COMMON = [3, 11, 90]  # in the order of the German set
CLASSES = "de: {train_pairs: 400, class: high}\nru: {train_pairs: 50, class: low}\n"


@pytest.fixture(scope="module")
def checkpoint(train):
    return train("for-zero-shot-sets", "--max-update", 1)


@pytest.fixture(scope="module")
def data(corpus, share):
    """English-German and English-Russian test sets of different sentences, and their raw text."""

    def make(folder):
        (folder / "text").mkdir(parents=True)
        for lang in ("en", "de", "ru", "zh"):
            shutil.copy(corpus.data / f"dict.{lang}.txt", folder)
        dictionary = Dictionary.load(str(corpus.dictionary))
        for pair, lines in (("en-de", DE_LINES), ("en-ru", RU_LINES)):
            for lang in pair.split("-"):
                copy_rows(corpus.data, folder, f"test.{pair}.{lang}", lines, dictionary)
                raw = read_lines(str(corpus.text / f"test.{pair}.{lang}"))
                write_lines(folder / "text" / f"test.{pair}.{lang}", [raw[i] for i in lines])

    return share("zero-shot-sets", make)


def copy_rows(source, target, name, rows, dictionary):
    everything = indexed_dataset.MMapIndexedDataset(str(source / name))
    part = indexed_dataset.make_builder(str(target / f"{name}.bin"), "mmap", len(dictionary))
    for row in rows:
        part.add_item(everything[row])
    part.finalize(str(target / f"{name}.idx"))


def test_a_pivoted_pair_is_made_of_the_sentences_that_share_their_english(
    corpus, data, checkpoint
):
    pairs = ["de-ru", "ru-de"]
    _, task = load_for_pairs(str(data), str(checkpoint), ["en-de"], pairs)
    pivot_missing_pairs(task.data_manager, task.dictionary, "test", pairs)
    dataset = task.data_manager.load_pair("test", "de-ru")
    made = read_test_set(task, dataset)
    for lang, lines in (("de", made.sources), ("ru", made.references)):
        raw = read_lines(str(corpus.text / f"test.en-{lang}.{lang}"))
        assert lines == [raw[i] for i in COMMON]
    for i in range(len(dataset)):  # tagged with the target, as a pair of its own would be
        assert dataset[i]["source"][0] == task.dictionary.index("__ru__")
        assert dataset[i]["task_id"] == task.task_table.task_id("de-ru")
    back = read_test_set(task, task.data_manager.load_pair("test", "ru-de"))
    assert sorted(zip(back.references, back.sources, strict=True)) == sorted(
        zip(made.sources, made.references, strict=True)
    )
    assert len(task.data_manager.load_pair("test", "en-de")) == len(DE_LINES)


def test_a_pair_that_the_data_holds_is_not_made(corpus, checkpoint):
    _, task = load_for_pairs(str(corpus.data), str(checkpoint), None, ["de-ru"])
    assert set(task.served) == {"de-en", "en-de", "en-ru", "ru-en", "de-ru"}
    pivot_missing_pairs(task.data_manager, task.dictionary, "test", ["de-ru"])
    assert not task.data_manager.pivoted


def test_evaluate_scores_all_directions_and_averages_the_classes(
    corpus, data, checkpoint, tmp_path
):
    out = tmp_path / "out"
    (tmp_path / "languages.yaml").write_text(CLASSES)
    command = ("taskmoe", "evaluate", data, "--path", checkpoint, "--out", out, "--cpu", "--beam",
               1, "--max-len-b", 5, "--references", data / "text")
    run(*command)
    trained = json.loads((out / "results.json").read_text())
    assert set(trained["averages"]) == {"all", "xx-en", "en-xx"}
    # the same folder goes on with more directions
    run(*command, "--zero-shot-pairs", "de-ru,ru-de", "--languages", tmp_path / "languages.yaml")
    results = json.loads((out / "results.json").read_text())
    assert {pair: score["sentences"] for pair, score in results["directions"].items()} == {
        "de-en": 7, "en-de": 7, "en-ru": 6, "ru-en": 6, "de-ru": 3, "ru-de": 3
    }
    assert {name: group["directions"] for name, group in results["averages"].items()} == {
        "all": 6, "xx-en": 2, "en-xx": 2, "zero-shot": 2, "high": 2, "low": 2
    }
    for pair, score in trained["directions"].items():
        assert results["directions"][pair] == score
    # what was scored lies beside the hypotheses
    for pair, langs, lines in (("en-de", "en de", DE_LINES), ("de-ru", "de ru", COMMON)):
        for kind, lang in zip(("sources", "references"), langs.split(), strict=True):
            file = "test.en-ru.ru" if lang == "ru" else f"test.en-de.{lang}"
            raw = read_lines(str(corpus.text / file))
            assert read_lines(str(out / kind / f"test.{pair}.{lang}")) == [raw[i] for i in lines]


def test_a_zero_shot_direction_has_the_floor_that_needs_no_training_data(
    corpus, checkpoint, tmp_path
):
    run("taskmoe", "evaluate", corpus.data, "--path", checkpoint, "--out", tmp_path / "out",
        "--cpu", "--beam", 1, "--max-len-b", 5, "--lang-pairs", "en-de", "--zero-shot-pairs",
        "de-ru", "--floors")
    scores = json.loads((tmp_path / "out/results.json").read_text())["directions"]
    assert scores["en-de"]["floor_nearest_chrf"] > 0
    assert scores["de-ru"]["floor_nearest_chrf"] is None
    assert scores["de-ru"]["floor_copy_chrf"] > 0


@pytest.mark.parametrize(
    "lang_pairs, zero_shot_pairs, references, message",
    [
        (["en-de"], ["de-zh"], None, "de-zh was never trained, and no trained pair has"),
        (["en-de"], ["deru"], None, "'deru' is not a language pair"),
        (["en-de"], [], "short", "test.en-de.de has 6 lines, the data 7 sentences"),
        (["en-de"], ["de-ru"], "short", "test.en-de.de has 6 lines, the data 7 sentences"),
        (["en-ru"], [], "short", "no test references of en-ru in ru"),
    ],
)
def test_mistakes_are_refused_before_anything_is_translated(
    data, checkpoint, tmp_path, lang_pairs, zero_shot_pairs, references, message
):
    write_lines(tmp_path / "short" / "test.en-de.de", ["line"] * 6)
    with pytest.raises(Refusal, match=message):
        evaluate(
            str(data), str(checkpoint), str(tmp_path / "out"), lang_pairs, cpu=True,
            references=references and str(tmp_path / references), zero_shot_pairs=zero_shot_pairs,
        )
    assert not (tmp_path / "out").exists()


def test_a_language_without_a_class_is_refused_before_anything_is_translated(
    data, checkpoint, tmp_path
):
    (tmp_path / "languages.yaml").write_text(CLASSES.splitlines()[0])
    ended = run("taskmoe", "evaluate", data, "--path", checkpoint, "--out", tmp_path / "out",
                "--cpu", "--languages", tmp_path / "languages.yaml", check=False)
    assert "no resource class given for ru" in refused(ended)
    assert not (tmp_path / "out").exists()


def test_sets_without_a_common_sentence_are_refused(corpus, data, checkpoint, tmp_path):
    dictionary = Dictionary.load(str(corpus.dictionary))
    for pair, rows in (("en-de", [1, 2]), ("en-ru", [3, 4])):
        for lang in pair.split("-"):
            copy_rows(corpus.data, tmp_path, f"test.{pair}.{lang}", rows, dictionary)
            shutil.copy(data / f"dict.{lang}.txt", tmp_path)
    _, task = load_for_pairs(str(tmp_path), str(checkpoint), ["de-ru"])
    with pytest.raises(Refusal, match="de-ru: .* no sentence in en in common"):
        pivot_pair(task.data_manager, task.dictionary, "test", "de-ru")
    for lang in ("en", "ru"):
        (tmp_path / f"test.en-ru.{lang}.idx").unlink()
    with pytest.raises(Refusal, match="no third language has .* data with both de and ru"):
        pivot_pair(task.data_manager, task.dictionary, "test", "de-ru")


def test_languages_come_by_size_and_english_does_not(tmp_path):
    file = tmp_path / "languages.yaml"
    file.write_text(
        "gu: {train_pairs: 5, class: low}\nno: {train_pairs: 1_000, class: high}\n"
        "en: {train_pairs: 0, class: hub}\nde: {train_pairs: 90, class: high}\n"
    )
    languages = read_languages(file)
    assert list(languages) == ["no", "de", "gu"]
    assert languages["no"] == Language(1000, "high")


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "write `de:"),
        ("- de", "write `de:"),
        ("de: {class: high}", "de: train_pairs is not a number"),
        ("de: {train_pairs: -4, class: high}", "de: train_pairs is not a number"),
        ("de: {train_pairs: 4}", "de: class is not a name"),
        ("de: {train_pairs: 4, class: all}", "de: class is not a name"),
        ("de: [4", "languages.yaml: .*line 1"),
    ],
)
def test_a_file_of_languages_that_is_none_is_refused(tmp_path, text, message):
    (tmp_path / "languages.yaml").write_text(text)
    with pytest.raises(Refusal, match=message):
        read_languages(tmp_path / "languages.yaml")
