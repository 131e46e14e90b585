"""Fused top-k masking for TensorFlow and Keras: the separation and k-sparse layers as one compiled op."""

from separationfactor import models
from separationfactor.callbacks import KSchedule
from separationfactor.layers import KSparse, SeparationFactor
from separationfactor.native import build_info
from separationfactor.ops import separate
from separationfactor.portability import portable

__version__ = "0.1.0"

__all__ = ["KSchedule", "KSparse", "SeparationFactor", "build_info", "models", "portable", "separate"]
