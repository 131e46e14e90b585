"""Fused top-k masking for TensorFlow and Keras: the separation and k-sparse layers as one compiled op."""

__version__ = "0.1.0"

from separationfactor.native import build_info
from separationfactor.ops import separate

__all__ = ["build_info", "separate"]
