"""`taskmoe bench decode` compares equal functions, counts their work, survives too much of it."""

import json
import os
import resource
import signal
import sys
from pathlib import Path

import pytest
import torch
from refusals import refusal

from fairseq_taskmoe.benchmarks.decode import bench as decode
from fairseq_taskmoe.benchmarks.decode.bench import Sweep, bench_decode
from fairseq_taskmoe.benchmarks.decode.ranks import bench_processes, start_ranks
from fairseq_taskmoe.benchmarks.decode.search import (
    DecodingLoad,
    make_batch,
    make_search,
    make_task,
    random_targets,
)
from fairseq_taskmoe.benchmarks.decode.variants import SAMPLE, VARIANTS, build_variants
from fairseq_taskmoe.benchmarks.decode.work import count_work, counting_experts
from fairseq_taskmoe.benchmarks.memory_limit import attempt, limited_memory
from fairseq_taskmoe.cli import Parser
from fairseq_taskmoe.modules.experts import Experts
from fairseq_taskmoe.modules.moe_layer import MoELayer
from fairseq_taskmoe.modules.routers import Router, RouterOutput, RoutingInputs, TokenRouter
from fairseq_taskmoe.tables.figure2 import curves, draw
from fairseq_taskmoe.verbs.bench import verb as bench

# the tiny architecture: width C, networks of width F, every second of 2 + 2 layers an MoE layer
C, F, E = 64, 128, 4
B, S, T, BEAM = 3, 9, 7, 2
LOAD = DecodingLoad("tiny", 200, S, T, BEAM)
LARGE = LOAD._replace(vocab_size=8000)  # 2000 sentences: 128 MB for each copy of the probabilities
SAME = ("extracted", "padded", "stock_widths", "task", "task_routed")  # one function
FFN = 2 * C * F + F + C  # parameters of a network


@pytest.fixture(scope="module")
def variants():
    return build_variants(list(VARIANTS), E, LOAD, make_task(LOAD.vocab_size))


@pytest.fixture(scope="module")
def work(variants):
    return {name: work_of(variant, LOAD) for name, variant in variants.items()}


def translate(variant, load=LOAD, size=B):
    return make_search(variant.model, variant.task, make_batch(variant.task, size, load), load)()


def work_of(variant, load, size=B):
    search = make_search(variant.model, variant.task, make_batch(variant.task, size, load), load)
    return count_work(search, variant.model, load.output_length, "cpu")


def test_all_that_is_cut_out_of_the_task_model_translates_as_it_does(variants):
    expected = translate(variants["task_routed"])
    for name in VARIANTS:
        found = translate(variants[name])
        assert [len(found), *(len(beam[0]["tokens"]) for beam in found)] == [B, T, T, T]
        differences = []
        for beam, other in zip(found, expected, strict=True):
            for one, two in zip(beam, other, strict=True):
                differences.append((one["positional_scores"] - two["positional_scores"]).abs())
                if name in SAME:
                    assert one["tokens"].tolist() == two["tokens"].tolist(), name
        largest = torch.cat(differences).max()
        assert largest < 1e-4 if name in SAME else largest > 1e-2, name


def test_a_model_can_have_other_settings_than_its_architecture(variants):
    load = LOAD._replace(model=["encoder_layers=4", "decoder_ffn_embed_dim=96"])
    (own,) = build_variants(["dense"], E, load, make_task(LOAD.vocab_size)).values()
    assert len(own.model.encoder.layers) == 4
    assert {layer.fc1.out_features for layer in own.model.decoder.layers} == {96}
    assert {layer.fc1.out_features for layer in variants["dense"].model.decoder.layers} == {F}


def test_the_hybrid_routes_tokens_only_in_its_encoder(variants):
    names = ("token_task", "task", "task_routed")
    hybrid, folded, routed = (variants[name].model for name in names)
    routers = [type(module) for module in hybrid.modules() if isinstance(module, Router)]
    assert routers == [TokenRouter]
    assert hybrid.encoder.layers[1].moe.experts is routed.encoder.layers[1].moe.experts
    for one, two in zip(hybrid.decoder.layers, folded.decoder.layers, strict=True):
        assert torch.equal(one.fc1.weight, two.fc1.weight)


def test_equal_functions_have_equal_work_and_padding_has_its_own(work):
    assert work["extracted"].flops == work["task"].flops
    rows = B * S + B * BEAM * T  # of the encoder, and of all steps of the decoder
    # in both stacks the plain layer is padded from F to the 2 F of the folded one
    assert work["padded"].flops - work["stock_widths"].flops == rows * 2 * 2 * C * F
    # fairseq makes keys and values of the source, in 2 layers, for every hypothesis, we once for
    # their sentence, and a mean of the source; attention itself is counted in fused kernels too
    again = 2 * 2 * 2 * C * C * B * (BEAM - 1) * S
    mean = 2 * B * S * C
    assert work["stock_widths"].flops - work["extracted"].flops == again - mean
    # gates decide for each token, or for each sentence and hypothesis of a task
    for name, decisions in (("token_token", rows), ("task_routed", B + B * BEAM * T)):
        more = work[name].flops - work["task"].flops - 2 * C * E * decisions
        assert 0 <= more <= 2 * E * decisions  # statistics of the encoder's gates
    assert all(each.peak_bytes > 0 for each in work.values())


def test_weights_of_a_step_are_those_of_the_chosen_experts(work):
    dense, token = work["dense"].weight_bytes_per_step, work["token_token"]
    assert 2 < token.experts_per_step <= E
    expected = dense + 4 * (C * E + (token.experts_per_step - 1) * FFN)
    assert token.weight_bytes_per_step == pytest.approx(expected, abs=1)
    assert work["task_routed"].experts_per_step == 2
    assert work["extracted"].experts_per_step == 0
    # networks of two experts share one bias of the output
    assert work["extracted"].weight_bytes_per_step == dense + 4 * (FFN - C)
    assert work["padded"].weight_bytes_per_step == dense + 4 * 2 * (FFN - C)
    assert work["stock_widths"].weight_bytes_per_step == work["extracted"].weight_bytes_per_step


def test_one_hypothesis_uses_as_many_experts_as_a_token(variants):
    alone = LOAD._replace(beam=1)
    assert work_of(variants["token_token"], alone, size=1).experts_per_step == 2


def test_experts_are_counted_once_a_call_without_padding_and_what_is_dropped():
    ids = torch.tensor([[[0, 3], [0, 1], [2, 1]], [[0, 3], [3, 0], [1, 2]]])  # 2 sentences
    gates = torch.ones(2, 3, 2)
    gates[0, 2] = 0  # both choices dropped
    mask = torch.tensor([[True, True, True], [True, True, False]])

    class Fixed(torch.nn.Module):
        def forward(self, x, inputs):
            return RouterOutput(ids, gates, torch.rand(2, 3, E), torch.zeros(2, 3))

    layer = MoELayer(Fixed(), Experts(E, C, F))
    inputs = RoutingInputs(torch.zeros(2).long(), mask, torch.zeros(2).long(), None)
    with counting_experts(torch.nn.ModuleDict({"layer": layer})) as chosen:
        for _ in range(2):
            layer(torch.randn(2, 3, C), inputs, with_stats=False)
    assert chosen == {"layer": [{0, 1, 3}, {0, 1, 3}]}


def test_gates_of_token_routing_ignore_the_mean_state(variants):
    model, task = variants["token_token"]
    means = []

    def look(router, args):
        means.append(router.gate(args[0].flatten(0, 1).mean(dim=0)).abs().max())

    routers = [module for module in model.modules() if isinstance(module, TokenRouter)]
    handles = [router.register_forward_pre_hook(look) for router in routers]
    inputs = make_batch(task, SAMPLE, LOAD)["net_input"]
    model(**inputs, prev_output_tokens=random_targets(SAMPLE, LOAD))
    for handle in handles:
        handle.remove()
    assert len(means) == 2 and max(means) < 1e-5


@pytest.mark.slow
def test_other_precisions_translate_too():
    for dtype in ("bfloat16", "float16"):
        load = LOAD._replace(dtype=dtype)
        built = build_variants(list(VARIANTS), E, load, make_task(load.vocab_size))
        for variant in built.values():
            assert next(variant.model.parameters()).dtype == getattr(torch, dtype)
            assert len(translate(variant, load)) == B


def test_only_a_lack_of_memory_is_taken_for_one():
    before = resource.getrlimit(resource.RLIMIT_AS)
    with limited_memory("cpu", 0.1):
        assert attempt(lambda: torch.empty(10**6).numel()) == (True, 10**6)
        assert not attempt(lambda: torch.empty(10**9)).fits
        assert not attempt(lambda: bytearray(10**9)).fits
        with pytest.raises(RuntimeError, match="shapes"):
            attempt(lambda: torch.ones(2, 3) @ torch.ones(2, 3))
    assert resource.getrlimit(resource.RLIMIT_AS) == before
    with pytest.raises(KeyError), limited_memory("cpu", None):
        assert resource.getrlimit(resource.RLIMIT_AS)[0] < sys.maxsize
        raise KeyError
    assert resource.getrlimit(resource.RLIMIT_AS) == before


@pytest.mark.slow
def test_a_batch_that_does_not_fit_is_a_row_and_the_sweep_goes_on(monkeypatch):
    attempted = []
    monkeypatch.setattr(
        decode, "count_work", lambda *args: (attempted.append(1), count_work(*args))[1]
    )
    sweep = Sweep(["task", "token_token"], [E], [1, 2000, 2001], 2, memory_gb=0.06)
    *_, report = bench_decode(sweep, LARGE)
    rows = [(row["label"], row["batch_size"], row["fits"]) for row in report["rows"]]
    assert rows == [
        (name, size, size == 1) for size in (1, 2000, 2001) for name in ("task", "token_token")
    ]
    # twice to warm up; and what has no room for 2000 is not tried with 2001
    assert len(attempted) == 2 + 4
    assert report["summary"]["task"]["best_batch_size"] == 1


@pytest.mark.slow
def test_a_model_that_does_not_fit_has_rows_too():
    *_, report = bench_decode(Sweep(["task"], [4096], [1, 2], 2, memory_gb=0.1), LARGE)
    assert [row["fits"] for row in report["rows"]] == [False, False]
    assert report["summary"] == {}


def verb(*words):
    parser = Parser(allow_abbrev=False)
    bench.add_arguments(parser)
    bench.run(parser.parse_args(["decode", "--arch", "tiny", *map(str, words)]))


@pytest.mark.slow
def test_command_reports_and_draws_what_it_measured(tmp_path, capsys):
    out, plot = tmp_path / "decode.json", tmp_path / "decode.png"
    verb(
        "--vocab-size", 200, "--length", S, "--output-length", T, "--batch-sizes", "4,1",
        "--moe-expert-count", f"8,{E}", "--repeats", 2, "--threads", 1, "--out", out,
        "--plot", plot,
    )
    report = json.loads(out.read_text())
    assert report["settings"]["output_length"] == T and report["hardware"]["threads"] == 1
    measured = [
        (name, count, size)
        for count in (E, 8) for size in (1, 4)
        for name in ("dense", "token_token", "task", "extracted")
    ]
    assert [
        (row["variant"], row["experts"], row["batch_size"]) for row in report["rows"]
    ] == measured
    for row in report["rows"]:
        assert row["label"] == f"{row['variant']}@{row['experts']}"
        assert row["tokens_per_second"] == pytest.approx(row["batch_size"] * T / row["seconds"])
        assert row["flops_per_token"] == row["flops"] / (row["batch_size"] * T)
        (of,) = (
            other for other in report["rows"]
            if other["variant"] == "token_token"
            and (other["experts"], other["batch_size"]) == (row["experts"], row["batch_size"])
        )
        ratio = row["tokens_per_second"] / of["tokens_per_second"]
        assert row["speed_of_reference"] == ratio
        ratios = report["summary"][row["label"]]["speed_of_reference"]
        assert ratios[str(row["batch_size"])] == ratio
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:2] for line in lines[1 : 1 + len(measured)]] == [
        [str(size), f"{name}@{count}"] for name, count, size in measured
    ]
    grown = report["summary"]["task@8"]["time_of_fewest_experts"]["4"]
    times = {
        row["label"]: row["seconds"] for row in report["rows"] if row["batch_size"] == 4
    }
    assert grown == pytest.approx(times["task@8"] / times["task@4"])
    assert plot.read_bytes().startswith(b"\x89PNG")


def test_figure_shows_the_report(tmp_path):
    rows = [
        {"label": "task", "batch_size": 8, "fits": True, "tokens_per_second": 30.0},
        {"label": "task", "batch_size": 1, "fits": True, "tokens_per_second": 10.0},
        {"label": "task", "batch_size": 16, "fits": False},
        {"label": "dense", "batch_size": 1, "fits": False},
    ]
    report = {
        "rows": rows, "settings": {**LOAD._asdict()}, "hardware": {"cpu": "a CPU", "gpus": []}
    }
    assert curves(report) == {"task": [(1, 10.0, 0.0), (8, 30.0, 0.0)]}
    draw(report, tmp_path / "figure.svg")
    assert "tokens per second" in (tmp_path / "figure.svg").read_text()


def test_a_sweep_that_is_ended_leaves_what_it_has_measured(tmp_path, monkeypatch):
    def interrupted(*args):
        report = {"rows": [], "summary": {}, "size": 1}
        yield report
        raise KeyboardInterrupt

    monkeypatch.setattr(decode, "bench_decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        verb("--out", tmp_path / "decode.json")
    assert json.loads((tmp_path / "decode.json").read_text())["size"] == 1


@pytest.mark.parametrize(
    "flags,named",
    [
        (("--variants", "dense,sparse"), "--variants sparse"),
        (("--batch-sizes", "4,0"), "--batch-sizes 4,0"),
        (("--batch-sizes", "4,x"), "--batch-sizes 4,x"),
        (("--moe-expert-count", "1,8"), "--moe-expert-count 1"),
        (("--repeats", 1), "--repeats 1"),
        (("--output-length", 1), "--output-length 1"),
        (("--beam", 0), "--beam 0"),
        (("--model", "encoder_layer=2"), "--model encoder_layer=2"),
        (("--model", "encoder_layers=two"), "--model encoder_layers=two"),
        (("--beam", 99, "--vocab-size", 100), "--beam 99"),
        (("--processes", 0), "--processes 0"),
        (("--processes", 2, "--variants", "task"), "--variants task"),
        (("--processes", 2, "--moe-expert-count", 3), "--moe-expert-count 3"),
        (("--processes", 2, "--threads", 2), "--threads"),
        (("--memory-limit", 0), "--memory-limit 0"),
        (("--plot", "figure.txt"), "--plot figure.txt"),
        (("--plot", "nowhere/figure.png"), "no such folder"),
        (("--out", "nowhere/decode.json"), "--out nowhere/decode.json"),
        pytest.param(
            ("--device", "cuda"), "no GPU",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(flags, named, capsys):
    assert named in refusal(verb, *flags)
    assert capsys.readouterr() == ("", "")


def test_a_figure_without_matplotlib_is_refused_before_anything_is_measured(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    assert "matplotlib" in refusal(verb, "--plot", "figure.png")
    assert capsys.readouterr() == ("", "")


# -- several processes


@pytest.mark.slow
def test_two_processes_send_each_token_once_to_the_other_experts_and_back():
    two = LOAD._replace(beam=1)  # and two experts, one in each process: every token uses both
    (report,) = bench_processes(Sweep(["extracted", "token_token"], [2], [B], 2), two, 2)
    alone, spread = report["rows"]
    assert alone["communication_share"] == 0 and alone["bytes_sent"] == {}
    assert 0 < spread["communication_share"] < 1
    rows = B * S + B * T  # of one process; an MoE layer in each stack, 4 bytes, there and back
    assert spread["bytes_sent"]["rows"] == 2 * rows * 2 * C * 4
    assert spread["bytes_sent"]["all_reduce"] == 2 * (T + 1) * 4  # one a step, and at the end
    total = sum(spread["bytes_sent"].values())
    assert spread["bytes_sent_per_token"] == total / (2 * B * T)
    assert spread["experts_per_step"] == 1
    for row in (alone, spread):
        assert row["tokens_per_second"] == pytest.approx(2 * B * T / row["seconds"])
    more = spread["flops"] - alone["flops"] - 2 * 2 * C * 2 * rows  # gates, of both processes
    assert 0 <= more <= 2 * 2 * 2 * rows  # statistics of the encoder's gates
    assert report["hardware"]["threads"] == 1 and report["settings"]["processes"] == 2


@pytest.mark.slow
def test_a_batch_that_does_not_fit_one_process_leaves_the_others_to_go_on():
    sweep = Sweep(["extracted", "token_token"], [E], [1, 8000], 2, memory_gb=0.4)
    *_, report = bench_processes(sweep, LARGE, 2)
    assert [(row["variant"], row["batch_size"], row["fits"]) for row in report["rows"]] == [
        ("extracted", 1, True), ("token_token", 1, True),
        ("extracted", 8000, False), ("token_token", 8000, False),
    ]


@pytest.mark.slow
def test_a_killed_process_ends_the_others():
    job = {
        "variants": ["extracted", "token_token"], "num_experts": E, "batch_sizes": [1, 2000],
        "repeats": 100, "memory_gb": None, "load": LOAD._asdict(),
    }
    lines = start_ranks(2, job)
    assert set(json.loads(next(lines))) == {"extracted", "token_token"}
    own = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
    ranks = [pid for pid in own if b"decode.rank" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(ranks) == 2
    os.kill(int(ranks[1]), signal.SIGKILL)
    assert "process 1 of 2 ended early with signal 9" in refusal(list, lines)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in ranks)
