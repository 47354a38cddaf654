"""Checks that are called one by one: a line for each, and the last line counts them for whoever calls."""

import traceback

from harness.cases import NotRun, indent, say
from harness.parts import Failed


class Checks:
    """Called with a name, a function and its arguments. `Failed` is an expectation in words, all else a bug of the suite."""

    def __init__(self):
        self.counts = {"passed": 0, "failed": 0, "skipped": 0}

    @property
    def failed(self) -> bool:
        return self.counts["failed"] > 0

    def __call__(self, name: str, function, *arguments):
        try:
            function(*arguments)
        except NotRun as why:
            self.counts["skipped"] += 1
            say(f"NOT RUN  {name}: {why}")
        except Exception as error:
            self.counts["failed"] += 1
            say(f"FAILED   {name}\n{indent(str(error) if isinstance(error, Failed) else traceback.format_exc())}")
        else:
            self.counts["passed"] += 1
            say(f"ok       {name}")

    def summary(self) -> str:
        return ", ".join(f"{count} {what}" for what, count in self.counts.items())
