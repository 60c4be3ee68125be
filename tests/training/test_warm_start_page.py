"""The commands of docs/warm-start.md do what the page says."""

import pytest
import torch
from document_commands import run_page
from test_freezing import assert_same_subnets
from transformers import AutoModelForSeq2SeqLM

from fairseq_taskmoe.checkpoint.reading import read_model


@pytest.mark.slow
def test_the_page_starts_from_a_trained_model(corpus, tmp_path):
    said = run_page("docs/warm-start.md", tmp_path, {
        "runs/demo": str(corpus.folder), "--max-update 500": "--max-update 2 --cpu --num-workers 0",
    })
    assert "new: nothing; left out: task en-de" in said
    assert "new: tag __ru__, tasks en-ru=new ru-en=new, experts 6 7 8 9" in said
    base, some, added = (
        read_model(str(tmp_path / name / "checkpoint_last.pt"))
        for name in ("base", "some", "added")
    )
    assert some.pairs == ["de-en"] and added.pairs == ["de-en", "en-de", "en-ru", "ru-en"]
    for pair in ("en-de", "de-en"):
        assert_same_subnets(base, added, pair, rtol=1e-6)  # a softmax over more experts rounds
    name = "encoder.layers.1.moe.experts.fc1.weight"
    assert not torch.equal(base.weights[name], some.weights[name])
    upcycled = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "en-de-hf")
    assert upcycled.config.encoder_ffn_dim == 256  # two experts are one network
    for folder in ("en-de", "en-ru"):
        assert (tmp_path / folder / "model.pt").exists()
