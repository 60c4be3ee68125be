"""Our dense model and our one-expert model are fairseq's `transformer`."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from fairseq.models.transformer import TransformerConfig, TransformerModelBase
from helpers import (
    make_batch,
    make_config,
    make_model,
    make_task,
    ragged_batch,
    random_sentences,
)
from omegaconf import OmegaConf

# of what the stock model hands to torch
pytestmark = pytest.mark.filterwarnings("ignore:Support for mismatched key_padding_mask")

TIES = ("untied", "decoder", "all")
KINDS = {
    "dense": {"moe_expert_count": 0},
    "one-expert": {"moe_expert_count": 1, "moe_top_k": 1, "moe_freq": 2},
}


def make_stock(task, ours):
    """Return fairseq's transformer with the sizes and options of our configuration."""
    cfg = OmegaConf.structured(TransformerConfig)
    for stack in ("encoder", "decoder"):
        part = cfg[stack]
        part.embed_dim = ours[f"{stack}_embed_dim"]
        part.ffn_embed_dim = ours[f"{stack}_ffn_embed_dim"]
        part.layers = ours[f"{stack}_layers"]
        part.attention_heads = ours[f"{stack}_attention_heads"]
        part.normalize_before = ours[f"{stack}_normalize_before"]
        part.learned_pos = ours[f"{stack}_learned_pos"]
    cfg.decoder.input_dim = cfg.decoder.output_dim = ours.decoder_embed_dim
    for name in (
        "dropout", "share_decoder_input_output_embed", "share_all_embeddings",
        "layernorm_embedding", "no_scale_embedding", "max_source_positions",
        "max_target_positions",
    ):
        cfg[name] = ours[name]
    cfg.activation_fn = str(ours.activation_fn)
    model = TransformerModelBase.build_model(cfg, task)
    for parameter in model.parameters():
        if parameter.dim() == 1:  # norms and biases, that no difference hides behind ones and zeros
            torch.nn.init.normal_(parameter, mean=0.5, std=0.3)
    return model


def our_name(name, model):
    """Return the name in our model of a stock parameter; a lone expert's has a layer's place."""
    if name in model.state_dict():
        return name
    for linear in ("fc1", "fc2"):
        name = name.replace(f".{linear}.", f".moe.experts.{linear}.")
    return name


def copy_weights(stock, model):
    """Give our model the weights of stock, all of them."""
    own = model.state_dict()
    copied = {}
    for name, tensor in stock.state_dict().items():
        if name.endswith(".version"):
            continue
        copied[our_name(name, model)] = tensor.view_as(own[our_name(name, model)])
    missing, unexpected = model.load_state_dict(copied, strict=False)
    assert not unexpected
    assert all(".router." in name for name in missing), missing


def logits_and_gradients(model, batch, with_tasks):
    """Return logits (tokens, V) at real positions, and each parameter's gradient of the NLL."""
    net_input = dict(batch["net_input"])
    if not with_tasks:
        del net_input["task_ids"]
    model.train()  # without dropout
    logits, _ = model(**net_input)
    real = batch["target"] != 1
    loss = F.cross_entropy(logits[real], batch["target"][real], reduction="sum")
    model.zero_grad()
    loss.backward()
    return logits[real], {
        name: p.grad for name, p in model.named_parameters() if p.grad is not None
    }


def assert_equals_stock(kind, batch=None, **overrides):
    overrides = {**KINDS[kind], **overrides}
    task = make_task()
    stock = make_stock(task, make_config(**overrides))
    model = make_model(task, **overrides)
    copy_weights(stock, model)
    batch = batch or ragged_batch()
    expected, stock_gradients = logits_and_gradients(stock, batch, with_tasks=False)
    logits, gradients = logits_and_gradients(model, batch, with_tasks=True)
    torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-5)
    for name, gradient in stock_gradients.items():
        found = gradients.pop(our_name(name, model))
        torch.testing.assert_close(
            found.view_as(gradient), gradient, atol=1e-4, rtol=1e-4,
            msg=lambda message, name=name: f"{name}: {message}",
        )
    # a probability that is 1 whatever the gate says
    assert all(".router." in name and not gradient.any() for name, gradient in gradients.items())


@pytest.mark.parametrize(
    "normalize_before, activation_fn, tie, learned_pos",
    list(product([False, True], ["relu", "gelu"], TIES, [False, True])),
)
@pytest.mark.parametrize("kind", KINDS)
def test_model_is_the_stock_transformer(kind, normalize_before, activation_fn, tie, learned_pos):
    assert_equals_stock(
        kind,
        encoder_normalize_before=normalize_before,
        decoder_normalize_before=normalize_before,
        activation_fn=activation_fn,
        encoder_learned_pos=learned_pos,
        decoder_learned_pos=learned_pos,
        share_decoder_input_output_embed=tie == "decoder",
        share_all_embeddings=tie == "all",
    )


@pytest.mark.parametrize(
    "overrides",
    [
        {"layernorm_embedding": True},
        {"no_scale_embedding": True},
        {"encoder_normalize_before": True},
        {"encoder_embed_dim": 8, "encoder_attention_heads": 4, "encoder_layers": 3},
    ],
    ids=lambda overrides: next(iter(overrides)),
)
@pytest.mark.parametrize("kind", KINDS)
def test_model_is_the_stock_transformer_with_other_options(kind, overrides):
    assert_equals_stock(kind, **overrides)


@pytest.mark.parametrize("kind", KINDS)
def test_model_is_the_stock_transformer_on_a_batch_without_padding(kind):
    batch = make_batch(random_sentences([5] * 3), random_sentences([6] * 3), [0, 1, 2])
    assert_equals_stock(kind, batch)


# -- decoding
