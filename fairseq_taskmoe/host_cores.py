"""Cores of the host, for computing on CPU."""

import os


def available_cores() -> int:
    """Return the number of cores that this process may use.

    Job schedulers may lend a part of the machine; only Linux can tell.
    """
    own = getattr(os, "sched_getaffinity", None)
    return len(own(0)) if own else os.cpu_count() or 1


def default_threads() -> int:
    """Return as many threads as torch takes: those of the environment, or one for each core."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdecimal() and int(asked) else available_cores()


def share_cores() -> None:
    """Let threads that wait leave their core to others, unless the environment says otherwise.

    To be called before torch or CTranslate2 is loaded, which read it then. Where cores are shared,
    with other models too, threads that wait busily make a translation take a hundred times as long.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
