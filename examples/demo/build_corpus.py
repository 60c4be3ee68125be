"""Build the demo's corpus: phrases of the Unicode CLDR in English and 15 other languages.

The repository contains the result, corpus/cldr16.tsv.xz. Babel has the data, and writes phrases::

    pip install babel==2.19.0
    python examples/demo/build_corpus.py --out examples/demo/corpus/cldr16.tsv.xz

The table has a row for each phrase. Column `kind` names what it is, and `combinations` the pairs of
parts that it combines, such as a unit and a size of numbers; split.py holds out some of them. A
column for each language follows. No text occurs twice in a column.
"""

import argparse
import lzma
import random
import sys
from datetime import date, timedelta
from itertools import combinations
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from babel import Locale
from babel.dates import format_date, format_timedelta
from babel.lists import format_list
from babel.numbers import format_currency
from babel.units import format_unit

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))  # examples/ is not installed

from examples.demo.prepare import COLUMNS, LANGUAGES  # noqa: E402
from fairseq_taskmoe.errors import command  # noqa: E402

SEED = 1
# phrases that are drawn of each kind; some are drawn twice, and kept once
COUNTS = {
    "date": 1800, "duration": 900, "quantity": 1600, "money": 1200, "quantities": 700,
    "countries": 1300, "languages": 1000, "locale": 800,
}  # fmt: skip
LOCALES = {"en": "en_GB", "zh": "zh_Hans_CN"}
FIRST_DAY, NUM_DAYS = date(2000, 1, 1), 366 + 365 * 29
NUMBERS = {"ones": range(1, 13), "tens": range(13, 100), "hundreds": range(100, 1000),
           "thousands": range(1000, 20001, 100)}  # fmt: skip
SPANS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400, "week": 604800, "month": 2592000,
         "year": 31536000}  # fmt: skip
UNITS = """
    length-kilometer length-meter length-centimeter length-mile length-foot mass-tonne mass-kilogram
    mass-gram volume-liter volume-milliliter area-square-kilometer area-square-meter area-hectare
    duration-hour duration-minute duration-second duration-day duration-week duration-month
    duration-year speed-kilometer-per-hour temperature-celsius digital-megabyte power-kilowatt
    energy-kilocalorie concentr-percent
""".split()
CURRENCIES = "EUR USD GBP JPY CNY RUB CHF CZK SEK PLN TRY INR KZT RON HUF BRL".split()
COUNTRIES = """
    AU AT BE BR BG CA CL CN CO HR CU CZ DK EG EE FI FR DE GR HU IS IN ID IR IE IL IT JP KZ KE LV LT
    MY MX MA NL NZ NG NO PK PE PH PL PT RO RU RS SG SK SI ZA KR ES SE CH TH TR UA GB US VN
""".split()
LANGUAGE_NAMES = """
    en cs fr ru zh es fi de et lv lt ro hi kk tr gu ar he ja ko pt it nl pl sv da hu el bg uk sr hr
    sk sl vi th id fa ur bn
""".split()


class Phrase(NamedTuple):
    kind: str
    combinations: List[Tuple[str, str]]
    write: Callable[[Locale], str]


def number(rng: random.Random) -> Tuple[str, int]:
    """Draw a size of numbers, then a number of this size; return both."""
    size = rng.choice(list(NUMBERS))
    return size, rng.choice(NUMBERS[size])


def listed(rng: random.Random, names: Sequence[str]) -> Tuple[List[str], str]:
    """Draw two to four names and a style of list, "and" or "or"."""
    return rng.sample(names, rng.choice([2, 2, 3, 4])), rng.choice(["standard", "or"])


def write_list(items: Sequence[str], style: Any, locale: Locale) -> str:
    return format_list(items, style, locale=locale)


def draw_date(rng: random.Random) -> Phrase:
    day = FIRST_DAY + timedelta(days=rng.randrange(NUM_DAYS))
    style: Any = rng.choice(["full", "full", "long"])  # only the full style has a weekday
    parts = [(f"weekday{day.isoweekday()}", f"month{day.month}")] if style == "full" else []
    return Phrase("date", parts, lambda locale: format_date(day, style, locale=locale))


def draw_duration(rng: random.Random) -> Phrase:
    unit: Any
    unit, seconds = rng.choice(list(SPANS.items()))
    size = rng.choice(["ones", "tens"])
    sign, amount = rng.choice([1, -1]), rng.choice(NUMBERS[size][:48])
    span = timedelta(seconds=sign * amount * seconds)

    def write(locale: Locale) -> str:
        # the threshold keeps Babel from a larger unit: 70 seconds stay seconds
        return format_timedelta(
            span, granularity=unit, threshold=10**9, add_direction=True, locale=locale
        )

    return Phrase("duration", [(unit, f"{'in' if sign > 0 else 'ago'}-{size}")], write)


def draw_quantity(rng: random.Random) -> Phrase:
    unit, (size, amount) = rng.choice(UNITS), number(rng)
    return Phrase("quantity", [(unit, size)], lambda locale: quantity(amount, unit, locale))


def quantity(amount: int, unit: str, locale: Locale) -> str:
    return format_unit(amount, unit, length="long", locale=locale)


def draw_quantities(rng: random.Random) -> Phrase:
    units, style = rng.sample(UNITS, 2), rng.choice(["standard", "or"])
    drawn = [(unit, *number(rng)) for unit in units]
    return Phrase(
        "quantities",
        [(unit, size) for unit, size, _ in drawn],
        lambda locale: write_list(
            [quantity(amount, unit, locale) for unit, _, amount in drawn], style, locale
        ),
    )


def draw_money(rng: random.Random) -> Phrase:
    currency, (size, amount) = rng.choice(CURRENCIES), number(rng)
    return Phrase(
        "money",
        [(currency, size)],
        lambda locale: format_currency(
            amount, currency, format_type="name", currency_digits=False, locale=locale
        ),
    )


def draw_countries(rng: random.Random) -> Phrase:
    codes, style = listed(rng, COUNTRIES)
    return Phrase(
        "countries",
        list(combinations(sorted(codes), 2)),
        lambda locale: write_list([locale.territories[code] for code in codes], style, locale),
    )


def draw_languages(rng: random.Random) -> Phrase:
    codes, style = listed(rng, LANGUAGE_NAMES)
    return Phrase(
        "languages",
        list(combinations(sorted(codes), 2)),
        lambda locale: write_list([locale.languages[code] for code in codes], style, locale),
    )


def draw_locale(rng: random.Random) -> Phrase:
    """Draw a language with a country, as in "French (Canada)"."""
    language, country = rng.choice(LANGUAGE_NAMES), rng.choice(COUNTRIES)
    return Phrase(
        "locale",
        [(language, country)],
        lambda locale: f"{locale.languages[language]} ({locale.territories[country]})",
    )


def draw_phrases(seed: int) -> Iterator[Phrase]:
    """Yield phrases of all kinds, then each name on its own."""
    draw = {name[5:]: function for name, function in globals().items() if name.startswith("draw_")}
    for kind, count in COUNTS.items():
        rng = random.Random(f"{seed} {kind}")  # of its own: another kind does not change this one
        for _ in range(count):
            yield draw[kind](rng)
    for code in COUNTRIES:
        yield Phrase("name", [], lambda locale, code=code: locale.territories[code])
    for code in LANGUAGE_NAMES:
        yield Phrase("name", [], lambda locale, code=code: locale.languages[code])


def rows(seed: int) -> List[List[str]]:
    """Write the phrases in all languages; drop those with a text that another one has, too."""
    locales = {code: Locale.parse(LOCALES.get(code, code)) for code in LANGUAGES}
    seen: Dict[Tuple[str, str], int] = {}
    table = []
    for phrase in draw_phrases(seed):
        # Babel writes marks of direction and spaces that do not break
        texts = [
            " ".join(phrase.write(locale).replace("\u200e", "").split())
            for locale in locales.values()
        ]
        keys = list(zip(LANGUAGES, texts, strict=True))
        if not all(texts) or any(key in seen for key in keys):
            continue
        seen.update(dict.fromkeys(keys, len(table)))
        parts = " ".join("+".join(pair) for pair in phrase.combinations)
        table.append([phrase.kind, parts, *texts])
    return table


def main(argv: Optional[Sequence[str]] = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="table to write (.tsv.xz)")
    out = parser.parse_args(argv).out
    table = rows(SEED)
    text = "".join("\t".join(row) + "\n" for row in [COLUMNS, *table])
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
    print(f"{out}: {len(table)} phrases, {out.stat().st_size:,} bytes", file=sys.stderr)


if __name__ == "__main__":
    with command():
        main()
