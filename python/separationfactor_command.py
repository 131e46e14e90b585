"""Where the command `separationfactor` starts, before TensorFlow is imported."""

import os

# TensorFlow greets with several lines about the machine; warnings are kept for those who ask for them.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

try:
    from separationfactor.cli import main
except ImportError as error:
    if error.name not in ("tensorflow", "keras"):
        raise
    raise SystemExit(str(error)) from None

__all__ = ["main"]
