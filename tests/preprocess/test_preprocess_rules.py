"""Cleaning: each rule on sentences that it should drop or keep, and whole chunks."""

import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # preprocess is not installed
    sys.path.insert(0, str(ROOT))

from preprocess.chunks import summed  # noqa: E402
from preprocess.cleaning.clean import Cleaner, clean_chunk  # noqa: E402
from preprocess.cleaning.identify import (  # noqa: E402
    ISO_15924,
    LANGUAGES_OF_SCRIPT,
    SCRIPTS,
    letters_of,
    other_language,
    scripts_of,
)
from preprocess.cleaning.rules import Limits, normalise, rule_chain  # noqa: E402
from preprocess.text_files import Chunk  # noqa: E402

ENGLISH = "The committee has decided that the report will be published in full next week."
GERMAN = "Der Ausschuss hat beschlossen, dass der Bericht nächste Woche vollständig erscheint."
LETTERS = [a + b + c for a in "abcdefgh" for b in "aeiourst" for c in "lmnprstd"]
FRENCH = "Le comité a décidé que le rapport sera publié dans son intégralité la semaine prochaine."


def reason(source, target, languages=("en", "de"), **limits):
    """Return the name of the first rule that drops a pair, None where all keep it."""
    for rule in rule_chain(languages, Limits(**limits)):
        if rule.drops(source, target):
            return rule.name
    return None


@pytest.mark.parametrize(
    "source, target, expected",
    [
        (ENGLISH, GERMAN, None),
        ("Open", "Öffnen", None),
        ("Open", "", "empty"),
        ("word " * 251, "Wort " * 251, "over-long"),
        ("x" * 2001, "Wort", "over-long"),
        ("word " * 249 + "word", "Wort " * 249 + "Wort", "repeated"),  # 250 words are not too many
        ("LibreOffice Writer", "LibreOffice writer", "copies"),
        ("See " + "a/b" * 40, "Siehe " + "a/b" * 40, "long word"),
        ("No.", "Nein, und ich sage es auch nicht noch ein weiteres Mal.", "length ratio"),
        ("No.", "Niemals mehr.", None),
        ("Open the <b>file</b> now", "Datei jetzt öffnen", "markup"),
        ("This &amp; that", "Dies und das", "markup"),
        ("If 1 < 2 and R&D", "Wenn 1 < 2 und F&E", None),
        ("Open %s", "Datei öffnen", "placeholders"),
        ("%d of %d files", "%d von %d Dateien", None),
        ("File {0} of {1}", "Datei {0} von {2}", "placeholders"),
        ("In 2019 it was 1,234.5 million", "2019 waren es 1.234,5 Millionen", None),
        ("In 2019 it was 1,234.5 million", "Im Jahr 1866 waren es 77", "numbers"),
        ("There were five of them", "Es waren 5", None),
        ("12.3.4 - 17/99 (**)", "12.3.4 - 17/99 a (**)", "script"),
        ("Открыть файл сейчас", "Datei jetzt öffnen", "script"),
        ("Wait .............. now", "Warte jetzt hier", "repeated"),
        ("no no no no no no no no", "nein nein nein nein nein nein nein nein", "repeated"),
        (ENGLISH, FRENCH, "language"),
        (ENGLISH, ENGLISH + " And more.", "language"),
        ("Open file", "Ouvrir le fichier", None),  # too short to be sure
    ],
)
def test_rules(source, target, expected):
    assert reason(source, target) == expected


@pytest.mark.parametrize(
    "target, language, expected",
    [
        ("发票%s已更新", "zh", None),
        ("Sfx 文档", "zh", None),
        ("Sfx document", "zh", "script"),
        ("данные Routino", "ru", None),
        ("Rechnung %s wurde geändert", "ru", "script"),
    ],
)
def test_scripts_may_be_mixed(target, language, expected):
    source = "Invoice %s updated" if "%s" in target else "Data of Routino or Sfx"
    assert reason(source, target, ("en", language)) == expected


def test_words_are_only_too_long_in_scripts_with_spaces():
    tibetan = "ཞིབ་འཇུག་གི་སྙན་ཐོ་ཆ་ཚང་གཟའ་འཁོར་རྗེས་མར་སྤེལ་རྒྱུ་" * 3
    for language in ("bo", "xx"):
        assert reason(ENGLISH, tibetan, ("en", language)) is None
    assert reason(ENGLISH, tibetan, ("en", "hi")) == "long word"


def test_digits_of_any_script_are_the_same_digits():
    assert reason("In 2019, 1,234 people", "२०१९ में १,२३४ लोग", ("en", "hi")) is None
    assert reason("In 2019, 1,234 people", "१८६६ में ७,७७७ लोग", ("en", "hi")) == "numbers"


@pytest.mark.parametrize(
    "source, target, limits",
    [
        ("Same", "Same", {"drop_copies": False}),
        ("<b>Open</b>", "<b>Öffnen</b>", {"drop_markup": False}),
        ("Open %s", "Datei öffnen", {"same_placeholders": False}),
        (ENGLISH, FRENCH, {"identify_language": False}),
        ("Wait for it to end ..........", "Warte auf das Ende", {"drop_repeated": False}),
        ("No.", "Nein, und ich sage es auch nicht noch einmal.", {"max_length_ratio": 0}),
        (" ".join(LETTERS[:251]), " ".join(LETTERS[1:252]), {"max_words": 0}),
        (" ".join(LETTERS[:511]), " ".join(LETTERS[1:]), {"max_words": 0, "max_chars": 0}),
    ],
)
def test_a_rule_can_be_switched_off(source, target, limits):
    assert reason(source, target) is not None
    assert reason(source, target, **limits) is None


def test_a_language_that_the_detector_does_not_know_is_kept():
    assert other_language(FRENCH, "de") and not other_language(FRENCH, "fr")
    assert not other_language(FRENCH, "hsb")  # Upper Sorbian: all of it would be something else


def test_every_script_has_letters():
    assert set(LANGUAGES_OF_SCRIPT) == set(ISO_15924.values()) == set(SCRIPTS)
    named = [(chr(code), unicodedata.name(chr(code), "")) for code in range(0x10000)]
    for script in SCRIPTS:
        word = {"Han": "CJK UNIFIED", "Japanese": "HIRAGANA"}.get(script, script.upper()) + " "
        own = [char for char, name in named if name.startswith(word) and char.isalpha()]
        found = sum(bool(letters_of([script]).fullmatch(char)) for char in own)
        assert own and found > 0.5 * len(own), script  # rare blocks are left out
        assert not letters_of([script]).fullmatch("1")


@pytest.mark.parametrize(
    "languages, scripts",
    [
        ("de deu de_DE de-AT deu_Latn ca_ES@valencia", {"Latin"}),
        ("kk kaz kaz_Cyrl KK_KZ rus rus_Cyrl ru_RU", {"Cyrillic"}),
        ("zh zh_CN zh-TW zho zho_Hans zh_Hant_HK zh-hans cmn yue_Hant", {"Han"}),
        ("ar ar_AR arb_Arab ckb fas prs ur_PK pa_Arab", {"Arabic"}),
        ("bo bod bod_Tibt", {"Tibetan"}),
        ("dv div", {"Thaana"}),
        ("ja_JP jpn_Jpan", {"Japanese"}),
        ("ko_KR kor_Hang", {"Hangul"}),
        ("sr srp sr_RS uz", {"Cyrillic", "Latin"}),
        ("sr_Latn srp_Latn sr@latin sr_RS@latin", {"Latin"}),
        ("sr_Cyrl uz@cyrillic", {"Cyrillic"}),
        ("xx tlh mni_Mtei got_Goth vai sat_Xxxx", set()),
    ],
)
def test_language_codes_determine_scripts(languages, scripts):
    for language in languages.split():
        assert set(scripts_of(language)) == scripts, language


@pytest.mark.parametrize(
    "target, kept, dropped",
    [
        ("发票已更新", "zh_CN zho_Hans zh", "zho_Latn de ru"),
        ("Счёт обновлён вчера", "rus rus_Cyrl sr", "sr_Latn deu"),
        ("Račun je ažuriran juče", "sr srp_Latn hr", "sr_Cyrl rus"),
        ("تم تحديث الفاتورة أمس", "ar_AR ckb", "en_GB"),
        ("ཞིབ་འཇུག་གི་སྙན་ཐོ་", "bo xx", "dv"),
        ("ޖަވާބު ދިނުން", "dv", "bo"),
        ("ꯃꯤꯇꯩꯂꯣꯟ ꯑꯁꯤ", "mni_Mtei mni", "mni_Beng"),
    ],
)
def test_text_in_the_script_of_its_language_is_kept(target, kept, dropped):
    for language in kept.split():
        assert reason("Invoice updated now", target, ("en_US", language)) is None, language
    for language in dropped.split():
        assert reason("Invoice updated now", target, ("en", language)) == "script", language


@given(st.text())
def test_normalised_text_is_one_plain_line(text):
    plain = normalise(text)
    assert plain == " ".join(plain.split()) == normalise(plain)
    assert not any(ord(char) < 32 or 127 <= ord(char) < 160 for char in plain)
    if text.isascii() and text.isprintable():
        assert plain.split() == text.split()


def chunk_of(*sides):
    return Chunk(0, 0, sides[0].count(b"\n"), sides, 0)


def test_a_chunk_loses_bad_pairs_and_counts_them():
    source = (
        b"Open\n\xff\xfe\n\nSave \t file\nLibreOffice\none\xe2\x80\xa8two\xc2\x85three\r four\n"
    )
    target = "Öffnen\nzwei\ndrei\nDatei sichern\nLibreOffice\neins zwei drei vier\n".encode()
    made = clean_chunk(Cleaner(("en", "de"), Limits()), chunk_of(source, target))
    assert made.texts[0] == b"Open\nSave file\none two three four\n"
    assert made.texts[1].decode() == "Öffnen\nDatei sichern\neins zwei drei vier\n"
    dropped = {name: count for name, count in made.counts["dropped"].items() if count}
    assert dropped == {"invalid UTF-8": 1, "empty": 1, "copies": 1}
    assert made.counts["lines"] == 6 and made.counts["kept"]["lines"] == 3
    assert made.counts["bytes"] == len(source) + len(target)
    # the slowest rule last
    assert list(made.counts["dropped"])[-1] == "language"


lines = st.lists(st.binary(max_size=20).map(lambda line: line.replace(b"\n", b" ")), max_size=9)


@given(lines, st.integers(0, 9))
def test_chunks_do_not_change_what_is_kept(lines, cut):
    """Cleaning in two chunks is cleaning in one, whatever the bytes."""
    other = [f"Zeile {len(line)} mit Text".encode() for line in lines]

    def clean(begin, end):
        sides = (b"".join(line + b"\n" for line in side[begin:end]) for side in (lines, other))
        return clean_chunk(Cleaner(("en", "de"), Limits()), chunk_of(*sides))

    whole, first, second = clean(0, None), clean(0, cut), clean(cut, None)
    assert whole.texts == tuple(a + b for a, b in zip(first.texts, second.texts, strict=True))
    total = summed([first.counts, second.counts])
    assert total["dropped"] == whole.counts["dropped"] and total["kept"] == whole.counts["kept"]
    assert sum(whole.counts["dropped"].values()) + whole.counts["kept"]["lines"] == len(lines)
