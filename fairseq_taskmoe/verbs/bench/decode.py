"""Measure beam search by batch size: token routing, task routing, and extracted sub-networks.

    taskmoe bench decode --moe-expert-count 32 --threads 2 --out decode.json --plot decode.png
    taskmoe bench decode --processes 2 --out processes.json

Weights and sentences are random; all outputs have the same length. tokens/s: output tokens of the
best hypotheses. MFLOP: matrix products and attention for each of these tokens. MB/step: weights
that a decoding step reads. experts: experts that a layer's tokens chose in a step.

With --processes N, N one-core processes (or GPUs) translate their own batches at the same time:
`extracted` independently, `token_token` with its experts distributed over all processes.
"""

import argparse
from typing import Any, Dict, List

from ..arguments import check_least
from . import common

DEFAULT = "dense,token_token,task,extracted"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--arch", choices=["tiny", "base", "big"], default="base", help="size")
    common.add_model(parser)
    parser.add_argument("--vocab-size", type=int, default=8000, help="words; default: 8000")
    parser.add_argument("--length", type=int, default=32, help="tokens of a source; default: 32")
    parser.add_argument(
        "--output-length", type=int, metavar="N", help="tokens of a hypothesis (default: --length)"
    )
    parser.add_argument("--beam", type=int, default=4, help="default: 4")
    parser.add_argument(
        "--batch-sizes", default="1,2,4,8,16,32,64,128,256,512", metavar="B[,B]",
        help="sentences; default: powers of two from 1 to 512",
    )
    parser.add_argument(
        "--variants",
        help=f"comma-separated: dense, token_token, task, task_routed, token_task, extracted, "
        f"padded, stock_widths; default: {DEFAULT}",
    )
    parser.add_argument(
        "--processes", type=int, default=1, metavar="N", help="number of processes; default: 1"
    )
    parser.add_argument(
        "--dtype", choices=["float32", "bfloat16", "float16"], default="float32"
    )
    parser.add_argument(
        "--memory-limit", type=float, metavar="GB",
        help="memory of models and searches for each process (default: the free memory)",
    )
    parser.add_argument("--plot", metavar="FILE.png", help="draw tokens/s against batch size")
    common.add_arguments(parser, repeats=3)


def run(args: argparse.Namespace) -> None:
    common.quiet_profiler()
    from ...benchmarks import measure
    from ...benchmarks.decode.bench import Sweep, bench_decode
    from ...benchmarks.decode.ranks import bench_processes
    from ...benchmarks.decode.search import DecodingLoad
    from ...tables.figure2 import check_plot, draw

    check(args)
    sweep = Sweep(
        args.variants, args.moe_expert_count, args.batch_sizes, args.repeats, args.memory_limit
    )
    load = DecodingLoad(
        args.arch, args.vocab_size, args.length, args.output_length, args.beam, args.dtype,
        args.device, args.model,
    )
    if args.plot:
        check_plot(args.plot)
    if args.processes == 1:
        common.prepare(args)
        reports = bench_decode(sweep, load)
    else:
        reports = bench_processes(sweep, load, args.processes)
    print(heading(args.processes))
    printed = 0
    report: Dict[str, Any] = {}
    for report in reports:
        for row in report["rows"][printed:]:
            print(line(row), flush=True)
        printed = len(report["rows"])
        if args.out:  # an interrupted run leaves its measurements so far
            measure.save(args.out, report)
        if args.plot:
            draw(report, args.plot)
    print(summary(report))


def check(args: argparse.Namespace) -> None:
    """Check the flags, and replace them by their values and defaults."""
    from ...benchmarks.decode.ranks import VARIANTS as DISTRIBUTED
    from ...benchmarks.decode.variants import VARIANTS
    from ...distributed.layout import expert_layout
    from ...errors import refuse

    common.check_device(args)
    args.batch_sizes = batch_sizes(args.batch_sizes)
    args.model = common.model_settings(args.model or "")
    args.moe_expert_count = common.expert_counts(args, least=2)  # top-2
    if args.output_length is None:
        args.output_length = args.length
    check_least(
        args, repeats=2, length=2, output_length=2, beam=1, processes=1, vocab_size=20
    )
    if args.memory_limit is not None and args.memory_limit <= 0:
        refuse(f"--memory-limit {args.memory_limit}: give more than 0 GB")
    if args.beam > args.vocab_size // 2 - 1:
        refuse(f"--beam {args.beam}: --vocab-size {args.vocab_size} is too small for it")
    known = VARIANTS if args.processes == 1 else DISTRIBUTED
    args.variants = args.variants or (DEFAULT if args.processes == 1 else ",".join(DISTRIBUTED))
    args.variants = list(dict.fromkeys(common.chosen_variants(args, list(known))))
    if args.processes == 1:
        return
    for count in args.moe_expert_count:
        if expert_layout(count, args.processes).size == 1:
            refuse(
                f"--processes {args.processes} and --moe-expert-count {count} have no common "
                "divisor: each process would have all experts"
            )
    check_gpus(args)


def check_gpus(args: argparse.Namespace) -> None:
    """Refuse more processes than GPUs."""
    import torch

    from ...errors import refuse

    if args.device == "cuda" and args.processes > torch.cuda.device_count():
        refuse(f"--processes {args.processes}: there are {torch.cuda.device_count()} GPUs")
    if args.threads:
        refuse("--threads: with --processes, each process has one thread")


def batch_sizes(text: str) -> List[int]:
    """Return comma-separated numbers of 1 or more, without duplicates."""
    from ...errors import refuse

    words = text.split(",")
    if not all(word.isdecimal() and int(word) > 0 for word in words):
        refuse(f"--batch-sizes {text}: give numbers of 1 or more, as 1,8,64")
    return sorted({int(word) for word in words})


def heading(processes: int) -> str:
    sent = f"{'communic.':>11}{'kB/token':>10}" if processes > 1 else ""
    return (
        f"{'batch':>5}  {'variant':18}{'s/search':>9}{'spread':>8}{'tokens/s':>10}{'relative':>9}"
        f"{'MFLOP':>8}{'MB/step':>9}{'experts':>9}{'memory':>11}{sent}"
    )


def line(row: Dict[str, Any]) -> str:
    start = f"{row['batch_size']:5}  {row['label']:18}"
    if not row["fits"]:
        return f"{start}{'does not fit':>17}"
    sent = ""
    if "communication_share" in row:
        sent = f"{row['communication_share']:11.1%}{row['bytes_sent_per_token'] / 1e3:10.2f}"
    return (
        f"{start}{row['seconds']:9.3f}{row['spread']:8.1%}{row['tokens_per_second']:10.1f}"
        f"{common.ratio(row.get('speed_of_reference')):>9}{row['flops_per_token'] / 1e6:8.1f}"
        f"{row['weight_bytes_per_step'] / 1e6:9.1f}{row['experts_per_step']:9.1f}"
        f"{row['peak_bytes'] / 1e6:8.1f} MB{sent}"
    )


def summary(report: Dict[str, Any]) -> str:
    """Return the best batch size of each variant, and ratios there."""
    lines = ["", f"{'variant':18}{'best batch':>11}{'tokens/s':>10}{'relative':>9}"]
    for name, row in report["summary"].items():
        lines.append(
            f"{name:18}{row['best_batch_size']:11}{row['tokens_per_second']:10.1f}"
            f"{common.ratio(row['speed_of_reference_at_best']):>9}"
        )
    lines.append("relative: speed relative to token_token, above at equal batch sizes, here at the "
                 "best batch size of each")
    return "\n".join(lines)
