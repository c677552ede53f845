"""What scripts/vm-check does inside its machine: wsd under the systemd and the Docker that are there.

  python3 inside.py systemd docker     as root, in a machine that is good for nothing else

Each check is a function; its docstring is what is seen to hold. Its last line is `vm-check: N checks hold`.
"""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import sys
import threading
import time

JOB = pathlib.Path(__file__).resolve().parent
UNITS = pathlib.Path("/etc/systemd/system")
REQUEST = (
    "GET /echo HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
TABLES = re.compile(r"up to ([\d,]+) connections \((\d+) private tables of ([\d,]+) descriptors\)")


class Failed(Exception):
    """A check did not hold."""


def expect(holds, *saw):
    if not holds:
        raise Failed(" ".join(str(it) for it in saw) or "it does not hold")


def run(*command, ok=True, patience=300):
    """Its output, errors too."""
    done = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=patience, errors="replace",
    )
    if ok:
        expect(done.returncode == 0, command, "ended with", done.returncode, "and said:", done.stdout)
    return done.stdout.strip()


def wait_until(what, condition, patience=120):
    end = time.monotonic() + patience
    while not (found := condition()):
        expect(time.monotonic() < end, "not in", patience, "seconds:", what)
        time.sleep(0.2)
    return found


class Client:
    """A WebSocket client of one connection, for short messages."""

    def __init__(self, patience=120):
        self.socket = socket.create_connection(("127.0.0.1", 8080), timeout=patience)
        self.heard = b""
        self.socket.sendall(REQUEST.encode())
        head = self.take(lambda it: it.find(b"\r\n\r\n") + 4 if b"\r\n\r\n" in it else None)
        expect(head.startswith(b"HTTP/1.1 101 "), head)

    def take(self, length):
        while (end := length(self.heard)) is None or len(self.heard) < end:
            data = self.socket.recv(4096)
            expect(data, "an end after", self.heard)
            self.heard += data
        taken, self.heard = self.heard[:end], self.heard[end:]
        return taken

    def frame(self):
        """Opcode and payload of the next one."""
        frame = self.take(lambda it: 2 + it[1] if len(it) > 1 else None)
        return frame[0] & 15, frame[2:]

    def send(self, opcode, payload):
        self.socket.sendall(bytes([0x80 | opcode, 0x80 | len(payload), 0, 0, 0, 0]) + payload)

    def echo(self):
        self.send(1, b"hello")
        frame = self.frame()
        expect(frame == (1, b"hello"), frame)
        return self

    def end(self):
        """Waits to be let go: the code, the reason, and an orderly end."""
        while (frame := self.frame())[0] != 8:
            pass
        self.send(8, frame[1][:2])
        expect(self.socket.recv(1) == b"", "something after a Close")
        return int.from_bytes(frame[1][:2], "big"), frame[1][2:].decode()


@contextlib.contextmanager
def crowd(count):
    """So many clients, each of whom must be let go with 1012 and a hint before this ends."""
    clients, ends, problems = [Client().echo() for _ in range(count)], [], []

    def listen(client):
        try:
            ends.append(client.end())
        except (Failed, OSError) as problem:
            problems.append(problem)

    threads = [threading.Thread(target=listen, args=[client]) for client in clients]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join()
    good = [end for end in ends if end[0] == 1012 and re.search(r"retry=\d+$", end[1])]
    expect(len(good) == count, len(good), "of", count, "heard 1012 and a hint:", problems[:3], ends[:3])


# systemd ----------------------------------------------------------------------------------------------------------


def settings(*lines):
    """Starts wsd anew, as its unit has it and with these lines in a drop-in."""
    change(*lines)
    run("systemctl", "reset-failed", "wsd.service", "wsd.socket", ok=False)
    # One after the other: a socket whose service has not quite ended is refused.
    run("systemctl", "start", "wsd.socket")
    run("systemctl", "restart", "wsd.service")


def change(*lines):
    directory = UNITS / "wsd.service.d"
    directory.mkdir(exist_ok=True)
    (directory / "check.conf").write_text("\n".join(["[Service]", *lines, ""]))
    run("systemctl", "daemon-reload")


def property_of(name, unit="wsd.service"):
    return run("systemctl", "show", "--value", "--property", name, unit)


def log(*options):
    """What the present wsd has logged: the whole of this invocation."""
    run("journalctl", "--sync")
    found = f"_SYSTEMD_INVOCATION_ID={property_of('InvocationID')}"
    return run("journalctl", "--no-pager", "--output=cat", *options, found)


def units():
    """the units are sound, and systemd-analyze calls their exposure OK"""
    (JOB / "wsd").chmod(0o755)
    run("install", "-m", "755", str(JOB / "wsd"), "/usr/local/bin/wsd")
    for unit in ("wsd.service", "wsd.socket"):
        run("install", "-m", "644", str(JOB / unit), str(UNITS))
    run("systemctl", "daemon-reload")
    said = run("systemd-analyze", "verify", "--man=no", "wsd.service", "wsd.socket")
    expect(not said, said)
    said = run("systemd-analyze", "security", "--no-pager", "wsd.service").splitlines()[-1]
    expect(" OK " in said, said)
    return said.split(": ")[-1]


def activation():
    """a client starts wsd through the socket, and is served"""
    run("systemctl", "enable", "--now", "wsd.socket")
    expect(property_of("ActiveState") == "inactive", "it runs already")
    Client().echo()
    expect(property_of("ActiveState") == "active", property_of("ActiveState"))


def readiness():
    """`systemctl start` returns when it serves; each worker has a descriptor table of LimitNOFILE"""
    settings("LimitNOFILE=512")
    status = property_of("StatusText")
    found = TABLES.search(status)
    expect(status.startswith("serving, ") and found and found[3] == "512" and int(found[2]) > 1, status)
    settings()
    return property_of("StatusText")


def journal():
    """lines in the journal have their priority, and the time once"""
    settings("Environment=WSD_LOG=info WSD_ADMIN=0.0.0.0:9090")
    run("systemctl", "reload", "wsd")
    entry = wait_until("a warning in the journal", lambda: log("--output=json", "--priority=4"))
    entry = json.loads(entry.splitlines()[0])
    expect(entry["PRIORITY"] == "4" and entry["MESSAGE"].startswith(" WARN the admin"), entry)
    return log("--priority=4").strip().splitlines()[0]


def memory():
    """MemoryMax= is what the queues' budget is a part of; without it, it is the machine's memory"""
    settings("Environment=WSD_LOG=info", "MemoryMax=64M")
    expect("memory=67108864 " in log(), log())
    line = next(line for line in log().splitlines() if "memory=" in line)
    settings("Environment=WSD_LOG=info")
    found = re.search(r"memory=(\d+) ", log())
    expect(found and int(found[1]) > 200_000_000, log())
    return line.strip()


def process_metrics():
    """the metrics of the process are there although its /proc is confined, and so is its admin socket"""
    settings("Environment=WSD_ADMIN=unix:/run/wsd/admin.sock")
    ask = ["curl", "--silent", "--fail", "--unix-socket", "/run/wsd/admin.sock"]
    metrics = run(*ask, "http://localhost/metrics")
    for name in ("process_cpu_seconds_total", "process_resident_memory_bytes", "process_start_time_seconds"):
        found = re.search(rf"^{name} (\S+)$", metrics, re.MULTILINE)
        expect(found and float(found[1]) > 0, name, "is missing")
    start = float(re.search(r"^process_start_time_seconds (\S+)$", metrics, re.MULTILINE)[1])
    expect(abs(time.time() - start) < 120, "it started at", start)
    # Nothing is left in the way of the next one.
    run("systemctl", "restart", "wsd")
    expect(run(*ask, "http://localhost/readyz") == "ready")


def reload():
    """`systemctl reload` takes up new settings; with wrong ones the status says so, and the old ones stay"""
    file = pathlib.Path("/etc/wsd.toml")
    file.write_text("max-message = 1000\n")
    settings("Environment=WSD_LOG=info WSD_CONFIG=/etc/wsd.toml")
    client = Client()
    for text, fails in [("max-message = 2000", False), ("nonsense = 1", True), ("max-message = 3000", False)]:
        file.write_text(text + "\n")
        run("systemctl", "reload", "wsd")
        wait_until("the end of the reload", lambda: ("the last reload failed" in property_of("StatusText")) == fails)
        expect(property_of("ActiveState") == "active", property_of("ActiveState"))
    wait_until("two reloads in the log", lambda: log().count("settings reloaded") == 2)
    client.echo()


def certificates():
    """a key that a group may read is used; renewed, it is taken up by a reload without a restart"""

    def renew(name):
        run(
            "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "3",
            "-keyout", "/etc/wsd-key.pem", "-out", "/etc/wsd-cert.pem", "-subj", f"/CN={name}",
        )
        run("chgrp", "wsd-tls", "/etc/wsd-key.pem")
        run("chmod", "640", "/etc/wsd-key.pem")

    def served():
        said = run("sh", "-c", "openssl s_client -connect 127.0.0.1:443 </dev/null 2>&1", ok=False)
        return (re.search(r"subject=CN ?= ?(\w+)", said) or [said, said])[1]

    run("groupadd", "--force", "wsd-tls")
    renew("first")
    settings(
        "SupplementaryGroups=wsd-tls", "AmbientCapabilities=CAP_NET_BIND_SERVICE",
        "CapabilityBoundingSet=CAP_NET_BIND_SERVICE", "Environment=WSD_TLS_CERT=/etc/wsd-cert.pem",
        "Environment=WSD_TLS_KEY=/etc/wsd-key.pem WSD_TLS_LISTEN=0.0.0.0:443",
    )
    expect(served() == "first", served())
    renew("second")
    pid = property_of("MainPID")
    run("systemctl", "reload", "wsd")
    wait_until("the new certificate", lambda: served() == "second")
    expect(property_of("MainPID") == pid, "it was restarted")


def watchdog():
    """a process that stands still is killed when WatchdogSec= is over, and started anew"""
    settings("WatchdogSec=5")
    os.kill(int(property_of("MainPID")), signal.SIGSTOP)
    wait_until("a restart", lambda: property_of("NRestarts") == "1")
    Client().echo()
    said = run("journalctl", "--no-pager", "--output=cat", "--boot", "--unit=wsd")
    expect("Watchdog timeout" in said and "'watchdog'" in said, said[-2000:])


def drain():
    """`systemctl stop` drains for longer than TimeoutStopSec=; each client hears 1012 and a hint"""
    settings("Environment=WSD_DRAIN_SPREAD=10s", "TimeoutStopSec=2")
    with crowd(40):
        start = time.monotonic()
        run("systemctl", "stop", "wsd.socket", "wsd.service")
        took = time.monotonic() - start
    expect(took > 5 and property_of("Result") == "success", took, property_of("Result"))
    return f"{took:.0f} s"


def failures():
    """while wsd cannot start, clients wait in the socket; the first start that succeeds serves them"""
    settings()
    change("Environment=WSD_THREADS=nonsense")
    run("systemctl", "restart", "wsd", ok=False)
    served = []
    threads = [threading.Thread(target=lambda: served.append(Client().echo())) for _ in range(10)]
    for thread in threads:
        thread.start()
    wait_until("seven failures", lambda: int(property_of("NRestarts")) >= 7)
    expect(property_of("ActiveState", "wsd.socket") == "active" and not served, "the socket is gone")
    change()
    for thread in threads:
        thread.join()
    expect(len(served) == 10, len(served), "of 10 were served")


def restarts():
    """20 restarts while clients come: none is refused, none reset, the kernel drops none"""
    settings("Environment=WSD_DRAIN_SPREAD=500ms")
    before = kernel()
    (JOB / "loadgen").chmod(0o755)
    with open("/tmp/loadgen", "w+", encoding="utf-8") as output:
        command = f"{JOB}/loadgen ws://127.0.0.1:8080/echo --mode churn --conns 600 --lifetime 2s --rate 50"
        command = f"{command} --threads 1 --warmup 1s --duration 600s"
        load = subprocess.Popen(command.split(), stdin=subprocess.DEVNULL, stdout=output, stderr=output)
        wait_until("its clients", lambda: kernel()["PassiveOpens"] - before["PassiveOpens"] > 1000)
        start, came = time.monotonic(), kernel()["PassiveOpens"]
        for _ in range(20):
            run("systemctl", "restart", "wsd.service")
        rate = (kernel()["PassiveOpens"] - came) / (time.monotonic() - start)
        load.send_signal(signal.SIGINT)
        load.wait(timeout=120)
        output.seek(0)
        said = output.read()
    failed = re.search(r"^failed .*$", said, re.MULTILINE)
    expect(failed and " refused 0 reset 0 " in failed[0] + " ", said)
    changed = {name: kernel()[name] - before[name] for name in ("AttemptFails", "ListenOverflows", "ListenDrops")}
    expect(not any(changed.values()), changed, said)
    return f"{rate:.0f} connections a second all along; {failed[0]}"


def kernel():
    """Its counters of TCP."""
    counters = {}
    for file in ("/proc/net/snmp", "/proc/net/netstat"):
        lines = pathlib.Path(file).read_text(encoding="ascii").splitlines()
        for names, values in zip(lines[::2], lines[1::2]):
            if names.startswith("Tcp"):
                counters.update(zip(names.split()[1:], map(int, values.split()[1:])))
    return counters


# Docker -----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def container(*options):
    """A container of the image with these options, when it is ready; its name."""
    run("docker", "run", "--detach", "--name", "check", "--publish", "8080:8080", *options)
    try:
        wait_until("its ready line", lambda: "wsd ready" in run("docker", "logs", "check"))
        yield "check"
    finally:
        run("docker", "rm", "--force", "check")


def ready_line():
    return next(line for line in run("docker", "logs", "check").splitlines() if line.startswith("wsd ready"))


def image():
    """`docker build` with the Dockerfile as it is; no root, and nothing but the binary"""
    run("systemctl", "stop", "wsd.socket", "wsd.service", ok=False)
    base = re.search(r"^FROM (\S+) AS", (JOB / "src/Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)[1]
    changes = [f"--change=ENV {setting}" for setting in (JOB / "environment").read_text(encoding="utf-8").split()]
    with open("/dev/vdc", "rb") as disk:
        subprocess.run(["docker", "import", *changes, "-", base], stdin=disk, check=True, stdout=subprocess.DEVNULL)
    run("docker", "build", "--tag", "wsd", str(JOB / "src"), patience=7200)
    size, user = run("docker", "image", "inspect", "--format", "{{.Size}} {{.Config.User}}", "wsd").split()
    expect(user == "65532:65532" and int(size) < 12_000_000, size, user)
    return f"{int(size) / 1e6:.1f} MB, {run('docker', '--version')}"


def default_profile():
    """Docker's default profile refuses private tables: wsd says so, serves, and --ulimit is its ceiling"""
    with container("--ulimit", "nofile=30000:30000", "wsd", "--threads", "2"):
        line = ready_line()
        expect("(one table of 30,000 descriptors; the system refused private tables)" in line, line)
        Client().echo()
    return line


def health():
    """the health check turns healthy, and `docker exec` can make it too"""
    with container("wsd") as name:
        state = ["docker", "inspect", "--format", "{{.State.Health.Status}}", name]
        wait_until("healthy", lambda: run(*state) == "healthy")
        run("docker", "exec", name, "/wsd", "health")


def confined():
    """--read-only, --cap-drop ALL and no-new-privileges do no harm; --memory is what the budget is a part of"""
    confinement = "--read-only --cap-drop ALL --security-opt no-new-privileges --memory 64m --env WSD_LOG=info"
    with container(*confinement.split(), "wsd") as name:
        Client().echo()
        said = run("docker", "logs", name)
        expect("memory=67108864 " in said, said)
        pid = run("docker", "inspect", "--format", "{{.State.Pid}}", name)
        status = pathlib.Path(f"/proc/{pid}/status").read_text(encoding="ascii")
        expect(re.search(r"^Uid:\s65532\s", status, re.MULTILINE) and "Seccomp:\t2\n" in status, status)


def stop():
    """`docker stop` drains within its 10 seconds: each client hears 1012 and a hint, the exit code is 0"""
    with container("wsd") as name:
        with crowd(20):
            start = time.monotonic()
            run("docker", "stop", name)
            took = time.monotonic() - start
        code = run("docker", "inspect", "--format", "{{.State.ExitCode}}", name)
        expect(code == "0", "exit code", code, "after", took, "seconds")
    return f"{took:.0f} s"


def own_profile():
    """a profile that allows unshare with CLONE_FILES and nothing else gives each worker its table"""
    refused = {"names": ["unshare"], "action": "SCMP_ACT_ERRNO"}
    refused["args"] = [{"index": 0, "value": 0x400, "op": "SCMP_CMP_NE"}]
    profile = JOB / "profile.json"
    profile.write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [refused]}))
    with container("--security-opt", f"seccomp={profile}", "wsd", "--threads", "2"):
        expect(TABLES.search(ready_line()), ready_line())


SECTIONS = {
    "systemd": [
        units, activation, readiness, journal, memory, process_metrics, reload, certificates, watchdog, drain,
        failures, restarts,
    ],
    "docker": [image, default_profile, health, confined, stop, own_profile],
}


def main(sections):
    count = 0
    print(f"systemd {run('systemctl', '--version').split()[1]}, Linux {os.uname().release}", flush=True)
    for check in (check for section in sections for check in SECTIONS[section]):
        start = time.monotonic()
        try:
            saw = check()
        except (Failed, OSError, subprocess.SubprocessError) as problem:
            said = run("journalctl", "--no-pager", "--output=cat", "--lines=20", "--unit=wsd", ok=False)
            print(f"FAILED {check.__name__}: {check.__doc__}\n{problem}\n\nThe journal:\n{said}", flush=True)
            return 1
        print(f"ok  {check.__doc__}{f' [{saw}]' if saw else ''} ({time.monotonic() - start:.0f} s)", flush=True)
        count += 1
    print(f"vm-check: {count} checks hold", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:] or list(SECTIONS)))
