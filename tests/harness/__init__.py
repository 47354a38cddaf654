"""What the suites share: the cache of installed parts, processes of a run, real servers, and the runner of cases."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def module(interpreter: Path | str, name: str, *arguments: str) -> list[str]:
    """The command that runs a module of the packages under `tests/`; `PYTHONPATH` is inherited from `harness/python`."""
    return [str(interpreter), "-P", "-B", "-m", name, *arguments]
