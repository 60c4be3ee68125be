"""Traffic between ranks: what is really sent, the least that the routing needs, and the log.

Real ranks over gloo; what they send is counted where it is handed to torch.distributed.
"""

import json
from pathlib import Path

import pytest
import torch
from console import run
from hypothesis import given
from hypothesis import strategies as st
from rank_processes import Ranks, start_nursery
from refusals import refusal

from fairseq_taskmoe.analysis.plan_traffic import exchange_bytes
from fairseq_taskmoe.benchmarks.traffic import Load, Variant, list_variants, training_flags
from fairseq_taskmoe.benchmarks.wire_counter import rows_needed
from fairseq_taskmoe.cli import Parser
from fairseq_taskmoe.distributed.layout import expert_layout
from fairseq_taskmoe.modules.routers import RouterOutput
from fairseq_taskmoe.verbs import bench

LANG_PAIRS = ("en-de", "de-en", "en-ru", "ru-en")
BYTES = 4  # of a number in float32

# A tiny model's forward and backward on two ranks, with 2 layers a half and sentences of 8 and 5
STEPS = """
import json, sys
sys.path.insert(0, {tests!r})
import torch
import torch.distributed as dist
from fairseq_taskmoe.benchmarks.wire_counter import counting_collectives, counting_needs
from fairseq_taskmoe.criterions.moe_label_smoothed_cross_entropy import (
    MoeLabelSmoothedCrossEntropyCriterion,
)
from fairseq_taskmoe.distributed.expert_groups import ExpertGroups
from fairseq_taskmoe.distributed.layout import expert_layout
from helpers import make_batch, make_model, make_task, random_sentences

dist.init_process_group("gloo")
task = make_task()
task.expert_groups = ExpertGroups(expert_layout(4, 2))
layout, place = task.expert_groups.layout, dist.get_rank()
criterion = MoeLabelSmoothedCrossEntropyCriterion(task, False, 0.1, 0.01, 0.0)
for router, checkpointed in {cases!r}:
    torch.manual_seed(1)
    model = make_model(task, router, moe_expert_count=4, checkpoint_activations=checkpointed)
    model.train()
    torch.manual_seed(2 + dist.get_rank())
    batch = make_batch(random_sentences([8] * 6), random_sentences([5] * 6), [0, 1, 2, 3, 0, 1])
    with (
        counting_collectives(5) as sent,
        counting_needs(model.encoder, layout, place) as encoder,
        counting_needs(model.decoder, layout, place) as decoder,
    ):
        loss, _, logs = criterion(model, batch)
        loss.backward()
    report = [sent.num_bytes, sent.calls, encoder, decoder, float(logs["moe_wire_bytes"])]
    print(json.dumps(report), flush=True)
"""
# whether the routes of encoder and decoder are known before their layers run
ROUTED_AHEAD = {"token": (False, False), "sentence": (False, True), "target": (True, True)}
CASES = [(router, checkpointed) for router in ROUTED_AHEAD for checkpointed in (False, True)]

# The measured training, with gates that a test has set: by task, 1 for each expert that it wants
TRAINING = """
import os, sys
import torch
from fairseq_taskmoe.benchmarks import counted_training
from fairseq_taskmoe.modules.routers import TaskRouter
from fairseq_taskmoe.tasks.translation_task_moe import TranslationTaskMoeTask

wanted = {wanted!r}
build_model = TranslationTaskMoeTask.build_model
def build_with_gates(self, cfg, from_checkpoint=False):
    model = build_model(self, cfg, from_checkpoint)
    for router in model.modules():
        if isinstance(router, TaskRouter):
            router.embed_tasks.weight.data.zero_().fill_diagonal_(1.0)
            router.gate.weight.data.zero_()
            for task, pair in enumerate(self.task_table.lang_pairs):
                experts = wanted[pair] if wanted else [2 * int(os.environ["RANK"]) + i
                                                       for i in range(2)]
                router.gate.weight.data[experts, task] = 9.0
    return model
TranslationTaskMoeTask.build_model = build_with_gates
sys.argv = ["counted_training", {jobs!r}]
counted_training.main()
"""


@pytest.fixture(scope="module")
def nursery():
    yield from start_nursery()


def run_ranks(nursery, program, folder, size=2):
    """Return what each rank said last."""
    folder.mkdir(exist_ok=True)
    ranks = Ranks(nursery, program, folder, size)
    try:
        statuses = ranks.statuses(timeout=60)
    finally:
        ranks.kill()
    said = [ranks.said(rank) for rank in range(size)]
    assert statuses == [0] * size, said
    return said


# -- what the routing needs, token by token


@st.composite
def routings(draw):
    size, per_rank = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    num_experts = size * per_rank
    top_k = draw(st.integers(1, min(3, num_experts)))
    batch, length = draw(st.integers(1, 4)), draw(st.integers(1, 5))
    units = draw(st.sampled_from([1, length]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 9999)))
    scores = torch.rand(batch, units, num_experts, generator=generator)
    gates = torch.rand(batch, units, top_k, generator=generator)
    gates *= torch.rand(gates.shape, generator=generator) < 0.7  # others were dropped
    token_mask = torch.rand(batch, length, generator=generator) < 0.8
    experts = scores.topk(top_k, dim=-1).indices
    place = draw(st.integers(0, size - 1))
    routing = RouterOutput(experts, gates, scores, scores.logsumexp(dim=-1))
    return routing, token_mask, expert_layout(num_experts, size), place


@given(routings())
def test_needs_are_those_of_a_walk_over_all_tokens(drawn):
    routing, token_mask, layout, place = drawn
    minimum, stay, choices = 0, 0, []
    for sentence, position in token_mask.nonzero().tolist():
        unit = position if routing.gates.size(1) == token_mask.size(1) else 0
        pairs = zip(routing.expert_ids[sentence, unit], routing.gates[sentence, unit], strict=True)
        experts = [int(expert) for expert, gate in pairs if gate > 0]
        visited = {expert // layout.experts_per_rank for expert in experts}
        minimum += len(visited - {place})
        stay += place in visited
        choices += experts
    loads = [choices.count(expert) for expert in range(layout.num_experts)]
    capacity = -(-2 * int(token_mask.sum()) // layout.num_experts)
    elsewhere = [e for e in range(layout.num_experts) if e // layout.experts_per_rank != place]
    assert rows_needed(routing, token_mask, layout, place) == {
        "minimum": minimum,
        "stay": stay,
        "each_choice": sum(loads[expert] for expert in elsewhere),
        "unsorted": len(choices),
        "capacity": len(elsewhere) * capacity,
        "dropped": sum(max(0, load - capacity) for load in loads),
        "capacity_for_all": len(elsewhere) * max(loads),
    }


# -- one step


@pytest.fixture(scope="module")
def steps(nursery, tmp_path_factory):
    """Give what both ranks report of each case."""
    program = STEPS.format(tests=str(Path(__file__).parent), cases=CASES)
    ranks = run_ranks(nursery, program, tmp_path_factory.mktemp("steps"))
    reports = [[json.loads(line) for line in said.splitlines()] for said in ranks]
    return dict(zip(CASES, zip(*reports, strict=True), strict=True))


@pytest.mark.parametrize("router, checkpointed", CASES)
def test_a_step_sends_what_is_logged_and_what_the_plan_estimates(router, checkpointed, steps):
    reports = steps[router, checkpointed]
    sent, calls, *halves = (
        {key: sum(report[part].get(key, 0) for report in reports) for key in reports[0][part]}
        for part in range(4)
    )
    assert sent["rows"] == sum(report[4] for report in reports) > 0
    planned = []
    for half, length, ahead in zip(halves, (8, 5), ROUTED_AHEAD[router], strict=True):
        tokens, layers = 6 * length, 2
        runs = 2 if checkpointed and not ahead else 1  # of a router
        visits = half["minimum"] / runs / (4 * 16 * BYTES * layers * 2 * tokens)
        assert 0 < visits <= 1
        units = tokens if router == "token" else 6
        planned.append(exchange_bytes(
            layers, tokens, units, 16, BYTES, 2, 2, visits, ahead, checkpointed
        ))
    assert sent["rows"] / 2 == pytest.approx(sum(plan.rows for plan in planned), rel=1e-12)
    facts = sent["facts"] + sent["counts"]
    assert facts / 2 == pytest.approx(sum(plan.facts for plan in planned), rel=1e-12)
    assert sum(calls.values()) / 2 == sum(plan.collectives for plan in planned)


# -- trainings


def train(nursery, corpus, folder, batches, wanted, lang_pairs=LANG_PAIRS, updates=6):
    """Return what is counted in trainings with gates that stay as they are set."""
    load = Load(str(corpus.data), lang_pairs, ranks=2, num_experts=4, max_tokens=300)
    jobs = [
        (
            [*training_flags(load, Variant("pair_pair", "fp32", kind), str(folder)), "--lr", "0"],
            updates, kind == "one task",
        )
        for kind in batches
    ]
    program = TRAINING.format(jobs=json.dumps(jobs), wanted=wanted)
    said = run_ranks(nursery, program, folder)[0]
    return [json.loads(line) for line in said.splitlines() if line.startswith("[")]


def rows(updates):
    return [update["sent"].get("rows", 0) for update in updates]


def test_task_local_batches_stay_where_their_experts_are(nursery, corpus, tmp_path):
    """German's experts are on rank 0, Russian's on rank 1."""
    wanted = {pair: [0, 1] if "de" in pair else [2, 3] for pair in LANG_PAIRS}
    batches = ["mixed", "one task", "local"]
    mixed, in_turn, local = train(nursery, corpus, tmp_path, batches, wanted)
    assert all(number > 0 for number in rows(mixed))
    # the same two batches in each step: where one is German and one Russian, nothing is sent
    assert [u["batches"] for u in in_turn] == [u["batches"] for u in local]
    for one, other in zip(rows(in_turn), rows(local), strict=True):
        assert other <= one
    assert 0 in rows(local)
    assert sum(rows(local)) < sum(rows(in_turn))
    for update in [*mixed, *in_turn, *local]:
        assert update["sent"].get("rows", 0) == update["needed"]["minimum"] == update["logged"]


def test_nothing_is_exchanged_where_all_experts_are_at_home(nursery, corpus, tmp_path):
    """The gates of each rank want its own experts, which real gates, equal on all, never do."""
    (updates,) = train(nursery, corpus, tmp_path, ["mixed"], wanted=None, updates=2)
    for update in updates:
        assert update["needed"]["stay"] > 0
        assert update["calls"].keys() == {"counts", "all_reduce"}
        assert update["sent"].get("rows", 0) == update["logged"] == 0


def test_trainings_send_the_minimum_and_log_it(corpus, tmp_path):
    out = tmp_path / "traffic.json"
    printed = run(
        "taskmoe", "bench", "traffic", "--data", corpus.data, "--lang-pairs", ",".join(LANG_PAIRS),
        "--ranks", 2, "--moe-expert-count", 4, "--max-tokens", 300, "--updates", 3,
        "--variants", "token_token,sentence_sentence,target_target", "--out", out,
    ).stdout
    report = json.loads(out.read_text())
    assert report["settings"]["ranks"] == 2
    found = {(row["routers"], row["precision"], row["batches"]): row for row in report["variants"]}
    assert len(found) == 3 * 2 + 2
    for (routers, precision, _), row in found.items():
        assert row["bytes_sent"]["rows"] == row["bytes_needed"]["minimum"] > 0
        assert row["is_minimum"] and row["is_logged"] and row["updates_compared_with_log"] == 3
        for other in ("each_choice", "unsorted", "capacity_for_all"):
            assert row["bytes_needed"][other] > row["bytes_sent"]["rows"]
        if routers != "token_token":  # at a width of 64; at 512 it is an eighth of that
            assert row["share_of_facts_and_counts"] < (0.02 if precision == "fp32" else 0.04)
        assert f"{routers:19}{precision}" in printed
    halves = found["target_target", "bf16", "mixed"], found["target_target", "fp32", "mixed"]
    ratio = halves[0]["bytes_sent"]["rows"] / halves[1]["bytes_sent"]["rows"]
    assert ratio == pytest.approx(0.5, rel=0.1)  # the gates differ a little after an update


# -- what is measured


def test_batches_of_one_task_are_measured_where_tasks_are_routed():
    variants = list_variants(["token_token", "token_pair"], ["fp32", "bf16"])
    assert [variant[0] + " " + variant[2] for variant in variants if variant[1] == "fp32"] == [
        "token_token mixed", "token_pair mixed", "token_pair one task", "token_pair local"
    ]
    assert {variant.batches for variant in variants if variant.precision == "bf16"} == {"mixed"}


@pytest.mark.parametrize(
    "flags, named",
    [
        (("--data", "nowhere"), "--data nowhere"),
        (("--ranks", 3), "--ranks 3"),
        (("--updates", 0), "--updates 0"),
        (("--variants", "token"), "--variants token"),
        (("--precisions", "fp16"), "--precisions fp16"),
        (("--lang-pairs", "en-zh"), "en-zh"),
    ],
)
def test_what_cannot_be_counted_is_refused(flags, named, corpus):
    parser = Parser(allow_abbrev=False)
    bench.add_arguments(parser)
    words = ("--data", corpus.data, "--lang-pairs", "en-de", "--moe-expert-count", 4)
    args = parser.parse_args(["traffic", *map(str, (*words, *flags))])
    assert named in refusal(bench.run, args)
