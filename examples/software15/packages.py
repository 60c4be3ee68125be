"""Debian packages: download by apt-get, which checks signatures, and unpacking without root."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Dict, List, Sequence

from examples.software15.languages import LANGUAGES, Language
from fairseq_taskmoe.errors import refuse
from fairseq_taskmoe.files import new_folder
from preprocess.text_files import refusing_write_errors

# with the catalogs of all languages
CATALOG_PACKAGES = """
    abiword-common aisleriot bluefish-data brasero-common caja-common cinnamon-l10n
    epiphany-browser-data evince-common evolution-common evolution-data-server-common file-roller
    geany-common gedit-common gimp-data gnome-control-center-data gnome-shell-common
    gnome-software-common gnome-terminal-data gnucash-common gnumeric-common gthumb-data iso-codes
    libglib2.0-data libgtk-3-common mate-control-center-common metacity-common nautilus-data
    pidgin-data pluma-common rhythmbox-data seahorse shotwell-common synaptic totem-common
""".split()
GNOME_HELP_PACKAGE = "gnome-user-docs"


def package_names(languages: Sequence[Language]) -> List[str]:
    """Return the names of the packages that the corpus of these languages is made from."""
    names = [GNOME_HELP_PACKAGE, *CATALOG_PACKAGES]
    names += [f"libreoffice-l10n-{language.suffix}" for language in languages]
    with_help = [language.suffix for language in languages if language.has_office_help]
    if with_help:
        names += [f"libreoffice-help-{suffix}" for suffix in ("en-us", *with_help)]
    return sorted(names)


def find_package(folder: Path, name: str) -> List[Path]:
    return sorted(folder.glob(f"{name}_*.deb"))


def fetch(names: Sequence[str], folder: Path) -> Dict[str, Path]:
    """Return the package file of each name; downloads missing ones into folder.

    Existing files are used whatever their version, so that a corpus can be built again when the
    mirror has newer packages.
    """
    missing = [name for name in names if not find_package(folder, name)]
    if missing:
        print(f"packages: {len(missing)} of {len(names)} to download", file=sys.stderr)
        download(missing, folder)
    packages = {}
    for name in names:
        files = find_package(folder, name)
        if len(files) != 1:
            found = ", ".join(file.name for file in files)
            refuse(f"{folder}: expected one package {name}, found {len(files)}: {found}")
        packages[name] = files[0]
    return packages


def download(names: Sequence[str], folder: Path) -> None:
    """Download packages with apt-get; they appear in folder when all are complete.

    apt-get continues from what an interrupted call left in partial/.
    """
    partial = folder / "partial"
    with refusing_write_errors(partial):
        partial.mkdir(parents=True, exist_ok=True)
    try:
        run = subprocess.run(
            ["apt-get", "download", "-qq", *names],
            cwd=partial, env={**os.environ, "LC_ALL": "C.UTF-8"}, capture_output=True, text=True,
        )
    except FileNotFoundError:
        refuse("apt-get: not found; run this on Debian or Ubuntu")
    if run.returncode != 0:
        # the first error is the cause of the others
        errors = [line for line in run.stderr.splitlines() if line.startswith("E: ")]
        refuse(f"apt-get download, into {partial}: {' '.join(errors[:1]) or run.stderr.strip()}")
    for name in names:
        for path in find_package(partial, name):
            path.rename(folder / path.name)
    shutil.rmtree(partial)


def is_used(member: str) -> bool:
    """Return whether the corpus is made from this file of a package."""
    catalogs = {language.catalog for language in LANGUAGES}
    folders = {language.help_folder for language in LANGUAGES}
    parts = member.removeprefix("./").split("/")
    match parts:
        case ["usr", "share", "locale", catalog, "LC_MESSAGES", name]:
            return catalog in catalogs and name.endswith(".mo")
        case ["usr", "lib", "libreoffice", "program", "resource", catalog, "LC_MESSAGES", name]:
            return catalog in catalogs and name.endswith(".mo")
        case ["usr", "share", "libreoffice", "help", folder, "text", *_, name]:
            return (folder in folders or folder == "en-US") and name.endswith(".html")
        case ["usr", "share", "help", catalog, _, name]:
            return (catalog in catalogs or catalog == "C") and name.endswith(".page")
    return False


def unpack(package: Path, unpacked: Path) -> None:
    """Unpack the files that the corpus needs into unpacked/NAME_VERSION_ARCH, unless it exists."""
    out = unpacked / package.stem
    if out.exists():
        return
    with refusing_write_errors(out), new_folder(str(out)) as part:
        command = ["dpkg-deb", "--fsys-tarfile", str(package)]
        broken = ""
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None and process.stderr is not None
            try:
                with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                    for member in archive:
                        if member.isfile() and is_used(member.name):
                            archive.extract(member, part, filter="data")
            except tarfile.TarError as error:
                broken = str(error)
            process.stdout.read()  # to its end, or dpkg-deb would fail to write
            errors = process.stderr.read().decode(errors="replace")
        if process.returncode != 0 or broken:
            reason = " ".join(errors.split()) or broken
            refuse(f"{package}: damaged package ({reason}); delete it to download it again")
    print(f"unpacked {package.name}", file=sys.stderr)
