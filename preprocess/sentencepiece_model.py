"""Train one SentencePiece model for all languages, and write fairseq's dictionary for it.

Languages of very different sizes share the vocabulary by temperature sampling: language l with
n_l lines gives a share of the sample proportional to n_l^(1/T), T = 1 as they are, large T evenly.
"""

import argparse
import io
import random
from collections import Counter
from pathlib import Path
from typing import Dict, List, Optional, Sequence

import sentencepiece

from fairseq_taskmoe.errors import refuse
from preprocess.text_files import (
    atomic_output,
    language_file,
    read_lines,
    refuse_existing,
    write_lines,
)

# fairseq's dictionary adds these itself, under the same names
SPECIAL_PIECES = {"<unk>", "<s>", "</s>"}


def line_quotas(counts: Dict[str, int], total: int, temperature: float) -> Dict[str, int]:
    """Share total lines out over the languages; a quota above a count means repeated lines."""
    weights = {language: count ** (1.0 / temperature) for language, count in counts.items()}
    scale = total / sum(weights.values())
    return {language: round(weight * scale) for language, weight in weights.items()}


def sample_lines(lines: Sequence[str], quota: int, seed: str) -> List[str]:
    """Take quota lines: all of them as often as they fit in, and a drawn part once more."""
    repeats, rest = divmod(quota, len(lines))
    # a generator per language: adding a language leaves the others' samples alone
    drawn = sorted(random.Random(seed).sample(range(len(lines)), rest))
    return list(lines) * repeats + [lines[index] for index in drawn]


def write_sample(
    files: Dict[str, List[Path]], path: Path, total: int, temperature: float, seed: int
) -> Dict[str, int]:
    """Write the text that the model is trained on; return the lines taken per language."""
    text = {
        # whitespace of every kind becomes a space: neither trainer nor dictionary can hold it
        language: [" ".join(line.split()) for name in names for line in read_lines(name)]
        for language, names in files.items()
    }
    text = {language: [line for line in lines if line] for language, lines in text.items()}
    for language, lines in text.items():
        if not lines:
            refuse(f"{', '.join(map(str, files[language]))}: no text in {language}")
    counts = {language: len(lines) for language, lines in text.items()}
    quotas = line_quotas(counts, min(total, sum(counts.values())), temperature)
    write_lines(
        path,
        (
            line
            for language, lines in text.items()
            for line in sample_lines(lines, quotas[language], f"{seed} {language}")
        ),
    )
    return quotas


def write_dictionary(model: Path, sample: Path, path: Path) -> int:
    """Write the model's pieces with their counts in sample, commonest first; return how many."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    counts: Counter[str] = Counter()
    for line in read_lines(sample):
        counts.update(processor.encode_as_pieces(line))
    pieces = [processor.id_to_piece(index) for index in range(processor.get_piece_size())]
    pieces = [piece for piece in pieces if piece not in SPECIAL_PIECES]
    pieces.sort(key=lambda piece: -counts[piece])
    write_lines(path, (f"{piece} {counts[piece]}" for piece in pieces))
    return len(pieces)


def train_model(
    sample: Path, model: Path, vocab_size: int, coverage: float, byte_fallback: bool
) -> None:
    """Train on the sample as it is written: drawing inside the trainer is not reproducible."""
    trained = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            # text and writer are handed over, as the model would record the names of files
            sentence_iterator=iter(read_lines(sample)),
            model_writer=trained,
            vocab_size=vocab_size,
            character_coverage=coverage,
            byte_fallback=byte_fallback,
            shuffle_input_sentence=False,
            max_sentence_length=16384,
            num_threads=1,  # sums of floats depend on the number of threads
            minloglevel=2,
        )
    except RuntimeError as error:
        # mostly a vocabulary that is too large or too small for the text
        refuse(f"--vocab-size {vocab_size}: SentencePiece says: {str(error).splitlines()[-1]}")
    with atomic_output(model) as stream:
        stream.write(trained.getvalue())


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "files", nargs="+", metavar="LANGUAGE=FILE", help="training text; several files a language"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for spm.model and dict.txt")
    parser.add_argument("--vocab-size", type=int, default=64000)
    parser.add_argument("--temperature", type=float, default=5.0, help="T of the sampling")
    parser.add_argument(
        "--sample-lines", type=int, default=5_000_000, help="most lines to train on, all languages"
    )
    parser.add_argument(
        "--character-coverage",
        type=float,
        default=0.9995,
        help="share of characters that get pieces; lower for thousands of rare Han characters",
    )
    parser.add_argument(
        "--byte-fallback", action="store_true", help="spell uncovered characters in bytes"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--overwrite", action="store_true")
    args = parser.parse_args(argv)
    if args.temperature <= 0:
        refuse(f"--temperature {args.temperature}: must be positive")
    files: Dict[str, List[Path]] = {}
    for language, name in map(language_file, args.files):
        files.setdefault(language, []).append(name)
    model, dictionary = args.out / "spm.model", args.out / "dict.txt"
    sample = args.out / "spm.sample.txt"
    refuse_existing([model, dictionary], args.overwrite)
    quotas = write_sample(files, sample, args.sample_lines, args.temperature, args.seed)
    train_model(sample, model, args.vocab_size, args.character_coverage, args.byte_fallback)
    pieces = write_dictionary(model, sample, dictionary)
    drawn = ", ".join(f"{language} {quota}" for language, quota in quotas.items())
    print(f"{model}: {pieces} pieces from lines of {drawn}")


if __name__ == "__main__":
    main()
