"""What a training run warns of at its start."""

import pytest
from fairseq_commands import TRAIN, write_data

PLAIN = ("--criterion", "label_smoothed_cross_entropy")


@pytest.mark.parametrize("criterion, routers, warned", [
    (PLAIN, ("target", "static"), "target"),
    (PLAIN, ("static", "random"), None),
    ((), ("token", "target"), None),
])
def test_a_learned_router_without_gate_losses(criterion, routers, warned, commands, caplog):
    data = write_data(commands.folder / "data")
    with caplog.at_level("WARNING"):
        commands.run(
            "train", data, *TRAIN, *criterion, "--encoder-moe-router", routers[0],
            "--decoder-moe-router", routers[1], "--max-update", 1, "--max-tokens", 60,
            "--disable-validation", "--no-save",
        )
    said = [line for line in caplog.messages if "gate losses" in line]
    assert [f"router ({warned})" in line for line in said] == ([True] if warned else [])
