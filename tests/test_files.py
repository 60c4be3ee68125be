"""New folders and files: whole, or as if nothing had been tried."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fairseq_taskmoe.errors import Refusal, refuse
from fairseq_taskmoe.files import new_folder, written_together

FILL = """
import sys
from fairseq_taskmoe.files import new_folder
with new_folder(sys.argv[1]) as folder:
    (folder / "large").write_text("half")
    print(folder, flush=True)
    sys.stdin.read()
"""


def test_a_refusal_leaves_no_folder(tmp_path):
    (tmp_path / "old").mkdir()
    for out in ("new/a/b", "old/a/b"):
        with pytest.raises(Refusal), new_folder(str(tmp_path / out)) as folder:
            (folder / "file").touch()
            refuse("no")
    assert [path.name for path in tmp_path.rglob("*")] == ["old"]


def test_a_refusal_leaves_no_files(tmp_path):
    names = [str(tmp_path / name) for name in ("new/a/one", "new/two", "three")]
    with pytest.raises(Refusal), written_together(names) as parts:
        for part in parts[:2]:
            Path(part).touch()
        refuse("no")
    assert not list(tmp_path.iterdir())
    with written_together(names) as parts:
        for part in parts:
            Path(part).touch()
    assert sorted(filter(Path.is_file, tmp_path.rglob("*"))) == sorted(map(Path, names))


def test_what_others_have_put_there_stays(tmp_path):
    with pytest.raises(Refusal), new_folder(str(tmp_path / "new/a/b")):
        (tmp_path / "new" / "theirs").touch()
        refuse("no")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["theirs"]


@pytest.fixture
def fill():
    """Give a function that starts a process which is filling a folder, and returns both."""
    processes = []

    def start(out):
        process = subprocess.Popen([sys.executable, "-c", FILL, str(out)], text=True,
                                   stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        processes.append(process)
        return process, process.stdout.readline().strip()

    yield start
    for process in processes:
        process.communicate()


def test_what_a_killed_process_has_left_is_removed_by_the_next(fill, tmp_path):
    killed, left = fill(tmp_path / "model")
    _, others = fill(tmp_path / "model2")
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert list(Path(left).iterdir())
    with new_folder(str(tmp_path / "model")) as folder:
        assert str(folder) == left and not list(folder.iterdir())
        (folder / "file").touch()
    assert {path.name for path in (tmp_path / "model").iterdir()} == {"file"}
    assert {str(path) for path in tmp_path.iterdir()} == {str(tmp_path / "model"), others}


def test_a_folder_that_another_process_fills_is_refused_and_left_alone(fill, tmp_path):
    _, filled = fill(tmp_path / "model")
    with pytest.raises(Refusal, match="another process is writing"), new_folder(
        str(tmp_path / "model")
    ):
        pass
    assert (Path(filled) / "large").read_text() == "half"
