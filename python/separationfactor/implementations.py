"""Chooses between the compiled op and the tf implementation, and describes the choice."""

from __future__ import annotations

import functools
import os
import warnings
from typing import Any

import tensorflow as tf

from separationfactor import _private, library

IMPLEMENTATIONS = ("auto", "native", "tf")
_ENVIRONMENT_VARIABLE = "SEPARATIONFACTOR_IMPLEMENTATION"


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
    if library.ops is not None:
        without_kernel = (
            implementation == "auto" and _private.in_xla_context() and library.why_not_xla() is not None
        )
        return "tf" if without_kernel else "native"
    if implementation == "native":
        raise RuntimeError(f"separationfactor's compiled op is not available: {library.why_unavailable}")
    _warn_once(
        "separationfactor runs on plain TensorFlow ops, with the same results but slower, as its "
        f"compiled op is not available: {library.why_unavailable}"
    )
    return "tf"


# `os.environ.get` raises and catches a KeyError where a variable is not set, which takes a third of a small
# eager call. This is the dictionary behind it.
_environment = os.environ._data
_KEY = os.environ.encodekey(_ENVIRONMENT_VARIABLE)


def runs_eagerly(implementation: str) -> bool:
    """Returns, at once, whether `resolve` is sure to say "native" where nothing is being traced."""
    if implementation == "auto":
        return library.ops is not None and _environment.get(_KEY) is None
    return implementation == "native" and library.ops is not None


def supports_jit(implementation: str) -> bool:
    """Returns whether XLA can compile the implementation."""
    return resolve(implementation) == "tf" or library.why_not_xla() is None


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
