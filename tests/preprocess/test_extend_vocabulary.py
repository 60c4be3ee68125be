"""An extended SentencePiece model cuts old text as before, and every old word keeps its number."""

import sys
from pathlib import Path

import pytest
import sentencepiece
from refusals import refusal

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # preprocess is not installed
    sys.path.insert(0, str(ROOT))

from preprocess import extend_vocabulary, sentencepiece_model  # noqa: E402

LATIN = [f"the {a} sees a {b} in {c}" for a in ("dog", "cat", "man") for b in ("sun", "sea", "ship")
         for c in ("town", "spring", "autumn")]
CYRILLIC = [f"кот {a} видит {b} в {c}, the end" for a in ("и пёс", "не") for b in ("море", "солнце")
            for c in ("городе", "лесу", "поле")]


@pytest.fixture
def old(tmp_path):
    """Return the folder of a model of Latin text."""
    (tmp_path / "text.en").write_text("\n".join(LATIN))
    (tmp_path / "text.ru").write_text("\n".join(CYRILLIC))
    sentencepiece_model.main(
        [f"en={tmp_path}/text.en", "--out", str(tmp_path / "old"), "--vocab-size", "25"]
    )
    return tmp_path / "old"


def extend(old, *flags):
    out = old.parent / "new"
    extend_vocabulary.main([
        f"ru={old.parent}/text.ru", "--sentencepiece-model", str(old / "spm.model"), "--dictionary",
        str(old / "dict.txt"), "--out", str(out), *flags,
    ])
    return out


@pytest.mark.parametrize("size", ["29", "31"])
def test_old_text_is_cut_as_before_and_new_text_is_known(old, size):
    new = extend(old, "--vocab-size", size)
    before, after = (
        sentencepiece.SentencePieceProcessor(model_file=str(folder / "spm.model"))
        for folder in (old, new)
    )
    words = [(folder / "dict.txt").read_text().splitlines() for folder in (old, new)]
    assert words[1][: len(words[0])] == words[0] and len(words[1]) > len(words[0])
    for line in LATIN:
        assert after.encode(line) == before.encode(line)
    for line in CYRILLIC:
        assert before.unk_id() in before.encode(line)
        pieces = after.encode(line, out_type=str)
        assert after.unk_id() not in after.encode(line)
        assert after.decode(pieces) == line
        assert {word.split()[0] for word in words[1]}.issuperset(pieces)


def test_a_damaged_model_and_an_impossible_size_are_refused(old):
    assert "--vocab-size 5: SentencePiece reports" in refusal(extend, old, "--vocab-size", "5")
    damaged = old / "damaged.model"
    damaged.write_bytes(b"damaged")
    told = refusal(extend, old, "--sentencepiece-model", str(damaged))
    assert "damaged.model: not a SentencePiece model" in told
    assert not (old.parent / "new").exists()
