"""Models of checkpoints, whose weights stay in their file until they are used."""

from types import SimpleNamespace
from typing import NamedTuple, Sequence

from fairseq.data import Dictionary
from fairseq.models import BaseFairseqModel
from fairseq.models.transformer import TransformerModel

from ..data.languages import make_dictionary
from ..models.transformer_task_moe import build_without_task
from .contents import TrainedModel
from .reading import read_checkpoint
from .skip_init import SkipInit
from .stock_settings import stock_dictionary, stock_options
from .stored_weights import with_weights


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
    with SkipInit():
        model = TransformerModel.build_model(options, task)
    model.upgrade_state_dict(state["model"])
    return Loaded(with_weights(model, state["model"]), dictionary)


def load_task_moe(
    trained: TrainedModel, lang_pairs: Sequence[str], widen_experts: bool = True
) -> Loaded:
    """Return the model of a checkpoint of transformer_task_moe, to serve lang_pairs.

    Without widen_experts, those of --fp16 and --bf16 stay as they are in the file: on CPU each is
    cast when it is used. Do not fold such a model.
    """
    dictionary = make_dictionary(trained.words, trained.tags)
    with SkipInit():
        model = build_without_task(trained.cfg, dictionary, trained.table.with_pairs(lang_pairs))
    return Loaded(with_weights(model, trained.weights, widen_experts), dictionary)
