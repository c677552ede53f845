"""The tables in Markdown, and where they go."""

import statistics

from .common import ROOT, say
from .rows import ROWS

# Less than this, and "behind" would be noise.
BEHIND = 1.03


def values(results, row, server, key):
    """The figures of all runs that have it, and can have it."""
    if costs_of_waiting(results, row, server, key):
        return []
    runs = results["runs"].get(f"{row}/{server}", [])
    return [run[key] for run in runs if run.get(key) is not None]


def costs_of_waiting(results, row, server, key):
    """Whether a server that never sleeps would be charged with its waiting."""
    spins = any(it["name"] == server and it["spins"] for it in results["servers"])
    return spins and key in ("user_us", "system_us", "calls", "connect_us", "connect_system_us") and not (
        "--closed-loop" in ROWS[row].load
    )


def unsound(results, row, server):
    runs = results["runs"].get(f"{row}/{server}", [])
    return sum(run.get("verdict") == "INVALID" for run in runs) * 2 > len([run for run in runs if "verdict" in run])


def number(value, digits):
    """
    >>> number(0.1234, 3), number(1234.5, 0), number(3.2, 2)
    ('0.123', '1,234', '3.20')
    """
    return f"{value:,.{digits}f}"


def cell(results, notes, row, figure, server, wide):
    """Median, and where there is room the extremes and the ratio to the floor."""
    found = values(results, row, server, figure.key)
    if not found:
        why = next((it["reason"] for it in results["servers"] if it["name"] == server and it["reason"]), None)
        if costs_of_waiting(results, row, server, figure.key):
            why = "its loop never sleeps; what it uses while it has time to wait is not the cost of the work"
        why = why or results["failed"].get(f"{row}/{server}") or "not measured"
        return f"-{mark(notes, f'{server}: {why}')}"
    median = statistics.median(found)
    text = number(median, figure.digits)
    if unsound(results, row, server):
        text += mark(notes, INVALID_NOTE)
    if not wide:
        return text
    if len(found) > 1:
        text += f" ({number(min(found), figure.digits)} to {number(max(found), figure.digits)})"
    floor = values(results, row, "floor", figure.key)
    if floor and server != "floor" and statistics.median(floor) > 0:
        text += f", {median / statistics.median(floor):.2f}x"
    return text


INVALID_NOTE = (
    "loadgen calls these runs INVALID: its own core was full, too. With messages kept in flight that is the rule: "
    "server and client wait for each other, and the figure is what the pair can do, a lower bound for the server."
)


def mark(notes, text):
    """A footnote's number; the same text has one number.

    >>> notes = []
    >>> mark(notes, "a"), mark(notes, "b"), mark(notes, "a")
    (' [1]', ' [2]', ' [1]')
    """
    if text not in notes:
        notes.append(text)
    return f" [{notes.index(text) + 1}]"


def table(results, wide):
    """The table in Markdown: medians alone, or with extremes and ratios."""
    names = [it["name"] for it in results["servers"]]
    notes = []
    head = ["" if it["note"] is None else mark(notes, f"{it['name']}: {it['note']}") for it in results["servers"]]
    head = [name + note for name, note in zip(names, head)]
    lines = ["| | " + " | ".join(head) + " |", "|---" * (len(names) + 1) + "|"]
    for row, figure in all_figures(results):
        cells = [cell(results, notes, row, figure, name, wide) for name in names]
        unit = f" ({figure.unit})" if figure.unit in ("us", "ms", "B") else ""
        lines.append("| " + " | ".join([figure.name + unit, *cells]) + " |")
    lines += ["", *(f"[{place}] {text.rstrip('.')}.  " for place, text in enumerate(notes, 1))]
    return "\n".join(lines).rstrip() + "\n"


def all_figures(results):
    measured = {key.split("/")[0] for key in [*results["runs"], *results["failed"]]}
    return [(name, figure) for name, row in ROWS.items() if name in measured for figure in row.figures]


def split_table(results):
    """User and system time of the rows with messages, which the other tables only show in part."""
    names = [it["name"] for it in results["servers"]]
    lines = ["| user + system time for a message (us) | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for row in dict.fromkeys(row for row, _ in all_figures(results)):
        keys = ("connect_us", "connect_system_us") if ROWS[row].conns else ("user_us", "system_us")
        cells = []
        for name in names:
            user, system = (values(results, row, name, key) for key in keys)
            cells.append(f"{statistics.median(user):.2f} + {statistics.median(system):.2f}" if user else "-")
        lines.append("| " + " | ".join([f"`{ROWS[row].load}`", *cells]) + " |")
    return "\n".join(lines) + "\n"


def behind(results):
    """Where another server is ahead of wsd, in words.

    >>> both = [{"name": name, "note": None, "reason": None, "spins": False} for name in ("wsd", "Bun")]
    >>> made = {"servers": both, "failed": {},
    ...         "runs": {"echo-16k/wsd": [{"received_k": 50}], "echo-16k/Bun": [{"received_k": 75}]}}
    >>> behind(made)
    'wsd is behind in: echo of 16 KiB, 100 connections: thousand messages a second (Bun by 1.50x).'
    """
    found = []
    for row, figure in all_figures(results):
        own, ahead = values(results, row, "wsd", figure.key), []
        for name in [it["name"] for it in results["servers"] if it["name"] not in ("floor", "wsd")]:
            other = values(results, row, name, figure.key)
            if not own or not other or min(statistics.median(own), statistics.median(other)) <= 0:
                continue
            ratio = statistics.median(own) / statistics.median(other)
            ratio = ratio if figure.lower_is_better else 1 / ratio
            if ratio > BEHIND:
                ahead.append(f"{name} by {ratio:.2f}x")
        if ahead:
            found.append(f"{figure.name} ({', '.join(ahead)})")
    return f"wsd is behind in: {'; '.join(found)}." if found else "wsd is behind in none of these."


def conditions(results):
    named = [it for it in results["servers"] if it["version"] and it["name"] != "floor"]
    versions = ", ".join(f"{it['name']} {it['version']}" for it in named)
    shares = "perf's samples" if results["perf"] else "the kernel's clock ticks, which are coarse"
    rounds = f"{results['rounds']} round{'' if results['rounds'] == 1 else 's'}"
    quick = " **A trial with short runs: these figures mean nothing.**" if results["quick"] else ""
    return (
        f"{results['date']}, Linux {results['kernel']}, {results['processor']} with {results['cores']} cores: "
        f"server on one, loadgen on another. Medians of {rounds}; shares of user time by {shares}.{quick}\n\n"
        f"Versions: {versions}.\n"
    )


def page(results):
    """What goes into docs/peers.md."""
    return "\n".join([
        conditions(results),
        "Median (lowest to highest), ratio to the floor:\n",
        table(results, wide=True),
        behind(results) + "\n",
        "User and system time, medians; where the table above has no user time, the shares are by the kernel's ticks:\n",
        split_table(results),
    ])


def summary(results):
    """What goes into README.md."""
    return "\n".join([conditions(results), table(results, wide=False), behind(results) + "\n"])


TEXTS = {ROOT / "README.md": summary, ROOT / "docs/peers.md": page}
BEGIN, END = "<!-- bench-peers -->\n", "<!-- /bench-peers -->\n"


def between_markers(text, new):
    """
    >>> between_markers(f"a\\n{BEGIN}old\\n{END}b\\n", "new\\n") == f"a\\n{BEGIN}new\\n{END}b\\n"
    True
    """
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + new + END + after


def write(results):
    for path, text in TEXTS.items():
        path.write_text(between_markers(path.read_text(), text(results)))
        say(f"wrote {path}")
