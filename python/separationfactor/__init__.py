"""Fused top-k masking for TensorFlow and Keras: the separation and k-sparse layers as one compiled op."""

# TensorFlow is no dependency that pip installs (see pyproject.toml), and it is what brings Keras.
try:
    import tensorflow  # noqa: F401
except ModuleNotFoundError as error:
    if error.name != "tensorflow":
        raise
    raise ImportError(
        "separationfactor needs TensorFlow, which is not installed. To install it: pip install "
        "'tensorflow-cpu==2.21.*' (or 'tensorflow', or for a GPU 'tensorflow[and-cuda]')",
        name="tensorflow",
    ) from None
try:
    import keras
except ImportError as error:
    raise ImportError(
        f"separationfactor needs Keras 3 with its TensorFlow backend, and Keras cannot be imported: {error}. "
        "To install it: pip install 'keras>=3'. The environment variable KERAS_BACKEND must be 'tensorflow' "
        "or not set",
        name="keras",
    ) from None
if keras.__version__.startswith("2."):
    raise ImportError(
        f"separationfactor needs Keras 3. To install it: pip install 'keras>=3'. Received: Keras "
        f"{keras.__version__}",
        name="keras",
    )

from separationfactor import models
from separationfactor.callbacks import KSchedule
from separationfactor.implementations import build_info
from separationfactor.layers import KSparse, SeparationFactor
from separationfactor.ops import separate
from separationfactor.portability import portable

__version__ = "0.1.0"

__all__ = ["KSchedule", "KSparse", "SeparationFactor", "build_info", "models", "portable", "separate"]
