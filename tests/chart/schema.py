"""`agents.config` in values.schema.json is the proxy's own schema: this puts it there, and says whether it is still the same."""

import json
import subprocess
from pathlib import Path

from harness import REPOSITORY

FILE = REPOSITORY / "charts/idjag-proxy/values.schema.json"
PREFIX = "proxy:"


def expected(proxy: Path) -> str:
    """The file as it should be: its own part as it is, and the definitions that `idjag-proxy schema` prints today."""
    values = json.loads(FILE.read_text())
    printed = subprocess.run([proxy, "schema"], capture_output=True, text=True, check=True).stdout
    own = {name: one for name, one in values["$defs"].items() if not name.startswith(PREFIX)}
    theirs = {f"{PREFIX}{name or 'Config'}": _moved(one) for name, one in json.loads(printed)["$defs"].items()}
    values["$defs"] = own | dict(sorted(theirs.items()))
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"


def _moved(node):
    """With references that point to the definitions' new names."""
    if isinstance(node, dict):
        return {key: _reference(value) if key == "$ref" else _moved(value) for key, value in node.items()}
    if isinstance(node, list):
        return [_moved(one) for one in node]
    return node


def _reference(target: str) -> str:
    return f"#/$defs/{PREFIX}{target.removeprefix('#/$defs/') or 'Config'}"
