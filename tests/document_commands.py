"""Run the commands of a document as they are written.

A document's commands are its blocks that begin with ```bash, run in order by one bash. A block
whose first line begins with "# not run" is left out: it needs the internet, a cluster or hours.
"""

import re
import subprocess
from pathlib import Path
from typing import Dict, List, Optional

from forked_processes import ROOT, command_environment

BLOCK = re.compile(r"^```bash\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN = "# not run"


def command_blocks(page: str) -> List[str]:
    """Return the blocks of a page (a path in the repository) that are to be run."""
    blocks = BLOCK.findall((ROOT / page).read_text(encoding="utf-8"))
    return [block for block in blocks if not block.startswith(NOT_RUN)]


def run_page(
    page: str, folder: Path, changed: Optional[Dict[str, str]] = None, timeout: float = 600
) -> str:
    """Run the commands of a page in a folder, and return what they print.

    changed has words of the commands, numbers as a rule, and what to run instead. All of them have
    to be there; one that holds another stands before it. A command that fails fails the test, with
    all that was printed until then.
    """
    script = "\n".join(["set -euo pipefail", *command_blocks(page)])
    for word, other in (changed or {}).items():
        whole = rf"(?<!\w){re.escape(word)}(?!\w)"
        assert re.search(whole, script), f"{page} has no {word}"
        script = re.sub(whole, other, script)
    ended = subprocess.run(
        ["bash"], input=script, cwd=folder, env=command_environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout,
    )
    assert ended.returncode == 0, f"{script}\n{ended.stdout}"
    return ended.stdout
