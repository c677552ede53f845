"""Who is measured: how each server comes here, and how it is started."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

from .common import CACHE, Failed, PEERS, PEERS_TARGET, ROOT, TARGET, need, output, run


class Server:
    """A server: how it is made, and the command that starts it."""

    def __init__(self, name, install, command, raw=False, note=None, env=dict, spins=False, forks=False, no_echo=None):
        self.name, self.install, self.command = name, install, command
        self.raw, self.note, self.env = raw, note, env
        # Whether its loop asks for work without ever sleeping: then its cost is no cost of the work.
        self.spins = spins
        # Whether the process that serves is the only child of the one that is started.
        self.forks = forks
        # Why it cannot send a message back to its sender alone, where that is so.
        self.no_echo = no_echo
        self.version = None
        self.reason = None


def cargo_build(manifest, target, *what):
    run("cargo", "build", "--quiet", "--release", "--locked", "--manifest-path", manifest, *what,
        env={"CARGO_TARGET_DIR": str(target)})


def install_own():
    cargo_build(ROOT / "Cargo.toml", TARGET, "--workspace", "--bins")
    commit = output("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD")
    changed = subprocess.run(["git", "-C", str(ROOT), "diff", "--quiet", "HEAD"], check=False).returncode != 0
    version = output(TARGET / "release/wsd", "--version").split()[-1]
    return f"{version}, {commit}" + (", changed" if changed else "")


def install_rust(crate):
    cargo_build(PEERS / "rust/Cargo.toml", PEERS_TARGET)
    return version_in_lock((PEERS / "rust/Cargo.lock").read_text(), crate)


def version_in_lock(lock, crate):
    """The version of a crate in a Cargo.lock.

    >>> version_in_lock('name = "a"\\nversion = "1.2.3"\\n\\nname = "b"\\nversion = "4"\\n', 'b')
    '4'
    """
    return re.search(rf'name = "{re.escape(crate)}"\nversion = "([^"]+)"', lock).group(1)


def install_node(package):
    need("npm", "node")
    folder = CACHE / "js"
    folder.mkdir(parents=True, exist_ok=True)
    lock = (PEERS / "js/package-lock.json").read_text()
    if not (folder / "node_modules").exists() or (folder / "package-lock.json").read_text() != lock:
        for name in ("package.json", "package-lock.json"):
            shutil.copy(PEERS / "js" / name, folder / name)
        # Nothing of these packages needs its scripts: Bun's only links what is there, bufferutil brings a build along.
        run("npm", "ci", "--prefix", folder, "--ignore-scripts", "--no-audit", "--no-fund", "--silent")
    for program in ("ws.mjs", "bun.mjs"):
        shutil.copy(PEERS / "js" / program, folder / program)
    version = json.loads(lock)["packages"][f"node_modules/{package}"]["version"]
    return f"{version}, node {output('node', '--version').removeprefix('v')}" if package == "ws" else version


def bun():
    """The binary, past the launcher that an install script would have put in its place."""
    return next(iter((CACHE / "js/node_modules/@oven").glob("bun-linux-*/bin/bun")), "bun")


def install_socketify():
    venv, requirements = CACHE / "venv", PEERS / "python/requirements.txt"
    if not (venv / "bin/python").exists():
        run(sys.executable, "-m", "venv", venv)
    run(venv / "bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", requirements)
    if not socketify_loads(venv):
        # It is linked against libuv, which its wheel does not bring along.
        unpack(CACHE / "libuv", "libuv1")
        if not socketify_loads(venv):
            raise Failed("it does not load, with libuv1 neither")
    version = re.search(r"socketify==(\S+)", requirements.read_text()).group(1)
    return f"{version}, Python {output(venv / 'bin/python', '--version').split()[1]}"


def unpack(folder, *packages):
    """Debian's packages as files in a folder: nothing is installed."""
    need("apt-get", "dpkg")
    folder.mkdir(exist_ok=True)
    run("apt-get", "download", "-qq", *packages, cwd=folder)
    for package in folder.glob("*.deb"):
        run("dpkg", "-x", package, folder)


def install_nchan():
    folder = CACHE / "nginx"
    if not (folder / "usr/lib/nginx/modules/ngx_nchan_module.so").exists():
        unpack(folder, "nginx", "libnginx-mod-nchan")
    # Debian has compiled in where request bodies go, and nchan has nginx make that folder whatever the file says.
    try:
        pathlib.Path("/var/lib/nginx").mkdir(exist_ok=True)
    except PermissionError:
        raise Failed("needs /var/lib/nginx, and may not make it") from None
    module, server = (debian_version(folder, package) for package in ("libnginx-mod-nchan", "nginx"))
    return f"{module}, nginx {server}"


def debian_version(folder, package):
    """The project's part of a package's version.

    >>> re.search(VERSION, "1:1.3.6+dfsg-2").group(1), re.search(VERSION, "1.22.1-9+deb12u11").group(1)
    ('1.3.6', '1.22.1')
    """
    deb = next(folder.glob(f"{package}_*.deb"))
    return re.search(VERSION, output("dpkg-deb", "-f", deb, "Version")).group(1)


VERSION = r"^(?:\d+:)?([\d.]+)"


def socketify_loads(venv):
    line = [venv / "bin/python", "-c", "import socketify"]
    return subprocess.run(line, capture_output=True, env={**os.environ, **socketify_env()}, check=False).returncode == 0


def socketify_env():
    found = (CACHE / "libuv").glob("usr/lib/*")
    return {"LD_LIBRARY_PATH": ":".join(str(path) for path in found)}


def servers():
    """All of them, the floor and wsd first; {mode} and {port} are filled in."""
    return [
        Server("floor", install_own, lambda: f"{TARGET}/release/floor {{mode}} {{port}}", raw=True),
        Server("wsd", install_own, lambda: f"{TARGET}/release/wsd --listen 127.0.0.1:{{port}} --threads 1"),
        Server(
            "uWebSockets",
            install_socketify,
            lambda: f"{CACHE}/venv/bin/python {PEERS}/python/server.py {{mode}} {{port}}",
            note="through socketify, from PyPI: each message that comes in costs a call into Python, a delivery does "
            "not. uWebSockets.js, the binding for Node.js, is not on npm. Bun's server has uWebSockets inside, too.",
            env=socketify_env,
            spins=True,
        ),
        Server("Bun", lambda: install_node("bun"), lambda: f"{bun()} {CACHE}/js/bun.mjs {{mode}} {{port}}"),
        Server(
            "fastwebsockets",
            lambda: install_rust("fastwebsockets"),
            lambda: f"{PEERS_TARGET}/release/fastwebsockets {{mode}} {{port}}",
        ),
        Server(
            "tungstenite",
            lambda: install_rust("tokio-tungstenite"),
            lambda: f"{PEERS_TARGET}/release/tungstenite {{mode}} {{port}}",
            note="tokio-tungstenite",
        ),
        Server("ws", lambda: install_node("ws"), lambda: f"node {CACHE}/js/ws.mjs {{mode}} {{port}}",
               note="with bufferutil"),
        Server(
            "nchan",
            install_nchan,
            lambda: f"sh {PEERS}/nginx/start.sh {{port}} {CACHE}/nginx",
            note="a module of nginx. It leaves Nagle's algorithm on, so messages that come fast wait for each other; "
            "its idle connections are subscribers of a channel.",
            forks=True,
            no_echo="what comes in goes to all subscribers of a channel",
        ),
    ]
