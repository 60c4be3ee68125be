"""Make a mixture of experts out of a dense model: every expert starts as its feed-forward network.

The new checkpoint translates as the dense model does, and is where training starts:

    taskmoe upcycle dense.pt --out upcycled.pt --moe-expert-count 16
    fairseq-train DATA --finetune-from-model upcycled.pt --moe-expert-count 16 ...
"""

import argparse
from typing import Dict

from ..errors import refuse
from .arguments import check_least, pairs_in_flag, refuse_empty
from .params import ModelFlag, add_model_flags, given_model_flags, model_flags, parse_model_flags

# of runs, not of models
OTHERS = ("expert_parallel_size", "sharded_checkpoints", "task_local_batches", "routed_inference")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "checkpoint",
        help="of a dense model: of transformer_task_moe, of fairseq's own transformer (tasks "
        "translation and translation_multi_simple_epoch), or of `taskmoe import-hf`",
    )
    parser.add_argument("--out", required=True, metavar="CKPT", help="new checkpoint")
    parser.add_argument(
        "--lang-pairs", metavar="PAIRS",
        help="of the new model, comma-separated or a file (default: those of the dense model)",
    )
    parser.add_argument(
        "--dictionary", metavar="PATH",
        help="for a checkpoint of fairseq's own, which holds no words: a dict.txt, or a folder "
        "with dict.LANG.txt (default: the folder of the data that it was trained on)",
    )
    parser.add_argument(
        "--noise", type=float, default=0.0, metavar="X",
        help="add normal noise to the experts, X standard deviations of each matrix (default: 0, "
        "with which the new model computes what the dense one computes)",
    )
    parser.add_argument("--seed", type=int, default=1, help="of routers and noise; default: 1")
    group = parser.add_argument_group("model flags, as in fairseq-train")
    add_model_flags(group, _fields())


def run(args: argparse.Namespace) -> None:
    refuse_empty(args)
    check_least(args, noise=0)
    if not args.out.endswith(".pt"):
        refuse(f"--out {args.out}: name a file that ends in .pt")
    every = {name: None for name in model_flags()}
    words = given_model_flags(argparse.Namespace(**{**every, **vars(args)}))

    from .. import register  # noqa: F401
    from ..conversion.upcycle import Upcycling, upcycle

    settings = vars(parse_model_flags("upcycle", words))
    pairs = pairs_in_flag(args) or None
    upcycle(
        args.checkpoint, args.out,
        Upcycling({"moe_expert_count": 32, **settings}, pairs, args.dictionary, args.noise,
                  args.seed),
    )
    print(f"{args.out}: written; train it with --finetune-from-model {args.out} and the flags of "
          f"its model: {' '.join(words)}")


def _fields() -> Dict[str, ModelFlag]:
    return {
        name: flag for name, flag in model_flags().items()
        if "moe_" in name and not name.endswith(OTHERS)
    }
