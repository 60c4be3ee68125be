"""Language identification by CLD2, whose model ships inside its package."""

import pycld2  # type: ignore[import-untyped]

# CLD2 counts the bytes of letters that it looked at; below this it is too often wrong: README.md
MIN_BYTES = 60
# what CLD2 calls languages that it knows under other codes
CLD2_CODES = {"he": "iw", "jv": "jw", "nb": "no", "nn": "no", "fil": "tl", "yue": "zh"}
KNOWN = frozenset(code for _, code in pycld2.LANGUAGES)


def other_language(text: str, language: str) -> bool:
    """Say whether text is surely of another language than the one that it should be of.

    Sure is: CLD2, although told which language to expect, calls another one reliable, finds none of
    the expected one, and saw MIN_BYTES of letters. Short text is thus kept, and a language that
    CLD2 does not know.
    """
    if len(text.encode()) < MIN_BYTES:
        return False
    expected = CLD2_CODES.get(language, language)
    if expected not in KNOWN:  # all of its sentences would be of another one
        return False
    try:
        reliable, num_bytes, found = pycld2.detect(text, isPlainText=True, hintLanguage=expected)
    except pycld2.error:  # for a few odd characters that are no error in UTF-8
        return False
    # zh-Hant is zh
    codes = [code.partition("-")[0] for _, code, _, _ in found if code != "un"]
    return bool(reliable and num_bytes >= MIN_BYTES and codes and expected not in codes)
