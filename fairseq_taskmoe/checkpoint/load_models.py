"""Models of checkpoints, whose weights stay in their file until they are used."""

from types import SimpleNamespace
from typing import NamedTuple, Sequence

import torch
from fairseq.data import Dictionary
from fairseq.models import BaseFairseqModel
from fairseq.models.transformer import TransformerModel

from ..data.languages import LanguageTags, make_dictionary
from ..data.task_table import TaskTable
from ..models.transformer_task_moe import build_without_task
from .extract_subnet import model_config
from .reading import Checkpoint, read_checkpoint
from .stock_settings import stock_dictionary, stock_options
from .unset_weights import UnsetWeights


class Loaded(NamedTuple):
    """A model in evaluation mode, and the words of its embeddings."""

    model: BaseFairseqModel
    dictionary: Dictionary


def load_stock(folder: str) -> Loaded:
    """Return the model of a folder that `taskmoe extract --format fairseq` made."""
    path = f"{folder}/model.pt"
    state = read_checkpoint(path)
    options, dictionary = stock_options(state, path), stock_dictionary(state, folder)
    task = SimpleNamespace(source_dictionary=dictionary, target_dictionary=dictionary)
    with UnsetWeights():
        model = TransformerModel.build_model(options, task)
    model.upgrade_state_dict(state["model"])
    return Loaded(_with_weights(model, state), dictionary)


def load_task_moe(checkpoint: Checkpoint, lang_pairs: Sequence[str]) -> Loaded:
    """Return the model of a checkpoint of transformer_task_moe, to serve lang_pairs."""
    task_state = checkpoint["task_state"]
    dictionary = make_dictionary(task_state["words"], LanguageTags.from_state(task_state["tags"]))
    table = TaskTable.from_state(task_state["task_table"]).with_pairs(lang_pairs)
    with UnsetWeights():
        model = build_without_task(model_config(checkpoint), dictionary, table)
    return Loaded(_with_weights(model, checkpoint), dictionary)


def _with_weights(model: BaseFairseqModel, checkpoint: Checkpoint) -> BaseFairseqModel:
    """Make a checkpoint's weights the model's own, where they lie in the file.

    Those that are not in float32 (of --fp16 and --bf16) are copied: CPUs compute in float32.
    """
    torch.nn.Module.load_state_dict(model, checkpoint["model"], assign=True)
    return model.float().eval().requires_grad_(False)
