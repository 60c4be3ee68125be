"""Translate text line by line, with an extracted model or a training checkpoint.

    taskmoe translate models/en-de < text.en > text.de
    taskmoe translate checkpoints/checkpoint_best.pt -s en -t de < text.en > text.de

MODEL is a folder of `taskmoe extract`, in any format, or a checkpoint, from which the direction is
extracted in memory. Lines of standard input are translated as they arrive.
"""

import argparse
import math

from ..errors import refuse
from ..files import clean_up_when_terminated
from ..host import use_passive_waiting
from .arguments import check_least, refuse_empty

DEFAULT_MAX_TOKENS = 4000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", help="folder of an extracted model, or a checkpoint in one file")
    parser.add_argument(
        "--lang-pair", metavar="PAIR", help="direction, if the model has more than one"
    )
    parser.add_argument("-s", "--source-lang", metavar="LANG", help="its source language")
    parser.add_argument("-t", "--target-lang", metavar="LANG", help="its target language")
    parser.add_argument(
        "--sentencepiece-model", metavar="FILE",
        help="of a checkpoint (default: the run's own, or the one beside it or its data)",
    )
    parser.add_argument(
        "--input", metavar="FILE", help="text with one sentence in each line (default: stdin)"
    )
    parser.add_argument("--output", metavar="FILE", help="new file (default: stdout)")
    parser.add_argument("--beam", type=int, default=4, metavar="N", help="default: 4")
    parser.add_argument(
        "--n-best", type=int, default=1, metavar="N",
        help="write the N best translations of each line as `line number TAB score TAB "
        "translation`",
    )
    parser.add_argument(
        "--scores", action="store_true", help="write `score TAB translation`: the log-probability "
        "divided by the number of pieces to the power of --lenpen"
    )
    parser.add_argument(
        "--lenpen", type=float, default=1.0, metavar="X",
        help="length penalty as in fairseq-generate: above 1, longer translations; default: 1",
    )
    parser.add_argument(
        "--max-len", type=int, default=200, metavar="N",
        help="maximum number of pieces in a translation; default: 200",
    )
    parser.add_argument(
        "--max-tokens", type=int, default=DEFAULT_MAX_TOKENS, metavar="N",
        help="pieces in a batch, with padding (CTranslate2 on several cores: 500, one core for "
        f"each batch); default: {DEFAULT_MAX_TOKENS}",
    )
    parser.add_argument(
        "--buffer", type=int, default=2000, metavar="N",
        help="maximum number of lines that are sorted by length and translated together; default: "
        "2000",
    )
    parser.add_argument(
        "--skip-long", action="store_true",
        help="write an empty translation for lines that are too long for the model",
    )
    parser.add_argument(
        "--split-sentences", action="store_true",
        help="split each line into sentences (with sentencex) and translate them one by one, for "
        "lines of several sentences; without --scores and --n-best",
    )
    parser.add_argument(
        "--device", choices=["cpu", "cuda", "auto"], default="cpu", help="default: cpu"
    )
    parser.add_argument(
        "--threads", type=int, default=0, metavar="N", help="default: one for each core"
    )


def run(args: argparse.Namespace) -> None:
    refuse_empty(args)
    check_least(args, beam=1, n_best=1, max_len=1, max_tokens=1, buffer=1)
    if args.n_best > args.beam:
        refuse(f"--n-best {args.n_best}: at most the --beam of {args.beam}")
    if not math.isfinite(args.lenpen):
        refuse(f"--lenpen {args.lenpen}: give a number")
    if args.threads < 0:
        refuse(f"--threads {args.threads}: give 1 or more, or 0 for one thread for each core")
    if args.split_sentences and (args.scores or args.n_best > 1):
        refuse("--split-sentences: the translation of several sentences has no score; leave out "
               "--scores and --n-best")
    if args.lang_pair and (args.source_lang or args.target_lang):
        refuse(f"--lang-pair {args.lang_pair} names both languages: leave out -s and -t")
    clean_up_when_terminated()
    use_passive_waiting()

    from ..data.named_pairs import check_pairs
    from ..engines.engine import SearchOptions
    from ..metrics.lang_pairs import split_pair
    from ..serving.pipe import PipeOptions, output_file, translate_lines
    from ..serving.sentences import SentenceSplitter
    from ..subnet.open_translator import open_translator

    source_lang, target_lang = args.source_lang, args.target_lang
    if args.lang_pair:
        check_pairs([args.lang_pair], "--lang-pair")
        source_lang, target_lang = split_pair(args.lang_pair)

    source = open(args.input or 0, "rb", closefd=bool(args.input))
    with output_file(args.output) as out:
        translator, pair = open_translator(
            args.model, source_lang, target_lang, args.device, args.threads, for_throughput=True,
            sentencepiece_model=args.sentencepiece_model,
        )
        splitter = SentenceSplitter(pair) if args.split_sentences else None
        search = SearchOptions(args.beam, args.n_best, args.lenpen, max_length=args.max_len)
        options = PipeOptions(
            args.max_tokens, args.buffer, args.scores, args.skip_long, splitter
        )
        translate_lines(translator, pair, source, out, search, options)
