"""Loads the compiled op library, and says why where it cannot."""

from __future__ import annotations

import ctypes
import functools
import json
import os
import warnings
from pathlib import Path
from typing import Any

import tensorflow as tf
from tensorflow.python.ops import control_flow_util

from separationfactor import installation

_FOLDER = Path(__file__).parent
_ENVIRONMENT_VARIABLE = "SEPARATIONFACTOR_IMPLEMENTATION"
IMPLEMENTATIONS = ("auto", "native", "tf")


def _minor(version: str) -> str:
    return ".".join(version.split(".")[:2])


def _build() -> dict[str, Any]:
    """Returns what the build wrote down of itself; empty for an install without compiled code."""
    try:
        return json.loads((_FOLDER / "_build.json").read_text())
    except FileNotFoundError:
        return {}


def _reinstall() -> str:
    return installation.command("--force-reinstall --no-deps --no-cache-dir ")


def _load() -> tuple[Any, str | None]:
    """Returns the module of the library's ops and None, or None and why there is none."""
    build = _build()
    if not build:
        return None, f"it was installed without compiled code; to build it: {_reinstall()}"
    # Symbols carry absl's version, so a build serves one minor version. Another is not even tried:
    # where the symbols happen to match, the classes behind them need not.
    if _minor(build["tensorflow"]) != _minor(tf.__version__):
        return None, (
            f"it was built for TensorFlow {build['tensorflow']} and this is TensorFlow "
            f"{tf.__version__}; to build it for this one: {_reinstall()}"
        )
    try:
        return tf.load_op_library(str(_FOLDER / "_ops.so")), None
    except (tf.errors.OpError, OSError) as error:
        return None, (
            f"its library, built for TensorFlow {build['tensorflow']}, does not load into TensorFlow "
            f"{tf.__version__} ({getattr(error, 'message', error)}); to build it anew: {_reinstall()}"
        )


def _load_cuda() -> str | None:
    """Loads the ops' kernels for a GPU; returns None, or why there are none."""
    if ops is None:
        return why_unavailable
    why = _build().get("why_not_cuda")
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
    why = _build().get("why_not_xla")
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


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=2)


def resolve(implementation: str) -> str:
    """Returns which implementation to run, "native" or "tf".

    Args:
        implementation: "native" (the compiled op), "tf" (plain TensorFlow ops), or "auto": what the
            environment variable `SEPARATIONFACTOR_IMPLEMENTATION` says, else native where it loads and
            otherwise tf, with one warning. What XLA is to compile is tf's without a warning where there
            are no kernels for XLA.

    Raises:
        ValueError: If `implementation` or the environment variable is none of these.
        RuntimeError: If "native" is asked for and the compiled op is not available.
    """
    source = "implementation"
    if implementation == "auto":
        source = _ENVIRONMENT_VARIABLE
        implementation = os.environ.get(source) or "auto"
    if implementation not in IMPLEMENTATIONS:
        raise ValueError(
            f"`{source}` must be one of {', '.join(map(repr, IMPLEMENTATIONS))}. Received: {implementation!r}"
        )
    if implementation == "tf":
        return "tf"
    if ops is not None:
        without_kernel = implementation == "auto" and in_xla_context() and why_not_xla() is not None
        return "tf" if without_kernel else "native"
    if implementation == "native":
        raise RuntimeError(f"separationfactor's compiled op is not available: {why_unavailable}")
    _warn_once(
        "separationfactor runs on plain TensorFlow ops, with the same results but slower, as its "
        f"compiled op is not available: {why_unavailable}"
    )
    return "tf"


# `os.environ.get` raises and catches a KeyError where a variable is not set, which takes a third of a small
# eager call. This is the dictionary behind it.
_environment = os.environ._data
_KEY = os.environ.encodekey(_ENVIRONMENT_VARIABLE)


def runs_eagerly(implementation: str) -> bool:
    """Returns, at once, whether `resolve` is sure to say "native" where nothing is being traced."""
    if implementation == "auto":
        return ops is not None and _environment.get(_KEY) is None
    return implementation == "native" and ops is not None


def in_xla_context() -> bool:
    """Returns whether the function that is being traced is one for XLA to compile."""
    return not tf.executing_eagerly() and control_flow_util.GraphOrParentsInXlaContext(
        tf.compat.v1.get_default_graph()
    )


def why_not_xla() -> str | None:
    """Returns why XLA cannot compile the op on every device that it may run on here; None where it can."""
    if _why_not_xla is None and why_not_cuda is not None and tf.config.get_visible_devices("GPU"):
        return f"there is a GPU, and no kernels for it: {why_not_cuda}"
    return _why_not_xla


def supports_jit(implementation: str) -> bool:
    """Returns whether XLA can compile the implementation."""
    return resolve(implementation) == "tf" or why_not_xla() is None


def _instruction_set() -> str:
    """Asks the loaded library: separationfactor_core has kernels, and a setting, of its own."""
    name = ctypes.CDLL(str(_FOLDER / "_ops.so")).SeparationFactorInstructionSet
    name.restype = ctypes.c_char_p
    return name().decode()


def build_info() -> dict[str, Any]:
    """Describes the package as it is installed and runs.

    Returns:
        A dict of plain values:

        - `version`: separationfactor's version.
        - `tensorflow`: the version of TensorFlow that runs.
        - `built_for_tensorflow`, `compiler`, `flags`, `architecture`: how the compiled code was built;
          None without compiled code.
        - `native`: whether the compiled op is loaded, and `why_not_native` the reason if it is not.
        - `implementation`: what `implementation="auto"` means, "native" or "tf".
        - `instruction_set`: which of the processor's instruction sets the kernels use; the environment
          variable `SEPARATIONFACTOR_INSTRUCTION_SET` can name another, for tests.
        - `cuda`: the `version` of the CUDA toolkit and the `architectures` that the kernels for a GPU were
          built with and for, a dict; None without such kernels, and `why_not_cuda` the reason.
        - `xla`: whether XLA compiles the op, and `why_not_xla` the reason if it does not; then functions
          with `jit_compile=True` use plain TensorFlow ops.
    """
    from separationfactor import __version__

    build = _build()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        implementation = resolve("auto")
    return {
        "version": __version__,
        "tensorflow": tf.__version__,
        "built_for_tensorflow": build.get("tensorflow"),
        "compiler": build.get("compiler"),
        "flags": build.get("flags"),
        "architecture": build.get("architecture"),
        "native": ops is not None,
        "why_not_native": why_unavailable,
        "implementation": implementation,
        "instruction_set": _instruction_set() if ops is not None else None,
        "cuda": build.get("cuda") if why_not_cuda is None else None,
        "why_not_cuda": why_not_cuda,
        "xla": why_not_xla() is None,
        "why_not_xla": why_not_xla(),
    }
