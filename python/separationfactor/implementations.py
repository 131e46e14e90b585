"""Chooses between the compiled op and the tf implementation, and reports the choice."""

from __future__ import annotations

import functools
import os
import warnings
from typing import Any

import tensorflow as tf

from separationfactor import _private, library
from separationfactor._version import __version__

IMPLEMENTATIONS = ("auto", "native", "tf")
_ENVIRONMENT_VARIABLE = "SEPARATIONFACTOR_IMPLEMENTATION"


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=2)


def resolve(implementation: str) -> str:
    """Returns which implementation to run, "native" or "tf".

    Args:
        implementation: "native" (the compiled op), "tf" (plain TensorFlow ops) or "auto". With "auto", the
            environment variable `SEPARATIONFACTOR_IMPLEMENTATION` decides. If it is not set, "auto" is native
            if the compiled op loads, else tf with one warning. A function that XLA compiles uses tf, without
            a warning, if there are no XLA kernels.

    Raises:
        ValueError: If `implementation` or the environment variable has another value.
        RuntimeError: If the value is "native" and the compiled op is not available.
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
    if library.ops is not None:
        without_kernel = (
            implementation == "auto" and _private.in_xla_context() and library.why_not_xla() is not None
        )
        return "tf" if without_kernel else "native"
    if implementation == "native":
        raise RuntimeError(f"separationfactor's compiled op is not available: {library.why_unavailable}")
    _warn_once(
        "separationfactor uses plain TensorFlow ops, which give the same results but are slower, because its "
        f"compiled op is not available: {library.why_unavailable}"
    )
    return "tf"


_environment, _KEY = _private.environment(_ENVIRONMENT_VARIABLE)


def runs_eagerly(implementation: str) -> bool:
    """Returns whether `resolve` certainly returns "native" in eager mode. Faster than `resolve`."""
    if implementation == "auto":
        return library.ops is not None and _environment.get(_KEY) is None
    return implementation == "native" and library.ops is not None


def supports_jit(implementation: str) -> bool:
    """Returns whether XLA can compile the implementation."""
    return resolve(implementation) == "tf" or library.why_not_xla() is None


def build_info() -> dict[str, Any]:
    """Describes the installed package and its runtime.

    Returns:
        A dict of plain values:

        - `version`: The version of separationfactor.
        - `tensorflow`: The version of TensorFlow that is running.
        - `built_for_tensorflow`, `compiler`, `flags`, `architecture`: How the compiled code was built. None
          without compiled code.
        - `native`: Whether the compiled op is loaded. If not, `why_not_native` gives the reason.
        - `implementation`: What `implementation="auto"` means, "native" or "tf".
        - `instruction_set`: The CPU instruction set that the kernels use. For tests, the environment variable
          `SEPARATIONFACTOR_INSTRUCTION_SET` can select another.
        - `cuda`: A dict with the `version` of the CUDA toolkit that built the GPU kernels and the
          `architectures` that they support. None without GPU kernels: `why_not_cuda` then gives the reason.
        - `xla`: Whether XLA can compile the op. If not, `why_not_xla` gives the reason, and functions with
          `jit_compile=True` use plain TensorFlow ops.
    """
    build = library.build()
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
        "native": library.ops is not None,
        "why_not_native": library.why_unavailable,
        "implementation": implementation,
        "instruction_set": library.instruction_set(),
        "cuda": build.get("cuda") if library.why_not_cuda is None else None,
        "why_not_cuda": library.why_not_cuda,
        "xla": library.why_not_xla() is None,
        "why_not_xla": library.why_not_xla(),
    }
