"""Where the package was installed from, and the command that installs it again."""

from __future__ import annotations

import importlib.metadata
import json
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname


def command(options: str = "", extra: str = "") -> str:
    """Returns a shell's command that installs the package once more, from the sources that it came from.

    Args:
        options: What else pip is given, followed by a space.
        extra: What else of the package is installed, such as "[onnx]".
    """
    for distribution in importlib.metadata.distributions(name="separationfactor"):
        # What pip and uv write down: https://peps.python.org/pep-0610
        origin = distribution.read_text("direct_url.json")
        source = _source(json.loads(origin), extra) if origin else None
        if source is not None:
            tool = "uv pip" if (distribution.read_text("INSTALLER") or "").strip() == "uv" else "pip"
            return f"{tool} install {options}{source}"
    return f"pip install {options}{shlex.quote(f'.{extra}')} (in the folder of its sources)"


def _source(origin: dict[str, Any], extra: str) -> str | None:
    """Returns what pip is given, or None where the sources are not there any more."""
    url = origin["url"]
    parts = urlsplit(url)
    path = Path(url2pathname(parts.path)) if parts.scheme == "file" else None
    if "vcs_info" in origin:
        vcs = origin["vcs_info"]
        revision = vcs.get("requested_revision")
        url = f"{vcs['vcs']}+{url}{f'@{revision}' if revision else ''}"
    # A wheel holds no sources.
    elif url.endswith(".whl") or (path is not None and not path.exists()):
        return None
    if "dir_info" in origin:
        editable = "--editable " if origin["dir_info"].get("editable") else ""
        return editable + shlex.quote(f"{path}{extra}")
    subdirectory = origin.get("subdirectory")
    url += f"#subdirectory={subdirectory}" if subdirectory else ""
    return shlex.quote(f"separationfactor{extra} @ {url}")
