"""A dense model: what a model with experts can start from, whatever program trained it."""

from typing import Any, Dict, List, NamedTuple, Sequence

import torch
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor

from ..checkpoint.contents import Checkpoint, TrainedModel, task_state
from ..checkpoint.new_checkpoint import new_checkpoint
from ..data.languages import LanguageTags, make_dictionary
from ..data.task_table import TaskTable
from ..errors import refuse
from ..models.config import TransformerTaskMoeConfig
from ..models.transformer_task_moe import build_without_task
from ..names import EXPERTS, STACKS, WORD_ROWS
from ..tasks.config import TranslationTaskMoeConfig

StateDict = Dict[str, Tensor]
EMBEDDINGS = WORD_ROWS[:3]  # matrices: of source words, of target words, of the output layer


class DenseModel(NamedTuple):
    """A model without experts: its settings, weights, words and language pairs."""

    cfg: Any  # of transformer_task_moe
    state: StateDict  # by the names of transformer_task_moe; shared weights are one tensor
    words: List[str]  # of the dictionary, special ones first and without tags
    word_counts: List[int]
    tags: LanguageTags
    lang_pairs: List[str]

    @classmethod
    def of(cls, path: str, trained: TrainedModel) -> "DenseModel":
        """Return a checkpoint of transformer_task_moe that has no experts."""
        if any(EXPERTS in name for name in trained.weights):
            refuse(f"{path}: has experts already; give a dense model")
        return cls(trained.cfg, trained.weights, trained.words, trained.word_counts, trained.tags,
                   trained.pairs)

    def check_weights(self, path: str) -> None:
        """Refuse weights that are not those of the model that the settings describe."""
        dictionary = make_dictionary(self.words, self.tags)
        for stack in STACKS:
            if self.cfg[f"{stack}_layers"] > len(self.state):  # they would take hours to build
                refuse(f"{path}: has not the weights of {self.cfg[f'{stack}_layers']} layers of "
                       f"its {stack}")
        try:
            with torch.device("meta"):
                model = build_without_task(
                    self.cfg, dictionary, TaskTable.from_pairs(self.lang_pairs)
                )
        except (ValueError, ArithmeticError, RuntimeError) as error:
            refuse(f"{path}: no model has these sizes: {' '.join(str(error).split())}")
        expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
        for name in (*expected, *self.state):
            found = tuple(self.state[name].shape) if name in self.state else "missing"
            wanted = expected.get(name, "not in this plugin's model")
            if found != wanted:
                words = " words and tags" if name in WORD_ROWS else ""
                refuse(f"{path}: {name} is {found}, and its settings and dictionary mean {wanted}"
                       f"{words}")

    def with_languages(self, langs: Sequence[str]) -> "DenseModel":
        """Return the model with tags for further languages; the row of each is the mean of all."""
        new = [lang for lang in dict.fromkeys(langs) if lang not in self.tags.langs]
        if not new:
            return self
        tags = self.tags._replace(langs=(*self.tags.langs, *new))
        old, symbols = (
            make_dictionary(self.words, each).symbols for each in (self.tags, tags)
        )
        rows = {symbol: row for row, symbol in enumerate(old)}
        order = torch.tensor([rows.get(symbol, len(old)) for symbol in symbols])
        grown: Dict[int, Tensor] = {}  # shared ones stay one
        state = dict(self.state)
        for name in set(WORD_ROWS) & set(state):
            table = state[name]
            if table.data_ptr() not in grown:
                mean = table.float().mean(dim=0, keepdim=True).type_as(table)
                grown[table.data_ptr()] = torch.cat([table, mean])[order]
            state[name] = grown[table.data_ptr()]
        return self._replace(state=state, tags=tags)


def model_config(path: str, settings: Dict[str, Any]) -> Any:
    """Return the configuration of transformer_task_moe with some settings, and no experts."""
    known = OmegaConf.structured(TransformerTaskMoeConfig)
    try:
        return OmegaConf.merge(known, {"moe_expert_count": 0}, settings)
    except (OmegaConfBaseException, ValueError, TypeError) as error:
        refuse(f"{path}: an invalid setting: {' '.join(str(error).split())}")


def checkpoint_of(
    cfg: Any, state: StateDict, words: Sequence[str], word_counts: Sequence[int],
    tags: LanguageTags, table: TaskTable,
) -> Checkpoint:
    """Return a checkpoint from which training starts, and which translates, for a new model."""
    known: Any = OmegaConf.structured(TranslationTaskMoeConfig)
    task: Any = OmegaConf.to_container(OmegaConf.merge(known, {
        "lang_pairs": ",".join(table.trained), "langs": ",".join(tags.langs),
        "encoder_langtok": tags.encoder_langtok, "decoder_langtok": tags.decoder_langtok,
        "lang_tok_style": tags.style, "max_source_positions": cfg.max_source_positions,
        "max_target_positions": cfg.max_target_positions,
        # of other parts of a run
        "seed": 1, "train_subset": "train", "gen_subset": "test", "num_shards": 1,
        "results_path": None, "dataset_impl": None,
    }), enum_to_str=True)
    model: Any = OmegaConf.to_container(cfg, enum_to_str=True)
    settings = {
        "model": {**model, "_name": "transformer_task_moe"},
        "task": {**task, "_name": "translation_task_moe"},
    }
    return new_checkpoint(state, settings, task_state(table, tags, words, word_counts))
