"""Configuration of translation_task_moe, for flags and hydra YAML.

Names and meanings are those of fairseq's translation_multi_simple_epoch, and for eval_bleu those of
its translation.
"""

from dataclasses import dataclass
from typing import Optional

from fairseq.data.indexed_dataset import get_available_dataset_impl
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from omegaconf import II

from ..models.config import option


@dataclass
class TranslationTaskMoeConfig(FairseqDataclass):
    data: Optional[str] = option(
        None,
        "data folder, or several joined by colons, which are used in turn, one in each epoch; all "
        "have the same joined dictionary",
    )
    source_lang: Optional[str] = option(None, "inference source language", argparse_alias="-s")
    target_lang: Optional[str] = option(None, "inference target language", argparse_alias="-t")
    lang_pairs: Optional[str] = option(
        None, "comma-separated language pairs to train on, as en-de,de-en, or a file of them"
    )
    freeze_tasks: Optional[str] = option(
        None,
        "comma-separated language pairs, or a file of them, of the checkpoint to start from: the "
        "weights that they use get no updates (shared weights, routers, their experts, and the "
        "words and tags of the checkpoint); those that are not also in --lang-pairs stay "
        "in the model and need no data",
    )
    langs: Optional[str] = option(
        None,
        "comma-separated languages with a tag in the dictionary (default: those of --lang-pairs); "
        "their order determines the ids of the tags",
    )
    sampling_method: ChoiceEnum(["concat", "uniform", "temperature"]) = option(  # type: ignore
        "concat",
        "how often sentences of a language pair are drawn: by its size (concat), equally often "
        "(uniform), or by size^(1/T) (temperature)",
    )
    sampling_temperature: float = option(
        1.5, "T of --sampling-method temperature: 1 is as concat; higher values favour small pairs"
    )
    sampling_temperature_schedule: Optional[str] = option(
        None,
        "START:EPOCHS: T goes linearly from START in the first epoch to --sampling-temperature in "
        "epoch EPOCHS (Dua et al. 2022 raise it)",
    )
    encoder_langtok: Optional[str] = option(
        None, "prepend the tag of the language `src` or `tgt` to the source"
    )
    decoder_langtok: bool = option(False, "prepend the target language's tag to the target")
    lang_tok_style: ChoiceEnum(["multilingual", "mbart"]) = option(  # type: ignore
        "multilingual", "form of tags: __de__ or [de]"
    )
    keep_inference_langtok: bool = option(False, "keep language tags in translations")
    max_source_positions: int = option(1024, "maximum number of source tokens")
    max_target_positions: int = option(1024, "maximum number of target tokens")
    truncate_source: bool = option(False, "truncate sources to --max-source-positions")
    virtual_epoch_size: Optional[int] = option(None, "number of examples in an epoch")
    virtual_data_size: Optional[int] = option(None, "number of examples in all shards together")
    float32_matmul_precision: ChoiceEnum(["highest", "high", "medium"]) = option(  # type: ignore
        "highest",
        "products of float32 matrices: medium computes those of linear maps and experts in "
        "bfloat16 on CPUs with AVX512_BF16 or AMX; high and medium use TF32 on GPUs",
    )
    eval_bleu: bool = option(
        False,
        "translate the validation sets; log bleu and chrf (means over directions) and bleu_en-de, "
        "... --best-checkpoint-metric bleu --maximize-best-checkpoint-metric selects the best "
        "checkpoint by BLEU",
    )
    eval_bleu_args: Optional[str] = option(
        "{}", 'options of fairseq-generate as JSON: {"beam": 4, "lenpen": 0.6}'
    )
    eval_bleu_max_sentences: Optional[int] = option(
        None, "translate only the first N sentences of each direction"
    )
    eval_bleu_detok: str = option(
        "space", "detokenize before scoring (moses, ...); SentencePiece needs none"
    )
    eval_bleu_detok_args: Optional[str] = option("{}", "arguments of the detokenizer, as JSON")
    eval_bleu_remove_bpe: Optional[str] = option(
        None,
        "marker of subwords to remove (default: SentencePiece's, if it was used)",
        argparse_const="@@ ",
    )
    eval_tokenized_bleu: bool = option(False, "compute BLEU on the tokenized words of the data")
    eval_bleu_print_samples: bool = option(False, "log a translation of each validation batch")
    seed: int = II("common.seed")
    train_subset: str = II("dataset.train_subset")
    gen_subset: str = II("dataset.gen_subset")
    num_shards: int = II("dataset.num_shards")
    results_path: Optional[str] = II("common_eval.results_path")
    dataset_impl: Optional[ChoiceEnum(get_available_dataset_impl())] = II(  # type: ignore
        "dataset.dataset_impl"
    )
