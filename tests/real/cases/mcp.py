"""The MCP conformance suite judges the whole path: ID token, ID-JAG, access token, MCP call."""

import subprocess
import sys

from harness import module_command
from harness.cases import case, expect
from harness.parts import WITHOUT_PROXIES
from real.world import World

SCENARIO = "auth/cross-app-access-complete-flow"
CHECKS = 6


@case(f"mcp: conformance scenario {SCENARIO}")
def cross_app_access(world: World):
    world.need("conformance")
    judge = world.cache.conformance / "node_modules/@modelcontextprotocol/conformance/dist/index.js"
    log = world.run.logs / "conformance.log"
    command = " ".join(module_command(sys.executable, "real.mcp_shim", str(world.binary), str(world.run.directory)))
    argv = [world.cache.node, judge, "client", "--scenario", SCENARIO, "--command", command, "--timeout", "60000"]
    with log.open("w") as output:
        streams = {"stdout": output, "stderr": subprocess.STDOUT}
        done = subprocess.run([str(word) for word in argv], **streams, env=WITHOUT_PROXIES, timeout=120)
    text = log.read_text(errors="replace")
    passed = done.returncode == 0 and f"Passed: {CHECKS}/{CHECKS}" in text
    expect(passed, f"the judge ended with {done.returncode}:\n{text[-3000:]}")
