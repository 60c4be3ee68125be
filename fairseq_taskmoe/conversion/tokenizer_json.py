"""A SentencePiece model as tokenizer.json, which Hugging Face's AutoTokenizer reads.

The ids are those of a model's dictionary, and the pieces of a text are SentencePiece's.
"""

import json
from importlib import import_module
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

from ..errors import refuse

SPECIAL = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
SPACE = "\u2581"  # which SentencePiece writes for a space


def write_tokenizer(
    folder: Path, symbols: Sequence[str], tags: Sequence[str], sentencepiece_model: Optional[Path],
    source_tags: Sequence[str], max_pieces: int,
) -> None:
    """Write tokenizer.json and tokenizer_config.json.

    Args:
        folder: where they are written.
        symbols: the dictionary, by id; it has the special words and tags.
        tags: the language tags; one in a text is one token.
        sentencepiece_model: None: texts are pieces separated by spaces.
        source_tags: put before every source.
        max_pieces: of a source, with tags and end of sentence.
    """
    tokenizer = _of_pieces(symbols) if sentencepiece_model is None else _of_sentencepiece(
        symbols, tags, sentencepiece_model)
    eos = SPECIAL["eos_token"]
    special = [*SPECIAL.values(), *tags]
    tokenizer.add_special_tokens([
        AddedToken(token, special=True, normalized=False, rstrip=token in tags)
        for token in special
    ])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*source_tags, "$A", eos],
        special_tokens=[(token, symbols.index(token)) for token in {*source_tags, eos}],
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast", **SPECIAL, "model_max_length": max_pieces,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
    }
    text = json.dumps(config, indent=1, ensure_ascii=False) + "\n"
    (folder / "tokenizer_config.json").write_text(text, encoding="utf-8")


def _of_pieces(symbols: Sequence[str]) -> Any:
    numbers = {symbol: number for number, symbol in enumerate(symbols)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token=SPECIAL["unk_token"]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


def read_piece_model(path: Path) -> Any:
    """Return a SentencePiece model's parts; load_pieces has checked the file."""
    try:
        formats: Any = import_module("sentencepiece.sentencepiece_model_pb2")
    except ImportError:
        refuse("--format huggingface needs the Python package protobuf, which is not installed")
    model = formats.ModelProto()
    model.ParseFromString(path.read_bytes())
    return model


def _of_sentencepiece(symbols: Sequence[str], tags: Sequence[str], path: Path) -> Any:
    proto = read_piece_model(path)
    scores, unused = _scores(proto)
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    byte_fallback = trainer.byte_fallback
    if trainer.treat_whitespace_as_suffix:
        refuse(f"{path}: spaces at the end of pieces have no tokenizer.json")
    if trainer.model_type == trainer.UNIGRAM:
        lowest = min(scores.values())  # of what no text contains: special words, tags, fillers
        vocabulary = [(symbol, scores.get(symbol, lowest)) for symbol in symbols]
        unknown = symbols.index(SPECIAL["unk_token"])
        model: Any = models.Unigram(vocabulary, unknown, byte_fallback)
    elif trainer.model_type == trainer.BPE:
        if unused or not set(scores) <= set(symbols):
            refuse(f"{path}: a BPE model, of which the dictionary has only a part, has no "
                   "tokenizer.json")
        numbers = {symbol: number for number, symbol in enumerate(symbols)}
        model = models.BPE(
            numbers, _merges(scores), unk_token=SPECIAL["unk_token"], fuse_unk=True,
            byte_fallback=byte_fallback,
        )
    else:
        refuse(f"{path}: neither a Unigram nor a BPE model, so it has no tokenizer.json")
    tokenizer = Tokenizer(model)
    steps: List[Any] = []
    if normalizer.precompiled_charsmap:
        steps.append(normalizers.Precompiled(normalizer.precompiled_charsmap))
    if normalizer.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex("^ +| +$"), ""), normalizers.Replace(Regex(" +"), " ")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    prepend = "always" if normalizer.add_dummy_prefix else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(SPACE, prepend, trainer.split_by_whitespace)
    if byte_fallback:
        tokenizer.decoder = decoders.Sequence([
            decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(),
            decoders.Strip(" ", int(normalizer.add_dummy_prefix), 0),
        ])
    else:
        tokenizer.decoder = decoders.Metaspace(SPACE, prepend, trainer.split_by_whitespace)
    return tokenizer


def _scores(proto: Any) -> Tuple[Dict[str, float], bool]:
    """Return the scores of the pieces that texts are cut into, and whether any is not used."""
    kinds = proto.SentencePiece
    pieces = proto.pieces
    normal = [piece.score for piece in pieces if piece.type == kinds.NORMAL]
    scores, unused = {}, False
    for piece in pieces:
        if piece.type in (kinds.NORMAL, kinds.BYTE):
            scores[piece.piece] = piece.score
        elif piece.type == kinds.USER_DEFINED:  # SentencePiece always takes these
            scores[piece.piece] = len(piece.piece) * max(normal) - 0.1
        unused = unused or piece.type == kinds.UNUSED
    return scores, unused


def _merges(scores: Dict[str, float]) -> List[Tuple[str, str]]:
    """Return the merges of a BPE model, the first ones first: by the score of what they make."""
    ranked = sorted(scores, key=lambda piece: -scores[piece])
    rank = {piece: number for number, piece in enumerate(ranked)}
    return [
        pair for piece in ranked
        for pair in sorted(
            ((piece[:i], piece[i:]) for i in range(1, len(piece))
             if piece[:i] in rank and piece[i:] in rank),
            key=lambda pair: (rank[pair[0]], rank[pair[1]]),
        )
    ]
