"""Hugging Face's own classes load an extracted folder, and translate as the full model does."""

import json

import pytest
import sentencepiece
import torch
from checkpoint_cases import checkpoint_of, parse
from console import refused, run, stir
from helpers import make_model, make_task
from hypothesis import example, given
from hypothesis import strategies as st

from fairseq_taskmoe.conversion.tokenizer_json import write_tokenizer
from fairseq_taskmoe.engines.engine import SearchOptions
from fairseq_taskmoe.engines.fairseq_engine import task_moe_engine
from fairseq_taskmoe.errors import Refusal
from fairseq_taskmoe.subnet.folder import Extraction, extract
from fairseq_taskmoe.subnet.verify import tags_of

transformers = pytest.importorskip("transformers")

PRE = {"encoder_normalize_before": True, "decoder_normalize_before": True}
MODELS = {
    "pre-norm": {**PRE, "share_all_embeddings": True},
    "pre-norm-untied": {**PRE, "activation_fn": "gelu", "no_scale_embedding": True},
    "post-norm": {"share_all_embeddings": True, "activation_fn": "gelu_fast"},
    "post-norm-decoder": {"share_decoder_input_output_embed": True, "decoder_attention_heads": 4},
}
TAGS = {
    "none": {}, "tgt": {"encoder_langtok": "tgt"},
    "src-tgt": {"encoder_langtok": "src", "decoder_langtok": True},
}


def exported(tmp_path, model_kind, tags, pairs=("en-de",), **what):
    """Extract from a random model; return the checkpoint, and the folder."""
    task = make_task(**TAGS[tags])
    overrides = {**MODELS[model_kind], "moe_freq": 2}
    model = make_model(task, **overrides)
    with torch.no_grad():  # translations that differ from each other
        for name, parameter in model.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight")):
                parameter *= 3
            elif name.endswith(("encoder_attn.v_proj.weight", "encoder_attn.out_proj.weight")):
                parameter *= 4
    checkpoint = checkpoint_of(model, task, **overrides)
    torch.save(checkpoint, tmp_path / "model.pt")
    extract(str(tmp_path / "model.pt"), list(pairs), str(tmp_path / "hf"),
            Extraction("huggingface", **what))
    return checkpoint, str(tmp_path / "hf")


@pytest.mark.parametrize("model_kind", MODELS)
@pytest.mark.parametrize("tags", TAGS)
def test_generate_gives_the_full_models_greedy_translations(tmp_path, model_kind, tags):
    checkpoint, folder = exported(tmp_path, model_kind, tags)
    trained = parse(checkpoint)
    engine = task_moe_engine(trained, tags_of(trained.tags, ["en-de"]), "cpu", fold=False)
    torch.manual_seed(4)
    sources = [[f"w{i}" for i in torch.randint(30, (n,)).tolist()] for n in (3, 7, 1, 5, 9, 4) * 4]
    expected = engine.translate("en-de", sources, SearchOptions(beam=1, max_length=12))
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)
    inputs = tokenizer([" ".join(source) for source in sources], return_tensors="pt", padding=True)
    tag = len(tags_of(trained.tags, ["en-de"])["en-de"].target)
    found = model.generate(**inputs, num_beams=1, max_length=1 + tag + 12)
    texts = tokenizer.batch_decode(found, skip_special_tokens=True)
    assert texts == [" ".join(w for w in each[0].pieces if w.startswith("w")) for each in expected]
    assert len(set(texts)) > 1


def test_the_models_log_probabilities_are_the_full_models(tmp_path):
    """The manifest's check sentences, whose scores extraction has compared already."""
    _, folder = exported(tmp_path, "pre-norm", "src-tgt")
    checks = json.loads((tmp_path / "hf" / "manifest.json").read_text())["checks"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder)
    for check in checks:
        inputs = tokenizer(" ".join(check["source"]), return_tensors="pt")
        words = tokenizer.convert_tokens_to_ids(["</s>", "__de__", *check["target"], "</s>"])
        with torch.no_grad():
            logits = model(**inputs, decoder_input_ids=torch.tensor([words[:-1]])).logits
        score = logits.log_softmax(-1)[0, range(len(words) - 1), words[1:]][1:].sum()
        assert float(score) == pytest.approx(check["full_score"], abs=1e-4 * len(words))


def test_several_directions_take_their_tags_from_text_and_generate(tmp_path):
    _, folder = exported(tmp_path, "pre-norm", "src-tgt", ["en-de", "fr-de"])
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    ids = tokenizer("__fr__ w3 w4")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["__fr__", "w3", "w4", "</s>"]
    assert 'tokenizer(["__en__ ..."]' in (tmp_path / "hf" / "README.md").read_text()


@pytest.mark.parametrize("settings, message", [
    ({"encoder_learned_pos": True}, "--encoder-learned-pos"),
    ({"layernorm_embedding": True}, "--layernorm-embedding"),
    ({"encoder_normalize_before": True}, "--encoder-normalize-before"),
    ({"decoder_embed_dim": 32}, "--encoder-embed-dim"),
])
def test_models_that_no_class_holds_are_refused(tmp_path, monkeypatch, settings, message):
    monkeypatch.setitem(MODELS, "other", settings)
    with pytest.raises(Refusal, match=message):
        exported(tmp_path, "other", "none")
    assert [file.name for file in tmp_path.iterdir()] == ["model.pt"]


@pytest.fixture(scope="module", params=["unigram", "bpe", "bytes"])
def pieces(request, corpus, tmp_path_factory):
    """Give a SentencePiece model, and the tokenizer that is made of it."""
    folder = tmp_path_factory.mktemp("pieces")
    if request.param == "unigram":
        path = corpus.sentencepiece
    else:
        path = folder / "spm.model"
        sentencepiece.SentencePieceTrainer.train(
            input=",".join(str(file) for file in sorted(corpus.text.glob("train.*"))),
            model_prefix=str(folder / "spm"), vocab_size=900, minloglevel=2,
            model_type="bpe" if request.param == "bpe" else "unigram",
            byte_fallback=request.param == "bytes", user_defined_symbols=["<sep>"],
        )
    processor = sentencepiece.SentencePieceProcessor(model_file=str(path))
    words = [processor.id_to_piece(i) for i in range(3, len(processor))]
    symbols = ["<s>", "<pad>", "</s>", "<unk>", *words, "madeupword0000", "__de__"]
    write_tokenizer(folder, symbols, ["__de__"], path, ["__de__"], 100)
    (folder / "config.json").write_text('{"model_type": "m2m_100"}')
    return processor, transformers.AutoTokenizer.from_pretrained(folder)


@given(text=st.text(st.sampled_from("aäßbеёж \u3000，。.,1½ﬁＡ\t-😀"), max_size=30))
@example("  two  spaces, Привет  ")
def test_pieces_are_those_of_sentencepiece(pieces, text):
    processor, tokenizer = pieces
    known = tokenizer.get_vocab()
    expected = [p if p in known else "<unk>" for p in processor.encode(text, out_type=str)]
    found = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
    assert found == ["__de__", *expected, "</s>"]
    if "<unk>" not in expected:
        decoded = tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True)
        assert decoded == processor.decode(processor.encode(text))


def test_pieces_of_real_text_are_those_of_sentencepiece(pieces, corpus):
    processor, tokenizer = pieces
    known = tokenizer.get_vocab()
    lines = [line for file in sorted(corpus.text.glob("test.*"))
             for line in file.read_text(encoding="utf-8").splitlines()]
    found = tokenizer(lines)["input_ids"]
    for line, ids in zip(lines, found, strict=True):
        expected = [p if p in known else "<unk>" for p in processor.encode(line, out_type=str)]
        assert tokenizer.convert_ids_to_tokens(ids)[1:-1] == expected


@pytest.mark.slow
def test_a_folder_of_a_trained_model_translates_text(train, corpus, tmp_path):
    path = stir(train("for-huggingface", "--max-update", "8"), tmp_path / "stirred.pt")
    (tmp_path / "results").mkdir()
    run("taskmoe", "evaluate", corpus.data, "--path", path, "--lang-pairs", "en-de", "--out",
        tmp_path / "results", "--cpu")
    flags = ("--lang-pair", "en-de", "--sentencepiece-model", corpus.sentencepiece)
    run("taskmoe", "extract", path, *flags, "--format", "huggingface", "--out", tmp_path / "hf",
        "--license", "mit", "--results", tmp_path / "results" / "results.json")
    run("taskmoe", "extract", path, *flags, "--out", tmp_path / "stock")
    lines = (corpus.text / "test.en-de.en").read_text().splitlines()[:10]
    by_hf, by_stock = (
        run("taskmoe", "translate", tmp_path / name, "--beam", "1",
            stdin="\n".join(lines) + "\n").stdout for name in ("hf", "stock")
    )
    assert by_hf == by_stock
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "hf")
    found = model.generate(**tokenizer(lines, return_tensors="pt", padding=True), num_beams=1)
    texts = tokenizer.batch_decode(found, skip_special_tokens=True)
    assert texts == by_hf.splitlines()
    card = (tmp_path / "hf" / "README.md").read_text()
    assert card.startswith('---\nlanguage:\n- "de"\n- "en"\nlicense: "mit"\n')
    assert "| en-de |" in card
    wrong = run("taskmoe", "extract", path, *flags, "--license", "mit", "--out", tmp_path / "no",
                check=False)
    assert "--license requires" in refused(wrong)
