#!/usr/bin/env python3
"""Compares a report of the Autobahn test suite with what is expected of it, case by case.

wstest exits with 0 whatever happened; this prints the outcome as Markdown and exits with 1 on any deviation:
another number of cases, another behaviour, another way of closing, or an exception that was not run.

What is not here: running the suite, which scripts/autobahn does.
"""

import argparse
import fnmatch
import json
import sys
from collections import Counter
from pathlib import Path
from typing import NamedTuple

SECTIONS = {
    1: "Framing",
    2: "Pings and pongs",
    3: "Reserved bits",
    4: "Opcodes",
    5: "Fragmentation",
    6: "UTF-8",
    7: "Closing",
    9: "Limits and performance",
    10: "Auto-fragmentation",
    12: "Compression, different payloads",
    13: "Compression, different parameters",
}


class Outcome(NamedTuple):
    """The suite's two verdicts on one case."""

    behavior: str
    close: str

    def __str__(self):
        return self.behavior if self.behavior == self.close else f"{self.behavior}, close {self.close}"


OK = Outcome("OK", "OK")


def read_index(text):
    """The outcomes of the one agent of an index.json, by case."""
    agents = json.loads(text)
    if len(agents) != 1:
        raise ValueError(f"one agent is expected in the report, not {len(agents)}: {', '.join(agents)}")
    (cases,) = agents.values()
    return {case: Outcome(it["behavior"], it["behaviorClose"]) for case, it in cases.items()}


def read_expected(text):
    """The exceptions of an expectation file: `CASE BEHAVIOUR CLOSE`, where a case may be a pattern like `12.*`."""
    lines = (line.partition("#")[0].split() for line in text.splitlines())
    return {case: Outcome(behavior, close) for case, behavior, close in filter(None, lines)}


def expectation(case, expected):
    """What is expected of `case`: its own exception, else that of a pattern, else OK."""
    if case in expected:
        return expected[case]
    return next((it for pattern, it in expected.items() if fnmatch.fnmatchcase(case, pattern)), OK)


def deviations(outcomes, expected, count):
    """A line for each thing that is not as expected."""
    found = []
    if len(outcomes) != count:
        found.append(f"{len(outcomes)} cases were run, {count} are expected")
    for case in sorted(outcomes, key=numbers):
        wanted = expectation(case, expected)
        if outcomes[case] != wanted:
            found.append(f"{case}: {outcomes[case]} (expected: {wanted})")
    for case in expected:
        if "*" not in case and case not in outcomes:
            found.append(f"{case}: not run (expected: {expected[case]})")
    return found


def table(outcomes):
    """Markdown: a row for each section, a column for each outcome that was seen."""
    seen = sorted(set(outcomes.values()), key=lambda outcome: (outcome != OK, outcome))
    rows = [["section", "cases", *map(str, seen)]]
    for section in sorted({numbers(case)[0] for case in outcomes}):
        here = Counter(outcome for case, outcome in outcomes.items() if numbers(case)[0] == section)
        name = f"{section} {SECTIONS.get(section, '')}".strip()
        rows.append([name, sum(here.values()), *(here[outcome] for outcome in seen)])
    everywhere = Counter(outcomes.values())
    rows.append(["all", len(outcomes), *(everywhere[outcome] for outcome in seen)])

    widths = [max(len(str(row[column])) for row in rows) for column in range(len(rows[0]))]
    rows.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    return "\n".join("| " + " | ".join(pad(*cell) for cell in zip(row, widths)) + " |" for row in rows)


def pad(value, width):
    return str(value).rjust(width) if isinstance(value, int) else str(value).ljust(width)


def numbers(case):
    """`7.13.1` as a key to sort by."""
    return tuple(int(number) for number in case.split("."))


def render(title, outcomes, expected, count):
    """The whole outcome as Markdown, and whether it is as expected."""
    found = deviations(outcomes, expected, count)
    parts = [f"## {title}", table(outcomes)]
    exceptions = [f"{case} {outcome}" for case, outcome in expected.items() if occurs(case, outcomes)]
    if exceptions:
        parts.append(f"Not OK, as expected: {'; '.join(exceptions)}.")
    if found:
        parts.append("Deviations:\n\n" + "\n".join(f"- {line}" for line in found))
    else:
        parts.append("No deviation.")
    return "\n\n".join(parts) + "\n", not found


def occurs(pattern, outcomes):
    """Whether the expectation for `pattern` was met by some case."""
    return any(fnmatch.fnmatchcase(case, pattern) for case in outcomes)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("index", type=Path, help="the suite's index.json")
    parser.add_argument("--title", required=True, help="heading of the outcome")
    parser.add_argument("--cases", type=int, required=True, help="how many cases there must be")
    parser.add_argument("--expected", type=Path, action="append", default=[], help="exceptions; may be repeated")
    options = parser.parse_args()
    expected = {}
    for path in options.expected:
        expected |= read_expected(path.read_text())
    text, as_expected = render(options.title, read_index(options.index.read_text()), expected, options.cases)
    print(text)
    return 0 if as_expected else 1


if __name__ == "__main__":
    sys.exit(main())
