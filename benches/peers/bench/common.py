"""What all of this needs: paths, a failure with its reason, and processes."""

import os
import pathlib
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[3]
PEERS = ROOT / "benches/peers"
CACHE = ROOT / ".cache/bench-peers"
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
PEERS_TARGET = CACHE / "target"


class Failed(Exception):
    """A peer cannot do something; the table says why."""


def run(*line, env=None, cwd=None):
    line, env = [str(part) for part in line], {**os.environ, **(env or {})}
    subprocess.run(line, check=True, env=env, cwd=cwd, stdout=sys.stderr)


def output(*line):
    return subprocess.run([str(part) for part in line], check=True, capture_output=True, text=True).stdout.strip()


def need(*programs):
    missing = [program for program in programs if not shutil.which(program)]
    if missing:
        raise Failed(f"needs {' and '.join(missing)}")


def say(text):
    print(text, file=sys.stderr, flush=True)
