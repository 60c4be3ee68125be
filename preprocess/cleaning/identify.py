"""Scripts by language, and language identification by CLD2, whose model is in its package."""

import re
from typing import Dict, List, Pattern, Sequence, Tuple

import pycld2  # type: ignore[import-untyped]

# The Unicode blocks of a script's letters, as ranges of a regular expression
SCRIPTS: Dict[str, str] = {
    "Arabic": "\u0600-\u06ff\u0750-\u077f\u08a0-\u08ff\ufb50-\ufdff\ufe70-\ufeff",
    "Armenian": "\u0530-\u058f",
    "Bengali": "\u0980-\u09ff",
    "Cyrillic": "\u0400-\u052f\u1c80-\u1c8f",
    "Devanagari": "\u0900-\u097f\ua8e0-\ua8ff",
    "Ethiopic": "\u1200-\u139f\u2d80-\u2ddf",
    "Georgian": "\u10a0-\u10ff\u1c90-\u1cbf",
    "Greek": "\u0370-\u03ff\u1f00-\u1fff",
    "Gujarati": "\u0a80-\u0aff",
    "Gurmukhi": "\u0a00-\u0a7f",
    "Han": "\u2e80-\u2fdf\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff",
    "Hangul": "\u1100-\u11ff\u3130-\u318f\uac00-\ud7af",
    "Hebrew": "\u0590-\u05ff\ufb1d-\ufb4f",
    "Japanese": "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff",
    "Kannada": "\u0c80-\u0cff",
    "Khmer": "\u1780-\u17ff",
    "Lao": "\u0e80-\u0eff",
    "Latin": "A-Za-z\u00aa\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u02af\u1e00-\u1eff",
    "Malayalam": "\u0d00-\u0d7f",
    "Myanmar": "\u1000-\u109f",
    "Ol Chiki": "\u1c50-\u1c7f",
    "Oriya": "\u0b00-\u0b7f",
    "Sinhala": "\u0d80-\u0dff",
    "Tamil": "\u0b80-\u0bff",
    "Telugu": "\u0c00-\u0c7f",
    "Thaana": "\u0780-\u07bf",
    "Thai": "\u0e00-\u0e7f",
    "Tibetan": "\u0f00-\u0fff",
    "Tifinagh": "\u2d30-\u2d7f",
}
ISO_15924 = {
    "Arab": "Arabic", "Armn": "Armenian", "Beng": "Bengali", "Cyrl": "Cyrillic",
    "Deva": "Devanagari", "Ethi": "Ethiopic", "Geor": "Georgian", "Grek": "Greek",
    "Gujr": "Gujarati", "Guru": "Gurmukhi", "Hang": "Hangul", "Hani": "Han", "Hans": "Han",
    "Hant": "Han", "Hebr": "Hebrew", "Jpan": "Japanese", "Khmr": "Khmer", "Knda": "Kannada",
    "Kore": "Hangul", "Laoo": "Lao", "Latn": "Latin", "Mlym": "Malayalam", "Mymr": "Myanmar",
    "Olck": "Ol Chiki", "Orya": "Oriya", "Sinh": "Sinhala", "Taml": "Tamil", "Telu": "Telugu",
    "Tfng": "Tifinagh", "Thaa": "Thaana", "Thai": "Thai", "Tibt": "Tibetan",
}  # fmt: skip
# ISO 639-1, then 639-3; a language in two rows has both scripts
LANGUAGES_OF_SCRIPT = {
    "Arabic": "ar fa ks ku ps sd ug ur ara arb fas pes prs kas kur ckb sdh pus pbt snd uig urd "
              "acm acq aeb ajp apc ars ary arz azb lrc mzn pnb skr",
    "Armenian": "hy hye hyw",
    "Bengali": "as bn asm ben bpy",
    "Cyrillic": "ab av az ba be bg bs ce cv kk kv ky mk mn os ru sh sr tg tt uk uz "
                "abk ava aze azj bak bel bul bos che chv kaz kom kir mkd mon khk oss rus hbs srp "
                "tgk tat ukr uzb uzn bua chm crh mhr mrj myv rue sah tyv udm xal",
    "Devanagari": "hi ks mr ne sa sd hin kas mar nep npi san snd awa bho gom hne kok mag mai new",
    "Ethiopic": "am ti amh tir",
    "Georgian": "ka kat xmf",
    "Greek": "el ell",
    "Gujarati": "gu guj",
    "Gurmukhi": "pa pan",
    "Han": "zh zho cmn yue lzh wuu",
    "Hangul": "ko kor",
    "Hebrew": "he iw yi heb yid ydd",
    "Japanese": "ja jpn",
    "Kannada": "kn kan",
    "Khmer": "km khm",
    "Lao": "lo lao",
    "Latin": "aa af ak an ay az bi bm br bs ca ch co cs cy da de ee en eo es et eu ff fi fj fo fr "
             "fy ga gd gl gn gv ha ho hr ht hu hz ia id ie ig io is it jv kg ki kj kl kr ku kw la "
             "lb lg li ln lt lu lv mg mh mi ms mt na nb nd ng nl nn no nr nv ny oc om pl pt qu rm "
             "rn ro rw sc se sg sh sk sl sm sn so sq sr ss st su sv sw tk tl tn to tr ts tw ty uz "
             "ve vi vo wa wo xh yo za zu "
             "aar afr aka arg aym ayr aze azj bam bis bre bos cat cha cos ces cym dan deu ewe eng "
             "epo spa est ekk eus ful fuv fin fij fao fra fry gle gla glg grn gug glv hau hmo hrv "
             "hat hun her ina ind ile ibo ido isl ita jav kon kik kua kal kau knc kur kmr cor lat "
             "ltz lug lim lin lit lub lav lvs mlg plt mah mri msa zsm mlt nau nob nde ndo nld nno "
             "nor nbl nav nya oci orm gaz pol por que quy roh run ron kin srd sme sag hbs slk slv "
             "smo sna som sqi als srp ssw sot sun swe swa swh tuk tgl tsn ton tur tso twi tah uzb "
             "uzn ven vie vol wln wol xho yor zha zul "
             "ace ast ban bar bcl bem bjn bug ceb cjk crh csb dik dsb dyu fil fon frp fur gsw haw "
             "hil hmn hsb ilo kab kac kam kbp kea kmb lij lmo ltg lua luo lus min mos nds nso nus "
             "pag pap pms scn sco szl tet tpi tum tzm umb vec war",
    "Malayalam": "ml mal",
    "Myanmar": "my mya shn",
    "Ol Chiki": "sat",
    "Oriya": "or ori ory",
    "Sinhala": "si sin",
    "Tamil": "ta tam",
    "Telugu": "te tel",
    "Thaana": "dv div",
    "Thai": "th tha",
    "Tibetan": "bo dz bod dzo",
    "Tifinagh": "tzm zgh",
}  # fmt: skip
SCRIPTS_OF_LANGUAGE: Dict[str, List[str]] = {}
for _script, _languages in LANGUAGES_OF_SCRIPT.items():
    for _language in _languages.split():
        SCRIPTS_OF_LANGUAGE.setdefault(_language, []).append(_script)
# Scripts without spaces between words
UNSPACED = {"Han", "Japanese", "Khmer", "Lao", "Myanmar", "Thai", "Tibetan"}
# Letters of an alphabet that a character of the script stands for
DENSITY = {"Han": 3.0, "Japanese": 2.0, "Hangul": 2.0}
# CLD2 counts the bytes of letters that it looked at; below this it is too often wrong: README.md
MIN_BYTES = 60
# CLD2's codes of languages, where they differ
CLD2_CODES = {"he": "iw", "jv": "jw", "nb": "no", "nn": "no", "fil": "tl", "yue": "zh"}
CLD2_LANGUAGES = frozenset(code for _, code in pycld2.LANGUAGES)


def scripts_of(language: str) -> Tuple[str, ...]:
    """Return the scripts that a language may be written in, none if they are unknown.

    A code may name its script, as zho_Hans or sr@latin do; a region, as in zh_CN, is ignored.
    """
    code, *subtags = re.split("[-_@]", language)
    for subtag in map(str.title, subtags):
        if subtag in ISO_15924:
            return (ISO_15924[subtag],)
        if subtag in SCRIPTS:
            return (subtag,)
        if len(subtag) == 4 and subtag.isalpha():  # a script that is not in the table
            return ()
    return tuple(SCRIPTS_OF_LANGUAGE.get(code.lower(), ()))


def letters_of(scripts: Sequence[str]) -> Pattern[str]:
    """Return a pattern of runs of the scripts' letters."""
    return re.compile("[" + "".join(SCRIPTS[script] for script in scripts) + "]+")


def density_of(scripts: Sequence[str]) -> float:
    """Return how many letters of an alphabet a character of the scripts stands for, at most."""
    return max((DENSITY.get(script, 1.0) for script in scripts), default=1.0)


def has_spaces(scripts: Sequence[str]) -> bool:
    """Return whether the scripts are known, and have spaces between words."""
    return bool(scripts) and UNSPACED.isdisjoint(scripts)


def other_language(text: str, language: str) -> bool:
    """Return whether CLD2 is sure that text is in another language than the expected one.

    That is: given the expected language as a hint, CLD2 calls another one reliable, finds nothing
    of the expected one, and saw MIN_BYTES of letters. So short texts pass, and all texts in
    languages that CLD2 does not know.
    """
    if len(text.encode()) < MIN_BYTES:
        return False
    expected = CLD2_CODES.get(language, language)
    if expected not in CLD2_LANGUAGES:
        return False
    try:
        reliable, num_bytes, found = pycld2.detect(text, isPlainText=True, hintLanguage=expected)
    except pycld2.error:  # CLD2 rejects a few characters that are valid UTF-8
        return False
    # zh-Hant is zh
    codes = [code.partition("-")[0] for _, code, _, _ in found if code != "un"]
    return bool(reliable and num_bytes >= MIN_BYTES and codes and expected not in codes)
