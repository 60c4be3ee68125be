"""Configuration of transformer_task_moe, for flags and hydra YAML, and its named sizes."""

from argparse import SUPPRESS, Namespace
from dataclasses import dataclass, field
from typing import Any, Dict, Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from omegaconf import II

from ..modules.activation import ACTIVATIONS
from .router_kinds import ROUTERS

ROUTER_CHOICES = ChoiceEnum(list(ROUTERS))
ROUTER_HELP = (
    "what the {}'s MoE layers route by: each token, the sentence, the task (source or target "
    "language, language pair, or a group of --moe-task-groups), static or random experts; dense: "
    "one network as wide as the chosen experts; table: fixed experts that are stored in the "
    "checkpoint, for extracted models"
)

LAYER_EXPERTS_HELP = (
    "number of experts of each of the {}'s MoE layers, if they differ, as 8,0,16 (for extracted "
    "models); 0: one dense network as wide as --moe-top-k experts"
)


def option(default: Any, help: str, **metadata: Any) -> Any:
    """Return a field of a fairseq dataclass: the default value and the --help text of a flag."""
    return field(default=default, metadata={"help": help, **metadata})


@dataclass
class TransformerTaskMoeConfig(FairseqDataclass):
    # flat, as in transformer_lm: fields of nested configurations are not available as flags
    activation_fn: ChoiceEnum(ACTIVATIONS) = option(  # type: ignore
        "relu", "activation function of the feed-forward networks"
    )
    dropout: float = option(0.1, "dropout probability")
    attention_dropout: float = option(0.0, "dropout probability for attention weights")
    activation_dropout: float = option(0.0, "dropout probability after the activation function")
    encoder_embed_dim: int = option(512, "width of the encoder")
    encoder_ffn_embed_dim: int = option(2048, "width of the encoder's feed-forward networks")
    encoder_layers: int = option(6, "number of encoder layers")
    encoder_attention_heads: int = option(8, "heads in the encoder")
    encoder_normalize_before: bool = option(False, "apply layernorm before each encoder block")
    encoder_learned_pos: bool = option(False, "learn the encoder's positional embeddings")
    decoder_embed_dim: int = option(512, "width of the decoder")
    decoder_ffn_embed_dim: int = option(2048, "width of the decoder's feed-forward networks")
    decoder_layers: int = option(6, "number of decoder layers")
    decoder_attention_heads: int = option(8, "heads in the decoder")
    decoder_normalize_before: bool = option(False, "apply layernorm before each decoder block")
    decoder_learned_pos: bool = option(False, "learn the decoder's positional embeddings")
    share_decoder_input_output_embed: bool = option(
        False, "share decoder input and output embeddings"
    )
    share_all_embeddings: bool = option(False, "share encoder, decoder and output embeddings")
    layernorm_embedding: bool = option(False, "apply layernorm to embeddings")
    no_scale_embedding: bool = option(False, "do not scale embeddings by the root of their width")
    decoder_output_bias: bool = option(
        False, "add a bias to the output layer, as models of Marian have"
    )
    checkpoint_activations: bool = option(
        False, "recompute each layer's activations in backward, to save memory"
    )
    max_source_positions: int = II("task.max_source_positions")
    max_target_positions: int = II("task.max_target_positions")
    moe_freq: int = option(2, "every N-th layer is an MoE layer")
    encoder_moe_freq: Optional[int] = option(None, "--moe-freq of the encoder, if it differs")
    decoder_moe_freq: Optional[int] = option(None, "--moe-freq of the decoder, if it differs")
    moe_expert_count: int = option(32, "experts per MoE layer; 0 for a dense model")
    encoder_moe_layer_experts: Optional[str] = option(None, LAYER_EXPERTS_HELP.format("encoder"))
    decoder_moe_layer_experts: Optional[str] = option(None, LAYER_EXPERTS_HELP.format("decoder"))
    moe_top_k: int = option(2, "number of experts per token (K)")
    moe_expert_ffn_dim: Optional[int] = option(
        None, "width of an expert (default: the layer's ffn-embed-dim)"
    )
    encoder_moe_router: ROUTER_CHOICES = option(  # type: ignore
        "target", ROUTER_HELP.format("encoder")
    )
    decoder_moe_router: ROUTER_CHOICES = option(  # type: ignore
        "target", ROUTER_HELP.format("decoder")
    )
    moe_task_groups: Optional[str] = option(
        None,
        "YAML file for the router `group`: group name -> list of language pairs or target "
        "languages",
    )
    moe_capacity_factor: float = option(
        0.0,
        "token and sentence routing: in training an expert accepts at most this factor times "
        "tokens / experts; <= 0: no limit",
    )
    moe_eval_capacity_factor: float = option(
        0.0,
        "--moe-capacity-factor at evaluation; if > 0, a translation depends on the other "
        "sentences of its batch",
    )
    moe_second_expert_policy: ChoiceEnum(["all", "random", "sampling"]) = option(  # type: ignore
        "all",
        "in training: all: dispatch to the best K experts; random: to each but the first with a "
        "probability by its gate (GShard); sampling: draw all but the first from the gate's "
        "distribution",
    )
    moe_router_jitter: float = option(
        0.0, "in training, multiply the gate's input by U(1 - jitter, 1 + jitter)"
    )
    moe_expert_parallel_size: Optional[int] = option(
        None,
        "number of ranks that share one copy of the experts (default: the greatest common divisor "
        "of --moe-expert-count and the number of ranks); 1: each rank holds all experts",
    )
    moe_sharded_checkpoints: bool = option(
        False,
        "each rank saves its own experts in a file checkpoint_*-rank-N.pt: for models that do not "
        "fit one host; taskmoe consolidate and reshard convert",
    )
    moe_task_local_batches: bool = option(
        False,
        "make batches of one task each, and assign them to ranks that hold most of the task's "
        "experts, to reduce communication; the balance loss of task routers is then computed over "
        "all tasks of the epoch",
    )
    # internal: --moe-sharded-checkpoints sets it for fairseq's trainer
    base_layers: int = option(0, SUPPRESS)
    init_shared_from: Optional[str] = option(
        None,
        "checkpoint to initialise a new model from: weights of the same name and shape except "
        "experts and routers; not read when training resumes or at inference",
    )
    init_task: Optional[str] = option(
        None,
        "en-gu=en-hi,...: a task that the checkpoint to start from does not have begins with the "
        "task embedding of one that it has (default: the mean of all); en-gu=new: with one that "
        "takes only new experts, if --moe-expert-count is larger",
    )
    init_tag: Optional[str] = option(
        None, "gu=hi,...: the same for tags of languages (default: the mean of all tags)"
    )
    init_experts: ChoiceEnum(["copy", "fresh"]) = option(  # type: ignore
        "copy",
        "with more experts than in the checkpoint, new ones begin as copies of its experts with "
        "noise of a hundredth, or fresh, as drawn",
    )
    freeze: Optional[str] = option(
        None,
        "regular expression: parameters with a match in their name get no updates, as "
        "'embed|attn' or 'moe.experts'",
    )
    moe_routed_inference: bool = option(
        False,
        "translate with the routers instead of folding the experts of the direction into dense "
        "layers: slower, for checks (with --model-overrides)",
    )


TINY: Dict[str, Any] = {
    "encoder_embed_dim": 64,
    "encoder_ffn_embed_dim": 128,
    "encoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_embed_dim": 64,
    "decoder_ffn_embed_dim": 128,
    "decoder_layers": 2,
    "decoder_attention_heads": 2,
    "share_all_embeddings": True,
    "moe_expert_count": 4,
}
# The authors' Transformer (Chen et al. 2018, Lingvo) normalises the input of each block
PRE_NORM: Dict[str, Any] = {"encoder_normalize_before": True, "decoder_normalize_before": True}
# Paper section 4.1 and table 7: Transformer-Base, 32 experts in every other layer
BASE: Dict[str, Any] = {**PRE_NORM, "share_all_embeddings": True}
# Paper section 5.1 and table 8: Transformer-Big of the web-scale model, 128 experts
BIG: Dict[str, Any] = {
    **PRE_NORM,
    "encoder_embed_dim": 1024,
    "encoder_ffn_embed_dim": 8192,
    "encoder_attention_heads": 16,
    "decoder_embed_dim": 1024,
    "decoder_ffn_embed_dim": 8192,
    "decoder_attention_heads": 16,
    "share_all_embeddings": True,
    "moe_expert_count": 128,
}
ARCHITECTURES = {"tiny": TINY, "base": BASE, "big": BIG}


def apply_architecture(args: Namespace, sizes: Dict[str, Any]) -> None:
    """Set the options in args that the command line does not give."""
    for name, value in sizes.items():
        if not hasattr(args, name):
            setattr(args, name, value)
