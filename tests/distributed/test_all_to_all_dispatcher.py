"""Experts spread over ranks compute what one device with all experts computes."""

from pathlib import Path

import pytest
from dispatcher_cases import POLICIES, ROUTERS, TOLERANCES, draw_case
from rank_processes import Ranks

from fairseq_taskmoe.modules.expert_execution import Execution

SEEDS = range(120)
FAST = range(16)  # all routers, several times
WORLD_SIZE = 4


@pytest.mark.parametrize("seeds", [FAST, pytest.param(SEEDS[len(FAST):], marks=pytest.mark.slow)])
def test_all_cases_equal_the_slow_reference(seeds, tmp_path):
    """Outputs, gradients of inputs, gates and experts, and the bytes on the wire."""
    folder = str(Path(__file__).parents[1])
    program = (
        f"sys.path.insert(0, {folder!r})\n"
        f"import dispatcher_cases\ndispatcher_cases.main({seeds!r})"
    )
    ranks = Ranks(program, tmp_path, WORLD_SIZE)
    try:
        statuses = ranks.statuses(timeout=240)
    finally:
        ranks.kill()
    assert statuses == [0] * WORLD_SIZE, [ranks.said(rank) for rank in range(WORLD_SIZE)]


def test_the_cases_cover_what_can_differ():
    cases = [draw_case(seed, WORLD_SIZE) for seed in SEEDS]
    for router in ROUTERS:
        of_router = [case for case in cases if case.router == router]
        assert {case.size for case in of_router} == {2, WORLD_SIZE}
        assert {case.options.top_k for case in of_router} == {1, 2, 3}
        assert {case.num_layers for case in of_router} == {1, 2, 3}
        assert {case.dtype for case in of_router} == set(TOLERANCES)
        assert {case.execution for case in of_router} == set(Execution)
        assert {case.options.second_expert_policy for case in of_router} == set(POLICIES)
        assert any(case.options.capacity_factor for case in of_router)
        assert {len(case.idle) for case in of_router} >= {0, WORLD_SIZE}
