"""The metrics that translations are scored by, each one function and its registration.

`taskmoe evaluate`, `compare` and `tabulate`, and validation with --eval-bleu, use every registered
metric. A new one is a function here (or in a module that this package imports) that returns an
object with the interface of sacrebleu's metrics:

    @register_metric("chrf1", "chrF1")
    def chrf1_metric(lang_pair: str, tokenize: Optional[str] = None) -> Metric:
        return CHRF(beta=1)
"""

from typing import Callable, Dict, NamedTuple, Optional

from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.metrics.base import Metric

from ..errors import refuse
from .lang_pairs import base_code, split_pair

# by the language code up to the first underscore: zh_CN and zho_Hans are both Chinese
TOKENIZERS = {
    "zh": "zh",
    "zho": "zh",
    "cmn": "zh",
    "ja": "ja-mecab",
    "jpn": "ja-mecab",
    "ko": "ko-mecab",
    "kor": "ko-mecab",
}
DEFAULT_TOKENIZER = "13a"


class ScoreMetric(NamedTuple):
    """A registered metric, whose scores are from 0 to 100."""

    name: str  # of the score in results.json, and of `taskmoe compare --metric`
    title: str  # in tables
    build: Callable[[str, Optional[str]], Metric]  # of a language pair and --tokenize
    required: bool  # every results.json has it; older files may lack the other metrics
    at_validation: bool  # logged by --eval-bleu
    by_direction: bool  # `taskmoe tabulate` has tables 2, 4, 5, 6 and 9 of it, where it is known

    @property
    def signature(self) -> str:
        """Return the field of results.json that holds sacrebleu's signature."""
        return "signature" if self.name == "bleu" else f"{self.name}_signature"


METRICS: Dict[str, ScoreMetric] = {}  # by name, in the order in which tables show them


def register_metric(
    name: str, title: str, required: bool = False, at_validation: bool = True,
    by_direction: bool = True,
) -> Callable[[Callable[..., Metric]], Callable[..., Metric]]:
    """Register a function that builds a metric; see ScoreMetric for the arguments."""

    def register(build: Callable[..., Metric]) -> Callable[..., Metric]:
        METRICS[name] = ScoreMetric(name, title, build, required, at_validation, by_direction)
        return build

    return register


@register_metric("bleu", "BLEU", required=True)
def bleu_metric(lang_pair: str, tokenize: Optional[str] = None) -> Metric:
    """Return sacrebleu's BLEU with the tokenizer that suits the target language.

    Without tokenize: zh for Chinese, MeCab for Japanese and Korean (single characters where its
    package is missing, which the signature then shows as tok:char), 13a for all others.
    tokenize overrides this for every language, with one exception: "intl" stands for the paper's
    setting, SacreBLEU with intl except zh for Chinese (A.1). Refuses an unknown or missing one.
    """
    _, target = split_pair(lang_pair)
    default = TOKENIZERS.get(base_code(target), DEFAULT_TOKENIZER)
    if tokenize is not None and tokenize not in BLEU.TOKENIZERS:
        names = ", ".join(sorted(BLEU.TOKENIZERS))
        refuse(f"unknown BLEU tokenizer {tokenize!r}, sacrebleu knows: {names}")
    if tokenize is None or (tokenize == "intl" and default == "zh"):
        name = default
    else:
        name = tokenize
    try:
        return BLEU(tokenize=name)
    # RuntimeError: MeCab is missing; AssertionError: it has another dictionary than sacrebleu's;
    # OSError: a SentencePiece model that sacrebleu would have to download
    except (RuntimeError, AssertionError, ImportError, OSError) as error:
        if tokenize is None:
            return BLEU(tokenize="char")
        reason = " ".join(str(error).split()) or type(error).__name__
        refuse(f"BLEU tokenizer {name} does not work here: {reason}")


# chrF++ has the tables by direction, and chrF only the means over directions
@register_metric("chrf", "chrF", required=True, by_direction=False)
def chrf_metric(lang_pair: str, tokenize: Optional[str] = None) -> Metric:
    """Return sacrebleu's chrF2: character 6-grams, no word n-grams, and no tokenizer."""
    return CHRF()


@register_metric("chrfpp", "chrF++", at_validation=False)
def chrfpp_metric(lang_pair: str, tokenize: Optional[str] = None) -> Metric:
    """Return sacrebleu's chrF2++: chrF2 with word 1- and 2-grams."""
    return CHRF(word_order=2)
