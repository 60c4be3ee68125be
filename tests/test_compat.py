"""Repairs of fairseq and torch: each does what it is for, and no more."""

import argparse
import logging
import os
import pickle

import pytest
import torch
from console import PLUGIN
from fairseq import options
from fairseq.file_io import PathManager
from fairseq.nan_detector import NanDetector

import fairseq_taskmoe  # noqa: F401  (importing it applies the repairs)

TRAIN = ["data", "--user-dir", PLUGIN, "--task", "translation_task_moe", "--lang-pairs", "en-de",
         "--criterion", "moe_label_smoothed_cross_entropy"]


class Hostile:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return (os.mkdir, (self.marker,))


def test_namespaces_of_fairseq_load_and_hostile_types_are_not_executed(tmp_path):
    torch.save({"args": argparse.Namespace(lr=1)}, tmp_path / "plain.pt")
    assert torch.load(tmp_path / "plain.pt")["args"].lr == 1
    marker = tmp_path / "executed"
    torch.save({"args": Hostile(str(marker))}, tmp_path / "hostile.pt")
    with pytest.raises(pickle.UnpicklingError):
        torch.load(tmp_path / "hostile.pt")
    assert not marker.exists()


@pytest.mark.parametrize("arch", ["", "_tiny", "_base", "_big"])
@pytest.mark.parametrize("bf16", [True, False])
def test_bf16_does_not_ask_for_a_tpu(arch, bf16):
    flags = [*TRAIN, "--arch", f"transformer_task_moe{arch}", *(["--bf16"] if bf16 else [])]
    args = options.parse_args_and_arch(options.get_training_parser(), flags)
    assert args.bf16 is bf16
    assert not args.tpu


def test_checkpoints_are_put_in_place_atomically_and_other_files_as_fairseq_does(
    tmp_path, monkeypatch
):
    new, last = str(tmp_path / "checkpoint1.pt"), tmp_path / "checkpoint_last.pt"
    (tmp_path / "checkpoint1.pt").write_bytes(b"new")

    def replaces(**how):
        """Return whether the old file is still whole for whoever has opened it."""
        last.write_bytes(b"old")
        with open(last, "rb") as reader:
            assert PathManager.copy(new, str(last), **how)
            assert last.read_bytes() == b"new"
            return reader.read() == b"old"

    assert replaces(overwrite=True)
    assert not replaces(overwrite=False)
    monkeypatch.setattr(PathManager, "path_requires_pathmanager", staticmethod(lambda _: True))
    assert not replaces(overwrite=True)


class Encoder(torch.nn.Linear):
    """It returns what fairseq's encoders do."""

    def forward(self, x):
        return {"encoder_out": [super().forward(x)], "encoder_states": []}


@pytest.mark.filterwarnings("ignore:For backward hooks")
def test_nan_detector_names_modules_behind_an_encoder(caplog):
    model = torch.nn.ModuleDict(
        {"encoder": Encoder(2, 3), "one": torch.nn.Linear(3, 4), "other": torch.nn.Linear(4, 5)}
    )
    with torch.no_grad():
        model["other"].weight[0, 0] = float("nan")
    with caplog.at_level(logging.WARNING, "fairseq.nan_detector"), NanDetector(model):
        encoded = model["encoder"](torch.ones(6, 2, requires_grad=True))["encoder_out"][0]
        model["other"](model["one"](encoded)).sum().backward()
    forward, backward = [record.getMessage() for record in caplog.records]
    assert forward.startswith("NaN detected in output of other, shape: torch.Size([6, 5]), forw")
    assert backward == "NaN detected in output of one, shape: torch.Size([6, 4]), backward"
