"""What all tests share: one thread each, and quiet libraries."""

import logging
import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis  # noqa: E402
import pytest  # noqa: E402
import torch  # noqa: E402

# fixtures that run real commands
pytest_plugins = ["console", "damage_world", "fairseq_commands", "services"]
torch.set_num_threads(1)
logging.getLogger("fairseq").setLevel(logging.ERROR)
# a busy machine must not make a test fail
hypothesis.settings.register_profile("patient", deadline=None)
hypothesis.settings.load_profile("patient")


@pytest.fixture(autouse=True)
def seed():
    """Every test draws the same numbers, alone or among others."""
    torch.manual_seed(1)
