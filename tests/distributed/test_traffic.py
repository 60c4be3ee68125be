"""Traffic between ranks: what is sent, the least that the routing needs, the log and the plan.

Real ranks over gloo; what they send is counted where it is handed to torch.distributed.
"""

import json
from pathlib import Path

import pytest
import torch
from console import TRAIN
from hypothesis import given
from hypothesis import strategies as st
from rank_processes import Ranks
from rows_needed import rows_needed

from fairseq_taskmoe.distributed.layout import expert_layout
from fairseq_taskmoe.modules.routers import RouterOutput
from fairseq_taskmoe.plan.traffic import exchange_bytes

UPDATES = 6
LOCAL = ["--moe-task-local-batches"]
FIXED_GATES = ("--lr", "0")
LANG_PAIRS = ("en-de", "de-en", "en-ru", "ru-en")
BYTES = 4  # of a number in float32

# A tiny model's forward and backward on two ranks, with 2 layers a stack and sentences of 8 and 5
STEPS = """
import json, sys
sys.path.insert(0, {tests!r})
import torch
import torch.distributed as dist
from fairseq_taskmoe.benchmarks.wire_counter import counting_collectives
from fairseq_taskmoe.criterions.moe_label_smoothed_cross_entropy import (
    MoeLabelSmoothedCrossEntropyCriterion,
)
from fairseq_taskmoe.distributed.expert_groups import ExpertGroups
from fairseq_taskmoe.distributed.layout import expert_layout
from helpers import make_batch, make_model, make_task, random_sentences
from rows_needed import counting_needs

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
sys.path.insert(0, {tests!r})
import torch
import counted_training
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


def run_ranks(program, folder, size=2):
    """Return what each rank said last."""
    folder.mkdir(exist_ok=True)
    ranks = Ranks(program, folder, size)
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
def test_required_rows_equal_a_loop_over_all_tokens(drawn):
    routing, token_mask, layout, place = drawn
    minimum, stay = 0, 0
    for sentence, position in token_mask.nonzero().tolist():
        unit = position if routing.gates.size(1) == token_mask.size(1) else 0
        pairs = zip(routing.expert_ids[sentence, unit], routing.gates[sentence, unit], strict=True)
        experts = [int(expert) for expert, gate in pairs if gate > 0]
        ranks = {expert // layout.experts_per_rank for expert in experts}
        minimum += len(ranks - {place})
        stay += place in ranks
    needed = {"minimum": minimum, "stay": stay}
    assert rows_needed(routing, token_mask, layout, place) == needed


# -- one step


@pytest.fixture(scope="module")
def steps(tmp_path_factory):
    """Give what both ranks report of each case."""
    program = STEPS.format(tests=str(Path(__file__).parents[1]), cases=CASES)
    ranks = run_ranks(program, tmp_path_factory.mktemp("steps"))
    reports = [[json.loads(line) for line in said.splitlines()] for said in ranks]
    return dict(zip(CASES, zip(*reports, strict=True), strict=True))


@pytest.mark.parametrize("router, checkpointed", CASES)
def test_a_step_sends_what_is_logged_and_what_the_plan_estimates(router, checkpointed, steps):
    reports = steps[router, checkpointed]
    sent, calls, *stacks = (
        {key: sum(report[part].get(key, 0) for report in reports) for key in reports[0][part]}
        for part in range(4)
    )
    assert sent["rows"] == sum(report[4] for report in reports) > 0
    planned = []
    for stack, length, ahead in zip(stacks, (8, 5), ROUTED_AHEAD[router], strict=True):
        tokens, layers = 6 * length, 2
        runs = 2 if checkpointed and not ahead else 1  # of a router
        rows_per_choice = stack["minimum"] / runs / (4 * 16 * BYTES * layers * 2 * tokens)
        assert 0 < rows_per_choice <= 1
        units = tokens if router == "token" else 6
        planned.append(exchange_bytes(
            layers, tokens, units, 16, BYTES, 2, 2, rows_per_choice, ahead, checkpointed
        ))
    assert sent["rows"] / 2 == pytest.approx(sum(plan.rows for plan in planned), rel=1e-12)
    facts = sent["facts"] + sent["counts"]
    assert facts / 2 == pytest.approx(sum(plan.facts for plan in planned), rel=1e-12)
    assert sum(calls.values()) / 2 == sum(plan.collectives for plan in planned)


# -- trainings


def train(corpus, folder, batches, wanted, routers=("pair", "pair"), flags=()):
    """Return what is counted in each update of trainings with mixed batches, or of one task.

    wanted: the experts that the gates of each pair choose; without it, those of each rank its own.
    """
    kinds = {"mixed": [], "one task": LOCAL, "local": LOCAL}
    jobs = [
        (
            [
                str(corpus.data), *TRAIN, "--lang-pairs", ",".join(LANG_PAIRS), "--moe-freq", "1",
                "--moe-expert-count", "4", "--encoder-moe-router", routers[0],
                "--decoder-moe-router", routers[1], "--max-tokens", "300", "--no-save",
                "--save-dir", str(folder), "--ddp-backend", "legacy_ddp", *kinds[kind], *flags,
            ],
            UPDATES, kind == "one task",
        )
        for kind in batches
    ]
    program = TRAINING.format(
        tests=str(Path(__file__).parents[1]), jobs=json.dumps(jobs), wanted=wanted, routers=routers
    )
    printed = run_ranks(program, folder)[0]
    return [json.loads(line) for line in printed.splitlines() if line.startswith("[")]


def rows(updates):
    return [update["sent"].get("rows", 0) for update in updates]


@pytest.mark.slow
def test_task_local_batches_stay_on_ranks_with_their_experts(corpus, tmp_path):
    """German's experts are on rank 0, Russian's on rank 1."""
    wanted = {pair: [0, 1] if "de" in pair else [2, 3] for pair in LANG_PAIRS}
    batches = ["mixed", "one task", "local"]
    mixed, in_turn, local = train(
        corpus, tmp_path, batches, wanted, flags=FIXED_GATES
    )
    assert all(number > 0 for number in rows(mixed))
    # the same two batches in each step: where one is German and one Russian, nothing is sent
    assert [u["batches"] for u in in_turn] == [u["batches"] for u in local]
    for one, other in zip(rows(in_turn), rows(local), strict=True):
        assert other <= one
    assert 0 in rows(local)
    assert sum(rows(local)) < sum(rows(in_turn))
    for update in [*mixed, *in_turn, *local]:
        assert update["sent"].get("rows", 0) == update["needed"]["minimum"] == update["logged"]


def test_nothing_is_exchanged_if_all_experts_are_local(corpus, tmp_path):
    """The gates of each rank want its own experts, which real gates, equal on all, never do."""
    (updates,) = train(corpus, tmp_path, ["mixed"], None, flags=FIXED_GATES)
    for update in updates:
        assert update["needed"]["stay"] > 0
        assert update["calls"].keys() == {"counts", "all_reduce"}
        assert update["sent"].get("rows", 0) == update["logged"] == 0


@pytest.mark.parametrize("routers, flags", [
    (("token", "token"), ()),
    *(pytest.param(*case, marks=pytest.mark.slow) for case in (
        (("sentence", "sentence"), ()), (("token", "token"), ("--bf16",)),
        (("sentence", "sentence"), ("--bf16",)),
    )),
])
def test_trainings_send_the_minimum_and_log_it(routers, flags, corpus, tmp_path):
    (updates,) = train(corpus, tmp_path, ["mixed"], {}, routers, flags)
    for update in updates:
        assert update["sent"]["rows"] == update["needed"]["minimum"] == update["logged"] > 0
