"""A refusal is an ordinary exception in Python, and one line with status 2 where a command ends."""

import re
import subprocess
import sys

import pytest
import torch
from console import PLUGIN, ROOT, TASK, TRAIN, refused, run

from fairseq_taskmoe.errors import Refusal, find_refusal, refuse
from fairseq_taskmoe.models.transformer_task_moe import TransformerTaskMoeModel

HYDRA = (
    "fairseq-hydra-train", "--config-dir", ROOT / "configs", "--config-name", "target_target",
    "size=smoke", f"common.user_dir={PLUGIN}", "optimization.max_update=1",
)


def test_a_refusal_is_an_ordinary_exception(capfd):
    try:
        refuse("--this is wrong")
    except Exception as refusal:
        assert str(refusal) == refusal.message == "--this is wrong"
    assert capfd.readouterr() == ("", "")


def test_a_text_that_is_too_long_does_not_end_the_process(corpus, train):
    trained = train("target-target", "--encoder-moe-router", "target",
                    "--decoder-moe-router", "target", "--max-update", 5)
    model = TransformerTaskMoeModel.from_pretrained(
        str(trained.parent), trained.name, str(corpus.data), source_lang="en", target_lang="de",
        bpe="sentencepiece", sentencepiece_model=str(corpus.sentencepiece),
    )
    try:
        model.translate("word " * 200, max_len_b=5)
    except Exception as problem:
        assert "--max-source-positions" in str(problem)
    else:
        pytest.fail("the text was not refused")
    assert isinstance(model.translate("a word", max_len_b=5), str)


ENDING = re.compile(r"\bsys\.exit\(|\bos\._exit\(|raise SystemExit|\(SystemExit\)|\bexit\(")
MAY_END_THE_PROCESS = {
    "cli.py", "errors.py", "verbs/arguments.py",  # where commands end
    "files.py", "serving/service.py",  # on SIGTERM, in commands
    "benchmarks/decode/rank.py", "benchmarks/decode/rank_search.py",  # programs
}


def test_nothing_below_a_command_ends_the_process():
    package = ROOT / "fairseq_taskmoe"
    ending = {
        str(file.relative_to(package)) for file in package.rglob("*.py")
        if ENDING.search(file.read_text(encoding="utf-8"))
    }
    assert ending == MAY_END_THE_PROCESS


# -- fairseq's commands


def test_hydra_prints_one_line(corpus, tmp_path):
    result = run(*HYDRA, f"task.data={tmp_path}", f"checkpoint.save_dir={tmp_path}/run",
                 cwd=ROOT, check=False)
    assert "has no dict." in refused(result)


def other_model(corpus, folder):
    """Train a model of another width."""
    flags = ("--encoder-moe-router", "target", "--decoder-moe-router", "target")
    run("fairseq-train", corpus.data, *TRAIN, *flags, "--save-dir", folder, "--max-update", 1,
        "--disable-validation", "--decoder-ffn-embed-dim", 24)
    return folder / "checkpoint_last.pt"


@pytest.mark.slow
def test_a_checkpoint_that_does_not_fit_is_refused_by_flags_and_hydra(corpus, tmp_path):
    # fairseq replaces what is raised while it loads a checkpoint by an exception of its own
    checkpoint = other_model(corpus, tmp_path / "other")
    by_flags = run(
        "fairseq-train", corpus.data, *TRAIN, "--restore-file", checkpoint, "--save-dir",
        tmp_path / "run", "--max-update", 2, "--reset-optimizer", "--reset-dataloader",
        "--reset-meters", check=False,
    )
    assert "the checkpoint is of another model" in refused(by_flags)
    by_yaml = run(
        *HYDRA, f"task.data={corpus.data}", f"checkpoint.save_dir={tmp_path}/run",
        f"checkpoint.restore_file={checkpoint}", "checkpoint.reset_optimizer=true",
        "checkpoint.reset_dataloader=true", "checkpoint.reset_meters=true", cwd=ROOT, check=False,
    )
    assert "the checkpoint is of another model" in refused(by_yaml)


PROGRAM = """
import sys
import torch
from torch.utils.data import DataLoader
from fairseq_cli import train

def refuse():  # the plugin is imported by the command
    from fairseq_taskmoe.errors import refuse
    refuse("data.bin is damaged")

class Broken(torch.utils.data.Dataset):
    def __len__(self): return 3
    def __getitem__(self, index): refuse()

def rank(number): refuse()

def main(cfg): {how}

if __name__ == "__main__":
    train.main = main
    {start}
"""
RAISED = {
    "here": "refuse()",
    "by a data loader's worker": "list(DataLoader(Broken(), num_workers=1))",
    "by a spawned rank": "torch.multiprocessing.spawn(rank, nprocs=1)",
    "by a bug": "list(DataLoader(Broken(), num_workers=1), 1)",
}


def run_program(folder, start, how):
    """Run a program whose main() fails, started as fairseq-train starts its own, or plainly."""
    program = folder / "program.py"
    program.write_text(PROGRAM.format(how=RAISED[how], start=start))
    flags = ("data", *TASK, "--lang-pairs", "en-de", "--arch", "transformer_task_moe_tiny", "--cpu")
    return subprocess.run(
        [sys.executable, "-W", "ignore", program, *flags], capture_output=True, text=True,
        cwd=ROOT, env={"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )


@pytest.mark.parametrize("how", [how for how in RAISED if how != "by a bug"])
def test_refusals_out_of_other_processes_end_a_command_with_one_line(how, tmp_path):
    ended = run_program(tmp_path, "train.cli_main()", how)
    assert ended.returncode == 2 and "Traceback" not in ended.stderr
    assert ended.stderr.splitlines()[-1] == "taskmoe: error: data.bin is damaged"


@pytest.mark.parametrize("start, how", [("train.cli_main()", "by a bug"), ("main({})", "here")])
def test_other_errors_and_other_programs_are_left_to_python(start, how, tmp_path):
    ended = run_program(tmp_path, start, how)
    assert ended.returncode == 1 and "Traceback" in ended.stderr
    assert "taskmoe: error" not in ended.stderr


def test_only_what_was_replaced_is_looked_for_behind_an_exception():
    def raised(replacement):
        try:
            try:
                refuse("the checkpoint is of another model")
            except Refusal:
                raise replacement from None
        except type(replacement) as error:
            return error

    assert find_refusal(raised(Exception("Cannot load"))).message.endswith("another model")
    assert find_refusal(raised(KeyError("a bug"))) is None
    assert find_refusal(torch.OutOfMemoryError()) is None
