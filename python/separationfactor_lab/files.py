"""Writes files atomically: either completely or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import tensorflow as tf
from matplotlib.figure import Figure

# All formats that Matplotlib writes, except pgf, which needs LaTeX.
SUFFIXES = tuple(f".{name}" for name in sorted(Figure().canvas.get_supported_filetypes()) if name != "pgf")


def check_suffix(path: str | Path) -> Path:
    """Returns a picture's path as a `Path`.

    Raises:
        ValueError: If Matplotlib does not write the format of the path's suffix.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"a picture's path must end in one of {', '.join(SUFFIXES)}. Received: {path}")
    return path


def make_folder(path: str | Path) -> None:
    """Creates a folder and its missing parents, if the folder does not exist.

    Raises:
        OSError: If the folder cannot be created, or the path is a file.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path)) from error


# The errors that can prevent writing a file.
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
    """Converts TensorFlow's error for a file that cannot be written to an `OSError` that names the path."""
    try:
        yield
    except tf.errors.OpError as error:
        number = next((number for number in _FILE_ERRORS if os.strerror(number) in error.message), None)
        if number is None:
            raise
        raise OSError(number, os.strerror(number), str(path)) from error


@contextlib.contextmanager
def written_at_once(path: str | Path) -> Iterator[Path]:
    """Yields a temporary path next to `path`, and moves it to `path` when the block ends without an error.

    The block may write a file, or create a folder if `path` does not exist. Missing parent folders are
    created.

    Raises:
        OSError: If `path` cannot be written. The error names `path`.
    """
    # A symbolic link is kept and its target is replaced. A device or a pipe must not be replaced.
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
        if error.strerror is None:  # errors of h5py have no strerror
            raise OSError(f"{path}: {error}") from error
        raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        with contextlib.suppress(OSError):  # if writing failed, removal may fail too
            if temporary.is_dir():
                shutil.rmtree(temporary)
            else:
                temporary.unlink(missing_ok=True)


def save_figure(figure: Figure, path: str | Path) -> None:
    """Writes a figure atomically, in the format of the path's suffix.

    Raises:
        ValueError: If Matplotlib does not write this format.
        OSError: If the file cannot be written.
    """
    with written_at_once(check_suffix(path)) as temporary:
        figure.savefig(temporary, dpi=150, bbox_inches="tight")
