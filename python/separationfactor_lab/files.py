"""Files that are written in one step: either whole, or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
from matplotlib.figure import Figure

# All that Matplotlib writes, but what needs LaTeX.
SUFFIXES = tuple(f".{name}" for name in sorted(Figure().canvas.get_supported_filetypes()) if name != "pgf")


def check_suffix(path: str | Path) -> Path:
    """Returns the path of a picture.

    Raises:
        ValueError: If its suffix is not that of a format that Matplotlib writes.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"a picture's path must end in one of {', '.join(SUFFIXES)}. Received: {path}")
    return path


def make_folder(path: str | Path) -> None:
    """Makes a folder, and those that it lies in, where there is none yet.

    Raises:
        OSError: If it cannot be made, or a file is there.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from error


# What can be in the way of a file.
_FILE_ERRORS = (
    errno.EACCES,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.ENOENT,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
)


@contextlib.contextmanager
def tensorflow_writes(path: str | Path) -> Iterator[None]:
    """Turns what TensorFlow raises where it cannot write a file into an `OSError` that names the path."""
    try:
        yield
    except tf.errors.OpError as error:
        number = next((number for number in _FILE_ERRORS if os.strerror(number) in error.message), None)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


@contextlib.contextmanager
def written_at_once(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path beside `path`, which takes its place once the block ends without an error.

    It becomes a file, or a folder where there is none yet. The folders that it lies in are made.

    Raises:
        OSError: If it cannot be written. The error names `path`.
    """
    # What a link leads to is replaced, not the link; a device or a pipe is neither.
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file() and not target.is_dir():
        raise FileExistsError(errno.EEXIST, "Not a regular file", str(path))
    make_folder(Path(path).parent)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}{target.suffix}")
    try:
        with tensorflow_writes(path):
            yield temporary
        os.replace(temporary, target)
    except OSError as error:
        if error.strerror is None:  # as h5py's
            raise OSError(f"{path}: {error}") from error
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with contextlib.suppress(OSError):  # where nothing could be written, nothing can be removed
            if temporary.is_dir():
                shutil.rmtree(temporary)
            else:
                temporary.unlink(missing_ok=True)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Writes a figure to a file of the path's type, in one step.

    Raises:
        ValueError: If Matplotlib has no such type.
        OSError: If the file cannot be written.
    """
    with written_at_once(check_suffix(path)) as temporary:
        figure.savefig(temporary, dpi=150, bbox_inches="tight")
