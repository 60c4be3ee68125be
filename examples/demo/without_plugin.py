"""Translate a test set with sub-networks, in a process that cannot import the plugin.

usage: without_plugin.py DATA SUBNETS OUT BEAM PAIR...   (writes OUT/PAIR/generate-test.txt)
"""

import logging
import sys
import warnings
from pathlib import Path

sys.modules["fairseq_taskmoe"] = None  # an import of it now fails
warnings.simplefilter("ignore")
logging.basicConfig(level=logging.WARNING)

from fairseq import options  # noqa: E402
from fairseq.dataclass.utils import convert_namespace_to_omegaconf  # noqa: E402
from fairseq_cli import generate  # noqa: E402


def translate(data: str, subnets: Path, out: Path, beam: str, pair: str) -> None:
    """Run fairseq-generate with the flags that the sub-network's README gives."""
    readme = (subnets / pair / "README.md").read_text(encoding="utf-8")
    command = next(line for line in readme.splitlines() if "fairseq-generate DATA" in line)
    flags = command.split(" --bpe ")[0].split()[2:]
    flags[flags.index("model.pt")] = str(subnets / pair / "model.pt")
    words = [
        data, *flags, "--beam", beam, "--results-path", str(out / pair),
        "--cpu", "--num-workers", "0", "--max-tokens", "4000", "--no-progress-bar",
    ]
    parser = options.get_generation_parser()
    generate.main(convert_namespace_to_omegaconf(options.parse_args_and_arch(parser, words)))


if __name__ == "__main__":
    data_bin, subnet_folder, out_folder, beam_size, *pairs = sys.argv[1:]
    for name in pairs:
        translate(data_bin, Path(subnet_folder), Path(out_folder), beam_size, name)
