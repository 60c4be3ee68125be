"""Open a model to translate with: a folder of `taskmoe extract`, or a training checkpoint.

From a checkpoint the sub-network of the direction is extracted in memory; no file is written.
"""

import os
from typing import Optional, Tuple

from ..checkpoint.contents import TrainedModel
from ..checkpoint.reading import Unreadable, read_model
from ..data.named_pairs import check_language
from ..engines.fairseq_engine import task_moe_engine
from ..engines.formats import prepare_torch
from ..engines.open_model import choose_pair, max_pieces, open_model
from ..engines.translator import Translator
from ..errors import refuse
from .extract import extract_subnet, servable_pairs, warn_of_zero_shot
from .sentencepiece_files import choose_sentencepiece
from .to_fairseq import taskmoe_checkpoint
from .verify import tags_of


def open_translator(
    path: str, source: Optional[str] = None, target: Optional[str] = None, device: str = "cpu",
    threads: int = 0, for_throughput: bool = False, sentencepiece_model: Optional[str] = None,
) -> Tuple[Translator, str]:
    """Return a translator, and its direction from source to target (language codes).

    path is a model folder or a checkpoint in one file. Languages may be left out if only one
    direction of the model fits. device, threads and for_throughput are those of open_model.
    sentencepiece_model is for checkpoints; by default the run's own is searched for.
    """
    if os.path.isdir(path):
        translator = open_model(path, device, threads, for_throughput)
        return translator, choose_pair(path, translator.lang_pairs, source, target)
    trained = read_model(path)
    pair = checkpoint_pair(path, trained, source, target)
    return cut_out(path, trained, pair, device, threads, sentencepiece_model), pair


def checkpoint_pair(
    path: str, trained: TrainedModel, source: Optional[str], target: Optional[str]
) -> str:
    """As choose_pair, but source and target together may be a pair that was never trained."""
    if source is None or target is None:
        return choose_pair(path, trained.pairs, source, target)
    check_language(source, "source")
    check_language(target, "target")
    return servable_pairs(trained, [f"{source}-{target}"])[0]


def cut_out(
    path: str, trained: TrainedModel, lang_pair: str, device: str = "cpu", threads: int = 0,
    sentencepiece_model: Optional[str] = None,
) -> Translator:
    """Return a translator for one direction of the checkpoint at path, extracted in memory.

    Stacks that route by the text keep their router and experts.
    """
    device = prepare_torch(device, threads)
    subnet = extract_subnet(trained, [lang_pair])
    warn_of_zero_shot(subnet.zero_shot)
    pieces = choose_sentencepiece(sentencepiece_model, path, trained)
    checkpoint = taskmoe_checkpoint(trained, subnet)
    tags = tags_of(trained.tags, [lang_pair])
    try:
        engine = task_moe_engine(TrainedModel.parse(checkpoint), tags, device)
    except Unreadable as reason:
        refuse(f"{path}: {reason}")
    return Translator(engine, pieces.path if pieces else None, *max_pieces(engine))
