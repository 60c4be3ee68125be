"""A process that has torch and fairseq imported, and forks the processes that tests start.

Started by forked_processes.py. The plugin is not imported here: each child imports and registers
it, as a command that a user starts does. A child looks to the command like a new interpreter:
arguments, environment, folder, standard streams, log handlers, exit status and tracebacks.
"""

import atexit
import ctypes
import gc
import importlib
import json
import logging
import os
import selectors
import signal
import socket
import sys
import threading
import types
from contextlib import suppress
from pathlib import Path
from typing import Any, Dict, List, Tuple

# torch._dynamo takes seconds, and every optimizer imports it
IMPORTS = ("torch._dynamo", "fairseq", "numpy", "sacrebleu", "sentencepiece", "pytest")
INT = 4  # bytes of the numbers that are sent
NUM_STREAMS = 3


class Interpreter:
    """What a new interpreter would have after `import torch, fairseq`, to be given to children."""

    def __init__(self) -> None:
        records: List[logging.LogRecord] = []
        make_record = logging.getLogRecordFactory()

        def note(*args: Any, **kwargs: Any) -> logging.LogRecord:
            records.append(make_record(*args, **kwargs))
            return records[-1]

        logging.setLogRecordFactory(note)
        for module in IMPORTS:
            importlib.import_module(module)
        logging.setLogRecordFactory(make_record)
        sys.modules["torch"].set_num_threads(1)
        self.log = [(record.name, record.levelno, record.getMessage()) for record in records]

    def execute(self, request: Dict[str, Any]) -> None:
        """Run a program, if any, and then a console script, if any, in one main module."""
        os.environ.clear()
        os.environ.update(request["env"])
        os.chdir(request["cwd"])
        signal.signal(signal.SIGINT, signal.default_int_handler)
        sys.modules["numpy"].random.seed()
        main = sys.modules["__main__"] = types.ModuleType("__main__")
        sys.path[:1] = request["path"]
        sys.argv = request["words"] or ["-c"]
        if request["words"]:
            script = Path(sys.argv[0])
            sys.path.insert(0, str(script.parent))
            self._set_up_logging(script.name)
        exec(compile(request["program"], "<string>", "exec"), main.__dict__)
        if request["words"]:
            main.__dict__["__file__"] = str(script)
            exec(compile(script.read_text(), str(script), "exec"), main.__dict__)

    def _set_up_logging(self, command: str) -> None:
        """Leave the log handlers that a command would find; log what its imports would have."""
        is_fairseq = command.startswith("fairseq-")
        if not is_fairseq or command == "fairseq-train":  # set up logging, then import fairseq
            logging.root.handlers.clear()
            logging.root.setLevel(logging.WARNING)
        if is_fairseq:
            importlib.import_module(command.replace("fairseq-", "fairseq_cli.").replace("-", "_"))
            for logger, level, message in self.log:
                logging.getLogger(logger).log(level, message)


def status_of(interpreter: Interpreter, request: Dict[str, Any]) -> int:
    """Return the exit status that the interpreter gives to how a program ended."""
    try:
        try:
            interpreter.execute(request)
        except Exception as error:
            trace = error.__traceback__
            while trace and trace.tb_frame.f_code.co_filename == __file__:  # not the program's
                trace = trace.tb_next
            sys.excepthook(type(error), error.with_traceback(trace), trace)
            return 1
    except SystemExit as end:  # which a hook for exceptions may raise, too
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    return 0


def finish(status: int) -> None:
    """End this process as the interpreter does, but for the memory that it would tidy up."""
    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads
    atexit._run_exitfuncs()
    sys.modules["__main__"].__dict__.clear()  # closes the files that a program has left open
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            status = 120
    os._exit(status & 0xFF)


def receive(control: socket.socket) -> Tuple[socket.socket, List[int], Dict[str, Any]]:
    """Return a request: the connection to answer it on, the standard streams, and what to run."""
    _, descriptors, _, _ = socket.recv_fds(control, 1, 1 + NUM_STREAMS)
    if not descriptors:
        raise EOFError
    connection = socket.socket(fileno=descriptors[0])
    with connection.makefile("rb") as stream:
        size = int.from_bytes(stream.read(INT), sys.byteorder)
        return connection, descriptors[1:], json.loads(stream.read(size))


def serve(control: socket.socket) -> Dict[str, Any]:
    """Fork a child for each request, and report its status; return its request in the child."""
    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ)
    running: Dict[int, Tuple[int, socket.socket]] = {}
    while True:
        for key, _ in selector.select():
            if key.fileobj is control:
                connection, streams, request = receive(control)
                pid = os.fork()
                if pid == 0:
                    end_with_parent()
                    for number, stream in enumerate(streams):
                        os.dup2(stream, number)
                    sockets = [control, connection, *(other for _, other in running.values())]
                    for each in (selector, *sockets):
                        each.close()
                    for descriptor in (*streams, *running):
                        os.close(descriptor)
                    return request
                for stream in streams:
                    os.close(stream)
                ended = os.pidfd_open(pid)
                running[ended] = pid, connection
                selector.register(ended, selectors.EVENT_READ)
                answer(connection, pid)
            else:
                selector.unregister(key.fd)
                pid, connection = running.pop(key.fd)
                os.close(key.fd)
                answer(connection, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                connection.close()


def end_with_parent() -> None:
    """Let the kernel kill this process when the server ends: nobody waits for it any more."""
    set_death_signal = 1
    ctypes.CDLL(None).prctl(set_death_signal, signal.SIGKILL)


def answer(connection: socket.socket, number: int) -> None:
    with suppress(ConnectionError):  # the test does not want to know any more
        connection.sendall(number.to_bytes(INT, sys.byteorder, signed=True))


def main() -> None:
    interpreter = Interpreter()
    threads = os.listdir("/proc/self/task")
    assert len(threads) == 1, "a process with threads cannot be forked"
    gc.collect()
    gc.freeze()  # or collections in children would copy all pages
    control = socket.socket(fileno=int(sys.argv[1]))
    print("ready", flush=True)
    with suppress(EOFError):  # the tests have ended
        request = serve(control)
        finish(status_of(interpreter, request))


if __name__ == "__main__":
    main()
