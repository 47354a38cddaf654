"""The proxy under callgrind: one run, and how many instructions it took."""

import os
import re
import signal
import subprocess
import time
from pathlib import Path

STARTED = 120  # seconds; valgrind reads the symbols first
LISTENING = "0A"  # TCP_LISTEN in /proc/net/tcp


class Counted:
    """A proxy that runs under callgrind. Instructions of all its threads are counted, and nothing of the kernel's."""

    def __init__(self, binary: Path, configuration: Path, port: int, name: str):
        directory = configuration.parent
        self.port, self.log = port, directory / f"{name}.log"
        self.profile = directory / f"{name}.callgrind"
        valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={self.profile}"]
        environment = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
        # Parsing the system's authorities would cost as much as a thousand requests.
        environment["SSL_CERT_FILE"] = str(directory / "bundle.pem")
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*valgrind, str(binary), "run", str(configuration)],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment,
            )  # fmt: skip

    def wait_until_started(self):
        """Returns once it listens and is idle. No connection is made for that: it would be counted."""
        deadline = time.monotonic() + STARTED
        while not _listens(self.port):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the proxy does not listen:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.05)
        self.wait_until_idle()

    def wait_until_idle(self):
        """Returns once all its threads sleep. Valgrind runs one at a time: if one had work to do, that one would be running."""
        idle = 0
        while idle < 2:
            idle = idle + 1 if self._sleeps() else 0
            time.sleep(0.0001)

    def stop(self) -> int:
        """Ends it; returned are the instructions that it took."""
        self.process.send_signal(signal.SIGTERM)
        if self.process.wait(60) != 0:
            raise RuntimeError(f"the proxy ended with {self.process.returncode}:\n{self.log.read_text()[-2000:]}")
        return int(re.search(r"^(?:summary|totals): (\d+)", self.profile.read_text(), re.M)[1])

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def _sleeps(self) -> bool:
        if self.process.poll() is not None:
            raise RuntimeError(f"the proxy ended:\n{self.log.read_text()[-2000:]}")
        try:
            return all(_state(thread) == "S" for thread in os.scandir(f"/proc/{self.process.pid}/task"))
        except (FileNotFoundError, ProcessLookupError):
            return False  # a thread has just ended


def _state(thread: os.DirEntry) -> str:
    return Path(thread.path, "stat").read_text().rpartition(")")[2].split()[0]


def _listens(port: int) -> bool:
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(fields[1].endswith(f":{port:04X}") and fields[3] == LISTENING for fields in map(str.split, lines))
