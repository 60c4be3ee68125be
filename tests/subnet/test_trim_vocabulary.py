"""A sub-network with fewer words: the same encoder, and the same choices among words it kept."""

import random
from itertools import pairwise

import pytest
import sentencepiece
import torch
from checkpoint_cases import parse
from helpers import make_config, make_model, make_task
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from fairseq_taskmoe.data.languages import make_dictionary
from fairseq_taskmoe.engines.engine import SearchOptions
from fairseq_taskmoe.engines.fairseq_engine import task_moe_engine
from fairseq_taskmoe.errors import Refusal
from fairseq_taskmoe.names import WORD_ROWS
from fairseq_taskmoe.subnet.extract import extract_subnet
from fairseq_taskmoe.subnet.sentencepiece_files import write_sentencepiece
from fairseq_taskmoe.subnet.to_fairseq import taskmoe_checkpoint
from fairseq_taskmoe.subnet.trim_vocabulary import trim_vocabulary, used_words
from fairseq_taskmoe.subnet.verify import tags_of

PAIR = "en-de"
KEPT = [f"w{i}" for i in (1, 2, 3, 5, 8, 13, 21, 29)]
OVERRIDES = {"encoder_moe_router": "source", "decoder_moe_router": "target"}


def make_checkpoint(**overrides):
    task = make_task(encoder_langtok="tgt", decoder_langtok=True)
    model = make_model(task, **OVERRIDES, **overrides)
    cfg = OmegaConf.to_container(make_config(**OVERRIDES, **overrides), enum_to_str=True)
    return {
        "model": model.state_dict(), "task_state": task.state_dict(),
        "cfg": {"model": cfg, "task": {"data": "x"}},
    }


def engines(checkpoint, kept):
    """Return the full model and the trimmed sub-network."""
    subnet = trim_vocabulary(extract_subnet(parse(checkpoint), [PAIR]), set(kept))
    tags = tags_of(subnet.tags, [PAIR])
    full = task_moe_engine(parse(checkpoint), tags, "cpu", fold=False)
    return full, task_moe_engine(parse(taskmoe_checkpoint(parse(checkpoint), subnet)), tags, "cpu")


def sentences(words, number, seed):
    draw = random.Random(seed)
    return [draw.choices(words, k=draw.randint(1, 9)) for _ in range(number)]


@pytest.mark.parametrize("tied", [False, True])
def test_the_encoder_says_the_same_of_kept_words(tied):
    full, trimmed = engines(make_checkpoint(share_all_embeddings=tied), KEPT)
    for source in sentences(KEPT, 10, seed=1):
        outs = []
        for engine in (full, trimmed):
            inputs = engine._inputs(PAIR, [source])
            model = engine.model_of(PAIR)
            with torch.no_grad():
                out = model.encoder(inputs["src_tokens"], None, inputs.get("task_ids"))
            outs.append(out["encoder_out"][0])
        torch.testing.assert_close(*outs)


@settings(max_examples=15)
@given(kept=st.sets(st.sampled_from([f"w{i}" for i in range(30)]), min_size=3), tied=st.booleans())
def test_greedy_output_is_the_same_wherever_the_full_models_is_of_kept_words(kept, tied):
    torch.manual_seed(len(kept))
    full, trimmed = engines(make_checkpoint(share_all_embeddings=tied), kept)
    allowed = kept | {"<s>", "<unk>", "__de__", "__en__"}
    search = SearchOptions(beam=1, max_length=8)
    for source in sentences(sorted(kept), 10, seed=2):
        ours, theirs = (e.translate(PAIR, [source], search)[0][0] for e in (full, trimmed))
        same = 0
        for piece in ours.pieces:
            if piece not in allowed:
                break
            same += 1
        # up to the first word that was trimmed away
        assert theirs.pieces[:same] == ours.pieces[:same]
        if same == len(ours.pieces):
            assert theirs.pieces == ours.pieces


@pytest.mark.parametrize("bias", [False, True])
def test_the_softmax_is_over_fewer_words_and_their_order_stays(bias):
    full, trimmed = engines(make_checkpoint(decoder_output_bias=bias), KEPT)
    (source,) = sentences(KEPT, 1, seed=3)
    scores = [
        [engine.score(PAIR, [source], [[word]])[0] for word in KEPT] for engine in (full, trimmed)
    ]
    assert all(few > many for many, few in zip(*scores, strict=True))
    # of the first word and of the end after it, each a softmax of its own: here the former alone
    many, few = (
        first_log_probs(engine, source, [engine.dictionary.index(word) for word in KEPT])
        for engine in (full, trimmed)
    )
    assert many.argsort().tolist() == few.argsort().tolist()
    torch.testing.assert_close(few - many, (few - many)[:1].expand(len(KEPT)))  # one factor for all


def first_log_probs(engine, source, words):
    """Return the log-probabilities of some words as the first one of a translation."""
    model, inputs = engine.model_of(PAIR), engine._inputs(PAIR, [source])
    tag = engine.dictionary.index("__de__")
    inputs["prev_output_tokens"] = torch.tensor([[engine.dictionary.eos(), tag]])
    with torch.no_grad():
        return model.get_normalized_probs(model(**inputs), log_probs=True)[0, -1, words]


@pytest.mark.parametrize("tied", [False, True])
def test_rows_of_words_and_tags_are_those_of_the_full_model(tied):
    checkpoint = make_checkpoint(share_all_embeddings=tied)
    subnet = extract_subnet(parse(checkpoint), [PAIR])
    trimmed = trim_vocabulary(subnet, set(KEPT))
    old, new = (make_dictionary(s.words, s.tags).symbols for s in (subnet, trimmed))
    assert new == ["<s>", "<pad>", "</s>", "<unk>", *KEPT, "__de__", "__en__"]
    for name in WORD_ROWS[:3]:
        rows = [subnet.state[name][old.index(symbol)] for symbol in new]
        torch.testing.assert_close(trimmed.state[name], torch.stack(rows))
    shared = len({trimmed.state[name].data_ptr() for name in WORD_ROWS[:3]})
    assert shared == (1 if tied else 3)
    assert trimmed.num_parameters < subnet.num_parameters
    assert len(trimmed.word_counts) == len(trimmed.words)


def test_words_of_a_counts_file(tmp_path):
    subnet = extract_subnet(parse(make_checkpoint()), [PAIR])
    file = tmp_path / "counts"
    file.write_text("w1 5\nw2\t1\nw3 2\n", encoding="utf-8")
    found = used_words(f"counts:{file}", [PAIR], subnet.words, None, 2)
    assert {"w1", "w3"} <= found and "w2" not in found
    file.write_text("w1 1\nw2 1\nw1 1\nw3 2\nw3 0\n", encoding="utf-8")  # they add up
    found = used_words(f"counts:{file}", [PAIR], subnet.words, None, 2)
    assert {"w1", "w3"} <= found and "w2" not in found
    file.write_text("w1 five\n")
    with pytest.raises(Refusal, match="line 1 is no word with its count"):
        used_words(f"counts:{file}", [PAIR], subnet.words, None, 1)
    file.write_text("other 5\n")
    with pytest.raises(Refusal, match="none of its words is in the model"):
        used_words(f"counts:{file}", [PAIR], subnet.words, None, 1)


@pytest.fixture(scope="module")
def spm_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("spm")
    text = folder / "text"
    draw = random.Random(1)
    syllables = ["ka", "mo", "ti", "re", "su", "no", "li", "ba"]
    lines = (" ".join("".join(draw.choices(syllables, k=draw.randint(1, 4))) for _ in range(8))
             for _ in range(400))
    text.write_text("\n".join(lines), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(text), model_prefix=str(folder / "spm"), vocab_size=120, minloglevel=2
    )
    return folder / "spm.model"


def test_pieces_of_a_text_and_their_characters(spm_file, tmp_path):
    spm = sentencepiece.SentencePieceProcessor(model_file=str(spm_file))
    text = tmp_path / "text"
    text.write_text("kamo kamo\nre\n", encoding="utf-8")
    words = ["<s>", "<pad>", "</s>", "<unk>", *map(spm.id_to_piece, range(3, len(spm)))]
    found = used_words(str(text), [PAIR], words, spm, 1)
    pieces = set(spm.encode("kamo kamo", out_type=str)) | set(spm.encode("re", out_type=str))
    assert pieces <= found
    assert found - pieces <= set("▁kamore")
    twice = used_words(str(text), [PAIR], words, spm, 2)
    assert set(spm.encode("kamo", out_type=str)) <= twice and "▁re" not in twice


def test_a_sentencepiece_model_spells_with_the_kept_pieces_alone(spm_file, tmp_path):
    spm = sentencepiece.SentencePieceProcessor(model_file=str(spm_file))
    texts = ["kamo ti resuno", "libanolire kati", "suno"]
    kept = {character for text in texts for character in text} | {"▁"}
    write_sentencepiece(str(spm_file), tmp_path / "spm.model", kept)
    small = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spm.model"))
    for text in texts:
        pieces = small.encode(text, out_type=str)
        assert set(pieces) <= kept and len(pieces) > len(spm.encode(text, out_type=str))
        assert small.decode(pieces) == text
    write_sentencepiece(str(spm_file), tmp_path / "same.model", None)
    assert (tmp_path / "same.model").read_bytes() == spm_file.read_bytes()


def test_a_smaller_vocabulary_for_more_counts(tmp_path):
    subnet = extract_subnet(parse(make_checkpoint()), [PAIR])
    file = tmp_path / "counts"
    file.write_text("".join(f"w{i} {i}\n" for i in range(30)), encoding="utf-8")
    kept = (used_words(f"counts:{file}", [PAIR], subnet.words, None, n) for n in (1, 10, 29))
    sizes = [len(trim_vocabulary(subnet, words).words) for words in kept]
    assert all(more > less for more, less in pairwise(sizes))
