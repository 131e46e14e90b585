"""Loads and validates data sets of labelled images."""

from __future__ import annotations

import contextlib
import dataclasses
import gzip
import math
import os
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from separationfactor_lab.errors import LabError
from separationfactor_lab.options import DATASETS

_NPZ = "a file in the layout of Keras' mnist.npz: arrays x_train, y_train, x_test and y_test"
_FACTORS = ("factor_names", "factors_train", "factors_test")
_IDX_FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


class DatasetError(LabError, ValueError):
    """A data set is missing or malformed. The message names the file and what was expected."""


class DatasetWarning(UserWarning):
    """A data set can be read, but its values are probably wrong."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Labelled images in a training part and a test part.

    Attributes:
        name: The source that it was loaded from.
        x_train, x_test: float32 of shape (images, height, width, 1), with values in [0, 1].
        y_train, y_test: int32 of shape (images,), with values in [0, num_classes). There are at least two
            classes, and at most as many as training images.
        factor_names: The distinct names of the known factors of the images, if any. See `synthetic_images`.
        factors_train, factors_test: float32 of shape (images, factors), or `None` if no factors are known.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    factor_names: tuple[str, ...] = ()
    factors_train: np.ndarray | None = None
    factors_test: np.ndarray | None = None

    @property
    def num_classes(self) -> int:
        """The number of classes: the largest label of the training part plus 1."""
        return int(self.y_train.max()) + 1

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape of an image: (height, width, 1)."""
        return self.x_train.shape[1:]

    @property
    def fingerprint(self) -> str:
        """A checksum of the data. A run uses it to detect that its data have changed."""
        checksum = 0
        factors = (self.factors_train, self.factors_test) if self.factor_names else ()
        for array in (self.x_train, self.y_train, self.x_test, self.y_test, *factors):
            checksum = zlib.crc32(np.ascontiguousarray(array), checksum)
        return f"{checksum:08x}"


def load(source: str | Path) -> Dataset:
    """Loads a data set.

    Args:
        source: One of these:
            "digits" for scikit-learn's 1,797 digits of 8 x 8 pixels, which need no network;
            "mnist" or "fashion-mnist", through `keras.datasets`;
            the path of an .npz file in the layout of Keras' mnist.npz, optionally with the factors of
                `synthetic_images`;
            the path of a folder with the four files of MNIST's idx format, compressed or not.
            Pixels are integers in [0, 255] or floats in [0, 1].

    Returns:
        A `Dataset`.

    Raises:
        DatasetError: If the data set does not exist or is malformed.

    Warns:
        DatasetWarning: If no pixel of a part is at least half as bright as white.
    """
    source = str(source)
    if source == "digits":
        arrays = _digits()
    elif source in DATASETS:
        arrays = _from_keras(source)
    elif os.path.isdir(source):
        arrays = {key: _idx(Path(source), name) for key, name in _IDX_FILES.items()}
    elif os.path.isfile(source):
        arrays = _npz(source)
    else:
        raise DatasetError(
            f"{source}: no such data set. Expected {', '.join(DATASETS)}, the path of {_NPZ}, or the path of "
            "a folder with MNIST's idx files."
        )
    parts = {}
    for part in ("train", "test"):
        images, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
        parts[f"x_{part}"] = _images(images, f"{source}: x_{part}")
        parts[f"y_{part}"] = _labels(labels, f"{source}: y_{part}", len(images), len(arrays["x_train"]))
    dataset = Dataset(source, **parts, **_factors(arrays, source))
    if dataset.x_test.shape[1:] != dataset.image_shape:
        raise DatasetError(
            f"{source}: x_test must have images of x_train's shape, {dataset.image_shape}. "
            f"Received: {dataset.x_test.shape[1:]}"
        )
    if dataset.num_classes < 2 or dataset.y_test.max() >= dataset.num_classes:
        raise DatasetError(
            f"{source}: y_train must hold at least two classes, and all classes of y_test. "
            f"Received: greatest label {dataset.y_train.max()} in y_train, {dataset.y_test.max()} in y_test"
        )
    _warn_of_dark_images(dataset, arrays)
    return dataset


def _warn_of_dark_images(dataset: Dataset, arrays: dict[str, np.ndarray]) -> None:
    """Warns once if no pixel of a part is at least half as bright as white.

    Pixels of fewer than 8 bits (0/1, 0..16, 0..127) and percentages stay below half of 255. Images that are
    intentionally this dark are rare, and for them the warning is harmless.
    """
    for part in ("train", "test"):
        if getattr(dataset, f"x_{part}").max() < 0.5:
            images = arrays[f"x_{part}"]
            warnings.warn(
                f"{dataset.name}: x_{part} is dark: its pixels, {images.dtype}, are in [{images.min()}, "
                f"{images.max()}], and {_white(images.dtype)} is white. If their white is another value, "
                "divide them by it and store floats in [0, 1].",
                DatasetWarning,
                stacklevel=3,
            )
            return


@contextlib.contextmanager
def _reading(path: str | Path, expected: str) -> Iterator[None]:
    """Raises a `DatasetError` for any error of a library that reads a file of unknown content.

    The libraries do not document which exceptions they raise on malformed bytes, and there are many: a
    `TokenError` from an .npy header, a `MemoryError` from a size in a header, a `RuntimeError` from an
    encrypted archive. Use this context only around calls of these libraries, so that it does not hide errors
    of this package.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except DatasetError:
        raise
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise DatasetError(f"{path}: expected {expected}. It cannot be read as one: {reason}") from error


def _check_fits(path: str | Path, size: int) -> None:
    """Raises if the data exceed this machine's memory, as they may with a damaged or malicious header."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size > memory:
        raise DatasetError(
            f"{path}: expected data that fit into this machine's memory of {memory} bytes. "
            f"Received: {size} bytes"
        )


def _digits() -> dict[str, np.ndarray]:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    images, labels = load_digits(return_X_y=True)
    images = images.reshape(-1, 8, 8) / 16.0
    x_train, x_test, y_train, y_test = train_test_split(
        images, labels, test_size=297, stratify=labels, random_state=0
    )
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


def _from_keras(name: str) -> dict[str, np.ndarray]:
    import keras  # imports TensorFlow, which nothing else in this module needs

    module = {"mnist": keras.datasets.mnist, "fashion-mnist": keras.datasets.fashion_mnist}[name]
    try:
        (x_train, y_train), (x_test, y_test) = module.load_data()
    except Exception as error:  # keras.utils.get_file raises a bare Exception
        raise DatasetError(
            f"{name}: Keras could not download it ({error}). Without a network, use --dataset digits, or the "
            f"path of {_NPZ}, or the path of a folder with MNIST's idx files."
        ) from error
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


def _npz(path: str) -> dict[str, np.ndarray]:
    # Opened here because `np.load` does not close a file that is not an archive.
    with _reading(path, _NPZ), open(path, "rb") as stream:
        file = np.load(stream, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("it holds a single unnamed array")
        with file:
            found = list(file.files)
            _check_fits(path, sum(member.file_size for member in file.zip.infolist()))
            arrays = {key: file[key] for key in (*_IDX_FILES, *_FACTORS) if key in found}
        for key, array in arrays.items():
            if not isinstance(array, np.ndarray):  # bytes, because the member is not an .npy file
                raise ValueError(f"its {key} is not an array")
            if found.count(key) > 1:
                raise ValueError(f"it holds {key} {found.count(key)} times")
    missing = [key for key in _IDX_FILES if key not in arrays]
    if missing:
        raise DatasetError(
            f"{path}: expected {_NPZ}. Missing: {', '.join(missing)}; found: {', '.join(found) or 'nothing'}"
        )
    return arrays


def _idx(folder: Path, name: str) -> np.ndarray:
    """Reads a file of the idx format: unsigned bytes with big-endian sizes.

    The format is described on http://yann.lecun.com/exdb/mnist.
    """
    candidates = [folder / name, folder / f"{name}.gz"]
    path = next(filter(os.path.isfile, candidates), None)
    if path is None:
        raise DatasetError(
            f"{folder}: expected the idx files {', '.join(_IDX_FILES.values())}, each optionally with .gz. "
            f"Missing: {name}"
        )
    rank = 3 if "images" in name else 1
    magic = bytes([0, 0, 8, rank])
    expected = f"an idx file of unsigned bytes with {rank} axes, which starts with {magic.hex(' ')}"
    with _reading(path, expected), (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
        header = file.read(4 + 4 * rank)
        if header[:4] != magic or len(header) < 4 + 4 * rank:
            raise DatasetError(f"{path}: expected {expected}. Received: {header.hex(' ')}")
        # As Python integers, whose product cannot overflow.
        shape = tuple(np.frombuffer(header, ">u4", rank, offset=4).tolist())
        size = math.prod(shape)
        _check_fits(path, size)
        content = file.read(size + 1)
    if len(content) != size:
        raise DatasetError(
            f"{path}: expected {size} bytes of data, as its header gives the shape {shape}. "
            f"Received: {len(content)}{' or more' if len(content) > size else ''}"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)


def _factors(arrays: dict[str, np.ndarray], source: str) -> dict[str, np.ndarray | tuple[str, ...]]:
    """Returns the arrays of factors, or an empty dict if the data set has none."""
    if not any(key in arrays for key in _FACTORS):
        return {}
    missing = [key for key in _FACTORS if key not in arrays]
    if missing:
        raise DatasetError(
            f"{source}: expected all or none of {', '.join(_FACTORS)}. Missing: {', '.join(missing)}"
        )
    names = np.atleast_1d(arrays["factor_names"])
    factors = {}
    for part in ("train", "test"):
        values, shape = arrays[f"factors_{part}"], (len(arrays[f"x_{part}"]), len(names))
        given = f"{values.dtype} of shape {values.shape}"
        if values.shape == shape and values.dtype.kind in "iuf":
            with np.errstate(over="ignore", invalid="ignore"):  # values that are too large become infinite
                values = values.astype(np.float32)
        if values.shape != shape or values.dtype != np.float32 or not np.isfinite(values).all():
            raise DatasetError(
                f"{source}: factors_{part} must hold finite numbers of shape {shape}, (images, factors), "
                f"in float32's range. Received: {given}"
            )
        factors[f"factors_{part}"] = values
    return {"factor_names": _factor_names(names, source), **factors}


def _factor_names(names: np.ndarray, source: str) -> tuple[str, ...]:
    expected = "factor_names must hold distinct strings of printable characters, at least one, on one axis"
    if names.ndim != 1 or names.dtype.kind != "U":
        raise DatasetError(f"{source}: {expected}. Received: {names.dtype} of shape {names.shape}")
    with _reading(source, expected):  # NumPy accepts four bytes that are not a valid character
        listed = tuple(names.tolist())
    printable = {name for name in listed if name and name.isprintable()}
    if not listed or len(printable) < len(listed):
        raise DatasetError(f"{source}: {expected}. Received: {', '.join(map(ascii, listed))}")
    return listed


def _white(dtype: np.dtype) -> int:
    """Returns the value of a white pixel."""
    return 1 if dtype.kind == "f" else 255


def _images(images: np.ndarray, where: str) -> np.ndarray:
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    if images.ndim != 3 or 0 in images.shape:
        raise DatasetError(
            f"{where} must have shape (images, height, width), with at least one image. "
            f"Received: {images.shape}"
        )
    if images.dtype.kind not in "iuf":
        raise DatasetError(f"{where} must hold integers or floats. Received: dtype {images.dtype}")
    white = _white(images.dtype)
    if not (images.min() >= 0 and images.max() <= white):
        raise DatasetError(
            f"{where} must hold integers in [0, 255] or floats in [0, 1]. Received: {images.dtype} in "
            f"[{images.min()}, {images.max()}]"
        )
    return np.ascontiguousarray((images / np.float32(white)).astype(np.float32)[..., np.newaxis])


def _labels(labels: np.ndarray, where: str, count: int, most_classes: int) -> np.ndarray:
    if labels.shape != (count,) or labels.dtype.kind not in "iu":
        raise DatasetError(
            f"{where} must hold one integer for each of the {count} images. "
            f"Received: {labels.dtype} of shape {labels.shape}"
        )
    if labels.min() < 0:
        raise DatasetError(f"{where} must not be negative. Received: {labels.min()}")
    # A larger label would add classes without images, and the memory of a model grows with the largest label.
    if labels.max() >= most_classes:
        raise DatasetError(
            f"{where} must be less than {most_classes}: there can be no more classes than training images. "
            f"Received: greatest label {labels.max()}"
        )
    return labels.astype(np.int32)
