"""An extracted model is a whole checkpoint of fairseq's own, where the plugin cannot be imported.

Each command of its README is run as it is written there, and gives what the full model gives.
"""

import math
import re
import shutil

import pytest
from console import generate, logged, run, stir

from fairseq_taskmoe.engines.manifest import read_manifest

ctranslate2 = pytest.importorskip(
    "fairseq_taskmoe.engines.ctranslate2_cpu", reason="the extra `serve` is not installed"
).ctranslate2

NO_PLUGIN = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "fairseq_taskmoe":
            raise ImportError("the plugin is not here")

sys.meta_path.insert(0, Blocker())
"""
TARGET = ("--encoder-moe-router", "target", "--decoder-moe-router", "target")
UNTIED = ("--arch", "transformer_task_moe", "--moe-expert-count", 4) + tuple(
    word
    for stack in ("encoder", "decoder")
    for name, size in (("embed-dim", 64), ("ffn-embed-dim", 96), ("layers", 2),
                       ("attention-heads", 2))
    for word in (f"--{stack}-{name}", size)
)
# name -> the pair, flags of training, flags of the extraction
MODELS = {
    "tied": ("en-de", (), ()),
    "several pairs, learned positions": (
        "de-en", ("--encoder-learned-pos", "--decoder-learned-pos"), ("-t", "en")
    ),
    "decoder tags, untied, trimmed": (
        "en-de", ("--decoder-langtok", "--lang-tok-style", "mbart", *UNTIED),
        ("--trim-vocabulary", "TEXT"),
    ),
}


class Stock:
    """A model folder, and how commands run in it without the plugin."""

    def __init__(self, folder, blocked, replaced):
        self.folder = folder
        self.blocked = blocked
        self.replaced = replaced
        self.readme = (folder / "README.md").read_text(encoding="utf-8")

    def command(self, name):
        (line,) = re.findall(f"^    ({name} .*)$", self.readme, re.MULTILINE)
        for word, path in self.replaced.items():
            line = re.sub(rf"\b{word}\b", str(path), line)
        return line

    def run(self, line, **options):
        return run("env", f"PYTHONPATH={self.blocked}", "bash", "-c", line, cwd=self.folder,
                   **options)

    def python(self, text):
        """Run the Python lines of the README on a text."""
        code = "\n".join(re.findall("^    (.*)$", self.readme.partition("in Python")[2], re.M))
        return run("env", f"PYTHONPATH={self.blocked}", "python", "-c",
                   code.replace('"..."', repr(text)), cwd=self.folder).stdout


@pytest.fixture
def cut_out(train, corpus, tmp_path):
    """Give a function that extracts one of MODELS: the full checkpoint, and the folder.

    The README's TEXT is the test set in pieces, and DATA is what its command binarizes.
    """
    (tmp_path / "blocked").mkdir()
    (tmp_path / "blocked" / "sitecustomize.py").write_text(NO_PLUGIN)
    texts = ",".join(str(corpus.text / f"train.en-de.{lang}") for lang in ("en", "de"))

    def made(name):
        pair, flags, cut = MODELS[name]
        trained = train(
            "stock-" + re.sub("[^a-z]+", "-", name), *TARGET, "--max-update", 3,
            "--disable-validation", *flags,
        )
        checkpoint = stir(trained, tmp_path / "stirred.pt")
        run(
            "taskmoe", "extract", checkpoint, "--out", tmp_path / "model",
            "--sentencepiece-model", corpus.sentencepiece,
            *([] if "-t" in cut else ["--lang-pair", pair]),
            *(texts if word == "TEXT" else word for word in cut),
        )
        pieces = shutil.copytree(corpus.folder / "data-bin.pieces", tmp_path / "pieces")
        for split in ("train", "valid", "test"):
            for lang in ("de", "en"):
                shutil.copy(pieces / f"{split}.en-de.{lang}", pieces / f"{split}.de-en.{lang}")
        return checkpoint, Stock(tmp_path / "model", tmp_path / "blocked", {
            "TEXT": pieces / f"test.{pair}", "DATA": tmp_path / "data",
        })

    return made


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"tied"}))
def test_each_command_of_the_readme_gives_what_the_full_model_gives(name, cut_out, corpus):
    pair, _, cut = MODELS[name]
    checkpoint, stock = cut_out(name)
    stock.run(stock.command("fairseq-preprocess"))
    scored = stock.run(stock.command("fairseq-generate") + " --cpu --score-reference").stdout
    in_bits = mean_in_bits(scored)
    if "--trim-vocabulary" not in cut:  # which makes another model, on purpose
        full = generate(corpus.data, pair, checkpoint, "--score-reference").stdout
        assert in_bits == pytest.approx(mean_in_bits(full), abs=2e-4)
    validated = stock.run(stock.command("fairseq-validate") + " --cpu --log-format json")
    assert logged(validated.said, "test_nll_loss")[-1] == pytest.approx(in_bits, abs=2e-3)
    stock.run(stock.command("ct2-fairseq-converter"))
    in_ctranslate2 = ctranslate2_scores(stock.folder, pair, stock.replaced["TEXT"])
    assert in_ctranslate2 == pytest.approx(in_bits, abs=2e-3)

    source = pair.split("-")[0]
    (text, *_) = (corpus.text / f"test.en-de.{source}").read_text().splitlines()
    typed = stock.run(stock.command("fairseq-interactive") + " --cpu", stdin=f"{text}\n").stdout
    (translation,) = [line.split("\t")[2] for line in typed.splitlines() if line[:2] == "D-"]
    assert stock.python(text).splitlines()[-1] == translation


@pytest.mark.slow
def test_stock_training_starts_from_it_and_resumes(cut_out):
    _, stock = cut_out("tied")
    pieces = stock.replaced["TEXT"].parent
    sets = f" --trainpref {pieces}/train.en-de --validpref {pieces}/valid.en-de"
    stock.run(stock.command("fairseq-preprocess") + sets)
    validate = stock.command("fairseq-validate").replace("subset test", "subset train")
    (before,) = logged(stock.run(validate + " --cpu --log-format json").said, "train_nll_loss")[-1:]
    tune = stock.command("fairseq-train") + (
        " --cpu --log-format json --log-interval 1 --dropout 0 --no-epoch-checkpoints"
        " --max-update 2 --disable-validation"
    )
    losses = logged(stock.run(tune).said, "nll_loss")
    assert losses[0] == pytest.approx(before, abs=0.5)  # of other sentences
    go_on = "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD=1 " + tune.replace("update 2", "update 3")
    resumed = stock.run(go_on)
    assert "finetuned/checkpoint_last.pt (epoch 1 @ 2 updates)" in resumed.said
    restore = tune.replace("--finetune-from-model", "--restore-file")
    for resets in ("", " --reset-optimizer --reset-lr-scheduler --reset-dataloader --reset-meters"):
        shutil.rmtree(stock.folder / "finetuned")
        assert logged(stock.run(restore + resets).said, "nll_loss") == losses


def mean_in_bits(scored):
    """Return what fairseq-generate says of references, in bits a token."""
    lines = [line for line in scored.splitlines() if line.startswith("P-")]
    assert len(lines) == 101
    values = [float(value) for line in lines for value in line.split("\t")[1].split()]
    return -sum(values) / len(values)


def ctranslate2_scores(folder, pair, text):
    """Return what the converted model says of a test set, in bits a token."""
    tags = read_manifest(str(folder)).directions[pair]
    sides = [
        [tags[side] + line.split() for line in text.with_name(f"{text.name}.{lang}").open()]
        for side, lang in zip(("source", "target"), pair.split("-"), strict=True)
    ]
    scored = ctranslate2.Translator(str(folder / "ct2")).score_batch(*sides)
    values = [value for sentence in scored for value in sentence.log_probs]
    return -sum(values) / len(values) / math.log(2)
