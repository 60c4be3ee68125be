"""Speeds in the tables: their model, their spread, and the comparison with the paper."""

import json

import pytest
from fake_runs import make_runs, throughput, write_json

from fairseq_taskmoe.errors import Refusal
from fairseq_taskmoe.models.config import ARCHITECTURES, TransformerTaskMoeConfig
from fairseq_taskmoe.tables.experiment import read_experiment
from fairseq_taskmoe.tables.paper import Paper
from fairseq_taskmoe.tables.speed import Speeds, figure_tables, peak_speed
from fairseq_taskmoe.tables.sweep import SIZES, architecture
from fairseq_taskmoe.tables.table import Column, Measurement, Table, markdown, tsv
from fairseq_taskmoe.tables.tabulate import score_tables, write_tables

PAPER = Paper()
PEAKS = {"dense": [100, 300], "token_token": [50, 150], "extracted": [90, 240]}
OWN = ["encoder_embed_dim=192", "decoder_embed_dim=192", "encoder_layers=2", "decoder_layers=2",
       "encoder_attention_heads=4"]


@pytest.fixture
def runs(tmp_path):
    return make_runs(tmp_path / "runs")


def sweep(speeds=None, experts=32, arch="base", model=(), spread=None, share=None, processes=None):
    """Return a report of `taskmoe bench decode`; of several processes with shares by variant."""
    report = throughput(speeds or PEAKS, experts)
    report["settings"].update(arch=arch, model=list(model))
    if processes:
        report["settings"]["processes"] = processes
    for row in report["rows"]:
        if spread is not None:
            row["spread"] = spread
        if share is not None:
            row["communication_share"] = share[row["variant"]] * row["batch_size"]
    return report


def beside(speeds, figure):
    """Return our row and the paper's, and the text below."""
    table = figure_tables(speeds, figure, PAPER)[-1]
    assert table.name == f"{figure}-paper"
    ours, paper = table.rows
    return ours, paper, markdown([table])


@pytest.mark.parametrize("arch", SIZES)
def test_sizes_are_those_of_the_architectures(arch):
    default = TransformerTaskMoeConfig()
    for stack in ("encoder", "decoder"):
        fields = [f"{stack}_{name}" for name in ("layers", "embed_dim", "ffn_embed_dim")]
        known = [ARCHITECTURES[arch].get(name, getattr(default, name)) for name in fields]
        assert list(SIZES[arch]) == known


def test_a_model_is_named_by_its_sizes():
    assert architecture(sweep(arch="big")) == (
        "Transformer-Big (6 + 6 layers, width 1024, feed-forward 8192)"
    )
    assert architecture(sweep(model=OWN)) == (
        "Transformer (2 + 2 layers, width 192, feed-forward 2048)"
    )
    base = [f"{stack}_{size}" for stack in ("encoder", "decoder")
            for size in ("layers=6", "embed_dim=512", "ffn_embed_dim=2048")]
    assert architecture(sweep(arch="tiny", model=base)).startswith("Transformer-Base (")
    assert architecture(sweep(model=["moe_freq=1"])).startswith("Transformer (")
    assert "decoder of 3 layers" in architecture(sweep(model=["decoder_layers=3"]))


def test_peak_speed_is_that_of_the_same_layers():
    report = throughput({"dense": [100, 300, 200], "token_token": [50, 150, 0], "extracted": [90]})
    report["rows"] += throughput({"dense": [999]}, experts=128)["rows"]
    speeds = Speeds(report)
    assert peak_speed(speeds, PAPER, "dense_base") == (300, None)  # 128 experts: figure 4
    assert peak_speed(speeds, PAPER, "token_token") == (150, None)
    assert peak_speed(speeds, PAPER, "target_target") == (90, None)
    assert peak_speed(speeds, PAPER, "token_target") is None  # its layers were not measured
    assert peak_speed(Speeds(), PAPER, "dense_base") is None
    hybrid = Speeds(throughput({"token_task": [70]}))
    assert peak_speed(hybrid, PAPER, "token_target") == peak_speed(hybrid, PAPER, "token_pair")


def test_an_unsteady_measurement_is_marked():
    cells = [Measurement(3035.2, 0.154), Measurement(3035.2, 0.1), Measurement(3035.2, None)]
    rows = [{"system": f"s{n}", "x": cell} for n, cell in enumerate(cells)]
    table = Table("t", "A table", [Column("system", "system"), Column("x", "tok/s", 0)], rows)
    lines = markdown([table]).splitlines()
    assert lines[4:] == ["| s0 | ~3,035 |", "| s1 | 3,035 |", "| s2 | 3,035 |"]
    assert tsv(table).splitlines() == [
        "system\ttok/s\ttok/s spread", "s0\t3035.2\t0.154", "s1\t3035.2\t0.100", "s2\t3035.2\t"
    ]


def test_table_1_names_the_model_of_its_speeds(runs):
    write_json(runs / "throughput.json", sweep(experts=8, model=OWN, spread=0.15))
    text = markdown(score_tables(read_experiment(str(runs)))["table1"])
    assert "| ~300 | 230,000 |" in text and "| ~240 | 230,000 |" in text
    (note,) = [line for line in text.splitlines() if line.startswith("- tok/s, ours")]
    for part in ("(2 + 2 layers, width 192, feed-forward 2048)", "encoder_attention_heads=4",
                 "8 experts", "a CPU", "spread 15% to 15%", "not the row's own"):
        assert part in note


def test_the_papers_figures_stand_beside_ours_of_the_same_model():
    ours, paper, text = beside(Speeds(sweep()), "figure2")
    assert (ours["dense"], ours["task"], ours["token"]) == ((300, None), (240, None), (150, None))
    assert ours["ratio"].value == 1.6 and paper["ratio"] == 1.87 and paper["whose"] == "paper"
    assert "**" not in text
    big = sweep(experts=128, arch="big", spread=0.2)
    for speeds in (Speeds(big), Speeds(sweep(), big)):
        ours, paper, text = beside(speeds, "figure4")
        assert (paper["whose"], paper["ratio"]) == ("paper", 2.6)
        assert ours["ratio"] == (1.6, 0.2) and "| ~1.60 |" in text and "**" not in text


@pytest.mark.parametrize(
    "speeds, figure, named",
    [
        (Speeds(sweep(experts=128)), "figure4", "Transformer-Base"),
        (Speeds(sweep(experts=128, arch="tiny")), "figure4", "tiny Transformer"),
        (Speeds(sweep(), sweep(experts=64, arch="big")), "figure4", "Transformer-Big"),
        (Speeds(sweep(experts=8)), "figure2", "Transformer-Base"),
        (Speeds(sweep(model=OWN)), "figure2", "Transformer (2 + 2"),
    ],
)
def test_another_model_is_labelled_as_one(speeds, figure, named):
    ours, paper, text = beside(speeds, figure)
    assert ours["architecture"].startswith(named)
    assert paper["whose"] == "paper, of another model"
    assert "- **Another model than the paper's**" in text
    points = figure_tables(speeds, figure, PAPER)[0]
    assert {row["architecture"] for row in points.rows} == {ours["architecture"]}


def test_communication_is_reported_where_it_was_measured():
    ours, paper, text = beside(Speeds(sweep()), "figure2")
    assert ours["communication_token"] == ours["communication_task"] == "not run"
    assert (paper["communication_token"], paper["communication_task"]) == (26.9, 0.0)
    shared = sweep({"token_token": [50, 150, 140], "extracted": [90, 240]}, processes=2,
                   share={"token_token": 0.2, "extracted": 0})
    ours, paper, text = beside(Speeds(sweep(), communication=shared), "figure2")
    assert (ours["communication_token"], ours["communication_task"]) == (40, 0)  # batches of 2
    assert "2 processes on a CPU" in text and paper["whose"] == "paper"
    ours, paper, text = beside(Speeds(communication=shared), "figure2")
    assert ours["dense"] == ours["ratio"] == "not run" and ours["communication_token"] == 40
    assert figure_tables(Speeds(communication=shared), "figure4", PAPER) == []
    ours, paper, text = beside(Speeds(sweep(experts=128), communication=shared), "figure4")
    assert ours["communication_token"] == "not run" and paper["communication_token"] == 36


@pytest.mark.slow
def test_figures_of_a_tiny_model_are_drawn(runs, tmp_path):
    report = sweep(experts=4, arch="tiny")
    report["rows"] += sweep(experts=128)["rows"]
    write_json(runs / "throughput.json", report)
    write_json(runs / "communication.json", sweep(
        {"token_token": [5]}, experts=4, arch="tiny", processes=2, share={"token_token": 0.5}
    ))
    out = tmp_path / "out"
    write_tables(read_experiment(str(runs)), str(out), ["md", "json"], 3, False)
    write_tables(read_experiment(str(runs)), str(out), ["md", "json"], 3, True)
    for name in ("figure2", "figure4"):
        assert (out / f"{name}.png").is_file()
        assert "tiny Transformer" in (out / f"{name}.tsv").read_text()
        assert "paper, of another model" in (out / f"{name}-paper.tsv").read_text()
        assert "**Another model" in (out / f"{name}.md").read_text()
    figures = json.loads((out / "tables.json").read_text())["figures"]
    assert figures["figure2-paper"]["rows"][0]["communication_token"] == 50
    assert figures["figure4-paper"]["rows"][0]["dense"] == {"value": 300, "spread": None}


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("throughput-web.json", {"arch": "huge"}, r"throughput-web\.json: not written by taskmoe"),
        ("throughput.json", {"model": ["encoder_layers=two"]}, "not written by taskmoe bench"),
        ("communication.json", {}, r"communication\.json: not written by .* --processes N"),
    ],
)
def test_broken_reports_are_named(runs, name, change, message):
    report = sweep()
    report["settings"].update(change)
    write_json(runs / name, report)
    with pytest.raises(Refusal, match=message):
        read_experiment(str(runs))
