"""What all tests share: one thread each, and quiet libraries."""

import logging
import os
from typing import Iterator

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


@pytest.fixture(autouse=True)
def restore_logging() -> Iterator[None]:
    """Remove the log handlers that a test's commands add: the streams they write to are closed.

    fairseq-validate replaces the handlers of the root logger when its main function runs.
    """
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
