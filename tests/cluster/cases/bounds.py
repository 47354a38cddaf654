"""e: limits of injector, sidecar and agent, as far as a node shows them."""

import re
import socket
from pathlib import Path

from cluster.cases.injector import SELECTOR
from cluster.world import INJECTOR, OWN_NAMESPACE, REPOSITORY, SIDECAR, Cluster
from harness.cases import NotRun, case, expect
from harness.parts import fetch
from harness.proxy import JWT

TOKEN = "var/run/secrets/kubernetes.io/serviceaccount"


@case("e: the injector may do what the chart's README lists and nothing more, and that suffices")
def rights(world: Cluster):
    account = f"system:serviceaccount:{OWN_NAMESPACE}:{INJECTOR}"
    world.kubectl("create", "serviceaccount", "nobody", "-n", OWN_NAMESPACE)
    nobody = f"system:serviceaccount:{OWN_NAMESPACE}:nobody"

    def listed(who, namespace):
        return rules(world.kubectl("auth", "can-i", "--list", f"--as={who}", "-n", namespace))

    own = listed(account, OWN_NAMESPACE) - listed(nobody, OWN_NAMESPACE)
    elsewhere = listed(account, "agents") - listed(nobody, "agents")
    documented = rights_of_chart_readme()
    in_its_own = documented["everywhere"] | documented["its namespace"]
    expect(own == in_its_own, f"in its own namespace: {sorted(own ^ in_its_own)}")
    expect(elsewhere == documented["everywhere"], f"elsewhere: {sorted(elsewhere ^ documented['everywhere'])}")
    for pod in world.pods(OWN_NAMESPACE, SELECTOR):
        log = world.log(OWN_NAMESPACE, pod["metadata"]["name"], "injector")
        expect("forbidden" not in log.lower(), f"an injector was refused: {first_with(log, 'forbidden')}")


def rules(table: str) -> set[tuple[str, str, str]]:
    """Parses `kubectl auth can-i --list` into resource, names and verbs."""
    found = set()
    for line in table.splitlines()[1:]:
        parts = re.fullmatch(r"(\S*)\s+\[(.*?)\]\s+\[(.*?)\]\s+\[(.*?)\]\s*", line)
        if parts and parts[1]:
            found.add((parts[1], parts[3], " ".join(sorted(parts[4].split()))))
    return found


def rights_of_chart_readme() -> dict[str, set[tuple[str, str, str]]]:
    """Returns the table of the chart's README, by where the rights apply."""
    lines = (REPOSITORY / "charts/idjag-proxy/README.md").read_text().splitlines()
    found: dict[str, set] = {"everywhere": set(), "its namespace": set()}
    for line in lines:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] in found:
            where, resource, name, verbs, _ = cells
            found[where].add((resource, name.replace("any", ""), " ".join(sorted(verbs.split(", ")))))
    expect(all(found.values()), "the chart's README lacks the rights")
    return found


def first_with(text: str, word: str) -> str:
    return next((line for line in text.splitlines() if word in line.lower()), "")


@case("e: the sidecar has no token for the API server; the agent keeps its own")
def no_token(world: Cluster):
    pod = world.pod("agents", "app=curl")
    name = pod["metadata"]["name"]
    agent = world.kubectl("exec", "-n", "agents", name, "-c", "agent", "--", "ls", f"/{TOKEN}").split()
    expect("token" in agent, f"the agent has {agent}, so the case proves nothing")
    root = Path(f"/proc/{world.container(pod, SIDECAR)}/root")
    sidecar = [one.name for one in (root / TOKEN).iterdir()]
    expect(not sidecar, f"the sidecar has {sidecar}")
    tokens = [one for place in ("etc", "run", "var") for one in (root / place).rglob("*") if one.name == "token"]
    expect(not tokens, f"the sidecar has {tokens}")


@case("e: the agent cannot reach the sidecar's admin socket, files or processes")
def no_admin(world: Cluster):
    pod = world.pod("agents", "app=curl")
    ready = world.status_of_sidecar(pod)["ready"]
    expect(ready, "the admin socket does not answer the operator, so the case proves nothing")
    name = pod["metadata"]["name"]

    def inside(*words):
        return world.node.ask_kubectl("exec", "-n", "agents", name, "-c", "agent", "--", *words)

    for path in ("/run/idjag-proxy", "/spiffe-workload-api", "/etc/idjag-proxy"):
        expect(inside("ls", path).returncode != 0, f"the agent sees {path}")
    socket_of_admin = ["--unix-socket", "/run/idjag-proxy/admin.sock"]
    asked = inside("curl", "-sS", "--max-time", "5", *socket_of_admin, "http://admin/status")
    expect(asked.returncode != 0, f"the admin socket answered the agent: {asked.stdout}")
    # Both share the network, so the agent could reach an abstract socket, which has no file.
    sockets = [line.split()[7] for line in inside("cat", "/proc/net/unix").stdout.splitlines() if len(line.split()) > 7]
    expect(not [one for one in sockets if one.startswith("@")], f"abstract sockets: {sockets}")
    programs = inside("sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '").stdout
    expect("curl" in programs and "idjag-proxy" not in programs, f"the agent sees the processes: {programs}")
    root = Path(f"/proc/{world.container(pod, SIDECAR)}/root")
    mode = (root / "run/idjag-proxy/admin.sock").stat().st_mode & 0o777
    expect(mode == 0o600, f"the admin socket has mode {mode:o}")


@case("e: sidecar and injector listen on the documented ports only")
def ports(world: Cluster):
    pod = world.pod("agents", "app=curl")
    open_ports = listening(world.container(pod, SIDECAR))
    documented = {("127.0.0.1", 17080), ("::", 17090)} | (
        {("::1", 17080)} if socket.has_ipv6 and ("::1", 17080) in open_ports else set()
    )
    expect(open_ports == documented, f"the sidecar's pod listens on {sorted(open_ports)}")
    address = pod["status"]["podIP"]
    expect(fetch(f"http://{address}:17080/")[0] == 0, "the outbound port answers from outside the pod")
    expect(fetch(f"http://{address}:17090/metrics")[0] == 200, "the metrics port does not answer")
    for injector in world.pods(OWN_NAMESPACE, SELECTOR):
        open_ports = listening(world.container(injector, "injector"))
        expect({port for _, port in open_ports} == {8443, 17090}, f"an injector listens on {sorted(open_ports)}")


def listening(pid: int) -> set[tuple[str, int]]:
    """Returns the TCP addresses with listeners in the network namespace of a process."""
    found = set()
    for name, family in {"tcp": socket.AF_INET, "tcp6": socket.AF_INET6}.items():
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            if state == "0A":
                address, port = local.split(":")
                # The address consists of words of four bytes in the machine's byte order.
                words = [bytes.fromhex(address[at : at + 8])[::-1] for at in range(0, len(address), 8)]
                found.add((socket.inet_ntop(family, b"".join(words)), int(port, 16)))
    return found


@case("e: the NetworkPolicy is enforced")
def network_policy(_: Cluster):
    raise NotRun("the node's network is a bridge, which enforces no NetworkPolicy")


@case("e: logs and metrics of sidecars and injectors have no token, key or panic")
def logs(world: Cluster):
    seen = 0
    for namespace, selector, container in [
        ("agents", "idjag-proxy.io/injected=true", SIDECAR),
        (OWN_NAMESPACE, SELECTOR, "injector"),
    ]:
        for pod in world.get("pods", "-n", namespace, "-l", selector)["items"]:
            name = pod["metadata"]["name"]
            texts = {"log": world.log(namespace, name, container)}
            texts["metrics"] = fetch(f"http://{pod['status'].get('podIP')}:17090/metrics")[1]
            for where, text in texts.items():
                seen += bool(text)
                expect(not JWT.search(text), f"a token appears in the {where} of {name}")
                expect("PRIVATE KEY" not in text, f"a key appears in the {where} of {name}")
                expect("panicked at" not in text, f"{name} panicked: {first_with(text, 'panicked at')}")
    expect(seen >= 8, f"only {seen} logs and metrics were read")
