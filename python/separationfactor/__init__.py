"""Fused top-k masking for TensorFlow and Keras: the separation and k-sparse layers as one compiled op."""

import importlib
from types import ModuleType

# TensorFlow is not among the dependencies that pip installs (see pyproject.toml). TensorFlow installs Keras.
try:
    import tensorflow  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "tensorflow":
        raise
    raise ImportError(
        "separationfactor needs TensorFlow, which is not installed. Install it with: pip install "
        "'tensorflow-cpu==2.21.*' (or 'tensorflow', or 'tensorflow[and-cuda]' for a GPU)",
        name="tensorflow",
    ) from None
try:
    import keras
except ImportError as error:
    raise ImportError(
        f"separationfactor needs Keras 3 with the TensorFlow backend, but Keras cannot be imported: {error}. "
        "Install it with: pip install 'keras>=3'. The environment variable KERAS_BACKEND must be "
        "'tensorflow' or unset",
        name="keras",
    ) from None
if keras.__version__.startswith("2."):
    raise ImportError(
        f"separationfactor needs Keras 3. Install it with: pip install 'keras>=3'. Received: Keras "
        f"{keras.__version__}",
        name="keras",
    )

from separationfactor import models, optimizers, sparse
from separationfactor._version import __version__ as __version__
from separationfactor.callbacks import KSchedule
from separationfactor.implementations import build_info
from separationfactor.layers import KSparse, SeparationFactor, SparseDecoder, SparseEncoder
from separationfactor.ops import separate
from separationfactor.portability import portable

__all__ = [
    "KSchedule",
    "KSparse",
    "SeparationFactor",
    "SparseDecoder",
    "SparseEncoder",
    "build_info",
    "models",
    "optimizers",
    "portable",
    "separate",
    "sparse",
]

# The modules of the laboratory that are also attributes here, imported at their first use.
_LABORATORY = ("benchmark", "data", "evaluation", "export", "figures", "metrics", "runs", "studies")


def __getattr__(name: str) -> ModuleType:
    """Returns a module of the laboratory: `separationfactor.metrics` is `separationfactor_lab.metrics`."""
    if name in _LABORATORY:
        return importlib.import_module(f"separationfactor_lab.{name}")
    raise AttributeError(f"module 'separationfactor' has no attribute {name!r}")
