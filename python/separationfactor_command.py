"""Where the command `separationfactor` starts, before TensorFlow is imported."""

import os

# TensorFlow greets with several lines about the machine; warnings are kept for those who ask for them.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from separationfactor.cli import main

__all__ = ["main"]
