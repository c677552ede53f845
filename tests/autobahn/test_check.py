#!/usr/bin/env python3
"""Shows that check.py fails when it should: a checker that cannot fail is worth nothing."""

import json
import subprocess
import sys
import tempfile
import unittest
from pathlib import Path

HERE = Path(__file__).parent


def report(**changes):
    """An index.json of three sound cases, with `changes` to it; a case that is None is left out."""
    cases = {"1.1.1": ("OK", "OK"), "7.1.6": ("INFORMATIONAL", "INFORMATIONAL"), "12.1.1": ("UNIMPLEMENTED", "OK")}
    cases |= {name.replace("_", ".").lstrip("c"): verdict for name, verdict in changes.items()}
    verdicts = {case: verdict for case, verdict in cases.items() if verdict}
    return {"wsd": {case: {"behavior": of[0], "behaviorClose": of[1]} for case, of in verdicts.items()}}


class Check(unittest.TestCase):
    def check(self, index, cases=3):
        with tempfile.TemporaryDirectory() as directory:
            path, expected = Path(directory, "index.json"), Path(directory, "expected.txt")
            path.write_text(json.dumps(index))
            expected.write_text("# exceptions\n7.1.6 INFORMATIONAL INFORMATIONAL # informational\n\n12.* UNIMPLEMENTED OK\n")
            command = [sys.executable, HERE / "check.py", path, "--title", "Server"]
            command += ["--cases", str(cases), "--expected", expected]
            return subprocess.run(command, capture_output=True, text=True, check=False)

    def assert_deviation(self, line, index, **more):
        run = self.check(index, **more)
        self.assertEqual(run.returncode, 1, run.stderr)
        self.assertIn(f"\n- {line}\n", run.stdout)

    def test_as_expected(self):
        run = self.check(report())
        self.assertEqual((run.returncode, run.stderr), (0, ""))
        self.assertIn("| all                                |     3 |  1 |             1 |", run.stdout)
        self.assertIn("Not OK, as expected: 7.1.6 INFORMATIONAL; 12.* UNIMPLEMENTED, close OK.", run.stdout)
        self.assertIn("No deviation.", run.stdout)

    def test_every_other_behaviour(self):
        for behavior in ["FAILED", "NON-STRICT", "UNIMPLEMENTED", "INFORMATIONAL"]:
            line = f"1.1.1: {behavior}, close OK (expected: OK)"
            self.assert_deviation(line, report(c1_1_1=(behavior, "OK")))

    def test_every_other_close(self):
        for close in ["FAILED", "WRONG CODE", "UNCLEAN", "FAILED BY CLIENT"]:
            self.assert_deviation(f"1.1.1: OK, close {close} (expected: OK)", report(c1_1_1=("OK", close)))

    def test_an_exception_that_is_none_any_more(self):
        self.assert_deviation("7.1.6: OK (expected: INFORMATIONAL)", report(c7_1_6=("OK", "OK")))
        self.assert_deviation("12.1.1: OK (expected: UNIMPLEMENTED, close OK)", report(c12_1_1=("OK", "OK")))

    def test_cases_too_few_and_too_many(self):
        self.assert_deviation("2 cases were run, 3 are expected", report(c1_1_1=None))
        self.assert_deviation("3 cases were run, 2 are expected", report(), cases=2)
        self.assert_deviation("0 cases were run, 3 are expected", {"wsd": {}})

    def test_an_exception_that_was_not_run(self):
        without = report(c7_1_6=None, c1_1_2=("OK", "OK"))
        self.assert_deviation("7.1.6: not run (expected: INFORMATIONAL)", without)

    def test_a_report_that_is_none(self):
        for index in [{}, {"wsd": {}, "other": {}}, {"wsd": {"1.1.1": {"behavior": "OK"}}}]:
            self.assertNotEqual(self.check(index).returncode, 0, index)


if __name__ == "__main__":
    unittest.main()
