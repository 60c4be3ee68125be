"""Skip the stages of a recipe that are done, and run anew those whose inputs changed."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, Sequence

from preprocess.text_files import write_lines


def fingerprint(settings: Dict[str, Any], inputs: Iterable[Path]) -> str:
    """Hash the settings and the content of the inputs.

    Content, not time stamps: a fresh checkout has new times on old files.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in inputs:
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def run_stage(
    stamp: Path,
    action: Callable[[], Any],
    settings: Dict[str, Any],
    inputs: Sequence[Path],
    outputs: Sequence[Path],
) -> bool:
    """Run action unless stamp says that it ran with these settings and inputs; tell whether it ran.

    The stamp is written last, so a stage that was interrupted runs again.
    """
    wanted = fingerprint(settings, inputs)
    if all(path.exists() for path in outputs) and stamp.exists():
        if stamp.read_text(encoding="utf-8").strip() == wanted:
            print(f"{stamp.stem}: done already", file=sys.stderr)
            return False
    stamp.unlink(missing_ok=True)
    print(f"{stamp.stem} ...", file=sys.stderr)
    action()
    write_lines(stamp, [wanted])
    return True
