"""A run that loads a checkpoint builds the model that it is of, and goes on with its objective."""

import shutil
from argparse import Namespace

import pytest
import torch
from console import TRAIN, logged, refused, run
from helpers import make_config

from fairseq_taskmoe.checkpoint.same_model import check_loaded, file_to_load
from fairseq_taskmoe.errors import Refusal

SMALL = {"max_source_positions": 64, "max_target_positions": 64}
DENSE = {"moe_expert_count": 0}
BEGINNING = ("--max-update", 2, "--disable-validation", "--no-epoch-checkpoints")


def settings_of(cfg):
    """Return the section `model` of a checkpoint: plain values."""
    return {name: getattr(value, "value", value) for name, value in cfg.items()}


def saved(path, model, criterion=None):
    """Write what a checkpoint says of its model, without weights, and return its folder."""
    torch.save({"cfg": {"model": model, "criterion": criterion or {}}, "model": {}}, path)
    return {"save_dir": str(path.parent)}


DIFFERENCES = [
    ({"encoder_normalize_before": True}, "--encoder-normalize-before False, this one has True"),
    ({"decoder_normalize_before": True}, "--decoder-normalize-before False, this one has True"),
    ({"activation_fn": "gelu"}, "--activation-fn relu, this one has gelu"),
    ({"encoder_attention_heads": 4}, "--encoder-attention-heads 2, this one has 4"),
    ({"decoder_attention_heads": 4}, "--decoder-attention-heads 2, this one has 4"),
    ({"encoder_layers": 1}, "--encoder-layers 2, this one has 1"),
    ({"decoder_layers": 1}, "--decoder-layers 2, this one has 1"),
    ({"encoder_learned_pos": True}, "--encoder-learned-pos False, this one has True"),
    ({"decoder_learned_pos": True}, "--decoder-learned-pos False, this one has True"),
    ({"share_all_embeddings": True}, "--share-all-embeddings False, this one has True"),
    ({"share_decoder_input_output_embed": True}, "--share-decoder-input-output-embed False"),
    ({"no_scale_embedding": True}, "--no-scale-embedding False, this one has True"),
    ({"layernorm_embedding": True}, "--layernorm-embedding False, this one has True"),
    ({"moe_top_k": 1}, "--moe-top-k 2, this one has 1"),
    ({"encoder_moe_router": "token"}, "--encoder-moe-router target, this one has token"),
    ({"decoder_moe_router": "sentence"}, "--decoder-moe-router target, this one has sentence"),
    ({"moe_freq": 2}, "--encoder-moe-freq 1, this one has 2"),
    ({"decoder_moe_freq": 2}, "--decoder-moe-freq 1, this one has 2"),
    ({"encoder_moe_layer_experts": "5,3"}, "--encoder-moe-layer-experts None, this one has 5,3"),
]


@pytest.mark.parametrize("change, told", DIFFERENCES, ids=[told for _, told in DIFFERENCES])
def test_another_model_is_refused_in_a_line_that_names_the_flag(change, told, tmp_path):
    path = tmp_path / "checkpoint_last.pt"
    saving = saved(path, settings_of(make_config(**SMALL)))
    check_loaded(make_config(**SMALL), saving)
    with pytest.raises(Refusal) as refusal:
        check_loaded(make_config(**SMALL, **change), saving)
    assert str(refusal.value).startswith(f"{path}: of a model with {told}")


def test_what_no_weight_depends_on_may_change(tmp_path):
    saving = saved(tmp_path / "checkpoint_last.pt", settings_of(make_config(**SMALL)))
    check_loaded(
        make_config(
            **SMALL, dropout=0.3, moe_router_jitter=0.1, moe_expert_parallel_size=1,
            checkpoint_activations=True, encoder_moe_freq=1,  # as --moe-freq has it
        ),
        saving,
    )


def test_routing_of_models_without_experts_is_not_compared(tmp_path):
    stored = settings_of(make_config(**SMALL, **DENSE, encoder_moe_router="token", moe_top_k=1))
    saving = saved(tmp_path / "checkpoint_last.pt", stored)
    check_loaded(make_config(**SMALL, **DENSE), saving)


def test_settings_of_stock_models_are_compared_as_far_as_they_have_them(tmp_path):
    stock = Namespace(encoder_normalize_before=False, activation_fn="relu")
    saving = saved(tmp_path / "stock.pt", stock)
    saving = {**saving, "finetune_from_model": str(tmp_path / "stock.pt")}
    check_loaded(make_config(**SMALL, **DENSE), saving)
    with pytest.raises(Refusal, match="stock.pt: of a model with --encoder-normalize-before False"):
        check_loaded(make_config(**SMALL, **DENSE, encoder_normalize_before=True), saving)


def test_the_file_that_fairseq_will_load(tmp_path):
    saving = {"save_dir": str(tmp_path), "restore_file": "checkpoint_last.pt"}
    assert file_to_load(saving) is None
    assert file_to_load({**saving, "finetune_from_model": "other.pt"}) == "other.pt"
    assert file_to_load({**saving, "restore_file": "a.pt", "checkpoint_suffix": "-rank-0"}) == (
        "a-rank-0.pt"
    )
    last = tmp_path / "checkpoint_last.pt"
    last.touch()
    assert file_to_load({**saving, "finetune_from_model": "other.pt"}) == str(last)


def test_a_run_goes_on_with_the_reduction_that_it_began_with(tmp_path):
    model, path = settings_of(make_config(**SMALL)), tmp_path / "checkpoint_last.pt"

    def began_with(criterion, **options):
        return check_loaded(make_config(**SMALL), {**saved(path, model, criterion), **options})

    assert began_with({"moe_gate_loss_wt": 0.01}) == "mean"  # of a version that had no choice
    assert began_with({"moe_gate_loss_reduction": "mean"}) == "mean"
    assert began_with({"moe_gate_loss_reduction": "sum"}) == "sum"
    assert began_with({}, reset_optimizer=True) is None
    assert check_loaded(make_config(**SMALL), {"save_dir": str(tmp_path / "new")}) is None


# -- real commands


@pytest.fixture(scope="module")
def begun(tmp_path_factory, corpus):
    """Return the folder of a post-norm run of two updates; its last checkpoint must not change."""
    folder = tmp_path_factory.mktemp("begun")
    run("fairseq-train", corpus.data, *TRAIN, *BEGINNING, "--save-dir", folder,
        "--moe-gate-loss-wt", 0.5, "--moe-gate-loss-reduction", "mean")
    return folder


def resume(begun, corpus, folder, *flags, updates=4, check=True):
    if not folder.exists():
        shutil.copytree(begun, folder)
    return run(
        "fairseq-train", corpus.data, *TRAIN, *BEGINNING, "--moe-gate-loss-wt", 0.5, "--save-dir",
        folder, "--max-update", updates, *flags, check=check,
    )


@pytest.mark.parametrize("flags, told", [
    (("--encoder-normalize-before",), "--encoder-normalize-before False, this one has True"),
    (("--activation-fn", "gelu"), "--activation-fn relu, this one has gelu"),
    (("--encoder-moe-router", "static"), "--encoder-moe-router target, this one has static"),
])
def test_a_differently_built_run_does_not_resume(begun, corpus, tmp_path, flags, told):
    folder = tmp_path / "resumed"
    line = refused(resume(begun, corpus, folder, *flags, check=False))
    assert told in line and f"{folder}/checkpoint_last.pt" in line
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint_last.pt"]


@pytest.mark.slow
def test_a_post_norm_run_of_base_resumes_with_the_plain_architecture(begun, corpus, tmp_path):
    sizes = [
        word for stack in ("encoder", "decoder")
        for name, value in (("embed-dim", 64), ("ffn-embed-dim", 128), ("layers", 2),
                            ("attention-heads", 2))
        for word in (f"--{stack}-{name}", value)
    ]
    own = ("--moe-expert-count", 4, *sizes)
    folder = tmp_path / "resumed"
    line = refused(resume(
        begun, corpus, folder, "--arch", "transformer_task_moe_base", *own, check=False
    ))
    assert "--encoder-normalize-before False" in line and "--arch transformer_task_moe does" in line
    resumed = resume(
        begun, corpus, folder, "--arch", "transformer_task_moe", "--share-all-embeddings", *own
    )
    assert len(logged(resumed.said, "loss")) == 2


@pytest.mark.slow
def test_an_older_run_keeps_its_objective_and_says_so(begun, corpus, tmp_path):
    """A checkpoint of a version without --moe-gate-loss-reduction, which took the mean."""
    folders = {name: tmp_path / name for name in ("flagged", "older", "sum")}
    path = begun / "checkpoint_last.pt"
    for name in ("older", "sum"):
        folders[name].mkdir()
        checkpoint = torch.load(path, weights_only=False)
        del checkpoint["cfg"]["criterion"]["moe_gate_loss_reduction"]
        torch.save(checkpoint, folders[name] / path.name)
    flagged = resume(begun, corpus, folders["flagged"], "--moe-gate-loss-reduction", "mean")
    older = resume(begun, corpus, folders["older"])
    added = resume(begun, corpus, folders["sum"], "--moe-gate-loss-reduction", "sum")
    losses = [logged(result.said, "loss") for result in (flagged, older, added)]
    assert len(losses[0]) == 2 and losses[0] == losses[1] and losses[2] != losses[0]
    told = "gate losses are averaged over MoE layers, as in the resumed checkpoint"
    assert told in older.said and told not in flagged.said + added.said
    # and what it resumes next says it of itself
    resumed = resume(begun, corpus, folders["older"], updates=5)
    assert told in resumed.said
    kept = torch.load(folders["older"] / path.name, weights_only=False)
    assert kept["cfg"]["criterion"]["moe_gate_loss_reduction"] == "mean"


def test_a_new_run_says_in_its_checkpoint_that_it_adds_up(corpus, tmp_path):
    run("fairseq-train", corpus.data, *TRAIN, *BEGINNING, "--save-dir", tmp_path)
    kept = torch.load(tmp_path / "checkpoint_last.pt", weights_only=False)
    assert kept["cfg"]["criterion"]["moe_gate_loss_reduction"] == "sum"
