"""Lines of several sentences: every sentence is translated in its place."""

import pytest

pytest.importorskip("sentencex", reason="the extra `sentences` is not installed")

from fairseq_taskmoe.serving.sentences import SentenceSplitter  # noqa: E402


def translated(lang_pair, texts):
    """Translate with a model that puts sentences into brackets."""
    splitter = SentenceSplitter(lang_pair)
    lines = [splitter.split(text) for text in texts]
    sentences = [sentence for line in lines for sentence in line.sentences]
    return splitter.join(lines, iter([f"[{sentence}]" for sentence in sentences]))


def test_sentences_stay_in_their_lines_and_their_order():
    texts = ["One is here. Two is there!  Is three?", "", "Dr. Smith left.", " a \t"]
    assert translated("en-de", texts) == [
        "[One is here.] [Two is there!]  [Is three?]", "[]", "[Dr. Smith left.]", "[a]"
    ]


@pytest.mark.parametrize("lang_pair, text, expected", [
    ("zh_CN-en", "你好吗？我很好。", "[你好吗？] [我很好。]"),
    ("en-zh_CN", "I am here. You are there.", "[I am here.][You are there.]"),
    ("pt_BR-fr", "Olá. Tudo bem?", "[Olá.] [Tudo bem?]"),
])
def test_gaps_are_those_that_the_target_language_has(lang_pair, text, expected):
    assert translated(lang_pair, [text]) == [expected]
