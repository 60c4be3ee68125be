"""Start and stop the service: its models, its socket, and its signals."""

import logging
import re
import signal
import socket
import sys
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, cast

import uvicorn
from fastapi import FastAPI

from ..engines.manifest import MANIFEST
from ..engines.open_model import open_model
from ..engines.translator import Translator
from ..errors import refuse
from .app import create_app
from .connections import ACCEPTED_AT_ONCE, LISTEN_BACKLOG, Connection, raise_file_limit
from .limits import Limits

LOOPBACK_NAMES = ["localhost", "127.0.0.1", "::1"]
GRACE_SECONDS = 5.0  # added to the time limit of requests when the service stops


class Server(uvicorn.Server):
    """uvicorn's server; prints a line when it is ready, and lets /health report that it stops."""

    def __init__(self, config: uvicorn.Config, ready: str):
        super().__init__(config)
        self.ready = ready

    async def startup(self, sockets: Optional[List[socket.socket]] = None) -> None:
        await super().startup(sockets)
        for listening in sockets or []:
            listening.listen(LISTEN_BACKLOG)
        print(self.ready, file=sys.stderr, flush=True)

    def handle_exit(self, sig: int, frame: Any) -> None:
        self.config.app.state.service.stopping = True  # type: ignore[union-attr]
        super().handle_exit(sig, frame)


def serve(
    load: Callable[[], List[Translator]], host: str, port: int,
    allowed_hosts: Optional[List[str]], limits: Limits,
) -> None:
    """Serve models until SIGINT or SIGTERM (status 0; 143 before it is ready).

    load opens them, after the port is known to be free.
    """
    limits.check()
    raise_file_limit(limits.max_connections)
    running: List[Server] = []
    # uvicorn sends the signal again when it has stopped
    signal.signal(
        signal.SIGTERM,
        lambda *_: sys.exit(0 if running and running[0].started else 128 + signal.SIGTERM),
    )
    with bind(host, port) as bound:  # a port in use is refused before models are loaded
        address, port = bound.getsockname()[:2]
        models = load()
        pairs = sorted(lang_pair for model in models for lang_pair in model.lang_pairs)
        shown = f"[{address}]" if ":" in address else address
        app = create_app(models, limits, host_names(host, address, allowed_hosts))
        ready = f"serving {', '.join(pairs)} on http://{shown}:{port}/"
        running.append(Server(server_config(app, limits), ready))
        running[0].run([bound])


def server_config(app: FastAPI, limits: Limits) -> uvicorn.Config:
    # by default every malformed request would be logged
    logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
    return uvicorn.Config(
        app, http=cast(Any, partial(Connection, limits=limits)), ws="none", lifespan="on",
        log_config=None, access_log=False, server_header=False, proxy_headers=False,
        backlog=ACCEPTED_AT_ONCE,
        timeout_graceful_shutdown=int(limits.timeout + GRACE_SECONDS),
    )


def bind(host: str, port: int) -> socket.socket:
    """Return a bound socket that does not listen yet, or refuse."""
    if not 0 <= port < 2**16:  # getaddrinfo would take it modulo 65536
        refuse(f"--port {port}: give 1 to 65535, or 0 for any free port")
    try:
        family, kind, _, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        bound = socket.socket(family, kind)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except (OSError, UnicodeError) as problem:  # UnicodeError: for an invalid name
        reason = getattr(problem, "strerror", None) or problem
        refuse(f"--host {host} --port {port}: {reason}")
    return bound


def host_names(host: str, address: str, allowed: Optional[List[str]]) -> Optional[List[str]]:
    """Return the allowed names in Host headers; None: any.

    By default they are only restricted on a loopback address.
    """
    if allowed is None and not ip_address(address).is_loopback:
        return None
    if allowed is not None and "*" in allowed:
        return None
    for name in allowed or []:
        if "*" in name and not re.fullmatch(r"\*\.[^*]+", name):
            refuse(f"--allowed-hosts {name}: a star stands alone, or as in *.example.com")
    names = [*LOOPBACK_NAMES, host, address, *(allowed or [])]
    return [f"[{name}]" if ":" in name else name for name in names]


def model_folders(folder: Path) -> List[Path]:
    """Return the folders of extracted models: the folder itself, or its sub-folders."""
    if not folder.is_dir():
        refuse(f"{folder}: no such folder")
    if (folder / MANIFEST).exists():
        return [folder]
    found = sorted(
        file.parent for file in folder.glob(f"*/{MANIFEST}")
        if not file.parent.name.startswith(".")  # unfinished extractions
    )
    if not found:
        refuse(f"{folder}: no extracted model in it ({MANIFEST}); `taskmoe extract` makes one")
    return found


def open_models(folders: List[Path], device: str, threads: int) -> List[Translator]:
    """Open models; refuses two for the same direction."""
    models = []
    seen: Dict[str, Path] = {}
    for folder in folders:
        model = open_model(str(folder), device, threads)
        for lang_pair in model.lang_pairs:
            if lang_pair in seen:
                refuse(f"both {seen[lang_pair]} and {folder} are models for {lang_pair}")
            seen[lang_pair] = folder
        models.append(model)
    return models
