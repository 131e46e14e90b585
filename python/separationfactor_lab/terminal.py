"""Text output, path arguments and error reporting of the commands."""

from __future__ import annotations

import errno
import functools
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import rich
from rich.text import Text

from separationfactor_lab.errors import LabError

# NumPy's range of seeds, the smallest among Python, NumPy and TensorFlow.
SEED = click.IntRange(0, 2**32 - 1)


class PathType(click.Path):
    """A `click.Path` that must not be empty."""

    def __init__(self, **options: Any):
        super().__init__(path_type=Path, **options)

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        """Returns the path, or fails as Click's types do."""
        if not os.fspath(value):
            self.fail("a path must not be empty", param, ctx)
        return super().convert(value, param, ctx)


def plain(text: object, style: str = "") -> Text:
    """Returns text that Rich prints literally, without markup.

    Characters that the terminal's encoding lacks are escaped.
    """
    encoding = rich.get_console().encoding
    return Text(str(text).encode(encoding, "backslashreplace").decode(encoding), style)


def say(text: object) -> None:
    """Prints text literally, without wrapping lines."""
    rich.get_console().print(plain(text), soft_wrap=True)


def reports_errors(command: Callable) -> Callable:
    """Decorates a command: prints errors that the user can fix, and file errors, without a traceback.

    The message is printed in one line.
    """

    @functools.wraps(command)
    def wrapped(*args, **kwargs):
        try:
            return command(*args, **kwargs)
        except LabError as error:
            raise _in_one_line(str(error)) from error
        except OSError as error:
            if error.errno == errno.EPIPE:  # the reader of the output has closed it, as `head` does
                raise
            raise _in_one_line(_described(error)) from error
        except KeyboardInterrupt:
            raise click.ClickException("interrupted") from None

    return wrapped


def _described(error: OSError) -> str:
    if error.strerror is None:
        return str(error)
    return error.strerror if error.filename is None else f"{os.fsdecode(error.filename)}: {error.strerror}"


def _in_one_line(message: str) -> click.ClickException:
    return click.ClickException(re.sub(r"\s*\n\s*", " ", message.strip()))
