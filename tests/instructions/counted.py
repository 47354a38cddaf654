"""The proxy under callgrind, and the number of instructions of a run."""

import http.client
import os
import signal
import subprocess
import time
from pathlib import Path

from harness.cases import Failed
from harness.parts import WITHOUT_PROXIES

START_TIMEOUT = 600  # seconds; valgrind reads the symbols first
STOP_TIMEOUT = 300  # seconds; callgrind writes its profile last
LISTENING = "0A"  # TCP_LISTEN in /proc/net/tcp
# aws-lc seeds its random numbers once per process from the jitter of a clock, by loops that end
# when they have seen enough of it: 400 million instructions, and never the same number.
ENTROPY = "/jitterentropy/"


class Counted:
    """A proxy under callgrind, which counts the instructions of all threads, but not the
    kernel's.
    """

    def __init__(self, binary: Path, configuration: Path, port: int, name: str):
        directory = configuration.parent
        self.port, self.log = port, directory / f"{name}.log"
        self.profile = directory / f"{name}.callgrind"
        valgrind = ["valgrind", "--tool=callgrind", f"--callgrind-out-file={self.profile}", "--compress-strings=no"]
        # Parsing the system's authorities would cost as much as a thousand requests.
        environment = WITHOUT_PROXIES | {"SSL_CERT_FILE": str(directory / "bundle.pem")}
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*valgrind, str(binary), "run", str(configuration)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
            )

    def wait_until_started(self):
        """Returns once it listens and is idle. It makes no connection, which would be counted."""
        deadline = time.monotonic() + START_TIMEOUT
        while not _listens(self.port):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"the proxy is not listening:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.05)
        self.wait_until_idle()

    def wait_until_ready(self, port: int):
        """Returns once it has its identity and is idle: until then it refuses requests that carry
        a credential, and the upstream would wait for one in vain. The probes are counted, and are
        too few to show.
        """
        deadline = time.monotonic() + START_TIMEOUT
        while not _is_ready(port):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"the proxy is not ready:\n{self.log.read_text()[-2000:]}")
            time.sleep(0.2)
        self.wait_until_idle()

    def wait_until_idle(self):
        """Returns once all threads sleep.

        Valgrind runs one at a time: one with work would be running.
        """
        idle = 0
        while idle < 2:
            idle = idle + 1 if self._sleeps() else 0
            time.sleep(0.0001)

    def stop(self) -> int:
        """Ends the proxy and returns the number of its instructions."""
        self.process.send_signal(signal.SIGTERM)
        if self.process.wait(STOP_TIMEOUT) != 0:
            raise Failed(f"the proxy ended with {self.process.returncode}:\n{self.log.read_text()[-2000:]}")
        return _instructions(self.profile)

    def kill(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def _sleeps(self) -> bool:
        if self.process.poll() is not None:
            raise Failed(f"the proxy ended:\n{self.log.read_text()[-2000:]}")
        try:
            return all(_state(thread) == "S" for thread in os.scandir(f"/proc/{self.process.pid}/task"))
        except (FileNotFoundError, ProcessLookupError):
            return False  # a thread has just ended


def _instructions(profile: Path) -> int:
    """Adds up what a profile says of each source line, in callgrind's format: `fl`, `fi` and `fe`
    name the file of what follows, and the line after `calls` is the cost of a call, which the
    called function has already.
    """
    total, file, of_call = 0, "", False
    with profile.open() as lines:
        for line in lines:
            key, _, value = line.partition("=")
            if key in ("fl", "fi", "fe"):
                file = value
            elif key == "calls":
                of_call = True
            elif line[0] in "+-*0123456789":
                if not of_call and ENTROPY not in file:
                    total += int(line.split()[1])
                of_call = False
    return total


def _state(thread: os.DirEntry) -> str:
    return Path(thread.path, "stat").read_text().rpartition(")")[2].split()[0]


def _listens(port: int) -> bool:
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return any(fields[1].endswith(f":{port:04X}") and fields[3] == LISTENING for fields in map(str.split, lines))


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=START_TIMEOUT)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()
