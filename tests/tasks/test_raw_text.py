"""Raw text in fairseq-interactive: its SentencePiece model is found; a warning of unknown lines."""

import pytest
from console import GENERATE, TASK, hypotheses, run

UNKNOWN = "more than half of line"


@pytest.fixture(scope="module")
def checkpoint(train):
    return train("for-raw-text", "--max-update", 2)


@pytest.fixture(scope="module")
def interactive(checkpoint, corpus):
    def typed(text, *flags):
        return run("fairseq-interactive", corpus.data, *TASK, "-s", "en", "-t", "de", "--path",
                   checkpoint, "--max-len-b", 5, *GENERATE, *flags, stdin=text)

    return typed


def translations(result):
    kept = [line for line in result.stdout.splitlines() if line[:2] in ("S-", "H-", "D-")]
    assert kept
    return kept


def test_raw_text_is_split_as_with_the_flags_of_fairseq(interactive, corpus):
    text = "".join((corpus.text / "test.en-de.en").read_text().splitlines(keepends=True)[:5])
    found = interactive(text)
    named = interactive(text, "--bpe", "sentencepiece", "--sentencepiece-model",
                        corpus.sentencepiece)
    assert translations(found) == translations(named)
    assert "spm.model" in found.said and UNKNOWN not in found.said
    pieces = "".join(line.split("\t")[1].removeprefix("__de__ ") + "\n"
                     for line in found.stdout.splitlines() if line.startswith("S-"))
    assert "\u2581" in pieces
    assert hypotheses(interactive(pieces).stdout) == hypotheses(found.stdout)


def test_lines_of_unknown_words_are_warned_of_by_number(interactive):
    said = interactive("\u2581a \u2581a \u2581xyzxyz\n\u2581qqqqq \u2581a \u2581wwwww\n").said
    assert f"{UNKNOWN} 2 is unknown to the model (and 1 of these " in said
