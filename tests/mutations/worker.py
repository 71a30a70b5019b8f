"""Runs tests in forks of one process that has imported the slow packages already.

Started by tests.mutations.tree as a script of its own, with the copy as working directory. A line
of JSON in: {"tests", "report"}; a line out: {"pid"} once it runs, then {"code"} once it has ended.
"""

import importlib
import json
import os
import sys
from pathlib import Path
from typing import Any


class FirstFailure:
    """A pytest plugin that writes down which test failed first, and whether one could be read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Note the first failed test."""
        if report.failed and not self.path.exists():
            self.path.write_text(json.dumps({"failed": report.nodeid}), encoding="utf-8")

    def pytest_collectreport(self, report: Any) -> None:
        """Note a file that could not be read: no test has run then."""
        if report.failed and not self.path.exists():
            self.path.write_text(json.dumps({"unread": report.nodeid}), encoding="utf-8")


def run(tests: list[str], report: Path) -> int:
    """pytest on these tests in this process, up to the first failure. Returns its exit code."""
    import pytest

    arguments = ["-x", "-q", "-p", "no:cacheprovider", "-m", "not stress and not gpu", *tests]
    return int(pytest.main(arguments, plugins=[FirstFailure(report)]))


def serve() -> None:
    """Answer requests until there are no more."""
    for name in sys.argv[1:]:
        importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            code = 70  # what is left where pytest itself breaks
            try:
                code = run(request["tests"], Path(request["report"]))
            finally:
                sys.stdout.flush()
                os._exit(code)
        print(json.dumps({"pid": child}), file=answers, flush=True)
        _, status = os.waitpid(child, 0)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status)}), file=answers, flush=True)


if __name__ == "__main__":
    serve()
