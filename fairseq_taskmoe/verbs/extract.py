"""Cut out of a Task-MoE checkpoint the model that serves one language pair, or several.

Where all its pairs take the same experts it is dense. The new folder holds the model, its
dictionary, the SentencePiece model, a README with the command that runs it, and a manifest.
"""

import argparse
from typing import List

from ..engines.formats import STORED_FORMATS
from ..errors import refuse
from ..files import clean_up_when_terminated
from ..host import use_passive_waiting
from .arguments import refuse_empty

PRUNING = ("keep", "scope", "balance")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("checkpoint", help="checkpoint of transformer_task_moe, in one file")
    parser.add_argument("--lang-pair", metavar="PAIR", help="direction to cut out: en-de")
    parser.add_argument("--lang-pairs", metavar="PAIRS", help="several, comma-separated")
    parser.add_argument(
        "-s", "--source-lang", metavar="LANG",
        help="its source language; without -t: all trained directions out of it",
    )
    parser.add_argument(
        "-t", "--target-lang", metavar="LANG",
        help="its target language; without -s: all trained directions into it",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="new folder for the model")
    parser.add_argument(
        "--format",
        choices=list(STORED_FORMATS),
        default="fairseq",
        help="fairseq: its own transformer, loads without this plugin; ctranslate2: small and fast "
        "on CPU and GPU, without fairseq; huggingface: AutoModelForSeq2SeqLM and AutoTokenizer of "
        "transformers load it; taskmoe: folds what can be folded and keeps the rest of "
        "the routers and experts",
    )
    parser.add_argument(
        "--sentencepiece-model",
        metavar="FILE",
        help="put beside the model (default: the run's own, or the one beside its data)",
    )
    parser.add_argument(
        "--quantization", metavar="TYPE",
        help="with ctranslate2: float32 (default), int8, int8_float32, int16, float16, bfloat16, "
        "int8_float16, int8_bfloat16",
    )
    parser.add_argument(
        "--device", choices=["cpu", "cuda"],
        help="with ctranslate2: where the model is to run, which decides about the types "
        "(default: cpu)",
    )
    parser.add_argument(
        "--license", metavar="NAME", help="with huggingface: named in the model card, as mit"
    )
    parser.add_argument(
        "--results", metavar="FILE",
        help="results.json of `taskmoe evaluate`, whose scores go into the README",
    )
    parser.add_argument(
        "--trim-vocabulary", metavar="SOURCE",
        help="keep only words that occur there: text files of both languages (comma-separated), a "
        "folder of binarized data, or counts:FILE with `word count` on each line",
    )
    parser.add_argument(
        "--trim-min-count", type=int, metavar="N",
        help="with --trim-vocabulary: at least N times (default: 1)",
    )
    pruning = parser.add_argument_group(
        "pruning of models that route by token or sentence, with --format taskmoe"
    )
    pruning.add_argument(
        "--prune", metavar="FILE", help="keep the experts that these directions use most, by the "
        "statistics in a routing.npz of `taskmoe routing`",
    )
    pruning.add_argument(
        "--prune-keep", type=float, metavar="SHARE", help="of all experts (default: 0.25)"
    )
    pruning.add_argument(
        "--prune-scope", choices=["layer", "global"],
        help="layer: as many in each layer of a stack (default); global: in each layer the fewest "
        "that have the same part of its importance together, a part that meets --prune-keep",
    )
    pruning.add_argument(
        "--prune-balance", type=float, metavar="X",
        help="with layer: encoder experts for each decoder expert (default: 3)",
    )


def run(args: argparse.Namespace) -> None:
    _check_flags(args)
    clean_up_when_terminated()
    use_passive_waiting()

    from .. import register  # noqa: F401
    from ..subnet.folder import Extraction, extract
    from ..subnet.prune import Pruning

    given = {
        name: getattr(args, f"prune_{name}") for name in PRUNING
        if getattr(args, f"prune_{name}") is not None
    }
    what = Extraction(
        args.format, args.sentencepiece_model, args.quantization or "float32",
        args.device or "cpu", args.trim_vocabulary, args.trim_min_count or 1,
        Pruning(args.prune, **given) if args.prune else None, args.license, args.results,
    )
    manifest = extract(args.checkpoint, _lang_pairs(args), args.out, what)
    size, full = sum(file["bytes"] for file in manifest.files.values()), manifest.source_checkpoint
    print(
        f"{args.out}: {', '.join(manifest.directions)}, {manifest.parameters:,} of "
        f"{full['parameters']:,} parameters, {manifest.vocabulary:,} of {full['vocabulary']:,} "
        f"words, {size / 1e6:,.1f} MB; its README.md has the command that runs it"
    )


def _check_flags(args: argparse.Namespace) -> None:
    """Refuse flags that have no use beside the others, or no value."""
    refuse_empty(args)
    for name in ("quantization", "device"):
        if getattr(args, name) is not None and not STORED_FORMATS[args.format].quantizes:
            able = [each for each, stored in STORED_FORMATS.items() if stored.quantizes]
            refuse(f"--{name} requires --format {' or '.join(able)}")
    if args.license and args.format != "huggingface":
        refuse("--license requires --format huggingface")
    for name in PRUNING:
        if getattr(args, f"prune_{name}") is not None and not args.prune:
            refuse(f"--prune-{name} requires --prune")
    if args.prune_balance is not None and args.prune_scope == "global":
        refuse("--prune-balance: --prune-scope global has one threshold for all layers")
    if args.trim_min_count is not None:
        if not args.trim_vocabulary:
            refuse("--trim-min-count requires --trim-vocabulary")
        if args.trim_min_count < 1:
            refuse(f"--trim-min-count {args.trim_min_count}: give 1 or more")
    ways = [args.lang_pair, args.lang_pairs, args.source_lang or args.target_lang]
    if sum(map(bool, ways)) != 1:
        refuse("name the direction, with --lang-pair en-de or with -s en -t de; several with "
               "--lang-pairs, or with one of -s and -t alone")


def _lang_pairs(args: argparse.Namespace) -> List[str]:
    """Return the directions that the flags name."""
    from ..checkpoint.reading import read_model
    from ..data.named_pairs import check_pairs, named_pairs
    from ..subnet.extract import pairs_with

    named = args.lang_pair or args.lang_pairs
    if args.source_lang and args.target_lang:
        named = f"{args.source_lang}-{args.target_lang}"
    if named is None:
        lang, side = (args.source_lang, 0) if args.source_lang else (args.target_lang, 1)
        return pairs_with(read_model(args.checkpoint), lang, side)
    if args.lang_pairs:
        return named_pairs(args.lang_pairs)
    check_pairs([named], "--lang-pair" if args.lang_pair else "-s and -t")
    return [named]
