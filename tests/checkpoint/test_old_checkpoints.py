"""Checkpoints of an earlier version, one file and shards of two ranks, load, resume and translate.

tests/corpora/old_checkpoints holds three updates of a tiny model by commit 4194b12, and its data.
The recorded numbers are those with which that commit went on from them.
"""

import shutil

import pytest
from console import ROOT, TASK, hypotheses, logged, run
from rank_trainings import run_on

OLD = ROOT / "tests" / "corpora" / "old_checkpoints"
FLAGS = (
    *TASK, "--lang-pairs", "en-de,de-en", "--encoder-langtok", "tgt", "--arch",
    "transformer_task_moe", "--encoder-layers", "2", "--decoder-layers", "2",
    "--encoder-embed-dim", "8", "--decoder-embed-dim", "8", "--encoder-ffn-embed-dim", "8",
    "--decoder-ffn-embed-dim", "8", "--encoder-attention-heads", "2",
    "--decoder-attention-heads", "2", "--share-all-embeddings", "--moe-expert-count", "4",
    "--moe-freq", "2", "--encoder-moe-router", "token", "--decoder-moe-router", "target",
    "--max-source-positions", "32", "--max-target-positions", "32", "--criterion",
    "moe_label_smoothed_cross_entropy", "--label-smoothing", "0.1", "--optimizer", "adam", "--lr",
    "0.01", "--max-tokens", "60", "--seed", "1", "--cpu", "--num-workers", "0", "--log-format",
    "json", "--log-interval", "1", "--dropout", "0", "--no-epoch-checkpoints",
    "--disable-validation", "--max-update", "6",
)
# bits per token at updates 4 to 6, logged with three decimals; the second one is of two ranks
LOSSES = {"plain": [5.164, 4.95, 4.593], "sharded": [4.916, 4.85, 4.679]}
SCORES = [-2.648407, -2.363415, -2.582613, -2.737098, -2.498612, -2.500034]  # of the test set
ROUNDING = 0.002  # two units in the last logged digit: other CPUs sum in another order


def test_one_file_resumes(tmp_path):
    shutil.copytree(OLD / "plain", tmp_path / "plain")
    resumed = run("fairseq-train", OLD / "data-bin", *FLAGS, "--save-dir", tmp_path / "plain")
    assert logged(resumed.said, "loss") == pytest.approx(LOSSES["plain"], abs=ROUNDING)


def test_shards_resume(tmp_path):
    shutil.copytree(OLD / "sharded", tmp_path / "sharded")
    resumed = run_on(
        2, tmp_path / "logs", "fairseq-train", OLD / "data-bin", *FLAGS, "--save-dir",
        tmp_path / "sharded", "--ddp-backend", "legacy_ddp", "--moe-sharded-checkpoints",
    )
    assert logged(resumed.said[0], "loss") == pytest.approx(LOSSES["sharded"], abs=ROUNDING)


def test_one_file_translates():
    generated = run(
        "fairseq-generate", OLD / "data-bin", *TASK, "-s", "en", "-t", "de", "--path",
        OLD / "plain" / "checkpoint_last.pt", "--cpu", "--max-len-b", "5",
    )
    found = hypotheses(generated.stdout)
    scores = [found[number].score for number in sorted(found)]
    assert scores == pytest.approx(SCORES, abs=1e-4)


def test_shards_are_consolidated_and_extracted(tmp_path):
    whole, out = tmp_path / "whole.pt", tmp_path / "en-de"
    run("taskmoe", "consolidate", OLD / "sharded" / "checkpoint_last-rank-0.pt", "--out", whole)
    run("taskmoe", "extract", whole, "--lang-pair", "en-de", "--format", "taskmoe", "--out", out)
    assert (out / "model.pt").exists()
