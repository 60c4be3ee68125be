"""Add pieces for the text of new languages to a SentencePiece model and its dictionary.

A piece is added if it has a character that the model does not know. So every text that the model
could write without unknown characters (or bytes) is cut as before, and every word of the dictionary
keeps its number. Languages in a script that the model knows need no new pieces.
"""

import argparse
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from fairseq_taskmoe.data.dictionary_file import read_dictionary
from fairseq_taskmoe.errors import command, refuse
from fairseq_taskmoe.paths import check_paths
from preprocess.encode import load_processor
from preprocess.sentencepiece_model import BadVocabulary, train_model, write_sample
from preprocess.text_files import atomic_output, language_file, refuse_existing, write_lines


def extend(model: Path, added: Path) -> Any:
    """Return the model (a ModelProto) with the pieces of added that have unknown characters."""
    try:
        formats: Any = import_module("sentencepiece.sentencepiece_model_pb2")
    except ImportError:
        refuse("needs the Python package protobuf, which is not installed")
    extended, new = formats.ModelProto(), formats.ModelProto()
    extended.ParseFromString(model.read_bytes())
    new.ParseFromString(added.read_bytes())
    kinds = formats.ModelProto.SentencePiece
    known = {character for piece in extended.pieces if piece.type == kinds.NORMAL
             for character in piece.piece}
    for piece in new.pieces:
        if piece.type == kinds.NORMAL and not known.issuperset(piece.piece):
            extended.pieces.add(piece=piece.piece, score=piece.score, type=kinds.NORMAL)
    return extended


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "files", nargs="+", metavar="LANGUAGE=FILE", help="text of the new languages"
    )
    parser.add_argument("--sentencepiece-model", type=Path, required=True, help="to extend")
    parser.add_argument("--dictionary", type=Path, required=True, help="to extend: dict.XX.txt")
    parser.add_argument("--out", type=Path, required=True, help="folder for spm.model and dict.txt")
    parser.add_argument(
        "--vocab-size", type=int, default=8000, help="pieces to learn from the new text"
    )
    parser.add_argument("--overwrite", action="store_true")
    args = parser.parse_args(argv)
    check_paths(args)
    if args.vocab_size < 1:
        refuse(f"--vocab-size {args.vocab_size}: must be 1 or more")
    files: Dict[str, List[Path]] = {}
    for language, name in map(language_file, args.files):
        files.setdefault(language, []).append(name)
    model, dictionary = args.out / "spm.model", args.out / "dict.txt"
    refuse_existing([model, dictionary], args.overwrite)
    load_processor(args.sentencepiece_model)
    words = read_dictionary(str(args.dictionary))
    with tempfile.TemporaryDirectory() as folder:
        sample, added = Path(folder) / "sample", Path(folder) / "added.model"
        write_sample(files, sample, total=5_000_000, temperature=5.0, seed=1)
        try:
            train_model(sample, added, args.vocab_size, coverage=0.9995, byte_fallback=False)
        except BadVocabulary as error:
            refuse(f"--vocab-size {error}")
        extended = extend(args.sentencepiece_model, added)
    new = [piece.piece for piece in extended.pieces if piece.piece not in words.indices]
    new = [piece for piece in new if piece not in ("<s>", "</s>", "<unk>")]
    with atomic_output(model) as stream:
        stream.write(extended.SerializeToString())
    kept = args.dictionary.read_text(encoding="utf-8").splitlines()
    write_lines(dictionary, [*kept, *(f"{piece} 1" for piece in new)])
    print(f"{model}: {len(new)} new pieces")


if __name__ == "__main__":
    with command():
        main()
