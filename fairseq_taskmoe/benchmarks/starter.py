"""Run a command in a folder, and write down what it took.

    starter.py variant NAME FOLDER TOOK.json COMMAND...

Linux counts into the peak memory of a process what its parent had in memory when it started it: a
small model would seem as large as the program that measures it. The parent here is a few megabytes,
and so this file imports nothing of the package. NAME is for whoever reads a list of processes.
"""

import json
import os
import signal
import subprocess
import sys
import time


def main() -> None:
    _, _, _, folder, took, *command = sys.argv
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=folder)
    signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    _, status, used = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    with open(took, "w", encoding="utf-8") as file:
        json.dump({"seconds": seconds, "peak_bytes": used.ru_maxrss * 1024}, file)
    sys.exit(process.returncode if process.returncode >= 0 else 128 - process.returncode)


if __name__ == "__main__":
    main()
