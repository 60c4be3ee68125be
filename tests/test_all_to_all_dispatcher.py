"""Experts spread over ranks compute what one device with all experts computes."""

from pathlib import Path

import pytest
import torch
from dispatcher_cases import ROUTERS, draw_case
from rank_processes import Ranks, start_nursery

nursery = pytest.fixture(scope="module")(start_nursery)
SEEDS = range(48)
WORLD_SIZE = 4


def test_all_cases_equal_a_dispatcher_with_all_experts(nursery, tmp_path):
    """Outputs, gradients of inputs, gates and experts, and the bytes on the wire."""
    folder = str(Path(__file__).parent)
    program = (
        f"sys.path.insert(0, {folder!r})\n"
        f"import dispatcher_cases\ndispatcher_cases.main({SEEDS!r})"
    )
    ranks = Ranks(nursery, program, tmp_path, WORLD_SIZE)
    try:
        statuses = ranks.statuses(timeout=60)
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
        assert {case.dtype for case in of_router} == {torch.float32, torch.bfloat16}
        assert any(case.options.capacity_factor for case in of_router)
        assert any(case.options.second_expert_policy == "random" for case in of_router)
        assert {len(case.idle) for case in of_router} >= {0, WORLD_SIZE}
