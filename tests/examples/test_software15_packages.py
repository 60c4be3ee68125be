"""The recipe of software15 from end to end: packages are downloaded, unpacked, and read."""

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from free_software import LOCALE, OFFICE, catalog, gnome_page, index, make_deb, office_page
from refusals import refusal

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # examples/ is not installed
    sys.path.insert(0, str(ROOT))

from examples.software15 import build_corpus, packages  # noqa: E402
from examples.software15.languages import parse_languages  # noqa: E402
from examples.software15.word_overlap import overlap  # noqa: E402
from preprocess.text_files import read_lines  # noqa: E402

pytestmark = pytest.mark.skipif(
    not (shutil.which("apt-get") and shutil.which("dpkg-deb")), reason="Debian's tools are missing"
)
HELP = "usr/share/libreoffice/help/{}/text/{}/page.html"
PAGE = "usr/share/help/{}/gnome-help/lock.page"
HELD_OUT = "Drag the slices of the pie"


def contents_of(language, folder):
    """Files of all sources in a language; locale and folder are the packages' names for it."""
    suffix = folder.lower().replace("_", "-")
    held_out = catalog({HELD_OUT: f"{language} Stücke ziehen", "Open all": f"{language} alle auf"})
    contents = {
        f"libreoffice-l10n-{suffix}": {
            OFFICE.format(folder, "chart"): held_out,
            OFFICE.format(folder, "sw"): catalog({"Open all files": f"{language} Dateien öffnen"}),
        },
        "gedit-common": {
            LOCALE.format(folder, "gedit"): catalog({"Undo typing": f"{language} Rückgängig"})
        },
        "gnome-user-docs": {PAGE.format(folder): gnome_page(f"<p>{language} sperren</p>")},
    }
    if language != "lt":  # LibreOffice's help is not translated into all languages
        page = office_page({"par_id1": f"{language} Hilfe zum Text"})
        contents[f"libreoffice-help-{suffix}"] = {HELP.format(folder, "swriter"): page}
    return contents


@pytest.fixture(scope="module")
def mirror(tmp_path_factory):
    """Every package that German and Lithuanian need, by name."""
    folder = tmp_path_factory.mktemp("mirror")
    contents = {name: {} for name in packages.package_names(parse_languages("de,lt"))}
    contents["libreoffice-help-en-us"] = {
        HELP.format("en-US", "swriter"): office_page({"par_id1": "Help on the text"})
    }
    contents["gnome-user-docs"] = {
        PAGE.format("C"): gnome_page("<p>Lock it</p>"), "usr/share/help/C/lock.png": b"\x89"
    }
    for language in ("de", "lt"):
        for name, files in contents_of(language, language).items():
            contents[name].update(files)
    return {name: make_deb(folder, name, files) for name, files in contents.items()}


@pytest.fixture
def out(tmp_path, mirror):
    """A folder to build in that has all packages already."""
    (tmp_path / "packages").mkdir()
    for deb in mirror.values():
        shutil.copy(deb, tmp_path / "packages")
    return tmp_path


def build(out, languages="de,lt", workers=1):
    build_corpus.main(["--out", str(out), "--languages", languages, "--workers", str(workers)])


def results(out):
    files = [*out.glob("text/*"), out / "languages.yaml", out / "manifest.json"]
    return {path.name: path.read_bytes() for path in files}


def test_the_corpus_is_made_from_all_sources(out):
    build(out)
    assert dict(zip(*sides(out, "train", "de"), strict=True)) == {
        "Open all files": "de Dateien öffnen",
        "Help on the text": "de Hilfe zum Text",
        "Lock it": "de sperren",
        "Undo typing": "de Rückgängig",
    }
    assert "Help on the text" not in sides(out, "train", "lt")[0]
    for language in ("de", "lt"):
        assert sides(out, "test", language) == ([HELD_OUT], [f"{language} Stücke ziehen"])
        assert sides(out, "valid", language) == ([], [])
        assert all(overlap(HELD_OUT, text) < 0.7 for text in sides(out, "train", language)[0])
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["packages"]["seahorse"] == "seahorse_1%3a2.3-4_all.deb"
    assert manifest["held_out_english"] == {"fit": 1, "too short or too long": 1}
    assert manifest["languages"]["de"] == {
        "filters": {"read": 6, "kept": 6},
        "sources": {"office": 3, "help": 1, "gnome": 1, "programs": 1},
        "train": 4, "valid": 0, "test": 1,
    }
    assert set(manifest["languages"]["de"]["sources"]) == set(manifest["licences"])


def sides(out, split, language):
    return tuple(
        read_lines(out / "text" / f"{split}.en-{language}.{side}") for side in ("en", language)
    )


def test_a_corpus_is_the_same_every_time_and_by_any_number_of_workers(out, capsys):
    build(out)
    first = results(out)
    capsys.readouterr()
    build(out)
    assert capsys.readouterr().err.splitlines() == [
        "pairs.de: done already", "pairs.lt: done already", "text: done already",
    ]
    for folder in ("unpacked", "pairs", "stages", "text"):
        shutil.rmtree(out / folder)
    build(out, workers=2)
    assert results(out) == first


def test_one_language_can_be_had_alone(out):
    build(out, "lt")
    assert sides(out, "test", "lt")[0] == [HELD_OUT]
    assert not list(out.glob("text/*.de")) and not (out / "pairs" / "de.tsv").exists()


def test_an_unknown_language_is_named(out):
    assert "no language 'xx' among cs,de," in refusal(build, out, "de,xx")


@pytest.mark.parametrize("workers", [1, 2])
def test_a_truncated_package_is_named_and_work_goes_on_after_repair(out, mirror, workers):
    broken = out / "packages" / mirror["libreoffice-l10n-lt"].name
    broken.write_bytes(mirror["libreoffice-l10n-lt"].read_bytes()[:-4000])
    assert f"{broken}: damaged package (" in refusal(build, out, workers=workers)
    done = sorted(path.name for path in (out / "unpacked").iterdir())
    assert broken.stem not in done and not (out / "text").exists()
    shutil.copy(mirror["libreoffice-l10n-lt"], broken)
    build(out)
    assert sides(out, "test", "lt")[0] == [HELD_OUT]


def test_a_file_that_is_no_package_is_named(out, mirror):
    page = out / "packages" / mirror["seahorse"].name
    page.write_text("<html>503 Service Unavailable</html>")
    assert f"{page}: damaged package (" in refusal(build, out)


def test_a_language_without_translations_is_named_and_the_others_are_kept(out, tmp_path):
    kazakh = make_deb(tmp_path, "libreoffice-l10n-kk", {})
    shutil.move(kazakh, out / "packages")
    line = refusal(build, out, "de,lt,kk")
    assert "kk.tsv: no translations into kk" in line
    assert (out / "pairs" / "de.tsv").exists() and not (out / "pairs" / "kk.tsv").exists()
    build(out)


def test_only_what_is_needed_is_unpacked(mirror, tmp_path):
    packages.unpack(mirror["gnome-user-docs"], tmp_path)
    (folder,) = tmp_path.iterdir()
    assert folder.name == mirror["gnome-user-docs"].stem
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    assert files == [PAGE.format(name) for name in ("C", "de", "lt")]


def test_a_full_disk_is_named(mirror, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    try:
        line = refusal(packages.unpack, mirror["gedit-common"], tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert f"{tmp_path / mirror['gedit-common'].stem}: File too large" in line
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def apt(mirror, tmp_path, monkeypatch):
    """The real apt-get, with a folder as its mirror, which a test may damage."""
    folder = tmp_path / "apt"
    (folder / "mirror").mkdir(parents=True)
    for name in ("seahorse", "synaptic"):
        shutil.copy(mirror[name], folder / "mirror")
    (folder / "mirror" / "Packages").write_text(
        index({name: mirror[name] for name in ("seahorse", "synaptic")})
    )
    (folder / "sources.list").write_text(f"deb [trusted=yes] copy:{folder}/mirror ./\n")
    (folder / "state" / "lists" / "partial").mkdir(parents=True)
    (folder / "cache" / "archives" / "partial").mkdir(parents=True)
    (folder / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "{folder}/sources.list";\nDir::Etc::sourceparts "/dev/null";\n'
        f'Dir::State "{folder}/state";\nDir::Cache "{folder}/cache";\nAcquire::Languages "none";\n'
        'APT::Sandbox::User "root";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(folder / "apt.conf"))
    subprocess.run(["apt-get", "update", "-qq"], check=True, capture_output=True)
    return folder / "mirror"


def test_packages_that_are_missing_are_fetched(apt, mirror, tmp_path):
    folder = tmp_path / "packages"
    names = ["seahorse", "synaptic"]
    fetched = packages.fetch(names, folder)
    assert {name: fetched[name].name for name in names} == {n: mirror[n].name for n in names}
    for name in names:
        assert fetched[name].read_bytes() == mirror[name].read_bytes()
    shutil.rmtree(apt)
    assert packages.fetch(names, folder) == fetched  # without a mirror
    assert sorted(folder.iterdir()) == sorted(fetched.values())


def test_a_package_that_the_mirror_lacks_is_named(apt, tmp_path):
    line = refusal(packages.fetch, ["seahorse", "unicorn"], tmp_path / "packages")
    assert "Unable to locate package unicorn" in line
    assert packages.fetch(["seahorse"], tmp_path / "packages")


@pytest.mark.parametrize("spoil", [lambda deb: deb[:-100], lambda deb: deb[:-1] + b"x"])
def test_a_package_with_a_wrong_checksum_is_named(apt, mirror, tmp_path, spoil):
    """Complete packages are kept, and the next call continues."""
    path = apt / mirror["synaptic"].name
    whole = path.read_bytes()
    path.write_bytes(spoil(whole))
    names = ["seahorse", "synaptic"]
    line = refusal(packages.fetch, names, tmp_path / "packages")
    assert "/mirror/synaptic_" in line and line.endswith(("Hash Sum mismatch", "unexpected size"))
    assert (tmp_path / "packages" / "partial" / mirror["seahorse"].name).exists()
    path.write_bytes(whole)
    fetched = packages.fetch(names, tmp_path / "packages")
    assert fetched["synaptic"].read_bytes() == whole


def test_two_versions_of_a_package_are_refused(out, mirror):
    shutil.copy(mirror["seahorse"], out / "packages" / "seahorse_9_all.deb")
    line = refusal(build, out)
    assert "seahorse" in line and "found 2: seahorse_1%3a2.3-4_all.deb, seahorse_9" in line


def test_missing_apt_is_reported(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "apt-get: not found" in refusal(packages.fetch, ["seahorse"], tmp_path / "p")
