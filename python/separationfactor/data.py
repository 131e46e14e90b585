"""Data sets of labelled images, read and checked."""

from __future__ import annotations

import dataclasses
import gzip
import zipfile
import zlib
from pathlib import Path

import keras
import numpy as np

NAMES = ("digits", "mnist", "fashion-mnist")
_NPZ = "a file in the layout of Keras' mnist.npz: arrays x_train, y_train, x_test and y_test"
_FACTORS = ("factor_names", "factors_train", "factors_test")
_IDX_FILES = {
    "x_train": "train-images-idx3-ubyte",
    "y_train": "train-labels-idx1-ubyte",
    "x_test": "t10k-images-idx3-ubyte",
    "y_test": "t10k-labels-idx1-ubyte",
}


class DatasetError(ValueError):
    """A data set is missing or malformed; the message names the file and what was expected."""


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Labelled images, in two parts.

    Attributes:
        name: What it was loaded by.
        x_train, x_test: float32 of shape (images, height, width, 1), with values in [0, 1].
        y_train, y_test: int32 of shape (images,), with values in [0, num_classes).
        factor_names: What else is known of the images, if anything: see `separationfactor.factors`.
        factors_train, factors_test: float32 of shape (images, factors), or `None` if there are none.
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
        """How many classes there are: one more than the greatest label of the training part."""
        return int(self.y_train.max()) + 1

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """The shape of an image: height, width, 1."""
        return self.x_train.shape[1:]

    @property
    def fingerprint(self) -> str:
        """A checksum of the data, by which a run recognizes the data it was started with."""
        checksum = 0
        factors = (self.factors_train, self.factors_test) if self.factor_names else ()
        for array in (self.x_train, self.y_train, self.x_test, self.y_test, *factors):
            checksum = zlib.crc32(np.ascontiguousarray(array), checksum)
        return f"{checksum:08x}"


def load(source: str | Path) -> Dataset:
    """Loads a data set.

    Args:
        source: "digits" (scikit-learn's 1,797 digits of 8 x 8 pixels, which need no network), "mnist" or
            "fashion-mnist" (through `keras.datasets`), the path of an .npz file in the layout of Keras'
            mnist.npz, perhaps with the factors of `separationfactor.factors`, or the path of a folder with
            the four files of MNIST's own idx format, compressed or not. Pixels are integers in [0, 255] or
            floats in [0, 1].

    Returns:
        A `Dataset`.

    Raises:
        DatasetError: If there is no such data set, or it is not as expected.
    """
    source = str(source)
    if source == "digits":
        arrays = _digits()
    elif source in NAMES:
        arrays = _from_keras(source)
    elif Path(source).is_dir():
        arrays = {key: _idx(Path(source), name) for key, name in _IDX_FILES.items()}
    elif Path(source).is_file():
        arrays = _npz(source)
    else:
        raise DatasetError(
            f"{source}: no such data set. Expected {', '.join(NAMES)}, the path of {_NPZ}, or the path of "
            "a folder with MNIST's idx files."
        )
    parts = {}
    for part in ("train", "test"):
        images, labels = arrays[f"x_{part}"], arrays[f"y_{part}"]
        parts[f"x_{part}"] = _images(images, f"{source}: x_{part}")
        parts[f"y_{part}"] = _labels(labels, f"{source}: y_{part}", len(images))
    dataset = Dataset(source, **parts, **_factors(arrays, source))
    if dataset.x_test.shape[1:] != dataset.image_shape:
        raise DatasetError(
            f"{source}: x_test must have images of x_train's shape, {dataset.image_shape}. "
            f"Received: {dataset.x_test.shape[1:]}"
        )
    if dataset.num_classes < 2 or dataset.y_test.max() >= dataset.num_classes:
        raise DatasetError(
            f"{source}: y_train must hold at least two classes, and all of y_test's. Received: greatest "
            f"label {dataset.y_train.max()} in y_train, {dataset.y_test.max()} in y_test"
        )
    return dataset


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
    module = {"mnist": keras.datasets.mnist, "fashion-mnist": keras.datasets.fashion_mnist}[name]
    try:
        (x_train, y_train), (x_test, y_test) = module.load_data()
    except Exception as error:  # keras.utils.get_file raises a bare Exception
        raise DatasetError(
            f"{name}: Keras could not download it ({error}). With no network, use --dataset digits, which "
            f"needs none, or give the path of {_NPZ}, or of a folder with MNIST's idx files."
        ) from error
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


def _npz(path: str) -> dict[str, np.ndarray]:
    try:
        file = np.load(path, allow_pickle=False)
        if not isinstance(file, np.lib.npyio.NpzFile):
            raise ValueError("it holds one array, without a name")
        with file:
            found = list(file.files)
            arrays = {key: file[key] for key in (*_IDX_FILES, *_FACTORS) if key in found}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DatasetError(f"{path}: expected {_NPZ}. It cannot be read as one: {error}") from error
    missing = [key for key in _IDX_FILES if key not in arrays]
    if missing:
        raise DatasetError(
            f"{path}: expected {_NPZ}. Missing: {', '.join(missing)}; found: {', '.join(found) or 'nothing'}"
        )
    return arrays


def _idx(folder: Path, name: str) -> np.ndarray:
    """Reads one file of the format on http://yann.lecun.com/exdb/mnist: unsigned bytes, big-endian sizes."""
    candidates = [folder / name, folder / f"{name}.gz"]
    path = next((candidate for candidate in candidates if candidate.is_file()), None)
    if path is None:
        raise DatasetError(
            f"{folder}: expected the idx files {', '.join(_IDX_FILES.values())}, each perhaps with .gz. "
            f"Missing: {name}"
        )
    try:
        content = (gzip.open if path.suffix == ".gz" else open)(path, "rb").read()
    except (OSError, EOFError, zlib.error) as error:
        raise DatasetError(f"{path}: cannot be read: {error}") from error
    rank = 3 if "images" in name else 1
    header = 4 + 4 * rank
    magic = bytes([0, 0, 8, rank])
    if content[:4] != magic or len(content) < header:
        raise DatasetError(
            f"{path}: expected an idx file of unsigned bytes with {rank} axes, which starts with "
            f"{magic.hex(' ')}. Received: {content[:4].hex(' ')}"
        )
    shape = np.frombuffer(content, ">u4", rank, offset=4).astype(np.int64)
    if len(content) - header != shape.prod():
        raise DatasetError(
            f"{path}: expected {shape.prod()} bytes of data, as its header gives the shape "
            f"{tuple(shape.tolist())}. Received: {len(content) - header}"
        )
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def _factors(arrays: dict[str, np.ndarray], source: str) -> dict[str, np.ndarray | tuple[str, ...]]:
    """Returns the arrays of factors, or nothing where there are none."""
    if not any(key in arrays for key in _FACTORS):
        return {}
    missing = [key for key in _FACTORS if key not in arrays]
    if missing:
        raise DatasetError(f"{source}: factors come as {', '.join(_FACTORS)}. Missing: {', '.join(missing)}")
    names = tuple(str(name) for name in np.atleast_1d(arrays["factor_names"]))
    factors = {}
    for part in ("train", "test"):
        values, shape = arrays[f"factors_{part}"], (len(arrays[f"x_{part}"]), len(names))
        if values.shape != shape or values.dtype.kind not in "iuf" or not np.isfinite(values).all():
            raise DatasetError(
                f"{source}: factors_{part} must hold finite numbers of shape {shape}, by image and factor. "
                f"Received: {values.dtype} of shape {values.shape}"
            )
        factors[f"factors_{part}"] = values.astype(np.float32)
    return {"factor_names": names, **factors}


def _images(images: np.ndarray, where: str) -> np.ndarray:
    if images.ndim == 4 and images.shape[-1] == 1:
        images = images[..., 0]
    if images.ndim != 3 or 0 in images.shape:
        raise DatasetError(
            f"{where} must have shape (images, height, width), with at least one image. "
            f"Received: {images.shape}"
        )
    if np.issubdtype(images.dtype, np.integer):
        limit = 255
    elif np.issubdtype(images.dtype, np.floating):
        limit = 1
    else:
        raise DatasetError(f"{where} must hold integers or floats. Received: dtype {images.dtype}")
    if not (images.min() >= 0 and images.max() <= limit):
        raise DatasetError(
            f"{where} must hold integers in [0, 255] or floats in [0, 1]. Received: {images.dtype} in "
            f"[{images.min()}, {images.max()}]"
        )
    return np.ascontiguousarray((images / np.float32(limit)).astype(np.float32)[..., np.newaxis])


def _labels(labels: np.ndarray, where: str, count: int) -> np.ndarray:
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise DatasetError(
            f"{where} must hold one integer for each of {count} images. "
            f"Received: {labels.dtype} of shape {labels.shape}"
        )
    if labels.min() < 0:
        raise DatasetError(f"{where} must not be negative. Received: {labels.min()}")
    return labels.astype(np.int32)
