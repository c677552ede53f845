"""Starts and stops one wsd process. The program is WSD_BIN, by default the debug build of this repository."""

import contextlib
import os
import pathlib
import queue
import re
import signal
import subprocess
import threading

REPOSITORY = pathlib.Path(__file__).resolve().parents[3]
WSD_BIN = os.environ.get("WSD_BIN", str(REPOSITORY / "target" / "debug" / "wsd"))

# Ample on a loaded two-core machine; wsd itself promises to be gone 5 s after a signal.
READY_S = 10
STOP_S = 5


@contextlib.contextmanager
def running_wsd(*args, tls=None):
    """A wsd that listens on both addresses of localhost: yields its port, and checks that it ends as it should.

    `tls` is the file of a certificate and that of its key.
    """
    listen = ["--listen"] if tls is None else ["--tls-cert", tls[0], "--tls-key", tls[1], "--tls-listen"]
    command = [WSD_BIN, *args, *listen, "localhost:0"]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        try:
            ready = _first_line(process)
            bound = re.search(r"\b127\.0\.0\.1:(\d+)", ready)
            assert ready.startswith("wsd ready") and bound, f"the first line of {command}: {ready!r}"
            yield int(bound[1])
            process.send_signal(signal.SIGINT)
            assert process.wait(STOP_S) == 0
        finally:
            process.kill()


def _first_line(process):
    lines = queue.Queue()
    threading.Thread(target=lambda: lines.put(process.stdout.readline()), daemon=True).start()
    try:
        return lines.get(timeout=READY_S)
    except queue.Empty:
        raise AssertionError(f"wsd is not ready after {READY_S} s") from None
