"""How one run is measured: the server on one core, the load generator on another."""

import contextlib
import json
import os
import pathlib
import re
import resource
import shlex
import shutil
import signal
import socket
import subprocess
import tempfile
import time

from .common import CACHE, Failed, TARGET

SETTLE_S, WARMUP_S = 0.3, 0.5
# Often enough for shares of a few per cent in a run of seconds, and seldom enough to cost one.
SAMPLES_PER_S = 4999


class Bench:
    """Runs on one machine: the server on one core, the load generator on another."""

    def __init__(self, options):
        self.options = options
        self.log = open(CACHE / "servers.log", "wb")
        self.perf = shutil.which("perf") is not None
        self.strace = shutil.which("strace") is not None

    def measure(self, server, row):
        """The figures of one run with a fresh process."""
        # Sampling needs a moment to begin.
        seconds = min(row.seconds, 3 if row.sampled else 1) if self.options.quick else row.seconds
        if row.conns:
            return self.measure_connecting(server, row, seconds)
        with self.started(server, row.mode) as (pid, port):
            load = self.load(server, row, row.load, port, seconds, pid)
            wait_for_connections(load)
            share = None
            if row.sampled and self.perf:
                time.sleep(SETTLE_S + WARMUP_S)
                with self.sampling(pid) as share:
                    time.sleep(max(seconds - 0.3, 0.3))
            result = finish(load)
        if share == {}:
            raise Failed("perf has no samples")
        return figures(result, share and share["user"])

    def measure_connecting(self, server, row, seconds):
        """The cost of connections, from the first to the last, and what they weigh when all are there."""
        with self.started(server, row.mode) as (pid, port):
            with contextlib.ExitStack() as stack:
                share = stack.enter_context(self.sampling(pid)) if self.perf else {}
                before, ticks_before = cpu_s(pid), ticks(pid)
                load = self.load(server, row, row.load, port, seconds, pid)
                wait_for_connections(load)
                used, ticks_after = cpu_s(pid) - before, ticks(pid)
            user, both = (after - before for after, before in zip(ticks_after, ticks_before))
            share = share.get("user", user / max(both, 1))
            result = finish(load)
        conns = result["connect"]["ok"]
        if conns < row.conns:
            raise Failed(f"{conns:,} of {row.conns:,} connections: {result['connect']['failed_by_reason']}")
        return {
            "connect_us": used * share / conns * 1e6,
            "connect_system_us": used * (1 - share) / conns * 1e6,
            "rss": result["server"]["rss_bytes_per_conn"],
            "verdict": result["verdict"],
            "reasons": result["reasons"],
        }

    def count_calls(self, server, row):
        """System calls for a message: those of a run, less those of a run with the same connections and no message."""
        if not self.strace:
            raise Failed("strace is not there")
        counts = {}
        for load in (row.traced, idle(row.traced)):
            with tempfile.NamedTemporaryFile(dir=CACHE, suffix=".strace") as summary:
                with self.started(server, row.mode, prefix=f"strace -f -c -o {summary.name} ") as (_, port):
                    result = finish(self.load(server, row, load, port, 2 if load == row.traced else 0.5, None))
                calls = calls_in(pathlib.Path(summary.name).read_text())
                counts[result["config"]["mode"]] = calls, result["integrity"]["received"]
        (calls, messages), (idle_calls, _) = counts[row.mode], counts["idle"]
        if messages == 0:
            raise Failed("no message came back under strace")
        return (calls - idle_calls) / messages

    @contextlib.contextmanager
    def started(self, server, mode, prefix=""):
        """A fresh server: the process that serves, and its port."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        command = server.command().replace("{mode}", mode).replace("{port}", str(port))
        line = shlex.split(f"taskset -c {self.options.server_core} {prefix}{command}")
        env = {**os.environ, **server.env()}
        with subprocess.Popen(line, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log, env=env,
                              start_new_session=True) as process:
            try:
                wait_for_port(process, port)
                yield children(process.pid)[0] if server.forks else process.pid, port
            finally:
                # Not strace, where there is one: it ends, and writes its summary, when the server has.
                for pid in children(process.pid) if prefix else [process.pid]:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGINT)
                try:
                    process.wait(8)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)

    def load(self, server, row, load, port, seconds, pid):
        """loadgen under way; its result goes to a file."""
        path = "/echo" if row.mode == "echo" else "/rooms/peers"
        result = tempfile.NamedTemporaryFile(dir=CACHE, suffix=".json")
        line = (
            f"taskset -c {self.options.client_core} {TARGET}/release/loadgen ws://127.0.0.1:{port}{path} {load} "
            f"--no-progress --settle {SETTLE_S} --warmup {WARMUP_S} --duration {seconds} --json {result.name}"
            + (" --raw" if server.raw else "")
            + (f" --server-pid {pid}" if pid else "")
        )
        process = subprocess.Popen(shlex.split(line), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        process.result = result
        return process

    @contextlib.contextmanager
    def sampling(self, pid):
        """Samples where the process is, user code or kernel; the share of the former is there at the end."""
        share = {}
        with tempfile.TemporaryDirectory(dir=CACHE) as folder:
            data = f"{folder}/perf.data"
            line = ["perf", "record", "-q", "-e", "cpu-clock", "-F", str(SAMPLES_PER_S), "-p", str(pid), "-o", data]
            line = ["taskset", "-c", str(self.options.client_core), *line]
            with subprocess.Popen(line, stdout=self.log, stderr=self.log) as process:
                # It has to attach to every thread.
                time.sleep(0.2)
                yield share
                process.send_signal(signal.SIGINT)
                process.wait()
            line = ["perf", "script", "-i", data, "-F", "ip"]
            said = subprocess.run(line, capture_output=True, text=True, check=False)
            user = user_share(said.stdout)
            if user is not None:
                share["user"] = user


def figures(result, share):
    """What a run with messages says; `share` is that of user time, where it was sampled.

    >>> run = {"verdict": "VALID", "reasons": [], "rate": {"received_per_s": 5e4}, "response_us": {"p99": 1500.0},
    ...        "server": {"user_s": 1, "system_s": 3, "cpu_s": 4.2, "wall_s": 8.4}}
    >>> figures(run, None)["user_us"], figures(run, 0.1)["user_us"], figures(run, None)["p99_ms"]
    (2.5, 1.0, 1.5)
    """
    server, received = result["server"], result["rate"]["received_per_s"]
    if received == 0:
        raise Failed("no message came back")
    if share is None:
        share = server["user_s"] / max(server["user_s"] + server["system_s"], 1e-9)
    each = server["cpu_s"] / server["wall_s"] * 1e6 / received
    p99 = result["response_us"]["p99"]
    return {
        "user_us": round(each * share, 4),
        "system_us": round(each * (1 - share), 4),
        "cpu": server["cpu_s"] / server["wall_s"],
        "received": received / 1e6,
        "received_k": received / 1e3,
        "p99_ms": None if p99 is None else p99 / 1e3,
        "verdict": result["verdict"],
        "reasons": result["reasons"],
    }


def user_share(addresses):
    """Of the samples' addresses those below the kernel's half.

    >>> user_share("ffffffff81000000\\n 7f00deadbeef\\n 55550000\\nffff888000000001\\n")
    0.5
    >>> user_share("") is None
    True
    """
    samples = addresses.split()
    return sum(len(it) < 16 for it in samples) / len(samples) if samples else None


def idle(load):
    """The same connections without messages.

    >>> idle("--mode echo --conns 200 --closed-loop 1")
    '--mode idle --conns 200'
    """
    return f"--mode idle {re.search('--conns [0-9]+', load).group()}"


def calls_in(summary):
    """All calls of a summary by strace -c.

    >>> calls_in("% time     seconds  usecs/call     calls    errors syscall\\n"
    ...          " 90.00    0.000123           1       100         3 read\\n"
    ...          "100.00    0.000130           1       107         3 total\\n")
    107
    """
    total = next(line for line in reversed(summary.splitlines()) if line.endswith(" total"))
    return int(total.split()[3])


def wait_for_port(process, port):
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Failed(f"its process ended with {process.returncode}: see {CACHE / 'servers.log'}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.2):
            # That connection has to be gone before anything is measured.
            time.sleep(0.1)
            return
        time.sleep(0.02)
    raise Failed("it does not listen after 20 s")


def wait_for_connections(load):
    """Until loadgen says that all connections are there."""
    for line in load.stdout:
        if line.startswith("connect "):
            return


def finish(load):
    """The result of loadgen, INVALID or not: what that means is for the reader of the table."""
    said, problem = load.communicate()
    with load.result as file:
        if load.returncode not in (0, 97):
            raise Failed((problem or said).strip().splitlines()[-1] if (problem or said).strip() else "loadgen failed")
        return json.load(file)


def cpu_s(pid):
    """The processor time of a process, exactly: clock_getcpuclockid(3)."""
    return time.clock_gettime((~pid << 3) | 2)


def ticks(pid):
    """User time, and user and system time together, in hundredths of a second."""
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return int(fields[11]), int(fields[11]) + int(fields[12])


def children(pid):
    return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def raise_descriptors():
    """For the servers, which inherit it: some do not raise it themselves."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
