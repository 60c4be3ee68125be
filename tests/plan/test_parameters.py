"""Parameter tables: the paper's numbers, real models' numbers, and nothing allocated for them."""

import argparse
import json
from contextlib import redirect_stdout
from functools import lru_cache
from io import StringIO

import pytest
import torch
from checkpoint_cases import parse
from fairseq.dataclass.utils import gen_parser_from_dataclass
from helpers import LANG_PAIRS, ROUTERS, make_config, make_model, make_task
from omegaconf import OmegaConf

from fairseq_taskmoe.cli import Parser
from fairseq_taskmoe.errors import command
from fairseq_taskmoe.models.config import TransformerTaskMoeConfig
from fairseq_taskmoe.plan.parameters import (
    WMT_PAIRS,
    build_on_meta,
    pairs_with_english,
    report_architecture,
    report_checkpoint,
)
from fairseq_taskmoe.subnet.extract import extract_subnet
from fairseq_taskmoe.verbs import params

MILLION = 10**6
BASE = ("--arch", "transformer_task_moe_base", "--vocab-size", "64000")
BIG = ("--arch", "transformer_task_moe_big", "--vocab-size", "64000", "--num-pairs", "204")


@lru_cache(maxsize=None)  # the largest model takes seconds to build
def count(*words):
    """Run the verb, and return its JSON."""
    parser = Parser(allow_abbrev=False)
    params.add_arguments(parser)
    with redirect_stdout(StringIO()) as printed:
        params.run(parser.parse_args([*words, "--format", "json"]))
    return json.loads(printed.getvalue())


@pytest.mark.parametrize(
    "words, millions",
    [
        # table 7; the paper cuts off some decimals (65.5M of softmax are 65M) and rounds others
        (BASE, {"vocabulary": 33, "encoder": 214, "decoder": 221, "softmax": 65.5, "total": 533,
                "effective_encoder": 25, "effective_decoder": 31.5, "effective": 155}),
        ((*BASE, "--moe-expert-count", "0"),
         {"encoder": 19, "decoder": 25, "experts": 0, "total": 142, "effective": 142}),
        # K = 2 experts in the task-routed stack: paper.md 1.5 says what the paper counted
        ((*BASE, "--encoder-moe-router", "token"),
         {"total": 533, "effective_encoder": 214, "effective_decoder": 31.5, "effective": 344}),
        ((*BASE, "--encoder-moe-router", "token", "--decoder-moe-router", "sentence"),
         {"total": 533, "effective": 533}),
        # table 8
        (BIG, {"vocabulary": 65.5, "encoder": 6522, "decoder": 6547, "softmax": 131,
               "effective_decoder": 201}),
        ((*BIG, "--moe-expert-count", "0"), {"encoder": 126, "decoder": 151, "total": 473}),
    ],
    ids=["base", "dense base", "token-target", "token-sentence", "big", "dense big"],
)
def test_tables_of_the_paper(words, millions):
    report = count(*words)
    assert {name: report[name] / MILLION for name in millions} == pytest.approx(millions, abs=0.7)
    assert report["total"] == sum(
        report[name] for name in ("vocabulary", "encoder", "decoder", "softmax")
    )
    # two of the three matrices of embeddings are the first one again
    assert report["total"] - report["total_shared"] == report["softmax"]
    assert report["effective"] - report["effective_shared"] == report["softmax"]


def test_experts_of_one_task_are_k_of_e():
    report = count(*BASE)
    assert report["experts"] == 6 * 32 * (2 * 512 * 2048 + 2048 + 512)
    assert report["effective_experts"] == 6 * (2 * (2 * 512 * 2048 + 2048) + 512)


def test_thirteen_billion_parameters_take_no_memory():
    sizes = {"encoder_ffn_embed_dim": 8192, "moe_expert_count": 128, "encoder_embed_dim": 1024}
    model = build_on_meta(make_config(**sizes), 1000, make_task().task_table)
    assert all(parameter.is_meta for parameter in model.parameters())
    assert sum(parameter.numel() for parameter in model.parameters()) > 4e9


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("router", [*ROUTERS, "dense"])
def test_a_real_model_holds_total_shared(router, shared):
    task = make_task()
    overrides = {"share_all_embeddings": shared, "encoder_learned_pos": True}
    model = make_model(task, router, **overrides)
    cfg = make_config(encoder_moe_router=router, decoder_moe_router=router, **overrides)
    report = report_architecture(cfg, len(task.dictionary), task.task_table)
    assert report.full.total_shared == sum(p.numel() for p in model.parameters())
    assert report.full.total == sum(tensor.numel() for tensor in model.state_dict().values())
    assert report.full.experts == sum(
        tensor.numel() for name, tensor in model.state_dict().items() if ".moe.experts." in name
    )


def make_checkpoint(**overrides):
    task = make_task()
    model = make_model(task, **overrides)
    cfg = OmegaConf.to_container(make_config(**overrides), enum_to_str=True)
    return {
        "model": model.state_dict(), "cfg": {"model": cfg, "task": {"data": "x"}},
        "task_state": task.state_dict(),
    }


@pytest.mark.parametrize(
    "routers", [("pair", "target"), ("static", "group"), ("token", "source"), ("random", "static")]
)
@pytest.mark.parametrize("top_k", [1, 3])
def test_effective_is_what_extraction_leaves(routers, top_k):
    overrides = {
        "encoder_moe_router": routers[0], "decoder_moe_router": routers[1], "moe_top_k": top_k,
        "moe_freq": 2, "moe_expert_ffn_dim": 7,
    }
    checkpoint = make_checkpoint(**overrides)
    subnet = extract_subnet(parse(checkpoint), [LANG_PAIRS[0]])
    task = make_task()
    report = report_architecture(make_config(**overrides), len(task.dictionary), task.task_table)
    assert report.effective.total == sum(tensor.numel() for tensor in subnet.state.values())


def test_a_checkpoint_counts_as_its_architecture(tmp_path):
    overrides = {"encoder_moe_router": "token", "share_all_embeddings": True}
    torch.save(make_checkpoint(**overrides), tmp_path / "checkpoint.pt")
    task = make_task()
    expected = report_architecture(make_config(**overrides), len(task.dictionary), task.task_table)
    assert report_checkpoint(str(tmp_path / "checkpoint.pt")) == expected


@pytest.mark.parametrize(
    "name", ["encoder.embed_tokens.weight", "decoder.layers.1.moe.experts.fc1.weight"]
)
def test_part_of_a_checkpoint_is_refused(name, tmp_path, refused):
    checkpoint = make_checkpoint()
    del checkpoint["model"][name]
    torch.save(checkpoint, tmp_path / "checkpoint.pt")
    assert "that its configuration describes" in refused(str(tmp_path / "checkpoint.pt"))


def test_the_table_shows_millions_and_exact_numbers():
    task = make_task()
    text = report_architecture(make_config(), len(task.dictionary), task.task_table).to_text()
    head, *rows = text.partition("\n\n")[0].splitlines()
    assert "all experts" in head and "one pair" in head
    assert len({len(row) for row in rows}) == 1
    columns = len(task.dictionary) * 16
    assert rows[0].split() == ["vocabulary", *["0.0", "M", f"{columns:,}"] * 2]


def test_all_of_the_models_flags_are_taken_with_their_defaults_and_help():
    parser = argparse.ArgumentParser(add_help=False)
    gen_parser_from_dataclass(parser, TransformerTaskMoeConfig())
    shown = [action for action in parser._actions if action.help != argparse.SUPPRESS]
    assert params.model_flags() == {action.dest: (action.default, action.help) for action in shown}
    switches = [action.dest for action in shown if action.nargs == 0]
    assert [name for name, flag in params.model_flags().items() if flag.is_switch] == switches
    assert [a.dest for a in parser._actions if a not in shown] == ["base_layers"]


def test_flags_reach_the_model():
    words = (*BASE, "--moe-expert-count", "4", "--encoder-layers", "2", "--moe-freq", "1",
             "--encoder-moe-router", "token", "--encoder-normalize-before")
    expert = 2 * 512 * 2048 + 2048 + 512
    layer = 4 * (512 * 512 + 512) + 2 * 2 * 512 + 4 * expert + 4 * 512
    assert count(*words)["encoder"] == 2 * layer + 2 * 512


def test_task_embeddings_follow_the_pairs():
    words = (*BASE, "--encoder-moe-router", "pair", "--decoder-moe-router", "token")
    sizes = [
        count(*words, *pairs)["encoder"]
        for pairs in ([], ["--num-pairs", "3"], ["--lang-pairs", "en-de,de-en"])
    ]
    assert [sizes[0] - size for size in sizes] == [0, 3 * 27 * 512, 3 * 28 * 512]
    assert len(set(WMT_PAIRS)) == 30
    assert pairs_with_english(3) == ["x0-en", "en-x0", "x1-en"]


@pytest.fixture
def refused(capsys):
    """Give a function that runs the verb into its refusal and returns the line."""

    def refused(*words):
        parser = Parser(prog="taskmoe params", allow_abbrev=False)
        params.add_arguments(parser)
        with pytest.raises(SystemExit) as ended, command():
            params.run(parser.parse_args(words))
        assert ended.value.code == 2
        out, err = capsys.readouterr()
        assert out == "" and err.count("\n") == 1
        return err

    return refused


@pytest.mark.parametrize(
    "words, named",
    [
        ([], "--arch"),
        (["missing.pt"], "missing.pt: no such checkpoint"),
        (["some.pt", *BASE], "name a checkpoint, or --arch"),
        (["some.pt", "--moe-top-k", "1"], "--moe-top-k=1 requires --arch"),
        (["some.pt", "--num-pairs", "0"], "--num-pairs requires --arch"),
        (["--arch", "transformer", "--vocab-size", "9"], "transformer_task_moe_base"),
        (["--arch", "transformer_task_moe"], "--vocab-size"),
        ([*BASE, "--vocab-size", "3"], "--vocab-size"),
        ([*BASE, "--moe-topk", "1"], "--moe-topk"),
        ([*BASE, "--moe-top-k", "two"], "--moe-top-k"),
        ([*BASE, "--moe-top-k", "33"], "--moe-top-k 33"),
        ([*BASE, "--encoder-moe-router", "language"], "--encoder-moe-router"),
        ([*BASE, "--encoder-attention-heads", "7"], "--encoder-attention-heads 7"),
        ([*BASE, "--encoder-attention-heads", "0"], "--encoder-attention-heads 0"),
        ([*BASE, "--encoder-embed-dim", "256"], "--encoder-embed-dim 256"),
        ([*BASE, "--lang-pairs", "de"], "--lang-pairs"),
        ([*BASE, "--num-pairs", "0"], "--num-pairs 0"),
        ([*BASE, "--num-pairs", "2", "--lang-pairs", "de-en"], "one of --num-pairs"),
        ([*BASE, "--encoder-moe-router", "group"], "--moe-task-groups"),
        ([*BASE, "--moe-task-groups", "missing.yaml"], "--moe-task-groups missing.yaml"),
    ],
)
def test_mistakes_are_refused(words, named, refused):
    assert named in refused(*words)
