"""The demo's stages: a title, progress, and the time that each took."""

import os
import sys
import time
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Iterator, List, Sequence, TypeVar

from tqdm import tqdm

from preprocess.stages import run_stage, stage_result

Item = TypeVar("Item")
SECONDS_PER_LINE = 10  # of progress, where the output is not a terminal
INDENT = 6 * " "


class Progress:
    """A bar with the time left; where the output is not a terminal, a line every ten seconds."""

    def __init__(self, total: int, unit: str):
        self.total, self.unit, self.first = total, unit, -1
        self.started = self.printed = 0.0
        format = INDENT + "{n_fmt} of {total_fmt} {unit} |{bar:20}| {remaining} left{postfix}"
        self.file = sys.stdout  # not what it is replaced by later, to hide what a tool prints
        self.bar = tqdm(
            total=total, unit=unit, leave=False, bar_format=format, file=self.file,
            disable=not self.file.isatty(),
        )

    def show(self, done: int, note: str = "") -> None:
        """Show that done of the total are finished."""
        now = time.monotonic()
        if self.first < 0:  # starting the stage took time, too, and a resumed one starts here
            self.first = self.bar.n = self.bar.initial = done
            self.started = self.printed = now
            self.bar.unpause()
        self.bar.set_postfix_str(note, refresh=False)
        self.bar.update(done - self.bar.n)
        if self.bar.disable and now - self.printed > SECONDS_PER_LINE and done > self.first:
            self.printed = now
            left = (now - self.started) * (self.total - done) / (done - self.first)
            note = note and f", {note}"
            print(
                f"{INDENT}{done:,} of {self.total:,} {self.unit}, {duration(left)} left{note}",
                file=self.file, flush=True,
            )

    def close(self) -> None:
        self.bar.close()


@contextmanager
def quiet() -> Iterator[None]:
    """Hide what a tool prints about its own progress."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def progress(items: Sequence[Item], unit: str) -> Iterator[Item]:
    """Yield items and show how many are done."""
    shown = Progress(len(items), unit)
    shown.show(0)
    for number, item in enumerate(items, 1):
        yield item
        shown.show(number)
    shown.close()


class Stages:
    """Runs stages in order; those whose inputs have not changed are skipped.

    An action returns one line about what it did.
    """

    def __init__(self, folder: Path, total: int):
        self.folder, self.total = folder, total
        self.stamps: List[Path] = []

    def run(
        self, name: str, title: str, action: Callable[[], str], settings: Dict[str, Any],
        inputs: Sequence[Path], outputs: Iterable[Path],
    ) -> Path:
        """Run a stage, and return its stamp, which is an input of the stages that follow."""
        stamp = self.folder / f"{name}.txt"
        print(f"[{len(self.stamps) + 1}/{self.total}] {title}", flush=True)

        def timed() -> List[Any]:
            started = time.monotonic()
            line = action()
            return [round(time.monotonic() - started, 1), line]

        ran = run_stage(stamp, timed, settings, inputs, list(outputs), announce=False)
        self.stamps.append(stamp)
        seconds, line = stage_result(stamp)
        print(f"{INDENT}{line}: {duration(seconds)}{'' if ran else ', done earlier'}", flush=True)
        return stamp

    def seconds(self) -> float:
        """Return the time that the finished stages took, in this run or an earlier one."""
        return sum(stage_result(stamp)[0] for stamp in self.stamps)
