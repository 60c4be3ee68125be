"""A small file of every kind that the commands read, made by the commands themselves."""

import sys
from pathlib import Path
from typing import Any, List
from unittest import mock

import pytest
import torch
import transformers
import yaml
from console import Share, read_table
from damage import run_fairseq, run_verb, write_json
from fairseq.data import Dictionary
from fairseq_cli import train
from fake_runs import make_runs, throughput
from helpers import make_config, make_model
from omegaconf import OmegaConf

from fairseq_taskmoe.checkpoint.convert_shards import reshard
from fairseq_taskmoe.data.dictionary_file import read_dictionary
from fairseq_taskmoe.data.indexed_files import write_sentences
from fairseq_taskmoe.piece_model import load_pieces
from fairseq_taskmoe.tasks.config import TranslationTaskMoeConfig
from fairseq_taskmoe.tasks.translation_task_moe import TranslationTaskMoeTask

ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:  # preprocess is not installed
    sys.path.insert(0, str(ROOT))

from preprocess import run as preprocess_run  # noqa: E402
from preprocess import sentencepiece_model  # noqa: E402

SIZES = {"train": 60, "valid": 10, "test": 12}
PAIRS = "en-de,de-en"
TRAINING = (
    "--lang-pairs", "FOLDER/pairs.txt", "--encoder-langtok", "tgt", "--arch",
    "transformer_task_moe_tiny", "--moe-expert-count", "4", "--moe-task-groups",
    "FOLDER/groups.yaml", "--decoder-moe-router", "group", "--criterion",
    "moe_label_smoothed_cross_entropy", "--optimizer", "sgd", "--lr", "0.1", "--max-tokens", "300",
    "--max-update", "1", "--no-epoch-checkpoints", "--max-source-positions", "128",
    "--max-target-positions", "128",
)
SEARCH = ("--beam", "2", "--max-len-b", "8")
CPU = ("--cpu", *SEARCH)


@pytest.fixture(scope="session")
def world(share: Share) -> Path:
    """A folder that no test may change."""
    return share("damage-world", make_world)


def make_world(folder: Path) -> None:
    """Fill a folder."""
    folder.mkdir(parents=True)
    write_text(folder / "text")
    texts = [f"{lang}={folder}/text/train.en-de.{lang}" for lang in ("en", "de")]
    sentencepiece_model.main([*texts, "--out", str(folder), "--vocab-size", "300"])
    write_data(folder)
    for name, seed in (("a", 1), ("b", 2)):
        write_checkpoint(folder, name, seed, "target")
    write_checkpoint(folder, "token", 3, "token")
    write_checkpoint(folder, "dense", 4, "dense")
    (folder / "shards").mkdir()
    reshard(f"{folder}/a.pt", 2, f"{folder}/shards/last.pt")
    write_huggingface(folder / "hf", folder / "spm.model")
    for name in ("fairseq", "taskmoe", "ctranslate2", "huggingface"):
        run(folder, "extract", "FOLDER/a.pt", "--lang-pair", "en-de", "--format", name,
            "--sentencepiece-model", "FOLDER/spm.model", "--out", f"FOLDER/models/{name}")
    (folder / "input.txt").write_text("Open the file\nSave\n")
    (folder / "groups.yaml").write_text("into: [de, en]\n")
    (folder / "languages.yaml").write_text("de: {train_pairs: 60, class: low}\n")
    (folder / "pairs.txt").write_text(f"{PAIRS}\n")
    counts = "".join(f"{word} 3\n" for word in load_words(folder))
    (folder / "counts.txt").write_text(counts, encoding="utf-8")
    for name in ("a", "token"):
        run(folder, "routing", "FOLDER/data", "--path", f"FOLDER/{name}.pt", "--out",
            f"FOLDER/routing-{name}", "--cpu")
    for name in ("a", "b"):
        run(folder, "evaluate", "data", "--path", f"{name}.pt", "--out",
            f"runs/{name}/evaluation", *CPU)
    run(folder, "distill", "data", "--path", "a.pt", "--out", "distilled", *CPU)
    run_fairseq(
        train.cli_main, "FOLDER/data", *TRAINING, "--lang-pairs", PAIRS, "--save-dir",
        "FOLDER/trained",
    )(folder)
    with mock.patch("fairseq_taskmoe.distillation.distill._write_folder"):  # as if it was killed
        run(folder, "distill", "data", "--path", "a.pt", "--out", "stopped", *CPU)
    write_experiment(folder)
    write_raw(folder)
    preprocess_run.main([
        f"{folder}/corpus.yaml", "--raw", f"{folder}/raw", "--out", f"{folder}/prepared",
        "--steps", "clean,dedup,sample,train,encode",
    ])


def run(folder: Path, *words: Any) -> None:
    run_verb(*words)(folder)


def write_text(folder: Path) -> None:
    """Write raw text of en-de, from the shipped corpus."""
    rows = [row for row in read_table() if row["de"] and 4 <= len(row["en"].split()) <= 9]
    folder.mkdir()
    for split, number in SIZES.items():
        chosen, rows = rows[:number], rows[number:]
        for lang in ("en", "de"):
            text = "".join(row[lang] + "\n" for row in chosen)
            (folder / f"{split}.en-de.{lang}").write_text(text, encoding="utf-8")


def load_words(folder: Path) -> List[str]:
    return read_dictionary(f"{folder}/dict.txt").symbols[4:]


def write_data(folder: Path) -> None:
    """Binarize the text."""
    dictionary, pieces = read_dictionary(f"{folder}/dict.txt"), load_pieces(folder / "spm.model")
    data = folder / "data"
    data.mkdir()
    for lang in ("en", "de"):
        (data / f"dict.{lang}.txt").write_bytes((folder / "dict.txt").read_bytes())
    for file in (folder / "text").iterdir():
        sentences = [
            [*map(dictionary.index, pieces.encode(line, out_type=str)), dictionary.eos()]
            for line in file.read_text(encoding="utf-8").split("\n")[:-1]
        ]
        write_sentences(data / file.name, sentences, len(dictionary))


def write_checkpoint(folder: Path, name: str, seed: int, router: str) -> None:
    """Write a checkpoint of random weights, as training would."""
    cfg = OmegaConf.merge(OmegaConf.structured(TranslationTaskMoeConfig), {
        "data": f"{folder}/data", "lang_pairs": PAIRS, "encoder_langtok": "tgt", "seed": 1,
        "train_subset": "train", "dataset_impl": None, "max_source_positions": 128,
        "max_target_positions": 128,
    })
    dictionary: Dictionary = read_dictionary(f"{folder}/dict.txt")
    task = TranslationTaskMoeTask(cfg, dictionary)
    model = {"encoder_moe_router": router, "decoder_moe_router": router, "moe_expert_count": 4,
             "max_source_positions": 128, "max_target_positions": 128}
    torch.manual_seed(seed)
    built = make_model(task, **model)
    task.parameter_names = [name for name, _ in built.named_parameters()]
    settings = OmegaConf.to_container(
        make_config(_name="transformer_task_moe", **model), enum_to_str=True
    )
    torch.save({
        "args": None, "model": built.state_dict(), "task_state": task.state_dict(),
        "cfg": {"model": settings, "task": OmegaConf.to_container(cfg, enum_to_str=True),
                "checkpoint": {}},
        "last_optimizer_state": None,
        "optimizer_history": [{"optimizer_name": "FairseqAdam", "lr_scheduler_state": {},
                               "num_updates": 5, "criterion_name": ""}],
        "extra_state": {"train_iterator": {"epoch": 1, "iterations_in_epoch": 0}},
    }, folder / f"{name}.pt")


def write_huggingface(folder: Path, spm: Path) -> None:
    """Write a model of M2M100 of random weights, as transformers does."""
    folder.mkdir()
    pieces = load_pieces(spm)
    words = ["<s>", "<pad>", "</s>", "<unk>", *map(pieces.id_to_piece, range(3, len(pieces)))]
    write_json(folder / "vocab.json", {word: number for number, word in enumerate(words)})
    (folder / "sentencepiece.bpe.model").write_bytes(spm.read_bytes())
    files = (str(folder / name) for name in ("vocab.json", "sentencepiece.bpe.model"))
    transformers.M2M100Tokenizer(*files, language_codes="wmt21").save_pretrained(folder)
    config = transformers.M2M100Config(
        vocab_size=len(words) + 16, d_model=16, encoder_ffn_dim=24, decoder_ffn_dim=24,
        encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
    )
    transformers.M2M100ForConditionalGeneration(config).save_pretrained(folder)


def write_experiment(folder: Path) -> None:
    """Write what `taskmoe tabulate` reads beside the results."""
    runs = make_runs(folder / "experiment")
    counts = {"total": 9, "effective": 5, "total_shared": 8, "effective_shared": 4}
    write_json(runs / "dense_base" / "params.json", counts)
    report = throughput({"dense": [3.0, 4.0], "token_token": [2.0, 3.0], "target_target": [3.0]})
    write_json(runs / "throughput.json", report)
    for row in report["rows"]:
        row["communication_share"] = 0.1
    write_json(runs / "communication.json", report)
    write_json(runs / "significance.json", {
        "baseline": "dense_base", "rows": {"token_token": {"en-de": {"delta_bleu": 1.0, "p": 0.1}}},
    })


def write_raw(folder: Path) -> None:
    """Write the raw text, and the configuration, of `preprocess.run`."""
    for split in SIZES:
        for lang in ("en", "de"):
            text = (folder / "text" / f"{split}.en-de.{lang}").read_bytes()
            stem = "train/en-de/first" if split == "train" else f"{split}/en-de"
            path = folder / "raw" / f"{stem}.{lang}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(text)
    settings = {"pairs": ["en-de"], "vocab_size": 120, "sample_lines": 120}
    (folder / "corpus.yaml").write_text(yaml.safe_dump(settings))
