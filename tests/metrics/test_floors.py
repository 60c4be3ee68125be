"""Floors: copying and the nearest training sentence."""

import pytest

from fairseq_taskmoe.metrics.floors import (
    NearestSentence,
    nearest_neighbour_translations,
    split_words,
)


@pytest.mark.parametrize(
    "sentence, words",
    [
        ("Open the File...", ["open", "the", "file"]),
        ("打开 Calc 文件。", ["打", "开", "calc", "文", "件"]),
        ("Открыть файл", ["открыть", "файл"]),
        ("...", []),
    ],
)
def test_words_are_characters_in_scripts_without_spaces(sentence, words):
    assert split_words(sentence) == words




def test_rare_words_have_more_weight():
    nearest = NearestSentence(["the table", "the cell", "the row", "a hyperlink"])
    # "the" is in three sentences, "hyperlink" in one
    assert nearest.find("the hyperlink") == 3


def test_a_sentence_with_fewer_other_words_is_nearer():
    nearest = NearestSentence(["Insert a row above the header", "Insert row"])
    assert nearest.find("Insert row") == 1


def test_first_of_equals_wins():
    assert NearestSentence(["cell", "row b", "row a"]).find("row c") == 1


def test_search_equals_a_simple_loop():
    sentences = ["save the file", "open a file", "close the window", "file menu", "a"]
    nearest = NearestSentence(sentences)

    def similarity(query, sentence):
        ours, theirs = set(split_words(query)), set(split_words(sentence))
        weigh = lambda words: sum(nearest._idf(word) for word in words)  # noqa: E731
        return weigh(ours & theirs) / weigh(ours | theirs)

    for query in ["open the file menu", "a window", "save a file", "close"]:
        scores = [round(similarity(query, sentence), 9) for sentence in sentences]
        assert nearest.find(query) == scores.index(max(scores))


def test_translations_come_from_the_nearest_source():
    translations = nearest_neighbour_translations(
        ["Open file", "Close window"],
        ["Datei öffnen", "Fenster schließen"],
        ["Close the window", "Quit", "Open a file"],
    )
    # nothing in common: an empty translation, so that no line is lost
    assert translations == ["Fenster schließen", "", "Datei öffnen"]


def test_sides_of_different_length_are_an_error():
    with pytest.raises(ValueError, match="2 training sources, 1 training targets"):
        nearest_neighbour_translations(["a", "b"], ["x"], ["a"])
