"""Small models on a made-up dictionary, and batches of random sentences for them.

Shapes as in the code under test: B sentences, S source and T target positions, C model width.
"""

from typing import Any, Dict, List, Optional, Sequence

import torch
from fairseq.data import Dictionary
from fairseq.data.data_utils import collate_tokens
from omegaconf import DictConfig, OmegaConf
from torch import Tensor

from fairseq_taskmoe.models.config import TransformerTaskMoeConfig
from fairseq_taskmoe.models.transformer_task_moe import TransformerTaskMoeModel
from fairseq_taskmoe.modules.routers import RoutingInputs
from fairseq_taskmoe.tasks.config import TranslationTaskMoeConfig
from fairseq_taskmoe.tasks.translation_task_moe import TranslationTaskMoeTask

LANG_PAIRS = ("de-en", "en-de", "en-fr", "fr-de")
GROUPS = {"into-german": ["de"], "others": ["en", "fr"]}
ROUTERS = ("token", "sentence", "source", "target", "pair", "group", "static", "random")
SMALL = {
    "encoder_embed_dim": 16, "encoder_ffn_embed_dim": 24, "encoder_layers": 2,
    "encoder_attention_heads": 2, "decoder_embed_dim": 16, "decoder_ffn_embed_dim": 24,
    "decoder_layers": 2, "decoder_attention_heads": 2, "dropout": 0.0, "moe_freq": 1,
    "moe_expert_count": 5, "max_source_positions": 64, "max_target_positions": 64,
}


def make_config(**overrides: Any) -> DictConfig:
    """Return the configuration of a small model: two layers each side, all of them MoE layers."""
    return OmegaConf.merge(OmegaConf.structured(TransformerTaskMoeConfig), {**SMALL, **overrides})


def make_task(lang_pairs: Sequence[str] = LANG_PAIRS, **overrides: Any) -> TranslationTaskMoeTask:
    """Return the real task, on a dictionary of 30 words and no data, with GROUPS if they fit."""
    dictionary = Dictionary()
    for word in range(30):
        dictionary.add_symbol(f"w{word}")
    settings = {
        "data": "unused", "lang_pairs": ",".join(lang_pairs), "seed": 1, "train_subset": "train",
        "dataset_impl": None, **overrides,
    }
    cfg = OmegaConf.merge(OmegaConf.structured(TranslationTaskMoeConfig), settings)
    task = TranslationTaskMoeTask(cfg, dictionary)
    if set(lang_pairs) <= set(LANG_PAIRS):
        task.task_table = task.task_table.with_groups(GROUPS)
    return task


def make_model(
    task: Optional[TranslationTaskMoeTask] = None, router: Optional[str] = None, **overrides: Any
) -> TransformerTaskMoeModel:
    """Return a small model in evaluation mode, with the same router in both stacks if one is given.

    Biases and gates are made large: a test must see the difference that they make.
    """
    if router is not None:
        overrides = {"encoder_moe_router": router, "decoder_moe_router": router, **overrides}
    model = TransformerTaskMoeModel.build_model(make_config(**overrides), task or make_task())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.3)
            elif name.endswith("gate.weight"):
                parameter.normal_(std=parameter.size(1) ** -0.5)
    return model.eval()


def random_sentences(lengths: Sequence[int], eos: int = 2) -> List[Tensor]:
    """Return a sentence of random words for each length, its end counted."""
    return [torch.cat([torch.randint(4, 34, (n - 1,)), torch.tensor([eos])]) for n in lengths]


def make_batch(
    sources: Sequence[Tensor], targets: Sequence[Tensor], task_ids: Sequence[int], pad_to: int = 0
) -> Dict[str, Any]:
    """Return the batch that fairseq makes: sources padded on the left, targets on the right."""

    def collate(sentences: Sequence[Tensor], left: bool, shifted: bool = False) -> Tensor:
        longest = max(len(sentence) for sentence in sentences)
        return collate_tokens(
            sentences, 1, 2, left_pad=left, move_eos_to_beginning=shifted,
            pad_to_length=longest + pad_to,
        )

    return {
        "id": torch.arange(len(sources)),
        "nsentences": len(sources),
        "ntokens": sum(len(target) for target in targets),
        "net_input": {
            "src_tokens": collate(sources, left=True),
            "src_lengths": torch.tensor([len(source) for source in sources]),
            "prev_output_tokens": collate(targets, left=False, shifted=True),
            "task_ids": torch.tensor(task_ids),
        },
        "target": collate(targets, left=False),
    }


def ragged_batch() -> Dict[str, Any]:
    """Return four sentences of different lengths, one of each pair of LANG_PAIRS."""
    return make_batch(
        random_sentences([7, 3, 5, 9]), random_sentences([4, 8, 5, 6]), task_ids=[2, 0, 1, 3]
    )


def routing_inputs(
    token_mask: Tensor,
    task_ids: Optional[Tensor] = None,
    sentence_hashes: Optional[Tensor] = None,
    source_means: Optional[Tensor] = None,
) -> RoutingInputs:
    """Return what routers see of a batch with token_mask (B, S)."""
    zeros = torch.zeros(token_mask.size(0), dtype=torch.long)
    return RoutingInputs(
        zeros if task_ids is None else task_ids,
        token_mask,
        zeros if sentence_hashes is None else sentence_hashes,
        source_means,
    )


def ragged_mask(lengths: Sequence[int], left_pad: bool = True) -> Tensor:
    """Return token_mask (B, S) of sentences of these lengths."""
    mask = torch.arange(max(lengths)) < torch.tensor(lengths).unsqueeze(1)
    return mask.flip(1) if left_pad else mask
