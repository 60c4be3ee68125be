"""Configuration of translation_task_moe, for flags and hydra YAML.

Names and meanings are those of fairseq's translation_multi_simple_epoch, and for eval_bleu those of
its translation.
"""

from dataclasses import dataclass, field
from typing import Optional

from fairseq.data.indexed_dataset import get_available_dataset_impl
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from omegaconf import II


@dataclass
class TranslationTaskMoeConfig(FairseqDataclass):
    data: Optional[str] = field(
        default=None,
        metadata={
            "help": "data folder, or several joined by colons, which are used in turn, one in each "
            "epoch; all have the same joined dictionary"
        },
    )
    source_lang: Optional[str] = field(
        default=None,
        metadata={"help": "inference source language", "argparse_alias": "-s"},
    )
    target_lang: Optional[str] = field(
        default=None,
        metadata={"help": "inference target language", "argparse_alias": "-t"},
    )
    lang_pairs: Optional[str] = field(
        default=None,
        metadata={"help": "comma-separated language pairs to train on, as en-de,de-en, or a file"},
    )
    langs: Optional[str] = field(
        default=None,
        metadata={
            "help": "comma-separated languages with a tag in the dictionary (default: those of "
            "--lang-pairs); their order determines the ids of the tags"
        },
    )
    sampling_method: ChoiceEnum(["concat", "uniform", "temperature"]) = field(  # type: ignore
        default="concat", metadata={"help": "sampling of language pairs"}
    )
    sampling_temperature: float = field(
        default=1.5, metadata={"help": "T of --sampling-method temperature: p ~ size^(1/T)"}
    )
    encoder_langtok: Optional[str] = field(
        default=None,
        metadata={"help": "prepend the tag of the language `src` or `tgt` to the source"},
    )
    decoder_langtok: bool = field(
        default=False, metadata={"help": "prepend the target language's tag to the target"}
    )
    lang_tok_style: ChoiceEnum(["multilingual", "mbart"]) = field(  # type: ignore
        default="multilingual", metadata={"help": "form of tags: __de__ or [de]"}
    )
    keep_inference_langtok: bool = field(
        default=False, metadata={"help": "keep language tags in translations"}
    )
    max_source_positions: int = field(
        default=1024, metadata={"help": "maximum number of source tokens"}
    )
    max_target_positions: int = field(
        default=1024, metadata={"help": "maximum number of target tokens"}
    )
    truncate_source: bool = field(
        default=False, metadata={"help": "truncate sources to --max-source-positions"}
    )
    virtual_epoch_size: Optional[int] = field(
        default=None, metadata={"help": "number of examples in an epoch"}
    )
    virtual_data_size: Optional[int] = field(
        default=None, metadata={"help": "number of examples in all shards together"}
    )
    float32_matmul_precision: ChoiceEnum(["highest", "high", "medium"]) = field(  # type: ignore
        default="highest",
        metadata={
            "help": "torch's setting for products of float32 matrices: medium computes them in "
            "bfloat16 on CPUs with AVX512_BF16 or AMX; high and medium use TF32 on GPUs"
        },
    )
    eval_bleu: bool = field(
        default=False,
        metadata={
            "help": "translate the validation sets; log bleu and chrf (means over directions) and "
            "bleu_en-de, ... --best-checkpoint-metric bleu --maximize-best-checkpoint-metric "
            "selects the best checkpoint by BLEU"
        },
    )
    eval_bleu_args: Optional[str] = field(
        default="{}",
        metadata={"help": 'options of fairseq-generate as JSON: {"beam": 4, "lenpen": 0.6}'},
    )
    eval_bleu_max_sentences: Optional[int] = field(
        default=None,
        metadata={"help": "translate only the first N sentences of each direction"},
    )
    eval_bleu_detok: str = field(
        default="space",
        metadata={"help": "detokenize before scoring (moses, ...); SentencePiece needs none"},
    )
    eval_bleu_detok_args: Optional[str] = field(
        default="{}", metadata={"help": "arguments of the detokenizer, as JSON"}
    )
    eval_bleu_remove_bpe: Optional[str] = field(
        default=None,
        metadata={
            "help": "marker of subwords to remove (default: SentencePiece's, if it was used)",
            "argparse_const": "@@ ",
        },
    )
    eval_tokenized_bleu: bool = field(
        default=False, metadata={"help": "compute BLEU on the tokenized words of the data"}
    )
    eval_bleu_print_samples: bool = field(
        default=False, metadata={"help": "log a translation of each validation batch"}
    )
    seed: int = II("common.seed")
    train_subset: str = II("dataset.train_subset")
    gen_subset: str = II("dataset.gen_subset")
    num_shards: int = II("dataset.num_shards")
    results_path: Optional[str] = II("common_eval.results_path")
    dataset_impl: Optional[ChoiceEnum(get_available_dataset_impl())] = II(  # type: ignore
        "dataset.dataset_impl"
    )
