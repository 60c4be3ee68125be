"""transformer_task_moe: an encoder-decoder whose MoE layers route by token, sentence or task."""

from argparse import Namespace
from functools import partial
from types import SimpleNamespace
from typing import Any, Callable, Dict, List, Optional, Tuple

import torch
import torch.nn as nn
from fairseq.data import Dictionary
from fairseq.models import (
    ARCH_CONFIG_REGISTRY,
    FairseqEncoderDecoderModel,
    register_model,
    register_model_architecture,
)
from fairseq.tasks import FairseqTask
from torch import Tensor

from ..compat import without_tpu
from ..data.task_table import TaskTable
from ..distributed.agreement import refuse_together
from ..distributed.expert_groups import ExpertGroups
from ..distributed.expert_state import (
    complete_shared,
    is_expert_key,
    local_experts,
    other_model,
)
from ..distributed.launch import join_launcher
from ..errors import refuse
from ..modules.linear import narrow_weights
from .build_layers import check_config
from .config import ARCHITECTURES, TransformerTaskMoeConfig, apply_architecture
from .decoder import TaskMoeDecoder
from .encoder import TaskMoeEncoder
from .folded_model import fold_model

StateDict = Dict[str, Tensor]


@register_model("transformer_task_moe", dataclass=TransformerTaskMoeConfig)
class TransformerTaskMoeModel(FairseqEncoderDecoderModel):
    """Transformer with Task-level Mixture-of-Experts (Kudugunta et al., 2021)."""

    encoder: TaskMoeEncoder
    decoder: TaskMoeDecoder

    def __init__(
        self, encoder: TaskMoeEncoder, decoder: TaskMoeDecoder, table: TaskTable,
        groups: Optional[ExpertGroups] = None, sharded_checkpoints: bool = False,
        routed_inference: bool = False,
    ):
        super().__init__(encoder, decoder)
        self.groups = groups
        self.sharded_checkpoints = sharded_checkpoints
        self.task_table = table
        self.routed_inference = routed_inference
        # of the state that training starts from, if it has other rows than this model; used once
        self.take_over: Optional[Callable[[StateDict, nn.Module], StateDict]] = None

    @classmethod
    def build_model(cls, cfg: Any, task: FairseqTask) -> "TransformerTaskMoeModel":
        """Build the model of a configuration for the dictionary and task table of a task."""
        check_config(cfg)
        if not hasattr(task, "task_table"):
            refuse("--arch transformer_task_moe needs --task translation_task_moe")
        if cfg.share_all_embeddings and cfg.encoder_embed_dim != cfg.decoder_embed_dim:
            refuse(
                f"--share-all-embeddings: --encoder-embed-dim {cfg.encoder_embed_dim} and "
                f"--decoder-embed-dim {cfg.decoder_embed_dim} differ"
            )
        if task.expert_groups is not None and (
            cfg.encoder_moe_layer_experts or cfg.decoder_moe_layer_experts
        ):
            refuse("layers with different numbers of experts do not support expert parallelism: "
                   "--moe-expert-parallel-size 1")
        source, target = task.source_dictionary, task.target_dictionary
        encoder_embedding = build_embedding(len(source), cfg.encoder_embed_dim, source.pad())
        decoder_embedding = encoder_embedding
        if not cfg.share_all_embeddings:
            decoder_embedding = build_embedding(len(target), cfg.decoder_embed_dim, target.pad())
        table, groups = task.task_table, task.expert_groups
        encoder = TaskMoeEncoder(cfg, source, encoder_embedding, table, groups)
        decoder = TaskMoeDecoder(cfg, target, decoder_embedding, table, groups)
        return cls(
            encoder, decoder, table, groups, cfg.moe_sharded_checkpoints, cfg.moe_routed_inference
        )

    def forward(
        self,
        src_tokens: Tensor,
        src_lengths: Tensor,
        prev_output_tokens: Tensor,
        task_ids: Optional[Tensor] = None,
        task_tokens: Optional[Tensor] = None,
        **kwargs: Any,
    ) -> Tuple[Tensor, Dict[str, List[Any]]]:
        """Score prev_output_tokens (B, T) against src_tokens (B, S) of the tasks task_ids (B,).

        Returns logits (B, T, V), and the decoder's dictionary, with `encoder_gate_stats` added.
        """
        encoder_out = self.encoder(src_tokens, src_lengths, task_ids, task_tokens=task_tokens)
        logits, extra = self.decoder(prev_output_tokens, encoder_out, **kwargs)
        return logits, {**extra, "encoder_gate_stats": encoder_out["gate_stats"]}

    def load_state_dict(
        self, state_dict: Dict[str, Tensor], strict: bool = True, **kwargs: Any
    ) -> Any:
        """Load a state with all experts or with those of this rank.

        Refuses the weights of another model with a message that fairseq's own error lacks.
        """
        state_dict = dict(state_dict)
        if self.take_over is not None and strict:
            state_dict, self.take_over = self.take_over(state_dict, self), None
        if self.groups is not None and self.sharded_checkpoints and strict:
            complete_shared(state_dict, self, self.groups)
        problem = None
        for key, own in self.state_dict().items():
            stored = state_dict.get(key)
            if stored is None and not strict:
                continue
            expected = own.shape
            if stored is not None and self.groups is not None and is_expert_key(key):
                state_dict[key] = local_experts(stored, own, self.groups)
                if strict and not self.sharded_checkpoints:  # all experts are required
                    expected = torch.Size([self.groups.layout.num_experts, *own.shape[1:]])
                else:
                    stored = state_dict[key]
            if stored is None or stored.shape != expected:
                problem = problem or other_model(key, stored, expected)
        if strict:
            refuse_together(problem)
        elif problem is not None:
            refuse(problem)
        return super().load_state_dict(state_dict, strict, **kwargs)

    def prepare_for_inference_(self, cfg: Any) -> None:
        """Fold the experts of the direction to translate; fairseq's commands translate only one.

        Where --float32-matmul-precision medium applies, weights are stored in bfloat16.
        """
        super().prepare_for_inference_(cfg)
        if cfg.task.source_lang and not self.routed_inference:
            pair = f"{cfg.task.source_lang}-{cfg.task.target_lang}"
            folded = fold_model(self, self.task_table.task_id(pair))
            self.encoder, self.decoder = folded.encoder, folded.decoder
        narrow_weights(self)


def build_without_task(
    cfg: Any, dictionary: Dictionary, table: TaskTable
) -> TransformerTaskMoeModel:
    """Build the model of a configuration on one device, for a dictionary and a task table."""
    task: Any = SimpleNamespace(
        source_dictionary=dictionary, target_dictionary=dictionary, task_table=table,
        expert_groups=None,
    )
    return TransformerTaskMoeModel.build_model(cfg, task)


def build_embedding(num_words: int, dim: int, padding_idx: int) -> nn.Embedding:
    """Return an embedding initialised as fairseq's transformer does."""
    embedding = nn.Embedding(num_words, dim, padding_idx=padding_idx)
    nn.init.normal_(embedding.weight, mean=0, std=dim**-0.5)
    nn.init.zeros_(embedding.weight[padding_idx])
    return embedding


def _adjust(args: Any, sizes: Dict[str, Any]) -> None:
    """Complete the flags of fairseq-train, which offers a plugin no other place to do so."""
    apply_architecture(args, sizes)
    if isinstance(args, Namespace):  # it also calls this with a complete configuration
        join_launcher(args)


for _name, _sizes in ARCHITECTURES.items():
    register_model_architecture("transformer_task_moe", f"transformer_task_moe_{_name}")(
        without_tpu(partial(_adjust, sizes=_sizes))
    )
# register_model has registered the plain name with a function that does nothing
ARCH_CONFIG_REGISTRY["transformer_task_moe"] = without_tpu(partial(_adjust, sizes={}))
