"""Finds where the package was installed from and builds the command that reinstalls it."""

from __future__ import annotations

import importlib.metadata
import json
import shlex
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname


def command(options: str = "", extra: str = "") -> str:
    """Returns the shell command that reinstalls the package from its original source.

    Args:
        options: Additional options for pip, followed by a space.
        extra: An extra of the package to install, such as "[onnx]".
    """
    for distribution in importlib.metadata.distributions(name="separationfactor"):
        # pip and uv record the source in this file: https://peps.python.org/pep-0610
        origin = distribution.read_text("direct_url.json")
        source = _source(json.loads(origin), extra) if origin else None
        if source is not None:
            tool = "uv pip" if (distribution.read_text("INSTALLER") or "").strip() == "uv" else "pip"
            return f"{tool} install {options}{source}"
    return f"pip install {options}{shlex.quote(f'.{extra}')} (in the source folder)"


def _source(origin: dict[str, Any], extra: str) -> str | None:
    """Returns the source argument for pip, or None if the source no longer exists."""
    url = origin["url"]
    parts = urlsplit(url)
    path = Path(url2pathname(parts.path)) if parts.scheme == "file" else None
    if "vcs_info" in origin:
        vcs = origin["vcs_info"]
        revision = vcs.get("requested_revision")
        url = f"{vcs['vcs']}+{url}{f'@{revision}' if revision else ''}"
    # A wheel contains no sources to build from.
    elif url.endswith(".whl") or (path is not None and not path.exists()):
        return None
    if "dir_info" in origin:
        editable = "--editable " if origin["dir_info"].get("editable") else ""
        return editable + shlex.quote(f"{path}{extra}")
    subdirectory = origin.get("subdirectory")
    url += f"#subdirectory={subdirectory}" if subdirectory else ""
    return shlex.quote(f"separationfactor{extra} @ {url}")
