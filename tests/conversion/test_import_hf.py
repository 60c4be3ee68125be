"""An imported model gives the log-probabilities and translations of Hugging Face's own class."""

import json
import shutil
from types import SimpleNamespace

import pytest
import sentencepiece
import torch
from console import generate, hypotheses, refused, run
from safetensors.torch import load_file, save_file

from fairseq_taskmoe.checkpoint.load_models import load_task_moe
from fairseq_taskmoe.checkpoint.reading import read_model
from fairseq_taskmoe.conversion.hf_folder import Folder
from fairseq_taskmoe.conversion.hf_models import m2m100_model
from fairseq_taskmoe.conversion.import_hf import import_hf
from fairseq_taskmoe.conversion.upcycle import Upcycling, upcycle
from fairseq_taskmoe.engines.engine import SearchOptions, Tags
from fairseq_taskmoe.engines.fairseq_engine import task_moe_engine
from fairseq_taskmoe.errors import Refusal

transformers = pytest.importorskip("transformers")
TINY = {
    "d_model": 16, "encoder_ffn_dim": 24, "decoder_ffn_dim": 20, "encoder_layers": 2,
    "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 4,
    "max_position_embeddings": 64, "init_std": 0.4,
}
KINDS = {
    "m2m100": {"activation_function": "gelu"},
    "nllb": {"scale_embedding": False},
    "untied": {"tie_word_embeddings": False},
}
PAIRS = {"m2m100": "en-de", "nllb": "eng_Latn-deu_Latn", "untied": "en-de"}


def stir(model):
    """Change a random model so that biases matter, and translations differ from each other."""
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            parameter.normal_(0, 0.2)
        elif "encoder_attn" in name and parameter.dim() > 1:
            parameter.mul_(3)


def write_tokenizer(kind, spm, folder):
    """Write the tokenizer of M2M100 or NLLB for the pieces of a SentencePiece model."""
    folder.mkdir(parents=True)
    processor = sentencepiece.SentencePieceProcessor(model_file=str(spm))
    pieces = [processor.id_to_piece(i) for i in range(3, len(processor))]
    vocabulary = {p: i for i, p in enumerate(["<s>", "<pad>", "</s>", "<unk>", *pieces])}
    shutil.copy(spm, folder / "sentencepiece.bpe.model")
    if kind == "nllb":
        tokenizer = transformers.NllbTokenizer(
            vocabulary, [], extra_special_tokens=["deu_Latn", "eng_Latn", "rus_Cyrl"]
        )
    else:
        (folder / "vocab.json").write_text(json.dumps(vocabulary))
        tokenizer = transformers.M2M100Tokenizer(
            str(folder / "vocab.json"), str(folder / "sentencepiece.bpe.model"),
            language_codes="wmt21",
        )
    tokenizer.save_pretrained(folder)
    return tokenizer, len(vocabulary)


@pytest.fixture
def write(corpus, tmp_path):
    """Give a function that writes the folder of a random model: write(kind) -> model, folder."""

    def written(kind, **settings):
        folder = tmp_path / "hf"
        shutil.rmtree(folder, ignore_errors=True)
        _, num_words = write_tokenizer(kind, corpus.sentencepiece, folder)
        config = transformers.M2M100Config(
            vocab_size=num_words + 12, **{**TINY, **KINDS[kind], **settings}
        )
        torch.manual_seed(3)
        model = transformers.M2M100ForConditionalGeneration(config).eval()
        with torch.no_grad():
            stir(model)
        model.save_pretrained(folder)
        return model, folder

    return written


def translated(model, folder, pair, texts):
    """Return greedy translations by transformers, as pieces."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    source, target = pair.split("-")
    tokenizer.src_lang = source
    tag = f"__{target}__" if "_" not in target else target
    inputs = tokenizer(texts, return_tensors="pt", padding=True)
    forced = tokenizer.convert_tokens_to_ids(tag)
    found = model.generate(
        **inputs, num_beams=1, max_length=14, forced_bos_token_id=forced,
        suppress_tokens=[1], begin_suppress_tokens=[2],
    )
    ends = (1, 2)
    return [[tokenizer.convert_ids_to_tokens(i) for i in row[2:] if i not in ends]
            for row in found.tolist()]


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_translations_are_equal(write, corpus, tmp_path, kind):
    model, folder = write(kind)
    pair = PAIRS[kind]
    import_hf(str(folder), [pair], str(tmp_path / "out"))
    trained = read_model(str(tmp_path / "out" / "model.pt"))
    texts = (corpus.text / "test.en-de.en").read_text().splitlines()[:8]
    spm = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "out" / "spm.model"))
    tags = {pair: Tags(*trained.tags.of_pair(pair))}
    engine = task_moe_engine(trained, tags, "cpu")
    if kind == "nllb":  # whose toy tokenizer has no merges
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
        sources = [tokenizer.tokenize(text) for text in texts]
    else:
        sources = [spm.encode(text, out_type=str) for text in texts]
    found = engine.translate(pair, sources, SearchOptions(beam=1, max_length=12))
    renamed = {tag.strip("_"): tag for tag in map(trained.tags.tag, trained.tags.langs)}
    expected = [[renamed.get(piece, piece) for piece in pieces]
                for pieces in translated(model, folder, pair, texts)]
    found = [each[0].pieces for each in found]
    named = [[p for p in pieces if not p.startswith("madeup")] for pieces in found]
    assert named == [[p for p in pieces if p not in ("<unk>", None) or p in named[i]]
                     for i, pieces in enumerate(expected)]
    assert len({tuple(pieces) for pieces in found}) > 1


@pytest.mark.parametrize("kind", KINDS)
def test_logits_of_all_words_are_equal(write, tmp_path, kind):
    model, folder = write(kind)
    dense = import_hf(str(folder), [PAIRS[kind]], str(tmp_path / "out"))
    trained = read_model(str(tmp_path / "out" / "model.pt"))
    assert trained.words == dense.words and len(set(dense.words)) == len(dense.words)
    ours = load_task_moe(trained, dense.lang_pairs)
    rows = rows_of(folder, ours.dictionary, model.config.vocab_size)
    source, target = torch.randint(4, 600, (3, 9)), torch.randint(4, 600, (3, 7))
    source[1, 5:], source[:, -1] = 1, 2  # padding
    inverse = torch.empty(len(rows), dtype=torch.long)
    inverse[rows] = torch.arange(len(rows))
    source[1, 5:] = 1
    with torch.no_grad():
        expected = model(source, source.ne(1).long(), target).logits
        found, _ = ours.model(inverse[source], None, inverse[target], torch.zeros(3).long())
    torch.testing.assert_close(found, expected[:, :, rows], atol=1e-4, rtol=1e-4)


def rows_of(folder, dictionary, num_rows):
    """Return for each word of a dictionary its row in the model of a folder."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    numbers = {**tokenizer.get_vocab(), **getattr(tokenizer, "lang_token_to_id", {})}
    free = iter(sorted(set(range(num_rows)) - set(numbers.values())))
    return torch.tensor([
        numbers[word] if word in numbers else
        numbers[word.strip("_")] if word.strip("_") in numbers else next(free)
        for word in dictionary.symbols
    ])


def test_an_imported_model_is_upcycled_and_serves_its_other_languages(write, tmp_path):
    _, folder = write("m2m100")
    import_hf(str(folder), ["en-de", "de-en"], str(tmp_path / "out"))
    path = str(tmp_path / "out" / "model.pt")
    upcycle(path, str(tmp_path / "new.pt"),
            Upcycling({"moe_freq": 1, "moe_expert_count": 3}, ["en-de", "en-ru"]))
    texts = [["▁a", "b"], ["▁c"]]
    scores = []
    for file in (path, str(tmp_path / "new.pt")):
        trained = read_model(file)
        tags = {"en-ru": Tags(*trained.tags.of_pair("en-ru"))}
        scores.append(task_moe_engine(trained, tags, "cpu").score("en-ru", texts, texts))
    assert scores[0] == pytest.approx(scores[1], abs=1e-4)


@pytest.mark.slow
def test_nllb_200s_configuration_is_converted_by_shape():
    """facebook/nllb-200-3.3B, without its weights: 256,206 rows, 24 + 24 layers."""
    config = transformers.M2M100Config(
        vocab_size=256206, d_model=2048, encoder_layers=24, decoder_layers=24,
        encoder_attention_heads=16, decoder_attention_heads=16, encoder_ffn_dim=8192,
        decoder_ffn_dim=8192, max_position_embeddings=1024,
    )
    with torch.device("meta"):
        model = transformers.M2M100ForConditionalGeneration(config)
    codes = transformers.models.nllb.tokenization_nllb.FAIRSEQ_LANGUAGE_CODES
    words = ["<s>", "<pad>", "</s>", "<unk>", *(f"▁w{i}" for i in range(255997)), *codes, "<mask>"]
    tokenizer = type("NllbTokenizer", (), {
        "get_vocab": lambda self: {word: i for i, word in enumerate(words)},
        "bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "unk_token_id": 3,
    })()
    dense = m2m100_model(
        Folder("nllb", config, tokenizer, model.state_dict(), None), ["eng_Latn-fra_Latn"]
    )
    dense.check_weights("nllb")
    assert len(dense.tags.langs) == 202 and len(dense.words) == 256206 - 202
    assert sum(w.numel() for n, w in dense.state.items() if "decoder.embed" not in n
               and "output_projection" not in n) == sum(p.numel() for p in model.parameters())
    assert dense.tags.of_pair("eng_Latn-fra_Latn") == (["__eng_Latn__"], ["__fra_Latn__"])


def change_config(folder, **changes):
    file = folder / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def drop_weight(folder):
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.decoder.layers.0.fc1.weight")
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def hostile(folder):
    (folder / "model.safetensors").unlink()
    torch.save({"model.shared.weight": SimpleNamespace()}, folder / "pytorch_model.bin")


def truncate(name, size):
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:size])


MISTAKES = {
    "another class": (lambda f: change_config(f, model_type="bart"), "model_type 'bart'"),
    "no configuration": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "no JSON": (truncate("config.json", 20), "config.json"),
    "hidden class": (lambda f: change_config(f, model_type="m2m_100", d_model="x"), "config.json"),
    "truncated": (truncate("model.safetensors", 3000), "truncated"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has neither"),
    "hostile": (hostile, "more than plain weights"),
    "missing weight": (drop_weight, "decoder.layers.0.fc1.weight is missing"),
    "other width": (lambda f: change_config(f, encoder_ffn_dim=25), "encoder.layers.0.fc1"),
    "fewer rows": (lambda f: change_config(f, vocab_size=100), "tokenizer does not fit"),
    "more rows": (lambda f: change_config(f, vocab_size=900), "rows of the configuration"),
    "endless rows": (lambda f: change_config(f, vocab_size=10**12), "rows of the configuration"),
    "endless layers": (lambda f: change_config(f, encoder_layers=10**9), "1000000000 layers"),
    "endless positions": (lambda f: change_config(f, max_position_embeddings=10**9), "positions"),
    "activation": (lambda f: change_config(f, activation_function="quick_gelu"), "quick_gelu"),
    "no pieces": (truncate("sentencepiece.bpe.model", 100), "m"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_folder_that_does_not_fit_is_refused_and_nothing_written(write, tmp_path, mistake):
    _, folder = write("m2m100")
    change, message = MISTAKES[mistake]
    change(folder)
    with pytest.raises(Refusal, match=message) as refusal:
        import_hf(str(folder), ["en-de"], str(tmp_path / "out"))
    assert "\n" not in refusal.value.message
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_imported_folder_translates_with_fairseqs_commands(write, corpus, tmp_path):
    _, folder = write("m2m100")
    out = tmp_path / "out"
    run("taskmoe", "import-hf", folder, "--lang-pairs", "en-de,de-en", "--out", out)
    wrong = run("taskmoe", "import-hf", folder, "--lang-pairs", "en-xx", "--out", tmp_path / "no",
                check=False)
    assert "has no language xx" in refused(wrong)
    pieces = tmp_path / "pieces"
    pieces.mkdir()
    processor = sentencepiece.SentencePieceProcessor(model_file=str(out / "spm.model"))
    for lang in ("en", "de"):
        lines = (corpus.text / f"test.en-de.{lang}").read_text().splitlines()[:5]
        text = "".join(" ".join(processor.encode(line, out_type=str)) + "\n" for line in lines)
        (pieces / f"test.{lang}").write_text(text)
    run("fairseq-preprocess", "-s", "en", "-t", "de", "--testpref", pieces / "test", "--destdir",
        tmp_path / "data", "--srcdict", out / "dict.txt", "--tgtdict", out / "dict.txt")
    found = hypotheses(generate(tmp_path / "data", "en-de", out / "model.pt").stdout)
    assert len(found) == 5
    run("taskmoe", "extract", out / "model.pt", "--lang-pair", "en-de", "--format", "huggingface",
        "--out", tmp_path / "again", check=False)


@pytest.fixture
def write_marian(corpus, tmp_path):
    """Give a function that writes the folder of a random model of Marian's class."""

    def written(tags=(), **settings):
        folder = tmp_path / "marian"
        folder.mkdir()
        processor = sentencepiece.SentencePieceProcessor(model_file=str(corpus.sentencepiece))
        pieces = [processor.id_to_piece(i) for i in range(3, len(processor))]
        words = ["</s>", "<unk>", *pieces, *(f">>{lang}<<" for lang in tags), "<pad>"]
        for name in ("source.spm", "target.spm"):
            shutil.copy(corpus.sentencepiece, folder / name)
        (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(words)}))
        transformers.MarianTokenizer(
            str(folder / "source.spm"), str(folder / "target.spm"), str(folder / "vocab.json"),
        ).save_pretrained(folder)
        pad = len(words) - 1
        config = transformers.MarianConfig(
            vocab_size=len(words), pad_token_id=pad, decoder_start_token_id=pad, eos_token_id=0,
            forced_eos_token_id=None, activation_function="swish", scale_embedding=True,
            **{**TINY, **settings},
        )
        torch.manual_seed(3)
        model = transformers.MarianMTModel(config).eval()
        with torch.no_grad():
            stir(model)
            model.final_logits_bias.normal_()
        model.save_pretrained(folder)
        return model, folder

    return written


@pytest.mark.parametrize("tags", [(), ("de", "fr")])
def test_a_model_of_marian_gives_equal_logits_and_greedy_translations(
    write_marian, corpus, tmp_path, tags
):
    model, folder = write_marian(tags)
    import_hf(str(folder), ["en-de"], str(tmp_path / "out"))
    trained = read_model(str(tmp_path / "out" / "model.pt"))
    pair_tags = Tags(*trained.tags.of_pair("en-de"))
    assert pair_tags.source == (["__de__"] if tags else [])
    engine = task_moe_engine(trained, {"en-de": pair_tags}, "cpu")
    texts = (corpus.text / "test.en-de.en").read_text().splitlines()[:8]
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    prefix = ">>de<<" if tags else ""
    inputs = tokenizer([prefix + text for text in texts], return_tensors="pt", padding=True)
    found = model.generate(
        **inputs, num_beams=1, max_length=13, begin_suppress_tokens=[0],
        suppress_tokens=[model.config.pad_token_id],
    )
    ends = (0, model.config.pad_token_id)
    expected = [[tokenizer.convert_ids_to_tokens(i) for i in row if i not in ends]
                for row in found.tolist()]
    sources = [tokenizer.spm_source.encode(text, out_type=str) for text in texts]
    ours = engine.translate("en-de", sources, SearchOptions(beam=1, max_length=12))
    assert [each[0].pieces for each in ours] == expected
    assert len({tuple(pieces) for pieces in expected}) > 1
    scores = engine.score("en-de", sources, expected)
    targets = [[model.config.pad_token_id, *tokenizer.convert_tokens_to_ids(pieces), 0]
               for pieces in expected]
    for i, row in enumerate(targets):
        one = {name: value[i : i + 1] for name, value in inputs.items()}
        with torch.no_grad():
            logits = model(**one, decoder_input_ids=torch.tensor([row[:-1]])).logits
        log_probs = logits.log_softmax(-1)[0, range(len(row) - 1), row[1:]]
        assert scores[i] == pytest.approx(float(log_probs.sum()), abs=1e-4 * len(row))


@pytest.mark.parametrize("name, value, message", [
    ("d_model", 10**8, "embed_tokens.weight is .* 16.*, and its settings"),
    ("decoder_start_token_id", 600, "decoder_start_token_id 600 is no word"),
])
def test_marians_settings_that_do_not_fit_are_refused(write_marian, tmp_path, name, value, message):
    _, folder = write_marian()
    change_config(folder, **{name: value})
    with pytest.raises(Refusal, match=message):
        import_hf(str(folder), ["en-de"], str(tmp_path / "out"))


def test_two_vocabularies_of_marian_are_refused(write_marian, tmp_path):
    _, folder = write_marian()
    change_config(folder, share_encoder_decoder_embeddings=False)
    with pytest.raises(Refusal, match="one vocabulary for each language"):
        import_hf(str(folder), ["en-de"], str(tmp_path / "out"))


def in_shards(model, folder):
    model.save_pretrained(folder, max_shard_size="20KB")
    (folder / "model.safetensors").unlink(missing_ok=True)
    assert len(list(folder.glob("model-*.safetensors"))) > 2


def in_torchs_format(model, folder):
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")


@pytest.mark.parametrize("store", [in_shards, in_torchs_format])
def test_weights_in_other_files_are_the_same(write, tmp_path, store):
    model, folder = write("m2m100")
    expected = import_hf(str(folder), ["en-de"], str(tmp_path / "one")).state
    store(model, folder)
    found = import_hf(str(folder), ["en-de"], str(tmp_path / "other")).state
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        torch.testing.assert_close(found[name], weight, atol=0, rtol=0)


def test_a_list_of_files_outside_the_folder_is_refused(write, tmp_path):
    model, folder = write("m2m100")
    in_shards(model, folder)
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": {"model.shared.weight": "../model.safetensors"}})
    )
    with pytest.raises(Refusal, match="which is not in the folder"):
        import_hf(str(folder), ["en-de"], str(tmp_path / "out"))
