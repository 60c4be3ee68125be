"""The recipe of software15: reading catalogs and help, filters, and the split."""

import sys
from collections import Counter
from pathlib import Path

import pytest
from free_software import LOCALE, OFFICE, catalog, gnome_page, office_page
from hypothesis import given
from hypothesis import strategies as st
from refusals import refusal

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # examples/ is not installed
    sys.path.insert(0, str(ROOT))

from examples.software15.build_corpus import class_lines  # noqa: E402
from examples.software15.hold_out import is_held_out, split_by_application  # noqa: E402
from examples.software15.languages import LANGUAGES, parse_languages  # noqa: E402
from examples.software15.pairs import (  # noqa: E402
    Pair,
    filter_pairs,
    placeholders,
    read_pairs,
    write_pairs,
)
from examples.software15.sources import (  # noqa: E402
    pairs_of_catalogs,
    pairs_of_gnome_help,
    pairs_of_office_help,
)
from examples.software15.word_overlap import Neighbours, overlap  # noqa: E402

CHINESE, GERMAN = parse_languages("de,zh")
MAX_OVERLAP = 0.7


def put(folder, path, content):
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_bytes(content)


def test_languages_have_debian_s_codes():
    assert len(LANGUAGES) == 15
    assert (CHINESE.catalog, CHINESE.help_folder, CHINESE.suffix) == ("zh_CN", "zh-CN", "zh-cn")
    assert (GERMAN.catalog, GERMAN.help_folder, GERMAN.suffix) == ("de", "de", "de")


def test_catalogs_give_plain_text(tmp_path):
    messages = {
        "Save _As…": "Speichern _unter…",
        "menu\x04<b>Cut &amp; Paste</b>": "<b>Ausschneiden &amp; Einfügen</b>",
        "%d file\x00%d files": "%d Datei\x00%d Dateien",
        "see use_default_size": "siehe use_default_size",
    }
    put(tmp_path, LOCALE.format("de", "gedit"), catalog(messages))
    put(tmp_path, LOCALE.format("de", "iso_3166"), catalog({"Chad": "Tschad"}))
    put(tmp_path, LOCALE.format("fr", "gedit"), catalog({"Cut": "Couper"}))
    assert sorted(pairs_of_catalogs([tmp_path], "programs", GERMAN)) == [
        ("programs/gedit", "%d file", "%d Datei"),
        ("programs/gedit", "Cut & Paste", "Ausschneiden & Einfügen"),
        ("programs/gedit", "Save As...", "Speichern unter..."),
        ("programs/gedit", "see use_default_size", "siehe use_default_size"),
    ]


def test_office_catalogs_are_a_source_of_their_own(tmp_path):
    put(tmp_path, OFFICE.format("zh_CN", "chart"), catalog({"~Print": "打印(~P)"}))
    assert list(pairs_of_catalogs([tmp_path], "office", CHINESE)) == [
        ("office/chart", "Print", "打印")
    ]
    assert not list(pairs_of_catalogs([tmp_path], "programs", CHINESE))


@pytest.mark.parametrize("damage", [lambda mo: mo[:-9], lambda mo: mo[:20], lambda mo: b"<html>"])
def test_a_damaged_catalog_is_named(tmp_path, damage):
    put(tmp_path, LOCALE.format("de", "gedit"), damage(catalog({"Open": "Öffnen"})))
    line = refusal(lambda: list(pairs_of_catalogs([tmp_path], "programs", GERMAN)))
    assert "de/LC_MESSAGES/gedit.mo: not a gettext catalog" in line


def test_office_help_is_joined_by_file_and_id(tmp_path):
    help_folder = "usr/share/libreoffice/help/{}/text/{}/page.html"
    mac = '<span hidden="true" id="MAC1" class="MAC"><span class="k">{}</span></span>'
    other = '<span hidden="true" id="default1"><span class="k">{}</span></span>'
    english = {
        "par_id1": f'Press {mac.format("Command")}{other.format("Ctrl")}+C.',
        "par_id2": "Terms &amp;\nConditions",
        "par_id3": "nowhere else",
        "bm_id4": "no paragraph",
    }
    german = {
        "bm_id4": "kein Absatz",
        "par_id2": "Allgemeine <em>Bedingungen</em>",
        "par_id1": f'Drücken Sie {mac.format("Befehl")}{other.format("Strg")}+C.',
    }
    put(tmp_path / "a", help_folder.format("en-US", "smath"), office_page(english))
    put(tmp_path / "b", help_folder.format("de", "smath"), office_page(german))
    put(tmp_path / "b", help_folder.format("de", "scalc"), office_page(german))
    assert list(pairs_of_office_help([tmp_path / "a", tmp_path / "b"], GERMAN)) == [
        ("help/smath", "Press Ctrl+C.", "Drücken Sie Strg+C."),
        ("help/smath", "Terms & Conditions", "Allgemeine Bedingungen"),
    ]


def test_gnome_help_is_joined_by_place(tmp_path):
    english = (
        "<info><desc>Lock it.</desc></info><title>Lock\n the <gui>screen</gui></title>"
        "<comment><p>Say more?</p></comment>"
        "<list><item><p>Press <keyseq><key>Alt</key><key>L</key></keyseq>.</p></item></list>"
    )
    german = (
        "<info><desc>Sperren.</desc></info><title>Bildschirm sperren</title>"
        "<list><item><p>Drücken Sie <keyseq><key>Alt</key><key>L</key></keyseq>.</p></item></list>"
    )
    pages = {
        "C": {"lock": english, "short": english, "broken": english, "alone": english},
        "de": {"lock": german, "short": "<title>Sperren</title>", "broken": "<p>&undefined;</p>"},
    }
    for catalog_name, bodies in pages.items():
        for name, body in bodies.items():
            path = f"usr/share/help/{catalog_name}/gnome-help/{name}.page"
            put(tmp_path, path, gnome_page(body))
    assert list(pairs_of_gnome_help([tmp_path], GERMAN)) == [
        ("gnome/gnome-help/lock", "Lock it.", "Sperren."),
        ("gnome/gnome-help/lock", "Lock the screen", "Bildschirm sperren"),
        ("gnome/gnome-help/lock", "Press Alt+L.", "Drücken Sie Alt+L."),
    ]


@pytest.mark.parametrize(
    "english, translation, same",
    [
        ("%s of %d", "%2$d von %1$s", True),
        ("100% of it", "100% davon", True),
        ("Page %1", "Seite %2", False),
        ("$(ARG1) rows", "Zeilen", False),
        ("{} and {name}", "{name} und {}", True),
        ("Delete #object#?", "Objekt löschen?", False),
    ],
)
def test_placeholders(english, translation, same):
    assert (placeholders(english) == placeholders(translation)) is same


def test_filters_count_what_they_drop():
    texts = [
        ("Open file", "Datei öffnen"),
        ("Open file", "Datei öffnen"),
        ("Open file", "Akte öffnen"),
        ("Page 1", "PAGE 2"),
        ("%s files", "Dateien"),
        ("+", "plus"),
        ("word " * 81, "Wort " * 81),
    ]
    counts: Counter = Counter()
    kept = list(filter_pairs((Pair("office/sw", *text) for text in texts), "de", counts))
    assert [pair.translation for pair in kept] == ["Datei öffnen", "Akte öffnen"]
    assert counts == {
        "read": 7, "kept": 2, "duplicate": 1, "copy": 1, "placeholders differ": 1, "no text": 1,
        "too long": 1,
    }


def test_tables_of_pairs_are_read_as_they_were_written(tmp_path):
    table = [Pair("office/sw", "Open", "Öffnen"), Pair("help/smath", 'a "b"', "\u00e4 'b'")]
    write_pairs(tmp_path / "de.tsv", table)
    assert read_pairs(tmp_path / "de.tsv") == table


@pytest.mark.parametrize(
    "application, held_out",
    [
        ("programs/seahorse", True),
        ("programs/gedit", False),
        ("office/chart", True),
        ("office/sw", False),
        ("help/smath", True),
        ("help/scalc", False),
        ("gnome/epiphany/index", True),
    ],
)
def test_whole_applications_are_held_out(application, held_out):
    assert is_held_out(application) is held_out


def test_a_tenth_of_gnome_pages_is_held_out():
    held_out = sum(is_held_out(f"gnome/gnome-help/page-{number}") for number in range(2000))
    assert 150 < held_out < 250


WORDS = st.sampled_from("open the big file of all new charts now please do it".split())
SENTENCES = st.lists(WORDS, min_size=1, max_size=9).map(" ".join)
APPLICATIONS = st.sampled_from(["office/sw", "programs/gedit", "office/chart", "programs/seahorse"])
LONG = st.lists(WORDS, min_size=4, max_size=9, unique=True).map(" ".join)


@st.composite
def tables_of_pairs(draw):
    """Draw tables of three languages, which have many English sentences in common."""
    english = st.sampled_from(draw(st.lists(LONG, min_size=2, max_size=6)))
    pairs = st.builds(Pair, APPLICATIONS, st.one_of(english, SENTENCES), SENTENCES)
    return {language: draw(st.lists(pairs, max_size=12)) for language in ("de", "ru", "tr")}


@given(st.lists(SENTENCES, max_size=12), SENTENCES, st.sampled_from([0.3, 0.5, 0.7, 1.0]))
def test_neighbours_are_those_that_a_comparison_with_all_finds(strings, sentence, threshold):
    near = {i for i, string in enumerate(strings) if overlap(sentence, string) >= threshold}
    assert Neighbours(strings).of(sentence, threshold) == near


@given(tables_of_pairs(), st.integers(0, 3), st.integers(0, 3))
def test_no_held_out_sentence_resembles_training(tables, num_valid, num_test):
    split = split_by_application(tables, num_valid, num_test)
    training = {english for pairs in split.train.values() for english, _ in pairs}
    drawn = {}
    for name, most in (("valid", num_valid), ("test", num_test)):
        sides = getattr(split, name)
        drawn[name] = {english for pairs in sides.values() for english, _ in pairs}
        assert len(drawn[name]) <= most
        for english in drawn[name]:
            assert 4 <= len(english.split()) <= 40
            assert all(overlap(english, other) < MAX_OVERLAP for other in training)
    assert not drawn["valid"] & drawn["test"]
    for language, table in tables.items():
        # trained on: all of the applications that are not held out, each pair once
        trained = [pair[1:] for pair in table if not is_held_out(pair.application)]
        assert sorted(split.train[language]) == sorted(set(trained))
        # held out in every language that has it, once, with a translation that it has
        translations = {pair[1:] for pair in table if is_held_out(pair.application)}
        for name, sentences in drawn.items():
            sides = getattr(split, name)[language]
            assert {english for english, _ in sides} == sentences & {e for e, _ in translations}
            assert len(sides) == len({english for english, _ in sides})
            assert set(sides) <= translations


def test_reasons_to_reject_held_out_sentences():
    held_out = {
        "Drag the slices of the pie": "fit",
        "Insert new charts here please": "near training",  # four words of five
        "Insert new charts here": "in training",
        "Draw it": "too short or too long",
    }
    german = [Pair("office/chart", english, "x") for english in held_out]
    others = [*german, Pair("office/chart", "Only one language has this", "x")]
    german.append(Pair("office/sw", "Insert new charts here", "x"))
    split = split_by_application({"de": german, "ru": others, "tr": german})
    assert split.counts == {**Counter(held_out.values()), "in few languages": 1}
    assert split.test["ru"] == [("Drag the slices of the pie", "x")]
    assert split.train["ru"] == [] and len(split.train["de"]) == 1


def test_the_commonest_translation_is_the_reference():
    table = [
        Pair("office/chart", "Drag the slices away", text) for text in ("b", "c", "c", "a")
    ]
    assert split_by_application({"de": table}).test["de"] == [("Drag the slices away", "c")]
    assert split_by_application({"de": table[:2]}).test["de"] == [("Drag the slices away", "b")]


def test_the_larger_half_of_the_languages_is_high():
    sizes = {"kk": {"train": 5}, "de": {"train": 9}, "fr": {"train": 9}}
    assert class_lines(sizes) == [
        "de: {train_pairs: 9, class: high}",
        "fr: {train_pairs: 9, class: high}",
        "kk: {train_pairs: 5, class: low}",
    ]
