"""A checkpoint translates as the folder that `taskmoe extract` makes of it, and leaves no file."""

import pytest
import torch
from checkpoint_cases import make_checkpoint

from fairseq_taskmoe.engines.engine import SearchOptions
from fairseq_taskmoe.errors import Refusal
from fairseq_taskmoe.subnet.folder import Extraction, extract
from fairseq_taskmoe.subnet.open_translator import open_translator

SEARCH = SearchOptions(beam=3, n_best=2, max_length=12)
TEXTS = ["w1 w2 w3", "", "w9 w4", "w5"]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """A checkpoint of de-en, en-de, en-fr and fr-de that was not trained, without SentencePiece."""
    torch.manual_seed(1)
    path = tmp_path_factory.mktemp("run") / "checkpoint.pt"
    torch.save(make_checkpoint("target", "target")[2], path)
    return path


@pytest.mark.parametrize("pair", ["en-fr", "fr-en"])  # fr-en was never trained
def test_a_checkpoint_translates_as_what_is_extracted_from_it(pair, checkpoint, tmp_path, capsys):
    translator, opened = open_translator(str(checkpoint), *pair.split("-"))
    assert opened == pair and translator.lang_pairs == [pair]
    assert ("fr-en was never trained" in capsys.readouterr().err) == (pair == "fr-en")
    assert {file.name for file in checkpoint.parent.iterdir()} == {"checkpoint.pt"}
    extract(str(checkpoint), [pair], str(tmp_path / "model"), Extraction("fairseq"))
    folder, of_folder = open_translator(str(tmp_path / "model"))
    assert of_folder == pair
    for found, expected in zip(translator.translate(pair, TEXTS, SEARCH),
                               folder.translate(pair, TEXTS, SEARCH), strict=True):
        assert [each.text for each in found] == [each.text for each in expected]
        assert [each.score for each in found] == pytest.approx(
            [each.score for each in expected], abs=1e-5
        )
    assert translator.max_source_pieces == folder.max_source_pieces


@pytest.mark.parametrize("languages, words", [
    ((None, None), "checkpoint.pt: .* fits 4 of its directions, de-en, en-de, en-fr, fr-de"),
    (("en", None), "en-. fits 2 of its directions"),
    ((None, "ru"), "fits 0 of its directions"),
    (("en", "xx"), "unknown language xx"),
    (("en", "../x"), "target '../x': not a language code"),
    (("en", "en"), "same language"),
])
def test_what_names_no_direction_is_refused(languages, words, checkpoint):
    with pytest.raises(Refusal, match=words):
        open_translator(str(checkpoint), *languages)


def test_the_only_direction_with_a_language_needs_no_other(checkpoint):
    assert open_translator(str(checkpoint), target="fr")[1] == "en-fr"


def test_no_file_is_no_model(tmp_path):
    with pytest.raises(Refusal, match="no such checkpoint"):
        open_translator(str(tmp_path / "missing.pt"), "en", "de")
