"""The notebook and the code in docs/python.md run as they are written, on a small model."""

import json
import re

import pytest
from forked_processes import ROOT

import fairseq_taskmoe

pytest.importorskip(
    "fairseq_taskmoe.engines.ctranslate2_cpu", reason="the extra `serve` is not installed"
)
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(share, train, corpus):
    """A folder with a run as `make demo` leaves it, and one extracted model."""
    trained = train("served", "--max-update", 5, "--moe-gate-loss-reduction", "mean")

    def make(folder):
        (folder / "checkpoints").mkdir(parents=True)
        (folder / "checkpoints" / "checkpoint_best.pt").symlink_to(trained)
        (folder / "data-bin").symlink_to(corpus.data)
        (folder / "spm.model").symlink_to(corpus.sentencepiece)
        fairseq_taskmoe.extract(str(trained), "en-de", str(folder / "models" / "en-de"))

    return share("python-examples", make)


def run_in_order(pieces, capsys):
    """Run pieces of code in one namespace, as a notebook does; return what each printed."""
    namespace, printed = {}, []
    for number, piece in enumerate(pieces, 1):
        exec(compile(piece, f"piece {number}", "exec"), namespace)
        printed.append(capsys.readouterr().out)
    return printed


def test_the_notebook(folder, monkeypatch, capsys):
    monkeypatch.setenv("TASKMOE_RUN", str(folder))
    text = (ROOT / "examples" / "quickstart.ipynb").read_text(encoding="utf-8")
    cells = ["".join(cell["source"]) for cell in json.loads(text)["cells"]
             if cell["cell_type"] == "code"]
    printed = "".join(run_in_order(cells, capsys))
    assert "['de-en', 'en-de', 'en-ru', 'ru-en']" in printed
    assert re.search(r"^[\d,]+ of [\d,]+ parameters\n\d\.\d MB$", printed, re.MULTILINE)
    assert re.search(r"^de-en  BLEU \d+\.\d  chrF \d+\.\d$", printed, re.MULTILINE)


def test_the_python_page(folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    text = (ROOT / "docs" / "python.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    printed = run_in_order(blocks, capsys)
    assert len(printed) == text.count("```python") and all(printed)
