"""A folded layer, and a folded model, computes what the routed one computes for its task."""

from types import SimpleNamespace

import pytest
import torch
from helpers import (
    LANG_PAIRS,
    make_batch,
    make_config,
    make_model,
    make_task,
    ragged_mask,
    random_sentences,
    routing_inputs,
)

from fairseq_taskmoe.models.build_layers import build_moe_layer
from fairseq_taskmoe.models.folded_model import fold_model
from fairseq_taskmoe.modules import bf16_products
from fairseq_taskmoe.modules.bf16_products import set_matmul_precision
from fairseq_taskmoe.modules.folding import fold_layer, task_route
from fairseq_taskmoe.modules.linear import narrow_weights

FOLDABLE = ("source", "target", "pair", "group", "static")
BY_TEXT = ("token", "sentence", "random")


def one_task_batch(task_id, size=3):
    sources = random_sentences([6, 3, 8][:size])
    targets = random_sentences([4, 7, 5][:size])
    return make_batch(sources, targets, [task_id] * size)


@pytest.mark.parametrize("kind", FOLDABLE)
@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_folded_layer_is_the_routed_layer(kind, top_k):
    cfg = make_config(encoder_moe_router=kind, moe_top_k=top_k)
    layer = build_moe_layer(cfg, "encoder", 0, make_task().task_table).eval()
    with torch.no_grad():
        for name in ("fc1", "fc2"):
            getattr(layer.experts, name).bias.normal_()
    x, mask = torch.randn(2, 5, 16), ragged_mask((5, 3))
    for task_id in range(len(LANG_PAIRS)):
        inputs = routing_inputs(mask, task_ids=torch.full((2,), task_id))
        expected = layer(x, inputs)[0]
        linears = fold_layer(layer, task_id)
        folded = linears["fc2"](linears["fc1"](x).relu())
        assert linears["fc1"].out_features == top_k * cfg.encoder_ffn_embed_dim
        torch.testing.assert_close(folded[mask], expected[mask])


@pytest.mark.parametrize("kind", BY_TEXT)
def test_routers_by_text_have_no_task_route(kind):
    router = build_moe_layer(
        make_config(encoder_moe_router=kind), "encoder", 0, make_task().task_table
    ).router
    assert task_route(router, 0) is None


def test_task_route_does_not_change_the_training_mode():
    router = make_model(router="target").encoder.layers[0].moe.router
    for training in (True, False):
        task_route(router.train(training), 1)
        assert router.training is training


@pytest.mark.parametrize("encoder,decoder", [("target", "pair"), ("token", "target"),
                                             ("static", "sentence"), ("token", "random")])
def test_folded_model_is_the_full_model_for_its_task_and_shares_the_rest(encoder, decoder):
    model = make_model(encoder_moe_router=encoder, decoder_moe_router=decoder)
    for task_id in range(len(LANG_PAIRS)):
        batch = one_task_batch(task_id)
        expected = model(**batch["net_input"])[0]
        folded = fold_model(model, task_id)
        real = batch["target"].ne(1)
        torch.testing.assert_close(folded(**batch["net_input"])[0][real], expected[real])
        assert folded.encoder.embed_tokens is model.encoder.embed_tokens
        for stack, kind in (("encoder", encoder), ("decoder", decoder)):
            for layer, original in zip(
                getattr(folded, stack).layers, getattr(model, stack).layers, strict=True
            ):
                assert original.moe is not None
                assert (layer.moe is None) == (kind in FOLDABLE)


def test_another_task_gives_another_folded_model():
    model = make_model(router="pair")
    batch = one_task_batch(0)
    real = batch["target"].ne(1)
    own = fold_model(model, 0)(**batch["net_input"])[0][real]
    other = fold_model(model, 1)(**batch["net_input"])[0][real]
    assert (own - other).abs().max() > 1e-3


def test_narrow_experts_can_be_folded(monkeypatch):
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(bf16_products, "LEAST_ELEMENTS", 1)
    set_matmul_precision("medium")
    model, batch = make_model(router="pair"), one_task_batch(0)
    folded_first = fold_model(model, 0)
    narrow_weights(folded_first)
    narrow_weights(model)
    expected, found = (
        each(**batch["net_input"])[0].float() for each in (folded_first, fold_model(model, 0))
    )
    set_matmul_precision("highest")
    assert (found - expected).norm() < 0.02 * expected.norm()


@pytest.mark.parametrize("routed", [False, True])
def test_fairseqs_commands_fold_their_direction_unless_disabled(routed):
    model = make_model(router="target", moe_routed_inference=routed)
    inference = SimpleNamespace(
        common=SimpleNamespace(fp16=False),
        generation=SimpleNamespace(no_beamable_mm=True, print_alignment=None, beam=1),
        task=SimpleNamespace(source_lang="en", target_lang="de"),
    )
    batch = one_task_batch(LANG_PAIRS.index("en-de"))
    expected = model(**batch["net_input"])[0]
    model.prepare_for_inference_(inference)
    moe = [layer.moe for stack in (model.encoder, model.decoder) for layer in stack.layers]
    assert all((layer is not None) == routed for layer in moe)
    real = batch["target"].ne(1)
    torch.testing.assert_close(model(**batch["net_input"])[0][real], expected[real])
