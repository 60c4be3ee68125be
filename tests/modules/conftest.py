"""Settings of the process that several tests of modules need."""

import pytest
import torch

from fairseq_taskmoe.modules import bf16_products
from fairseq_taskmoe.modules.bf16_products import set_matmul_precision


@pytest.fixture
def medium(monkeypatch):
    """Medium precision, on a CPU that has instructions for bfloat16: others compute it slowly.

    It holds for matrices of any size.
    """
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: True)
    monkeypatch.setattr(bf16_products, "LEAST_ELEMENTS", 1)
    set_matmul_precision("medium")
    yield
    set_matmul_precision("highest")
