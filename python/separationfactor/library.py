"""Loads the compiled libraries, or says why they cannot be loaded."""

from __future__ import annotations

import ctypes
import json
from pathlib import Path
from typing import Any

import tensorflow as tf

from separationfactor import installation

_FOLDER = Path(__file__).parent


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def build() -> dict[str, Any]:
    """Returns what the build wrote down of itself; empty for an install without compiled code."""
    try:
        return json.loads((_FOLDER / "_build.json").read_text())
    except FileNotFoundError:
        return {}


def _reinstall() -> str:
    return installation.command("--force-reinstall --no-deps --no-cache-dir ")


def _load() -> tuple[Any, str | None]:
    """Returns the module of the library's ops and None, or None and why there is none."""
    built = build()
    if not built:
        return None, f"it was installed without compiled code; to build it: {_reinstall()}"
    # Symbols carry absl's version, so a build serves one minor version. Another is not even tried:
    # where the symbols happen to match, the classes behind them need not.
    if _minor(built["tensorflow"]) != _minor(tf.__version__):
        return None, (
            f"it was built for TensorFlow {built['tensorflow']} and this is TensorFlow "
            f"{tf.__version__}; to build it for this one: {_reinstall()}"
        )
    try:
        return tf.load_op_library(str(_FOLDER / "_ops.so")), None
    except (tf.errors.OpError, OSError) as error:
        return None, (
            f"its library, built for TensorFlow {built['tensorflow']}, does not load into TensorFlow "
            f"{tf.__version__} ({getattr(error, 'message', error)}); to build it anew: {_reinstall()}"
        )


def _load_cuda() -> str | None:
    """Loads the ops' kernels for a GPU; returns None, or why there are none."""
    if ops is None:
        return why_unavailable
    why = build().get("why_not_cuda")
    if why is not None:
        return f"it was built without them: {why}"
    try:
        tf.load_library(str(_FOLDER / "_ops_cuda.so"))
    except (tf.errors.OpError, OSError) as error:
        return f"its library does not load ({getattr(error, 'message', error)})"
    return None


def _load_xla() -> str | None:
    """Loads XLA's kernels of the ops; returns None, or why there are none."""
    if ops is None:
        return why_unavailable
    why = build().get("why_not_xla")
    if why is not None:
        return why
    try:
        tf.load_library(str(_FOLDER / "_xla.so"))
    except (tf.errors.OpError, OSError) as error:
        return f"its library does not load ({getattr(error, 'message', error)})"
    return None


ops, why_unavailable = _load()
why_not_cuda = _load_cuda()
_why_not_xla = _load_xla()


def why_not_xla() -> str | None:
    """Returns why XLA cannot compile the op on every device that it may run on here; None where it can."""
    if _why_not_xla is None and why_not_cuda is not None and tf.config.get_visible_devices("GPU"):
        return f"there is a GPU, and no kernels for it: {why_not_cuda}"
    return _why_not_xla


def instruction_set() -> str | None:
    """Returns the instruction set that the op library uses, or None if the library is not loaded.

    Asks the library itself: separationfactor_core has kernels, and a setting, of its own.
    """
    if ops is None:
        return None
    name = ctypes.CDLL(str(_FOLDER / "_ops.so")).SeparationFactorInstructionSet
    name.restype = ctypes.c_char_p
    return name().decode()
