"""Imports TensorFlow late, and without the lines that it prints while it is imported."""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any


def load(*modules: str) -> list[ModuleType]:
    """Imports modules, and hides the information that TensorFlow prints while it is imported first."""
    is_first = "tensorflow" not in sys.modules and os.environ.get("TF_CPP_MIN_LOG_LEVEL") != "0"
    with _without_greeting() if is_first else contextlib.nullcontext():
        return [importlib.import_module(name) for name in modules]


def quiet_start(function: Callable, *arguments: Any) -> tuple[Callable, tuple]:
    """Returns an initializer and its arguments for a pool whose processes call the function as they start.

    What the function and its arguments import, TensorFlow included, is imported as `load` does it.
    """
    return _start, (pickle.dumps((function, arguments)),)


def _start(pickled: bytes) -> None:
    with _without_greeting():
        function, arguments = pickle.loads(pickled)
    function(*arguments)


# Lines of information, and what surrounds them: `TF_CPP_MIN_LOG_LEVEL` does not hold for all of them.
_GREETING = re.compile(
    rb"I\d{4} |WARNING: All log messages before absl::InitializeLog|To enable the following"
)


@contextlib.contextmanager
def _without_greeting() -> Iterator[None]:
    """Holds stderr back, also that of C++ code, and then writes what is not TensorFlow's greeting."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as held:
        stderr = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            sys.stderr.flush()
            os.dup2(stderr, 2)
            os.close(stderr)
            held.seek(0)
            for line in held:
                if not _GREETING.match(line):
                    os.write(2, line)
