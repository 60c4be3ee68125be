"""A mixture of experts that is made of a dense model computes what the dense model computes."""

from argparse import Namespace

import pytest
import torch
from checkpoint_cases import checkpoint_of, loaded
from console import (
    GENERATE,
    PLUGIN,
    TRAIN,
    assert_same_hypotheses,
    generate,
    hypotheses,
    refused,
    run,
)
from fairseq.models.transformer import TransformerModel, base_architecture
from helpers import GROUPS, LANG_PAIRS, ROUTERS, make_model, make_task, ragged_batch

from fairseq_taskmoe.checkpoint.reading import read_model
from fairseq_taskmoe.conversion.upcycle import Upcycling, resized, upcycle
from fairseq_taskmoe.errors import Refusal
from fairseq_taskmoe.models.folded_model import fold_model

pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")


@pytest.fixture
def dense(tmp_path):
    """Give a function that writes a dense checkpoint: dense(**settings) -> model, file."""

    def write(**settings):
        settings = {"moe_expert_count": 0, "share_all_embeddings": True, **settings}
        task = make_task()
        model = make_model(task, **settings)
        torch.save(checkpoint_of(model, task, **settings), tmp_path / "dense.pt")
        return model, str(tmp_path / "dense.pt")

    return write


def upcycled(path, **settings):
    """Return the upcycled model of a checkpoint; `what` are other fields of Upcycling."""
    out = path.replace("dense.pt", "upcycled.pt")
    what = settings.pop("what", {})
    upcycle(path, out, Upcycling({"moe_freq": 1, "moe_expert_count": 4, **settings}, **what))
    return loaded(torch.load(out))[0]


def log_probs(model, **change):
    batch = ragged_batch()
    inputs = {**batch["net_input"], **change}
    with torch.no_grad():
        out = model.get_normalized_probs(model(**inputs), log_probs=True)
    return out[batch["target"].ne(1)]


def assert_equal(model, other, rtol=1e-4):
    torch.manual_seed(2)
    expected = log_probs(other)
    torch.manual_seed(2)
    torch.testing.assert_close(log_probs(model), expected, atol=1e-4, rtol=rtol)


@pytest.mark.parametrize("router", ROUTERS)
@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_every_router_gives_the_dense_models_log_probabilities(dense, router, top_k, tmp_path):
    groups = tmp_path / "groups.yaml"
    groups.write_text("".join(f"{name}: {members}\n" for name, members in GROUPS.items()))
    model, path = dense(encoder_normalize_before=True)
    new = upcycled(path, encoder_moe_router=router, decoder_moe_router=router, moe_top_k=top_k,
                   moe_task_groups=str(groups))
    assert len(new.encoder.layers[0].moe.experts.fc1.weight) == 4
    assert_equal(new, model)


def test_the_lone_gate_still_chooses_different_experts_and_gets_a_gradient(dense):
    _, path = dense()
    new = upcycled(path, encoder_moe_router="token", decoder_moe_router="pair", moe_top_k=1)
    chosen = new.decoder.layers[0].moe.router
    keys = chosen.embed_tasks.weight @ chosen.gate.weight.t()
    assert len(set(keys.argmax(dim=1).tolist())) > 1
    logits, _ = new(**ragged_batch()["net_input"])
    logits.logsumexp(-1).sum().backward()
    assert chosen.gate.weight.grad.abs().max() > 0


def test_a_dense_model_with_the_router_dense_gets_experts_in_its_place(dense):
    routers = {"encoder_moe_router": "dense", "decoder_moe_router": "dense"}
    model, path = dense(moe_expert_count=4, moe_freq=2, **routers)
    new = upcycled(path)
    assert new.encoder.layers[1].moe.experts.fc1.weight.size(1) == 48  # as wide as its widest layer
    assert_equal(new, model)


@pytest.mark.parametrize("width", [24, 25, 48, 60])
def test_experts_as_wide_or_wider_change_nothing(dense, width):
    model, path = dense()
    assert_equal(upcycled(path, moe_expert_ffn_dim=width), model)


def test_a_dense_layer_as_wide_as_the_chosen_experts_changes_nothing(dense):
    model, path = dense()
    new = upcycled(path, encoder_moe_router="dense", moe_freq=2)
    assert new.encoder.layers[1].fc1.weight.size(0) == 48
    assert_equal(new, model)


def test_narrower_experts_that_are_all_parts_together_change_nothing(dense, capsys):
    model, path = dense()
    new = upcycled(path, encoder_moe_router="static", decoder_moe_router="static",
                   moe_expert_ffn_dim=12)
    assert_equal(new, model)
    assert "12 of the dense model's 24 hidden units" in capsys.readouterr().err


def test_narrower_networks_compute_the_same_on_average_over_the_parts():
    network = {"fc1.weight": torch.randn(12, 5), "fc1.bias": torch.randn(12),
               "fc2.weight": torch.randn(5, 12), "fc2.bias": torch.randn(5)}

    def output(net, x):
        return (x @ net["fc1.weight"].t() + net["fc1.bias"]).relu() @ net["fc2.weight"].t() + (
            net["fc2.bias"])

    x = torch.randn(7, 5)
    parts = [output(resized(network, 4, part), x) for part in range(6)]
    torch.testing.assert_close(torch.stack(parts).mean(dim=0), output(network, x))


def test_noise_makes_experts_different_and_nothing_else(dense):
    model, path = dense()
    new = upcycled(path, what={"noise": 0.1})
    first, second = new.encoder.layers[0].moe.experts.fc1.weight[:2].detach()
    old = model.encoder.layers[0].fc1.weight
    assert (first - second).std() == pytest.approx(0.1 * 2**0.5 * old.std().item(), rel=0.2)
    torch.testing.assert_close(new.encoder.layers[0].self_attn.k_proj.weight,
                               model.encoder.layers[0].self_attn.k_proj.weight)


def test_languages_that_the_dense_model_lacks_get_the_mean_of_all_words(dense, capsys):
    model, path = dense()
    new = upcycled(path, what={"lang_pairs": [*LANG_PAIRS, "en-gu"]})
    rows = model.encoder.embed_tokens.weight
    assert new.encoder.embed_tokens.weight is new.decoder.output_projection.weight
    torch.testing.assert_close(new.encoder.embed_tokens.weight[:-1], rows)
    torch.testing.assert_close(new.encoder.embed_tokens.weight[-1], rows.mean(dim=0))
    assert "new: tags __gu__" in capsys.readouterr().err


STOCK = {
    "encoder_embed_dim": 16, "encoder_ffn_embed_dim": 24, "encoder_layers": 2,
    "encoder_attention_heads": 2, "decoder_layers": 2, "decoder_attention_heads": 2,
    "max_source_positions": 64, "max_target_positions": 64,
}
SHAPES = {
    "m2m100": {"encoder_normalize_before": True, "decoder_normalize_before": True,
               "share_all_embeddings": True},
    "post-norm": {"share_decoder_input_output_embed": True, "activation_fn": "gelu"},
    "learned": {"encoder_learned_pos": True, "decoder_learned_pos": True,
                "layernorm_embedding": True, "share_all_embeddings": True},
}


def stock_model(path, shape, stored="dictionary", **settings):
    """Write a checkpoint of fairseq's own transformer; return the model."""
    options = Namespace(**STOCK, **SHAPES[shape])
    base_architecture(options)
    stock = TransformerModel.build_model(options, make_task()).eval()
    path.with_name("dict.txt").write_text("".join(f"w{word} 1\n" for word in range(30)))
    settings = {"task": "translation_multi_simple_epoch", "lang_pairs": ",".join(LANG_PAIRS),
                "langs": "de,en,fr", "encoder_langtok": "src", "decoder_langtok": True,
                "lang_tok_style": "multilingual", **settings}
    checkpoint = {"model": {**stock.state_dict(), "encoder.version": torch.tensor([3.0])}}
    if stored == "old":
        checkpoint["args"] = Namespace(arch="transformer", **vars(options), **settings)
    else:
        make = (lambda **each: Namespace(**each)) if stored == "namespace" else dict
        checkpoint["cfg"] = {"model": make(_name="transformer", **vars(options)),
                             "task": make(_name=settings.pop("task"), **settings)}
    torch.save(checkpoint, path)
    return stock


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("stored", ["namespace", "dictionary", "old"])
def test_stock_checkpoints_of_every_age_are_upcycled(tmp_path, shape, stored):
    langtoks = {"main": ("src", "tgt"), "mined": (None, "tgt")}
    stock = stock_model(tmp_path / "dense.pt", shape, stored, langtoks=langtoks)
    path = str(tmp_path / "dense.pt")
    new = upcycled(path, what={"dictionary": str(tmp_path / "dict.txt")})
    torch.manual_seed(2)
    expected = log_probs(new)
    torch.manual_seed(2)
    batch = ragged_batch()
    del batch["net_input"]["task_ids"]
    with torch.no_grad():
        found = stock.get_normalized_probs(stock(**batch["net_input"]), log_probs=True)
    torch.testing.assert_close(found[batch["target"].ne(1)], expected, atol=1e-4, rtol=1e-4)
    assert read_model(path.replace("dense", "upcycled")).tags.encoder_langtok == "src"


@pytest.mark.parametrize("setting", [
    {"lang_tok_replacing_bos_eos": True}, {"langtoks": {"main": ("tgt", None)}},
], ids=str)
def test_tags_in_other_places_than_this_plugin_puts_them_are_refused(tmp_path, setting):
    stock_model(tmp_path / "dense.pt", "m2m100", **setting)
    with pytest.raises(Refusal, match="--lang-?tok"):
        upcycled(str(tmp_path / "dense.pt"), what={"dictionary": str(tmp_path / "dict.txt")})


def test_a_sub_network_of_an_upcycled_model_is_the_dense_model(dense):
    model, path = dense()
    new = upcycled(path)
    folded = fold_model(new, 1)
    torch.manual_seed(2)
    expected = log_probs(model)
    torch.manual_seed(2)
    torch.testing.assert_close(log_probs(folded), expected, atol=1e-4, rtol=1e-4)


def test_what_is_no_dense_model_is_refused_and_nothing_written(dense, tmp_path):
    _, path = dense(moe_expert_count=3)
    with pytest.raises(Refusal, match="has experts already"):
        upcycled(path)
    _, path = dense()
    checkpoint = torch.load(path)
    with pytest.raises(Refusal, match="no layer would have experts"):
        upcycled(path, moe_freq=3)
    with pytest.raises(Refusal, match="moe-top-k 9"):
        upcycled(path, moe_top_k=9)
    name = "decoder.layers.0.fc1.weight"
    for weights, message in (
        ({**checkpoint["model"], name: torch.zeros(3, 16)}, f"{name} is"),
        ({**checkpoint["model"], "encoder.adapter": torch.zeros(3)}, "encoder.adapter"),
    ):
        torch.save({**checkpoint, "model": weights}, path)
        with pytest.raises(Refusal, match=message):
            upcycled(path)
    torch.save({**checkpoint, "cfg": {"model": {"_name": "lstm"}, "task": {}}}, path)
    with pytest.raises(Refusal, match="no model of fairseq's `transformer`"):
        upcycled(path)
    assert [file.name for file in tmp_path.iterdir()] == ["dense.pt"]


@pytest.mark.slow
def test_an_upcycled_checkpoint_translates_and_trains_with_fairseqs_commands(
    train, corpus, tmp_path
):
    path = train("dense-to-upcycle", "--moe-expert-count", "0", "--max-update", "8")
    out = tmp_path / "upcycled.pt"
    flags = ("--moe-expert-count", "4", "--decoder-moe-router", "pair")
    run("taskmoe", "upcycle", path, "--out", out, *flags)
    again = run("taskmoe", "upcycle", path, "--out", out, *flags, check=False)
    assert "exists" in refused(again)
    of_dense, of_new = (
        hypotheses(generate(corpus.data, "en-de", each).stdout) for each in (path, out)
    )
    assert {n: each.text for n, each in of_dense.items()} == {
        n: each.text for n, each in of_new.items()
    }
    for restored in (["--finetune-from-model"], ["--reset-optimizer", "--reset-dataloader",
                     "--reset-meters", "--reset-lr-scheduler", "--restore-file"]):
        result = run(
            "fairseq-train", corpus.data, *TRAIN, *flags, *restored, out, "--max-update", "2",
            "--save-dir", tmp_path / restored[0],
        )
        assert "Loaded checkpoint" in result.said
    run("taskmoe", "evaluate", corpus.data, "--path", out, "--lang-pairs", "en-de", "--out",
        tmp_path / "scores", "--cpu", "--beam", "1")


@pytest.mark.slow
def test_a_checkpoint_of_stock_training_is_upcycled_and_translates_the_same(corpus, tmp_path):
    """The words are those in the folder of its data."""
    stock = ("--task", "translation_multi_simple_epoch", "--lang-pairs", "en-de,en-ru", "--langs",
             "de,en,ru", "--encoder-langtok", "src", "--decoder-langtok")
    sizes = [word for name, value in STOCK.items()
             for word in ("--" + name.replace("_", "-"), str(value))]
    run(
        "fairseq-train", corpus.data, *stock, "--arch", "transformer", *sizes,
        "--share-all-embeddings", "--encoder-normalize-before", "--decoder-normalize-before",
        "--optimizer", "adam", "--lr", "0.01", "--max-tokens", "2000", "--max-update", "6", "--cpu",
        "--num-workers", "0", "--save-dir", tmp_path, "--skip-invalid-size-inputs-valid-test",
    )
    dense, new = tmp_path / "checkpoint_last.pt", tmp_path / "new.pt"
    run("taskmoe", "upcycle", dense, "--out", new, "--moe-expert-count", "3", "--moe-freq", "1")
    translated = run(
        "fairseq-generate", corpus.data, "--user-dir", PLUGIN, *stock, "-s", "en", "-t", "de",
        "--path", dense, "--required-batch-size-multiple", "1", *GENERATE,
    )
    assert_same_hypotheses(
        hypotheses(translated.stdout), hypotheses(generate(corpus.data, "en-de", new).stdout)
    )
