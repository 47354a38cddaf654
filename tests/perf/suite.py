"""Alternates short rounds of load on idjag-proxy, nginx, HAProxy and Envoy and reports ratios."""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from harness import REPOSITORY
from harness.cases import say
from harness.install import Cache, install_parts
from perf.measure import Sample, resident_with, sample
from perf.report import Measured, write
from perf.targets import Bench, Target, start_envoy, start_haproxy, start_idjag, start_nginx, start_upstream

HERE = Path(__file__).resolve().parent


def main():
    options = argparse.ArgumentParser(
        prog="tests/perf/run", description="requests per CPU second, latency and memory against other proxies"
    )
    options.add_argument("--rounds", type=int, default=15)
    options.add_argument("--seconds", type=int, default=3, help="length of one run of wrk")
    options.add_argument("--connections", type=int, default=32)
    options.add_argument("--proxy", help="the binary; default: the dist build, built if absent (or IDJAG_PROXY)")
    options.add_argument("--no-files", action="store_true", help="print the table; do not write results.md and .svg")
    chosen = options.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        sys.exit("not run: load and proxy need a core each")
    binary = proxy_binary(chosen.proxy)
    directory = Path(tempfile.mkdtemp(prefix="idjag-perf-"))
    bench = Bench(directory, cores[0], cores[1])
    try:
        # This process and its token endpoint share the load's core.
        os.sched_setaffinity(0, {cores[0]})
        start_upstream(bench)
        targets, left_out = start_targets(bench, binary)
        measured = measure(bench, targets, chosen)
    except RuntimeError as error:
        sys.exit(f"FAILED: {error}\nlogs: {directory}")
    finally:
        bench.close()
    facts = build_facts(binary, built_here=binary != given(chosen.proxy))
    text = write(measured, method(chosen), facts, left_out, None if chosen.no_files else HERE)
    print(text)
    shutil.rmtree(directory)


def given(option: str | None) -> Path | None:
    path = option or os.environ.get("IDJAG_PROXY")
    return Path(path).resolve() if path else None


def proxy_binary(option: str | None) -> Path:
    if path := given(option):
        return path
    target = Path(os.environ.get("CARGO_TARGET_DIR") or REPOSITORY / "target")
    started = time.monotonic()
    subprocess.run(["cargo", "build", "--quiet", "--profile", "dist"], cwd=REPOSITORY, check=True)
    print(f"build: dist: {time.monotonic() - started:.0f} s", flush=True)
    return target / "dist" / "idjag-proxy"


def start_targets(bench: Bench, binary: Path) -> tuple[list[Target], list[str]]:
    """Starts the proxies, ours first, and returns them with the reasons for missing peers."""
    cache: Cache = install_parts(say, only={"python"})
    starts = {
        "nginx": start_nginx,
        "HAProxy": start_haproxy,
        "Envoy": lambda bench: start_envoy(bench, cache.envoy),
    }
    targets, left_out = [start_idjag(bench, binary)], []
    for name, start in starts.items():
        try:
            targets.append(start(bench))
        except FileNotFoundError as error:
            left_out.append(f"{name}: {error}")
    return targets, left_out


def measure(bench: Bench, targets: list[Target], chosen) -> list[Measured]:
    idle = {target.name: target.resident_mib() for target in targets}
    samples: dict[str, list[Sample]] = {target.name: [] for target in targets}
    for target in targets:
        sample(bench, target, chosen.connections, 1)  # warms up connections, caches and the token
    for number in range(chosen.rounds):
        # Each round begins with another proxy, so that none always follows the same one.
        turn = number % len(targets)
        for target in targets[turn:] + targets[:turn]:
            samples[target.name].append(sample(bench, target, chosen.connections, chosen.seconds))
        line = "  ".join(f"{name} {taken[-1].per_cpu_second:,.0f}" for name, taken in samples.items())
        print(f"round {number + 1}/{chosen.rounds}: requests per CPU second: {line}", flush=True)
    many = {target.name: resident_with(bench, target, 1000, 4) for target in targets}
    return [Measured(one.name, one.version, samples[one.name], idle[one.name], many[one.name]) for one in targets]


def method(chosen) -> str:
    return (
        f"{chosen.rounds} rounds of {chosen.seconds} s for each proxy in turn, wrk with one thread and "
        f"{chosen.connections} keep-alive connections, {platform.system()} {platform.release().split('-')[0]}, "
        f"{cpu_model()}"
    )


def build_facts(binary: Path, built_here: bool) -> str:
    compiler, profile = " ".join(run("rustc", "--version").split()[:2]), binary.parent.name
    size = f"binary {binary.stat().st_size / 2**20:.1f} MiB"
    return f"profile `{profile}`, {commit_of(built_here)}, {compiler}, {size}"


def commit_of(built_here: bool) -> str:
    """Describes the commit, which is known only of a binary built just now from a clean work
    tree.
    """
    if not built_here:
        return "commit unknown (the binary was given)"
    head = run("git", "rev-parse", "--short=12", "HEAD")
    if not head:
        return "commit unknown (not a Git repository)"
    return "commit unknown (the work tree has changes)" if run("git", "status", "--porcelain") else f"commit {head}"


def run(*argv: str) -> str:
    return subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True).stdout.strip()


def cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


if __name__ == "__main__":
    main()
