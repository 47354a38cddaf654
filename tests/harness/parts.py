"""One run of a suite: its directory, the processes that it started, and waiting for conditions."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

from harness.cases import Failed

# Everything here is on loopback, so the HTTP proxies of the machine's environment are never used.
WITHOUT_PROXIES = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
urllib.request.install_opener(urllib.request.build_opener(urllib.request.ProxyHandler({})))


class Part:
    """A process of this run, with its log."""

    def __init__(self, name: str, process: subprocess.Popen, log: Path):
        self.name, self.process, self.log = name, process, log

    def alive(self) -> bool:
        return self.process.poll() is None

    def stop(self, how: int = signal.SIGTERM, grace: float = 15):
        """Ends the process and its children, and kills what is left after `grace` seconds.

        The signal goes to the process group: `kc.sh`, for one, keeps Java as a child.
        """
        self._signal(how)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(grace)
        self._signal(signal.SIGKILL)
        self.process.wait()

    def _signal(self, how: int):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, how)

    def tail(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


class Run:
    """The directory of one run and everything started in it.

    The path is short because it holds Unix sockets, whose paths are limited to 107 bytes.
    """

    def __init__(self, directory: Path | None = None):
        self.directory = directory or Path(tempfile.mkdtemp(prefix="idjag-real-"))
        self.directory.mkdir(exist_ok=True)
        self.logs = self.directory / "logs"
        self.logs.mkdir(exist_ok=True)
        self.parts: list[Part] = []
        self.closers = contextlib.ExitStack()

    def start(self, name: str, argv: list, env: dict | None = None, cwd: Path | None = None) -> Part:
        log = self.logs / f"{name}.log"
        with log.open("a") as output:
            process = subprocess.Popen(
                [str(word) for word in argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=WITHOUT_PROXIES | (env or {}),
                cwd=cwd or self.directory,
                start_new_session=True,
            )
        part = Part(name, process, log)
        self.parts.append(part)
        return part

    def close(self, keep: bool):
        for part in reversed(self.parts):
            part.stop()
        self.closers.close()
        if not keep:
            shutil.rmtree(self.directory, ignore_errors=True)


def exit_on_signals():
    """Makes SIGTERM and SIGHUP raise SystemExit, so that a terminated suite ends its processes."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        # A signal that `nohup` ignores stays ignored.
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _exit)


def _exit(number: int, _):
    sys.exit(f"ended by {signal.Signals(number).name}")


def free_ports(count: int) -> list[int]:
    """Ports that were free a moment ago. All are held until the last is known, so they differ."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def wait_until(what: str, condition, seconds: float = 30, part: Part | None = None, every: float = 0.2):
    """Returns the first true value of `condition`.

    Fails after `seconds`, or as soon as `part` has ended.
    """
    deadline = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        if part is not None and not part.alive():
            raise Failed(f"{part.name} ended with {part.process.returncode} while waiting for: {what}\n{part.tail()}")
        if time.monotonic() > deadline:
            raise Failed(f"after {seconds:.0f} s still waiting for: {what}")
        time.sleep(every)


def fetch(url: str, timeout: float = 5) -> tuple[int, str]:
    """Returns status and body; the status is 0 where nothing answers."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            return answer.status, answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")
    except OSError:
        return 0, ""
