"""Runs of wrk against a target, and statistics over many rounds."""

import re
import statistics
import subprocess
import threading
from dataclasses import dataclass

from perf.targets import HOST, Bench, Target, program

UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}


@dataclass
class Sample:
    """A run's requests per second of wall clock and of the proxy's CPU, and latencies in
    seconds.
    """

    per_second: float
    per_cpu_second: float
    p50: float
    p99: float


@dataclass
class Spread:
    """Median and quartiles of a ratio over the rounds."""

    median: float
    low: float
    high: float

    def __str__(self):
        return f"{self.median:.2f} [{self.low:.2f}-{self.high:.2f}]"


def sample(bench: Bench, target: Target, connections: int, seconds: int) -> Sample:
    before = target.cpu_seconds()
    text = _wrk(bench, target, connections, seconds)
    used = target.cpu_seconds() - before
    requests = int(re.search(r"(\d+) requests in", text)[1])
    per_second = float(re.search(r"Requests/sec:\s+([\d.]+)", text)[1])
    return Sample(per_second, requests / used, _percentile(text, 50), _percentile(text, 99))


def resident_with(bench: Bench, target: Target, connections: int, seconds: int) -> float:
    """Returns the peak resident memory in MiB while this many connections send."""
    seen, ended = [0.0], threading.Event()

    def watch():
        while not ended.wait(0.1):
            seen.append(target.resident_mib())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        _wrk(bench, target, connections, seconds)
    finally:
        ended.set()
        watcher.join()
    return max(seen)


def spread(values: list[float]) -> Spread:
    low, median, high = statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3
    return Spread(median, low, high)


def _wrk(bench: Bench, target: Target, connections: int, seconds: int) -> str:
    load = ["taskset", "-c", str(bench.load_core), program("wrk"), "-t1", f"-c{connections}", f"-d{seconds}s"]
    load += ["--latency", "--timeout", "10s"]
    load += ["-H", f"Host: {HOST}", f"http://127.0.0.1:{target.port}/v1/events"]
    done = subprocess.run(load, capture_output=True, text=True)
    text = done.stdout + done.stderr
    if done.returncode != 0 or "Non-2xx" in text or re.search(r"Socket errors:.*[1-9]", text):
        raise RuntimeError(f"{target.name}: wrk reports errors:\n{text}")
    return text


def _percentile(text: str, percent: int) -> float:
    value, unit = re.search(rf"{percent}%\s+([\d.]+)(us|ms|s)", text).groups()
    return float(value) * UNITS[unit]
