"""The load test of the service tells rounding from answers that are another's, or nobody's."""

from importlib.util import module_from_spec, spec_from_file_location

import pytest
from console import ROOT

spec = spec_from_file_location("serve_load", ROOT / "examples" / "benchmarks" / "serve_load.py")
serve_load = module_from_spec(spec)
spec.loader.exec_module(serve_load)


class Client:
    """A service that finds `close` instead of `best` in batches of five."""

    def translate_all(self, lang_pair, texts, n_best):
        best = "close" if len(texts) == 5 else "best"
        return [[{"text": best, "score": -1.0}, {"text": "second", "score": -1.1}]] * len(texts)


EXPECTED = {("en-de", f"text {i}"): {"text": f"translation {i}", "score": -2.0} for i in range(9)}


@pytest.mark.parametrize("text, score, reason", [
    ("best", -1.01, "rounding"), ("close", -1.0, "rounding"), ("second", -1.1, "rounding"),
    ("best", -1.2, "wrong"), ("third", -1.0, "wrong"), ("translation 5", -2.0, "mixed_up"),
    ("translation 5", -2.1, "wrong"),
])
def test_what_an_unexpected_answer_is(text, score, reason):
    answer = {"text": text, "score": score}
    asked = ("en-de", "text 0")
    assert serve_load.explain(Client(), asked, answer, EXPECTED) == reason
