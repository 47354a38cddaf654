"""What the suites share: the cache of installed parts, processes, servers, and the runner."""

from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


def module_command(interpreter: Path | str, name: str, *arguments: str) -> list[str]:
    """Returns the command that runs a module of the packages under `tests/`.

    The interpreter finds the packages through the `PYTHONPATH` that `harness/python` sets.
    """
    return [str(interpreter), "-P", "-B", "-m", name, *arguments]
