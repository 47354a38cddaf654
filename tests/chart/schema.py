"""The schema of `agents.config` in values.schema.json, which is the proxy's own."""

import json
import subprocess
from pathlib import Path

from harness import REPOSITORY

FILE = REPOSITORY / "charts/idjag-proxy/values.schema.json"
PREFIX = "proxy:"


def expected(proxy: Path) -> str:
    """Returns values.schema.json with the definitions that `idjag-proxy schema` prints now."""
    values = json.loads(FILE.read_text())
    printed = subprocess.run([proxy, "schema"], capture_output=True, text=True, check=True).stdout
    own = {name: one for name, one in values["$defs"].items() if not name.startswith(PREFIX)}
    theirs = {f"{PREFIX}{name or 'Config'}": _renamed(one) for name, one in json.loads(printed)["$defs"].items()}
    values["$defs"] = own | dict(sorted(theirs.items()))
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"


def _renamed(node):
    """Returns the schema with references to the definitions' names in values.schema.json."""
    if isinstance(node, dict):
        return {key: _reference(value) if key == "$ref" else _renamed(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_renamed(one) for one in node]
    return node


def _reference(target: str) -> str:
    return f"#/$defs/{PREFIX}{target.removeprefix('#/$defs/') or 'Config'}"
