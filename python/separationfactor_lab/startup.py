"""Imports TensorFlow late, and without the information lines that it prints during import."""

from __future__ import annotations

import contextlib
import importlib
import os
import pickle
import re
import sys
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any


def load(*modules: str) -> list[ModuleType]:
    """Imports modules, and hides the information lines that TensorFlow prints when it is first imported."""
    is_first = "tensorflow" not in sys.modules and os.environ.get("TF_CPP_MIN_LOG_LEVEL") != "0"
    with _without_greeting() if is_first else contextlib.nullcontext():
        return [importlib.import_module(name) for name in modules]


def quiet_start(function: Callable, *arguments: Any) -> tuple[Callable, tuple]:
    """Returns an initializer and its arguments for a process pool, whose processes call the function first.

    The function, its arguments and the modules that they import, including TensorFlow, are loaded as by
    `load`.
    """
    return _start, (pickle.dumps((function, arguments)),)


def _start(pickled: bytes) -> None:
    with _without_greeting():
        function, arguments = pickle.loads(pickled)
    function(*arguments)


# Information lines, and the lines before and after them. `TF_CPP_MIN_LOG_LEVEL` does not hide all of them.
_GREETING = re.compile(
    rb"I\d{4} |WARNING: All log messages before absl::InitializeLog|To enable the following"
)


@contextlib.contextmanager
def _without_greeting() -> Iterator[None]:
    """Buffers stderr, including that of C++ code, then writes all lines except TensorFlow's greeting."""
    if sys.stderr is None:  # the process started with a closed stderr
        yield
        return
    sys.stderr.flush()
    with open(os.memfd_create("stderr"), "w+b") as held:
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
