"""Train one SentencePiece model for all languages, and write fairseq's dictionary for it.

The training text is a sample of the languages with temperature T: a language of n lines has a share
proportional to n^(1/T). T = 1 keeps the proportions; a large T gives all languages equal shares.
"""

import argparse
import io
import math
import random
from collections import Counter
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence, Tuple

import sentencepiece
from tqdm import tqdm

from fairseq_taskmoe.errors import Refusal, command, refuse
from fairseq_taskmoe.paths import check_paths

from .text_files import (
    atomic_output,
    decoded_lines,
    language_file,
    refuse_existing,
    write_lines,
)

# fairseq's dictionary adds these itself
SPECIAL_PIECES = {"<unk>", "<s>", "</s>"}
COVERAGES = (0.98, 1)  # the range that SentencePiece accepts
MIN_TEMPERATURE = 0.1  # below it, n ** (1 / T) is too large for a float


class BadVocabulary(Exception):
    """A model of the requested size cannot be trained on the sample."""


def line_quotas(counts: Dict[str, int], total: int, temperature: float) -> Dict[str, int]:
    """Divide total lines among the languages; above a language's count, lines are repeated."""
    weights = {language: count ** (1.0 / temperature) for language, count in counts.items()}
    scale = total / sum(weights.values())
    return {language: round(weight * scale) for language, weight in weights.items()}


def drawn_lines(num_lines: int, quota: int, seed: str) -> Tuple[int, List[int]]:
    """Choose quota of num_lines lines.

    Returns how often to take all lines, and the sorted numbers of lines to take once more.
    """
    repeats, rest = divmod(quota, num_lines)
    # a generator for each language: another language does not change the sample of this one
    return repeats, sorted(random.Random(seed).sample(range(num_lines), rest))


def text_lines(files: Sequence[Path]) -> Iterator[str]:
    """Yield the lines that are not empty, with a space for each run of white space.

    SentencePiece and the dictionary support no other white space.
    """
    for path in tqdm(files, "reading", unit="file", disable=None):
        for line in decoded_lines(path):
            text = " ".join(line.split())
            if text:
                yield text


def sampled_lines(files: Sequence[Path], num_lines: int, quota: int, seed: str) -> Iterator[str]:
    """Yield a sample of the num_lines lines of text in files."""
    repeats, drawn = drawn_lines(num_lines, quota, seed)
    for _ in range(repeats):
        yield from text_lines(files)
    numbers = iter(drawn)
    next_drawn = next(numbers, None)
    for number, line in enumerate(text_lines(files) if drawn else ()):
        if number == next_drawn:
            yield line
            next_drawn = next(numbers, None)


def write_sample(
    files: Dict[str, List[Path]], path: Path, total: int, temperature: float, seed: int
) -> Dict[str, int]:
    """Write the text that the model is trained on; return the number of lines by language."""
    counts = {language: sum(1 for _ in text_lines(names)) for language, names in files.items()}
    for language, count in counts.items():
        if count == 0:
            refuse(f"{', '.join(map(str, files[language]))}: no text in {language}")
    quotas = line_quotas(counts, min(total, sum(counts.values())), temperature)
    write_lines(
        path,
        (
            line
            for language, names in files.items()
            for line in sampled_lines(
                names, counts[language], quotas[language], f"{seed} {language}"
            )
        ),
    )
    return quotas


def write_dictionary(model: Path, sample: Path, path: Path) -> int:
    """Write the model's pieces with their counts in sample, by frequency; return their number."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    counts: Counter[str] = Counter()
    for line in decoded_lines(sample):
        counts.update(processor.encode_as_pieces(line))
    pieces = [processor.id_to_piece(index) for index in range(processor.get_piece_size())]
    pieces = [piece for piece in pieces if piece not in SPECIAL_PIECES]
    pieces.sort(key=lambda piece: -counts[piece])
    write_lines(path, (f"{piece} {counts[piece]}" for piece in pieces))
    return len(pieces)


def train_model(
    sample: Path,
    model: Path,
    vocab_size: int,
    coverage: float,
    byte_fallback: bool,
    threads: int = 1,
) -> None:
    """Train on all lines of the sample in order: SentencePiece's own sampling is not reproducible.

    The model depends on the number of threads, by sums of floats. Raises BadVocabulary.
    """
    trained = io.BytesIO()
    refused: List[Refusal] = []  # SentencePiece replaces an exception of its input by its own

    def lines() -> Iterator[str]:
        try:
            yield from decoded_lines(sample)
        except Refusal as refusal:
            refused.append(refusal)
            raise

    try:
        sentencepiece.SentencePieceTrainer.train(
            # an iterator and a writer, as the model would contain the names of files
            sentence_iterator=lines(),
            model_writer=trained,
            vocab_size=vocab_size,
            character_coverage=coverage,
            byte_fallback=byte_fallback,
            shuffle_input_sentence=False,
            max_sentence_length=16384,
            num_threads=threads,
            minloglevel=2,
        )
    except RuntimeError as error:
        if refused:
            raise refused[0] from None
        # the usual reason: the vocabulary is too large or too small for the text
        reason = str(error).splitlines()[-1]
        raise BadVocabulary(f"{vocab_size}: SentencePiece reports: {reason}") from error
    with atomic_output(model) as stream:
        stream.write(trained.getvalue())


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "files", nargs="+", metavar="LANGUAGE=FILE",
        help="training text; a language may have several files",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for spm.model and dict.txt")
    parser.add_argument("--vocab-size", type=int, default=64000)
    parser.add_argument("--temperature", type=float, default=5.0, help="T of the sampling")
    parser.add_argument(
        "--sample-lines", type=int, default=5_000_000,
        help="maximum number of lines to train on, all languages together",
    )
    parser.add_argument(
        "--character-coverage", type=float, default=0.9995,
        help="share of characters that get their own pieces; lower it for many rare characters",
    )
    parser.add_argument(
        "--byte-fallback", action="store_true", help="encode uncovered characters as bytes"
    )
    parser.add_argument(
        "--threads", type=int, default=1, help="threads of training; the model depends on it"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--overwrite", action="store_true")
    args = parser.parse_args(argv)
    check_paths(args)
    for flag in ("vocab_size", "sample_lines", "threads"):
        if getattr(args, flag) < 1:
            refuse(f"--{flag.replace('_', '-')} {getattr(args, flag)}: must be 1 or more")
    if not COVERAGES[0] <= args.character_coverage <= COVERAGES[1]:
        refuse(f"--character-coverage {args.character_coverage}: must be from 0.98 to 1")
    if not MIN_TEMPERATURE <= args.temperature < math.inf:
        refuse(f"--temperature {args.temperature}: must be {MIN_TEMPERATURE} or more")
    files: Dict[str, List[Path]] = {}
    for language, name in map(language_file, args.files):
        files.setdefault(language, []).append(name)
    model, dictionary = args.out / "spm.model", args.out / "dict.txt"
    sample = args.out / "spm.sample.txt"
    refuse_existing([model, dictionary], args.overwrite)
    quotas = write_sample(files, sample, args.sample_lines, args.temperature, args.seed)
    try:
        train_model(
            sample, model, args.vocab_size, args.character_coverage, args.byte_fallback,
            args.threads,
        )
    except BadVocabulary as error:
        refuse(f"--vocab-size {error}")
    pieces = write_dictionary(model, sample, dictionary)
    drawn = ", ".join(f"{language} {quota}" for language, quota in quotas.items())
    print(f"{model}: {pieces} pieces, trained on lines of {drawn}")


if __name__ == "__main__":
    with command():
        main()
