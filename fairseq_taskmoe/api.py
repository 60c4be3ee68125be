"""The functions for Python programs, as `fairseq_taskmoe.load` and so on.

They raise Refusal for invalid input. Nothing is printed but warnings and progress bars.
"""

import logging
import math
import os
import sys
import tempfile
import warnings
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, List, Optional, Sequence, Union, overload

from .engines.engine import SearchOptions
from .engines.manifest import Manifest
from .engines.open_model import DEVICES, choose_pair, open_model
from .engines.translator import TooLong, Translation, Translator
from .errors import Refusal, refuse

if TYPE_CHECKING:
    from fairseq.hub_utils import GeneratorHubInterface

    from .evaluation.results import Results

__all__ = [
    "Model", "Refusal", "TooLong", "Translation", "evaluate", "extract", "from_pretrained", "load",
]


class Model:
    """A model that translates; made by load."""

    def __init__(
        self, lang_pairs: Sequence[str],
        choose: Callable[[Optional[str], Optional[str]], str],
        translator_of: Callable[[str], Translator],
    ):
        self.lang_pairs = sorted(lang_pairs)  # a checkpoint: those that it was trained on
        self._choose = choose
        self._translator_of = translator_of

    @overload
    def translate(
        self, texts: Sequence[str], source: Optional[str] = ..., target: Optional[str] = ...,
        beam: int = ..., n_best: None = ..., length_penalty: float = ..., max_length: int = ...,
    ) -> List[str]: ...

    @overload
    def translate(
        self, texts: Sequence[str], source: Optional[str] = ..., target: Optional[str] = ...,
        beam: int = ..., *, n_best: int, length_penalty: float = ..., max_length: int = ...,
    ) -> List[List[Translation]]: ...

    def translate(
        self, texts: Sequence[str], source: Optional[str] = None, target: Optional[str] = None,
        beam: int = 4, n_best: Optional[int] = None, length_penalty: float = 1.0,
        max_length: int = 200,
    ) -> Union[List[str], List[List[Translation]]]:
        """Return the translation of each text, or with n_best its n_best Translations, best first.

        source and target are language codes, and may be left out if only one direction of the model
        fits. beam is the number of hypotheses of the search, at least n_best. length_penalty is
        fairseq's --lenpen: above 1, translations are longer. max_length is in pieces. Raises
        TooLong, with the index of the text, before anything is translated.
        """
        if isinstance(texts, str):
            raise TypeError("texts: give a list of texts")
        kept = 1 if n_best is None else n_best
        if not 1 <= kept <= beam:
            refuse(f"n_best {kept}: give 1 or more, and at most the beam of {beam}")
        if max_length < 1:
            refuse(f"max_length {max_length}: give 1 or more")
        if not math.isfinite(length_penalty):
            refuse(f"length_penalty {length_penalty}: give a number")
        pair = self._choose(source, target)
        options = SearchOptions(beam, kept, length_penalty, max_length=max_length)
        found = self._translator_of(pair).translate(pair, list(texts), options)
        return [ranked[0].text for ranked in found] if n_best is None else found


def load(
    path: str, device: str = "cpu", threads: int = 0, sentencepiece_model: Optional[str] = None
) -> Model:
    """Return the model in a folder of `taskmoe extract`, or in a training checkpoint.

    device is cpu, cuda or auto. threads is for CPU; 0: OMP_NUM_THREADS, or one for each core. From
    a checkpoint each direction is extracted in memory at its first use, and sentencepiece_model
    names the SentencePiece model if it is not near the checkpoint or its data. A folder is checked
    against its manifest.
    """
    if device not in DEVICES:
        refuse(f"device {device}: choose one of {', '.join(DEVICES)}")
    if threads < 0:
        refuse(f"threads {threads}: give 1 or more, or 0 for the default")
    if os.path.isdir(path):
        translator = open_model(path, device, threads)
        return Model(
            translator.lang_pairs, partial(choose_pair, path, translator.lang_pairs),
            lambda lang_pair: translator,
        )
    _register()
    from .checkpoint.reading import read_model
    from .subnet.open_translator import checkpoint_pair, cut_out

    trained = read_model(path)

    @cache
    def cut(lang_pair: str) -> Translator:
        return cut_out(path, trained, lang_pair, device, threads, sentencepiece_model)

    return Model(trained.pairs, partial(checkpoint_pair, path, trained), cut)


def extract(
    checkpoint: str, lang_pairs: Union[str, Sequence[str]], out: str, format: str = "fairseq",
    **options: Any,
) -> Manifest:
    """Write the sub-network of one or several directions to the new folder out.

    lang_pairs is "en-de", or a list. format is fairseq, ctranslate2, huggingface or taskmoe.
    options are those of subnet.formats.Extraction: sentencepiece_model, quantization, device,
    trim_vocabulary, trim_min_count, pruning, license, results. Returns the folder's manifest.
    """
    _register()
    from .subnet.folder import Extraction
    from .subnet.folder import extract as write
    from .subnet.formats import FORMATS

    pairs = [lang_pairs] if isinstance(lang_pairs, str) else lang_pairs
    if format not in FORMATS:
        refuse(f"format {format}: choose one of {', '.join(FORMATS)}")
    if not pairs:
        refuse("lang_pairs: give at least one")
    return write(checkpoint, pairs, out, Extraction(format, **options))


def evaluate(
    data: str, checkpoint: str, out: str, lang_pairs: Optional[Sequence[str]] = None,
    gen_subset: str = "test", beam: int = 5, lenpen: float = 1.0,
    references: Optional[str] = None, floors: bool = False, cpu: bool = False,
) -> "Optional[Results]":
    """Translate and score the set gen_subset of the binarized data; resumes what was interrupted.

    lang_pairs defaults to all trained directions. references is a folder of raw references, and
    floors adds two baselines without a model, as for `taskmoe evaluate`. Hypotheses, results.json
    and results.md are written to out. Under torchrun, ranks other than 0 return None.
    """
    _register()
    from .evaluation.evaluate import Settings
    from .evaluation.evaluate import evaluate as run
    from .evaluation.translate import Search

    return run(
        data, checkpoint, out, lang_pairs, Settings(gen_subset, Search(beam, lenpen)),
        references=references, floors=floors, cpu=cpu,
    )


def from_pretrained(
    checkpoint: str, source: str, target: str, sentencepiece_model: Optional[str] = None
) -> "GeneratorHubInterface":
    """Return fairseq's hub interface of a full checkpoint, for one direction.

    It needs neither --user-dir nor the data: dictionary, task ids and tags are in the checkpoint.
    sentencepiece_model is as for load.
    """
    _register()
    from .checkpoint.reading import read_model
    from .models.transformer_task_moe import TransformerTaskMoeModel
    from .subnet.extract import servable_pairs
    from .subnet.formats import write_dictionaries
    from .subnet.sentencepiece_files import choose_sentencepiece

    trained = read_model(checkpoint)
    servable_pairs(trained, [f"{source}-{target}"])
    pieces = choose_sentencepiece(sentencepiece_model, checkpoint, trained)
    bpe = {"bpe": "sentencepiece", "sentencepiece_model": pieces.path} if pieces else {}
    folder, name = os.path.split(os.path.abspath(checkpoint))
    with tempfile.TemporaryDirectory() as data:
        write_dictionaries(trained, (source, target), Path(data))
        return TransformerTaskMoeModel.from_pretrained(
            folder, name, data, source_lang=source, target_lang=target, **bpe
        )


def _register() -> None:
    """Import fairseq with the plugin, without its debug messages and deprecations.

    It would also set the level of the root logger.
    """
    warnings.filterwarnings("ignore", message=".*pin_memory.*")  # where there is no GPU
    if "fairseq_taskmoe.register" in sys.modules:
        return
    root, disabled = logging.getLogger(), logging.root.manager.disable
    level, handlers = root.level, root.handlers[:]
    logging.disable(logging.INFO)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from . import register  # noqa: F401
    finally:
        logging.disable(disabled)
        root.setLevel(level)
        root.handlers[:] = handlers
