"""Loads the compiled libraries, or gives the reason why they cannot be loaded."""

from __future__ import annotations

import ctypes
import functools
import json
from pathlib import Path
from typing import Any

import tensorflow as tf

from separationfactor import installation

_FOLDER = Path(__file__).parent


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


@functools.cache
def _read_build(folder: Path) -> dict[str, Any]:
    try:
        return json.loads((folder / "_build.json").read_text())
    except FileNotFoundError:
        return {}


def build() -> dict[str, Any]:
    """Returns the facts that the build recorded. Empty if there is no compiled code."""
    return _read_build(_FOLDER)


def _reinstall() -> str:
    return installation.command("--force-reinstall --no-deps --no-cache-dir ")


def _load() -> tuple[Any, str | None]:
    """Returns the module of the library's ops and None, or None and the reason why it is not available."""
    built = build()
    if not built:
        return None, f"the package was installed without compiled code. To build it, run: {_reinstall()}"
    # Symbols carry absl's version, so a build works with one minor version of TensorFlow. The library is not
    # loaded into another: even if the symbols match, the classes behind them may differ.
    if _minor(built["tensorflow"]) != _minor(tf.__version__):
        return None, (
            f"it was built for TensorFlow {built['tensorflow']}, but TensorFlow {tf.__version__} is running. "
            f"To rebuild it, run: {_reinstall()}"
        )
    try:
        return tf.load_op_library(str(_FOLDER / "_ops.so")), None
    except (tf.errors.OpError, OSError) as error:
        return None, (
            f"its library, built for TensorFlow {built['tensorflow']}, does not load into TensorFlow "
            f"{tf.__version__} ({getattr(error, 'message', error)}). To rebuild it, run: {_reinstall()}"
        )


def _load_kernels(name: str) -> str | None:
    """Loads a library of more kernels. Returns None, or the reason why it does not load."""
    try:
        tf.load_library(str(_FOLDER / name))
    except (tf.errors.OpError, OSError) as error:
        return f"its library does not load ({getattr(error, 'message', error)})"
    return None


def _load_cuda() -> str | None:
    """Loads the GPU kernels of the ops. Returns None, or the reason why they are not available."""
    if ops is None:
        return why_unavailable
    why = build().get("why_not_cuda")
    if why is not None:
        return f"the package was built without them: {why}"
    return _load_kernels("_ops_cuda.so")


def _load_xla() -> str | None:
    """Loads the XLA kernels of the ops. Returns None, or the reason why they are not available."""
    if ops is None:
        return why_unavailable
    why = build().get("why_not_xla")
    if why is not None:
        return why
    return _load_kernels("_xla.so")


ops, why_unavailable = _load()
why_not_cuda = _load_cuda()
_why_not_xla = _load_xla()


def why_not_xla() -> str | None:
    """Returns the reason why XLA cannot compile the op for every visible device, or None if it can."""
    if _why_not_xla is None and why_not_cuda is not None and tf.config.get_visible_devices("GPU"):
        return f"there is a GPU but no GPU kernels: {why_not_cuda}"
    return _why_not_xla


def instruction_set() -> str | None:
    """Returns the instruction set that the op library uses, or None if the library is not loaded.

    The op library itself is asked, because separationfactor_core has its own kernels and its own setting.
    """
    if ops is None:
        return None
    name = ctypes.CDLL(str(_FOLDER / "_ops.so")).SeparationFactorInstructionSet
    name.restype = ctypes.c_char_p
    return name().decode()
