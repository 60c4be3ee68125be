"""A sub-network computes what the full model computes for its pairs, with no expert too many."""

import sys

import pytest
import torch
from checkpoint_cases import checkpoint_of, loaded, parse
from console import run
from helpers import make_batch, make_model, make_task, random_sentences

from fairseq_taskmoe.errors import Refusal
from fairseq_taskmoe.subnet.extract import count_parameters, extract_subnet
from fairseq_taskmoe.subnet.folder import Extraction, extract
from fairseq_taskmoe.subnet.to_fairseq import stock_checkpoint, taskmoe_checkpoint
from fairseq_taskmoe.subnet.verify import worst_difference

UNION = ["en-de", "en-fr", "fr-de"]


def log_probs(model, task, pair, seed=3):
    torch.manual_seed(seed)
    task_id = task.task_table.task_id(pair)
    batch = make_batch(random_sentences([6, 3, 8]), random_sentences([4, 7, 5]), [task_id] * 3)
    with torch.no_grad():
        out = model.get_normalized_probs(model(**batch["net_input"]), log_probs=True)
    return out[batch["target"].ne(1)]


@pytest.mark.parametrize(
    "routers",
    [("source", "target"), ("pair", "pair"), ("group", "static"), ("token", "target"),
     ("source", "sentence"), ("static", "random")],
)
@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_a_union_computes_what_the_full_model_computes(routers, top_k):
    overrides = {
        "encoder_moe_router": routers[0], "decoder_moe_router": routers[1], "moe_top_k": top_k,
    }
    task = make_task()
    full = make_model(task, **overrides)
    checkpoint = checkpoint_of(full, task, **overrides)
    subnet = extract_subnet(parse(checkpoint), UNION)
    model, its_task = loaded(taskmoe_checkpoint(parse(checkpoint), subnet))
    for pair in UNION:
        expected = log_probs(full, task, pair)
        torch.testing.assert_close(log_probs(model, its_task, pair), expected)


@pytest.mark.parametrize("router", ["source", "target", "pair", "group", "static"])
def test_a_union_holds_each_expert_once_and_no_other(router):
    task = make_task()
    full = make_model(task, router=router)
    checkpoint = checkpoint_of(full, task, encoder_moe_router=router, decoder_moe_router=router)
    subnet = extract_subnet(parse(checkpoint), UNION)
    for stack in ("encoder", "decoder"):
        for i, layer in enumerate(getattr(full, stack).layers):
            prefix = f"{stack}.layers.{i}"
            ids = torch.tensor([task.task_table.task_id(pair) for pair in UNION])
            routing = route(layer.moe.router, ids)
            wanted = sorted(set(routing.expert_ids.flatten().tolist()))
            kept = subnet.state.get(f"{prefix}.moe.experts.fc1.weight")
            if kept is None:  # they agree
                assert len(wanted) == 2
                assert subnet.state[f"{prefix}.fc1.weight"].size(0) == 2 * 24
            else:
                torch.testing.assert_close(kept, layer.moe.experts.fc1.weight[wanted])


def route(router, task_ids):
    from helpers import routing_inputs

    mask = torch.ones(len(task_ids), 1, dtype=torch.bool)
    with torch.no_grad():
        return router(torch.zeros(len(task_ids), 1, 16), routing_inputs(mask, task_ids=task_ids))


def test_pairs_that_agree_make_a_dense_model_for_all_of_them():
    """All sources into German: with target routing on both sides, one dense model."""
    overrides = {"encoder_moe_router": "target", "decoder_moe_router": "target"}
    task = make_task()
    full = make_model(task, **overrides)
    checkpoint = checkpoint_of(full, task, **overrides)
    subnet = extract_subnet(parse(checkpoint), ["en-de", "fr-de"])
    assert not subnet.routed
    assert subnet.model_cfg["decoder_moe_router"] == "dense"
    assert not any(".moe." in name for name in subnet.state)
    stock = stock_checkpoint(parse(checkpoint), subnet)
    assert stock["cfg"]["task"]["lang_pairs"] == ["en-de", "fr-de"]
    model, its_task = loaded(taskmoe_checkpoint(parse(checkpoint), subnet))
    for pair in ("en-de", "fr-de"):
        torch.testing.assert_close(log_probs(model, its_task, pair), log_probs(full, task, pair))


def test_layers_that_agree_are_dense_among_others_that_do_not():
    overrides = {"encoder_moe_router": "pair", "decoder_moe_router": "pair"}
    task = make_task()
    full = make_model(task, **overrides)
    router = full.encoder.layers[1].moe.router
    with torch.no_grad():  # in this layer all pairs route alike
        router.embed_tasks.weight.copy_(router.embed_tasks.weight[:1].expand(4, -1))
    checkpoint = checkpoint_of(full, task, **overrides)
    subnet = extract_subnet(parse(checkpoint), UNION)
    counts = subnet.model_cfg["encoder_moe_layer_experts"].split(",")
    assert counts[1] == "0" and int(counts[0]) >= 2
    model, its_task = loaded(taskmoe_checkpoint(parse(checkpoint), subnet))
    assert model.encoder.layers[1].moe is None and model.encoder.layers[0].moe is not None
    for pair in UNION:
        torch.testing.assert_close(log_probs(model, its_task, pair), log_probs(full, task, pair))


@pytest.mark.parametrize("top_k", [1, 2])
def test_a_pair_cut_out_of_a_union_is_the_pair_cut_out_of_the_full_model(top_k):
    overrides = {
        "encoder_moe_router": "source", "decoder_moe_router": "target", "moe_top_k": top_k,
    }
    task = make_task()
    full = make_model(task, **overrides)
    checkpoint = checkpoint_of(full, task, **overrides)
    union = taskmoe_checkpoint(parse(checkpoint), extract_subnet(parse(checkpoint), UNION))
    first, again = (
        extract_subnet(parse(cut), ["en-fr"]) for cut in (checkpoint, union)
    )
    assert first.state.keys() == again.state.keys()
    for name, tensor in first.state.items():
        assert tensor.shape == again.state[name].shape
    # experts may come in another order, which is the same network
    for subnet, origin in ((first, checkpoint), (again, union)):
        model, its_task = loaded(taskmoe_checkpoint(parse(origin), subnet))
        found = log_probs(model, its_task, "en-fr")
        torch.testing.assert_close(found, log_probs(full, task, "en-fr"))
    with pytest.raises(Refusal, match="sub-network for en-de, en-fr, fr-de, not for de-en"):
        extract_subnet(parse(union), ["de-en"])


def test_no_dense_model_is_made_of_tasks_that_differ():
    task = make_task()
    overrides = {"encoder_moe_router": "target", "decoder_moe_router": "target"}
    checkpoint = checkpoint_of(make_model(task, **overrides), task, **overrides)
    subnet = extract_subnet(parse(checkpoint), ["en-de", "en-fr"])
    assert set(subnet.routed) == {"encoder", "decoder"}
    with pytest.raises(Refusal, match="en-de and en-fr take different experts in encoder layer 0"):
        stock_checkpoint(parse(checkpoint), subnet)


def in_precision(dtype, state):
    return {
        name: tensor.to(dtype) if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("format", ["fairseq", "taskmoe", "ctranslate2"])
def test_checkpoints_in_half_precision_are_cut_too(dtype, format, tmp_path):
    """--bf16 and --fp16 save such weights; gates are applied in float32, as by the full model."""
    task = make_task()
    overrides = {"encoder_moe_router": "source", "decoder_moe_router": "target"}
    checkpoint = checkpoint_of(make_model(task, **overrides), task, **overrides)
    checkpoint["model"] = in_precision(dtype, checkpoint["model"])
    torch.save(checkpoint, tmp_path / "half.pt")
    manifest = extract(
        str(tmp_path / "half.pt"), ["en-de"], str(tmp_path / "out"), Extraction(format)
    )
    assert worst_difference(manifest.checks) < 1e-4


MEASURE = """
import re, sys
from fairseq_taskmoe import register
from fairseq_taskmoe.subnet.folder import extract
def status(key):
    return int(re.search(key + r":\\s+(\\d+) kB", open("/proc/self/status").read())[1]) * 1024
extract("small.pt", ["en-de"], "first")  # libraries are read
before = status("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # the peak counts from here
extract("large.pt", ["en-de"], "second")
print(status("VmHWM") - before)
"""


@pytest.mark.slow
def test_experts_in_half_precision_stay_in_their_file(tmp_path):
    """They are computed with in float32: all of them would be twice as large as the checkpoint."""
    overrides = {
        "encoder_moe_router": "source", "decoder_moe_router": "target",
        "encoder_embed_dim": 128, "decoder_embed_dim": 128,
    }
    task = make_task()
    for name, experts in (("small.pt", 2), ("large.pt", 64)):
        overrides.update(moe_expert_ffn_dim=8 * experts, moe_expert_count=experts)
        checkpoint = checkpoint_of(make_model(task, **overrides), task, **overrides)
        checkpoint["model"] = in_precision(torch.bfloat16, checkpoint["model"])
        torch.save(checkpoint, tmp_path / name)
    found = run(sys.executable, "-c", MEASURE, cwd=tmp_path)
    size, slack = (tmp_path / "large.pt").stat().st_size, 48e6  # a library's, for its products
    assert int(found.stdout.split()[-1]) < size / 4 + slack < size


@pytest.mark.parametrize("format", ["fairseq", "taskmoe"])
def test_parameters_are_those_that_were_written(format, tmp_path):
    """fairseq's transformer has one width for all layers: narrower ones are filled up."""
    overrides = {
        "encoder_moe_router": "source", "decoder_moe_router": "target", "moe_expert_ffn_dim": 40,
        "encoder_layers": 4, "moe_freq": 2,
    }
    task = make_task()
    checkpoint = checkpoint_of(make_model(task, **overrides), task, **overrides)
    torch.save(checkpoint, tmp_path / "full.pt")
    out = str(tmp_path / "out")
    manifest = extract(str(tmp_path / "full.pt"), ["en-de"], out, Extraction(format))
    written = torch.load(tmp_path / "out" / "model.pt", weights_only=False)["model"]
    assert manifest.parameters == count_parameters(written)
    padding = 3 * (2 * 40 - 24) * (2 * 16 + 1)  # three dense layers, of width 24
    own = extract_subnet(parse(checkpoint), ["en-de"]).num_parameters
    assert manifest.parameters == own + (padding if format == "fairseq" else 0)


@pytest.mark.parametrize("setting", [{"activation_fn": "swish"}, {"decoder_output_bias": True}])
def test_what_fairseqs_own_transformer_lacks_is_refused(setting):
    task = make_task()
    trained = parse(checkpoint_of(make_model(task, **setting), task, **setting))
    with pytest.raises(Refusal, match="--decoder-output-bias nor --activation-fn swish"):
        stock_checkpoint(trained, extract_subnet(trained, ["en-de"]))
