"""The 15 languages of the paper, with their codes in Debian's packages."""

from typing import List, NamedTuple, Sequence

from fairseq_taskmoe.errors import refuse


class Language(NamedTuple):
    code: str
    has_office_help: bool  # whether LibreOffice's help is translated
    locale: str = ""  # gettext's name, if it differs from the code

    @property
    def catalog(self) -> str:
        """The folder of gettext's catalogs and of GNOME's help: zh_CN."""
        return self.locale or self.code

    @property
    def help_folder(self) -> str:
        """The folder of LibreOffice's help: zh-CN."""
        return self.catalog.replace("_", "-")

    @property
    def suffix(self) -> str:
        """The end of the names of LibreOffice's packages: zh-cn."""
        return self.help_folder.lower()


LANGUAGES = (
    Language("cs", True),
    Language("fr", True),
    Language("ru", True),
    Language("zh", True, "zh_CN"),
    Language("es", True),
    Language("fi", True),
    Language("de", True),
    Language("et", True),
    Language("lv", False),
    Language("lt", False),
    Language("ro", False),
    Language("hi", True),
    Language("kk", False),
    Language("tr", True),
    Language("gu", False),
)


def parse_languages(text: str) -> List[Language]:
    """Parse "de,fr"; the result has the order of LANGUAGES, so outputs do not depend on text."""
    chosen = text.split(",")
    known = {language.code for language in LANGUAGES}
    for code in chosen:
        if code not in known:
            refuse(f"--languages {text}: no language {code!r} among {','.join(sorted(known))}")
    return [language for language in LANGUAGES if language.code in chosen]


def codes(languages: Sequence[Language]) -> List[str]:
    return [language.code for language in languages]
