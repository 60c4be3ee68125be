"""Sentence pairs of gettext catalogs."""

import shutil
import subprocess

import pytest
from refusals import refusal

from preprocess.catalogs import main, plain_text

CATALOG = r"""
msgid ""
msgstr "Content-Type: text/plain; charset=UTF-8\nPlural-Forms: nplurals=2; plural=(n != 1);\n"
msgctxt "menu"
msgid "_Print"
msgstr "打印(_P)"
msgid "%d file\nwas <b>copied</b>"
msgid_plural "%d files were copied"
msgstr[0] "已复制 %d 个文件"
msgstr[1] "other"
msgid "not translated"
msgstr ""
#, fuzzy
msgid "out of date"
msgstr "过时"
msgid "<br/>"
msgstr "<br/>"
"""


@pytest.mark.parametrize("text, plain", [
    ("&Save As…", "Save As…"),
    ("Cut &amp; paste", "Cut & paste"),
    ("use_default_size", "use_default_size"),
    ("two\nlines", "two lines"),
])
def test_plain_text(text, plain):
    assert plain_text(text) == plain


@pytest.mark.skipif(not shutil.which("msgfmt"), reason="needs msgfmt of gettext")
def test_messages_of_a_catalog_become_lines(tmp_path):
    (tmp_path / "app.po").write_text(CATALOG, encoding="utf-8")
    subprocess.run(["msgfmt", "app.po", "-o", "app.mo"], cwd=tmp_path, check=True)
    convert = ["en-zh_CN", str(tmp_path / "app.mo"), "--out", str(tmp_path / "text")]
    main(convert)
    for language, lines in (("en", {"Print", "%d file was copied"}),
                            ("zh_CN", {"打印", "已复制 %d 个文件"})):
        written = (tmp_path / "text" / f"en-zh_CN.{language}").read_text(encoding="utf-8")
        assert set(written.splitlines()) == lines
    assert "--overwrite" in refusal(main, convert)
    convert[1] = str(tmp_path / "app.po")
    assert "app.po: not a gettext catalog" in refusal(main, [*convert, "--overwrite"])
    convert[0] = "en-zh-CN"
    assert "zh_CN" in refusal(main, convert)
