"""Configuration of translation_task_moe, from flags and from hydra YAML alike.

Names and meaning are those of fairseq's translation_multi_simple_epoch, and eval_bleu's those of
translation.
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
            "help": "colon separated path to data directories list, will be iterated upon during "
            "epochs in round-robin manner; all hold the same joined dictionary"
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
        metadata={"help": "comma-separated language pairs to train on, en-de,de-en, or a file"},
    )
    langs: Optional[str] = field(
        default=None,
        metadata={
            "help": "comma-separated languages that have a tag in the dictionary (default: those "
            "of --lang-pairs); their order determines the tags' ids"
        },
    )
    sampling_method: ChoiceEnum(["concat", "uniform", "temperature"]) = field(  # type: ignore
        default="concat", metadata={"help": "how pairs are sampled"}
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
        default="multilingual", metadata={"help": "tags look like __de__, or like [de]"}
    )
    keep_inference_langtok: bool = field(
        default=False, metadata={"help": "keep language tags in translations"}
    )
    max_source_positions: int = field(
        default=1024, metadata={"help": "max number of tokens in the source sequence"}
    )
    max_target_positions: int = field(
        default=1024, metadata={"help": "max number of tokens in the target sequence"}
    )
    truncate_source: bool = field(
        default=False, metadata={"help": "truncate source to max-source-positions"}
    )
    virtual_epoch_size: Optional[int] = field(
        default=None, metadata={"help": "examples in an epoch, to load sharded data faster"}
    )
    virtual_data_size: Optional[int] = field(
        default=None, metadata={"help": "examples in all shards of the sampled data together"}
    )
    float32_matmul_precision: ChoiceEnum(["highest", "high", "medium"]) = field(  # type: ignore
        default="highest",
        metadata={
            "help": "torch's setting for products of float32 matrices: medium computes them in "
            "bfloat16, faster on CPUs with AVX512_BF16 or AMX; high and medium use TF32 on GPUs"
        },
    )
    eval_bleu: bool = field(
        default=False,
        metadata={
            "help": "translate the validation sets, and log bleu and chrf: the means over "
            "directions; and bleu_en-de, ... With --best-checkpoint-metric bleu "
            "--maximize-best-checkpoint-metric the best checkpoint is the best in BLEU"
        },
    )
    eval_bleu_args: Optional[str] = field(
        default="{}",
        metadata={"help": 'options of fairseq-generate as JSON, as {"beam": 4, "lenpen": 0.6}'},
    )
    eval_bleu_max_sentences: Optional[int] = field(
        default=None,
        metadata={"help": "translate no more than the first N sentences of each direction"},
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
            "help": "mark of subwords to remove (default: that of SentencePiece, if it was used)",
            "argparse_const": "@@ ",
        },
    )
    eval_tokenized_bleu: bool = field(
        default=False, metadata={"help": "score BLEU on the words as they are in the data"}
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
