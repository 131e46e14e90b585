"""Data sets: each source gives the same kind of arrays, and whatever is wrong with one is said plainly."""

import gzip
import io
import os
import re
import struct
import warnings
import zipfile

import keras
import numpy as np
import pytest

import fuzz_data
from separationfactor_lab import data


def mnist_like(count=12, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "x_train": rng.integers(0, 256, (count, 6, 5), dtype=np.uint8),
        "y_train": np.arange(count, dtype=np.uint8) % 3,
        "x_test": rng.integers(0, 256, (5, 6, 5), dtype=np.uint8),
        "y_test": np.arange(5, dtype=np.uint8) % 3,
    }


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
    content = header + array.tobytes()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)


def write_idx_folder(folder, arrays, suffix=""):
    folder.mkdir(exist_ok=True)
    for key, name in data._IDX_FILES.items():
        write_idx(folder / f"{name}{suffix}", arrays[key])


def assert_is(dataset, arrays):
    np.testing.assert_array_equal(dataset.x_train[..., 0], arrays["x_train"] / np.float32(255))
    np.testing.assert_array_equal(dataset.y_train, arrays["y_train"])
    np.testing.assert_array_equal(dataset.x_test[..., 0], arrays["x_test"] / np.float32(255))
    np.testing.assert_array_equal(dataset.y_test, arrays["y_test"])
    assert dataset.x_train.dtype == dataset.x_test.dtype == np.float32
    assert dataset.y_train.dtype == dataset.y_test.dtype == np.int32
    assert dataset.image_shape == (6, 5, 1)
    assert dataset.num_classes == 3


def test_digits():
    dataset = data.load("digits")
    assert dataset.x_train.shape == (1500, 8, 8, 1)
    assert dataset.x_test.shape == (297, 8, 8, 1)
    assert dataset.num_classes == 10
    assert dataset.x_train.min() == 0
    assert dataset.x_train.max() == 1
    counts = np.bincount(dataset.y_test)
    assert counts.min() >= 28, "the classes are as frequent in the test part as in the training part"
    assert dataset.fingerprint == data.load("digits").fingerprint


def test_the_whole_training_part_is_used(tmp_path):
    arrays = mnist_like(count=1000)
    np.savez(tmp_path / "file.npz", **arrays)
    assert_is(data.load(tmp_path / "file.npz"), arrays)


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_idx_folder(tmp_path, suffix):
    arrays = mnist_like()
    write_idx_folder(tmp_path / "folder", arrays, suffix)
    assert_is(data.load(tmp_path / "folder"), arrays)


def test_floats_and_a_channel_axis_are_taken_too(tmp_path):
    arrays = mnist_like()
    arrays["x_train"] = (arrays["x_train"] / np.float64(255))[..., np.newaxis]
    np.savez_compressed(tmp_path / "file.npz", **arrays)
    dataset = data.load(tmp_path / "file.npz")
    assert dataset.x_train.dtype == np.float32
    np.testing.assert_array_equal(dataset.x_train, arrays["x_train"].astype(np.float32))


def test_byte_orders_and_memory_orders_are_taken(tmp_path):
    arrays = mnist_like()
    unusual = {key: np.asfortranarray(array).astype(">i8") for key, array in arrays.items()}
    unusual["x_test"] = np.asfortranarray(arrays["x_test"] / 255, ">f8")
    np.savez(tmp_path / "größe.npz", **unusual)
    assert_is(data.load(tmp_path / "größe.npz"), arrays)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_keras_data_sets(monkeypatch, name):
    arrays = mnist_like()
    module = getattr(keras.datasets, name.replace("-", "_"))
    parts = (arrays["x_train"], arrays["y_train"]), (arrays["x_test"], arrays["y_test"])
    monkeypatch.setattr(module, "load_data", lambda: parts)
    assert_is(data.load(name), arrays)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_offline(monkeypatch, name):
    def fail():
        raise Exception("URL fetch failure on https://somewhere: None -- Name or service not known")

    monkeypatch.setattr(getattr(keras.datasets, name.replace("-", "_")), "load_data", fail)
    with pytest.raises(data.DatasetError, match=f"{name}: Keras could not download it.*--dataset digits"):
        data.load(name)


def test_the_fingerprint_tells_data_apart(tmp_path):
    arrays = mnist_like()
    np.savez(tmp_path / "a.npz", **arrays)
    arrays["y_test"][0] = 2
    np.savez(tmp_path / "b.npz", **arrays)
    assert data.load(tmp_path / "a.npz").fingerprint != data.load(tmp_path / "b.npz").fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x_test": None}, "Missing: x_test; found: x_train, y_train, y_test"),
        ({"x_train": np.zeros((12, 30))}, r"x_train must have shape \(images, height, width\).*\(12, 30\)"),
        ({"x_train": np.zeros((0, 6, 5))}, r"x_train must have shape.*at least one image.*\(0, 6, 5\)"),
        ({"x_train": np.zeros((12, 6, 5, 3))}, r"x_train must have shape.*\(12, 6, 5, 3\)"),
        ({"x_test": np.zeros((5, 7, 5))}, r"x_test must have images of x_train's shape.*\(7, 5, 1\)"),
        ({"x_train": np.full((12, 6, 5), 1.5)}, r"x_train must hold .* floats in \[0, 1\].*float64 in .*1.5"),
        ({"x_train": np.full((12, 6, 5), np.nan)}, r"x_train must hold .* floats in \[0, 1\].*nan"),
        ({"x_train": np.full((12, 6, 5), 256)}, r"x_train must hold integers in \[0, 255\].*256"),
        ({"x_train": np.full((12, 6, 5), -1)}, r"x_train must hold integers in \[0, 255\].*-1"),
        ({"x_train": np.full((12, 6, 5), "a")}, "x_train must hold integers or floats.*<U1"),
        ({"y_train": np.zeros(11, int)}, r"y_train must hold one integer for each of the 12.*\(11,\)"),
        ({"y_train": np.zeros(12)}, "y_train must hold one integer.*float64"),
        ({"y_test": np.full(5, -1)}, "y_test must not be negative. Received: -1"),
        ({"y_test": np.full(5, 7)}, "y_train must hold .* all classes of y_test.* 2 in y_train, 7 in y_test"),
        ({"y_train": np.zeros(12, int)}, "y_train must hold at least two classes"),
        # Other dtypes.
        ({"x_train": np.full((12, 6, 5), 1j)}, "x_train must hold integers or floats.*complex128"),
        ({"x_train": np.full((12, 6, 5), True)}, "x_train must hold integers or floats.*bool"),
        (
            {"x_train": np.zeros((12, 6, 5), "m8[s]")},
            r"x_train must hold integers or floats.*timedelta64\[s\]",
        ),
        ({"x_train": np.zeros((12, 6, 5), [("a", "f4")])}, r"x_train must hold integers or floats.*\[\('a'"),
        ({"x_train": np.zeros((12, 6, 5), object)}, "cannot be read as one: Object arrays cannot be loaded"),
        ({"x_test": np.full((5, 6, 5), np.inf)}, r"x_test must hold .* floats in \[0, 1\].*inf"),
        ({"x_train": np.uint8(7)}, r"x_train must have shape .*Received: \(\)"),
        ({"y_train": np.zeros(12, "m8[s]")}, "y_train must hold one integer.*timedelta64"),
        ({"y_train": np.int64(7)}, r"y_train must hold one integer.*of shape \(\)"),
        # Labels that do not fit in 32 bits, or that imply billions of classes.
        ({"y_train": np.arange(12) % 2 * (2**32 + 1)}, "y_train must be less than 12.*label 4294967297$"),
        ({"y_train": np.arange(12) % 2 * 2**31}, "y_train must be less than 12.*label 2147483648$"),
        (
            {"y_train": np.arange(12, dtype=np.uint64) % 2 * (2**64 - 1)},
            "less than 12.*label 18446744073709551615$",
        ),
        ({"y_train": np.arange(12) % 2 * 2_000_000_000}, "no more classes than training images.*2000000000$"),
        ({"y_train": np.arange(1, 13)}, "y_train must be less than 12.*greatest label 12$"),
        ({"y_test": np.full(5, 2**32 + 1)}, "y_test must be less than 12.*label 4294967297$"),
    ],
)
def test_malformed_npz(tmp_path, change, message):
    path = tmp_path / "bad.npz"
    arrays = {name: array for name, array in {**mnist_like(), **change}.items() if array is not None}
    np.savez(path, **arrays)
    with pytest.raises(data.DatasetError, match=message) as error:
        data.load(path)
    assert str(path) in str(error.value)


FACTORS = {
    "factor_names": np.array(["angle", "x"]),
    "factors_train": np.ones((12, 2)),
    "factors_test": np.ones((5, 2)),
}
NO_FACTORS = {
    "factor_names": np.zeros(0, "U1"),
    "factors_train": np.ones((12, 0)),
    "factors_test": np.ones((5, 0)),
}
NAMES = "factor_names must hold distinct strings of printable characters, at least one, on one axis. "


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"factor_names": np.array([b"angle", b"x"])}, NAMES + r"Received: \|S5 of shape \(2,\)"),
        ({"factor_names": np.arange(2)}, NAMES + "Received: int64"),
        ({"factor_names": np.array([["a", "b"], ["c", "d"]])}, NAMES + r"Received: <U1 of shape \(2, 2\)"),
        ({"factor_names": np.array(["angle", "angle"])}, NAMES + "Received: 'angle', 'angle'"),
        ({"factor_names": np.array(["angle", ""])}, NAMES + "Received: 'angle', ''"),
        ({"factor_names": np.array(["angle", "\ud800"])}, NAMES + r"Received: 'angle', '\\ud800'"),
        ({"factor_names": np.full(2, 2**31 - 1, "u4").view("U1")}, NAMES + "It cannot be read as one"),
        (NO_FACTORS, NAMES + "Received: $"),
        ({"factors_train": np.ones((12, 3))}, r"factors_train must hold .* of shape \(12, 2\).*\(12, 3\)"),
        ({"factors_test": np.full((5, 2), np.nan)}, "factors_test must hold finite numbers"),
        ({"factors_test": np.full((5, 2), 1e39)}, "factors_test must hold finite numbers .* float32's range"),
        ({"factors_test": np.full((5, 2), 1j)}, "factors_test must hold .*Received: complex128"),
        ({"factors_test": np.float64(1)}, r"factors_test must hold .*Received: float64 of shape \(\)"),
    ],
)
def test_malformed_factors(tmp_path, change, message):
    path = tmp_path / "bad.npz"
    np.savez(path, **mnist_like(), **FACTORS)
    assert data.load(path).factor_names == ("angle", "x")
    np.savez(path, **mnist_like(), **{**FACTORS, **change})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(data.DatasetError, match=f"^{re.escape(str(path))}: .*{message}"):
            data.load(path)


@pytest.mark.parametrize("content", [b"", b"not a zip", b"PK\x03\x04 and no more", None])
def test_files_that_are_no_npz(tmp_path, content):
    path = tmp_path / "bad.npz"
    if content is None:
        with open(path, "wb") as file:
            np.save(file, np.zeros(3))
    else:
        path.write_bytes(content)
    with pytest.raises(data.DatasetError, match="expected a file in the layout of Keras' mnist.npz") as error:
        data.load(path)
    assert str(path) in str(error.value)


def test_a_truncated_npz(tmp_path):
    path = tmp_path / "bad.npz"
    np.savez_compressed(path, **mnist_like(1000))
    content = bytearray(path.read_bytes())
    content[200:2000] = bytes(1800)
    path.write_bytes(content)
    with pytest.raises(data.DatasetError, match="cannot be read as one"):
        data.load(path)


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def write_archive(path, change=lambda content: content):
    """Writes an .npz file whose x_train.npy is changed."""
    with zipfile.ZipFile(path, "w") as archive:
        for key, array in mnist_like().items():
            archive.writestr(f"{key}.npy", change(npy(array)) if key == "x_train" else npy(array))


def with_shape(shape):
    """Returns a change of an .npy file of `mnist_like`'s x_train: another shape in its header."""
    return lambda content: content.replace(b"(12, 6, 5), }".ljust(50), f"{shape}, }}".encode().ljust(50))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: b"hello", "its x_train is not an array"),
        (lambda content: content.replace(b")", b"(", 1), ""),
        (lambda content: content.replace(b"'|u1'", b"'|O' "), "Object arrays cannot be loaded"),
        (lambda content: content.replace(b"'|u1'", b"'<f3'"), ""),
        (lambda content: content[:-1], "EOF: reading array data"),
        (with_shape("(10000000000, 10, 100)"), ""),  # 10 TB
        (with_shape("(4294967296, 4294967296, 5)"), ""),  # a product that wraps to 0
        (with_shape("(-12, -6, 5)"), ""),
        (with_shape("(99999999999999999999, 6, 5)"), ""),
        (with_shape("(12, 6, '5')"), ""),
        (with_shape("(12, 6, 5if)"), ""),
    ],
)
def test_malformed_members(tmp_path, change, message):
    path = tmp_path / "bad.npz"
    write_archive(path)
    assert_is(data.load(path), mnist_like())
    write_archive(path, change)
    expected = (
        f"^{re.escape(str(path))}: expected a file in the layout of .* cannot be read as one: .*{message}"
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(data.DatasetError, match=expected) as error:
            data.load(path)
    assert error.value.__cause__ is not None, "what the library said is lost"


@pytest.mark.parametrize(
    ("offset", "value", "message"),
    [
        (6, 1, "encrypted"),
        (8, 9, "compression method is not supported"),  # Windows' Deflate64
        (4, 99, "zip file version 9.9"),
    ],
)
def test_archives_that_python_does_not_read(tmp_path, offset, value, message):
    path = tmp_path / "bad.npz"
    write_archive(path)
    content = bytearray(path.read_bytes())
    for mark, at in ((b"PK\x03\x04", offset), (b"PK\x01\x02", offset + 2)):
        for match in re.finditer(mark, bytes(content)):
            content[match.start() + at] = value
    path.write_bytes(content)
    with pytest.raises(data.DatasetError, match=f"bad.npz: expected a file in .* cannot be read .*{message}"):
        data.load(path)


def test_a_member_that_is_there_twice(tmp_path):
    path = tmp_path / "bad.npz"
    np.savez(path, **mnist_like())
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x_train", npy(mnist_like(seed=1)["x_train"]))
    with pytest.raises(
        data.DatasetError, match="bad.npz: .* cannot be read as one: it holds x_train 2 times"
    ):
        data.load(path)


def test_data_that_do_not_fit_into_memory(tmp_path, monkeypatch):
    arrays = mnist_like()
    arrays["x_train"] = np.zeros((12, 200, 500), np.uint8)  # 1.2 MB from a few kilobytes
    arrays["x_test"] = np.zeros((5, 200, 500), np.uint8)
    np.savez_compressed(tmp_path / "bomb.npz", **arrays)
    write_idx_folder(tmp_path / "folder", arrays, ".gz")
    monkeypatch.setattr(os, "sysconf", {"SC_PAGE_SIZE": 1000, "SC_PHYS_PAGES": 1000}.__getitem__)
    expected = "expected data that fit into this machine's memory of 1000000 bytes. Received: 1[27].* bytes"
    with pytest.raises(data.DatasetError, match=f"bomb.npz: {expected}"):
        data.load(tmp_path / "bomb.npz")
    with pytest.raises(data.DatasetError, match=f"train-images-idx3-ubyte.gz: {expected}"):
        data.load(tmp_path / "folder")


def test_an_error_of_our_own_is_no_dataset_error(tmp_path, monkeypatch):
    def fail(*args):
        raise RuntimeError("ours")

    np.savez(tmp_path / "good.npz", **mnist_like())
    monkeypatch.setattr(data, "_images", fail)
    with pytest.raises(RuntimeError, match="ours"):
        data.load(tmp_path / "good.npz")


def test_paths_of_other_things(tmp_path):
    (tmp_path / "folder.npz").mkdir()
    os.mkfifo(tmp_path / "pipe.npz")
    (tmp_path / "loop.npz").symlink_to(tmp_path / "loop.npz")
    for source, message in [
        (tmp_path / "folder.npz", "folder.npz: expected the idx files .*Missing: train-images-idx3-ubyte"),
        (tmp_path / "pipe.npz", "pipe.npz: no such data set"),
        (tmp_path / "loop.npz", "loop.npz: no such data set"),
        ("/dev/zero", "/dev/zero: no such data set"),
        ("a\0b", "a\0b: no such data set"),
        ("a" * 5000, "a: no such data set"),
    ]:
        with pytest.raises(data.DatasetError, match=message):
            data.load(source)


@pytest.mark.parametrize("source", ["file.npz", "folder"])
def test_a_file_that_may_not_be_read(tmp_path, monkeypatch, source):
    np.savez(tmp_path / "file.npz", **mnist_like())
    write_idx_folder(tmp_path / "folder", mnist_like())

    def refuse(path, *_):  # not by the file's mode, as root may read it all the same
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", refuse)
    with pytest.raises(
        data.DatasetError, match=f"{source}.*: expected .* cannot be read .*Permission denied"
    ):
        data.load(tmp_path / source)


# The first cases of the fuzz tool; `make fuzz` loads more.
@pytest.mark.parametrize("first", range(0, 300, 50))
def test_corrupted_files(tmp_path, first):
    for number in range(first, first + 50):
        folder = tmp_path / str(number)
        folder.mkdir()
        path, kind = fuzz_data.write_case(number, folder)
        try:
            fuzz_data.outcome(path)
        except Exception as error:
            raise AssertionError(f"case {number}: {kind}") from error


@pytest.mark.parametrize(
    ("images", "warned"),
    [
        (np.arange(2, dtype=np.uint8), r"uint8, are in \[0, 1\], and 255 is white"),  # binarized MNIST
        (np.arange(17), r"int64, are in \[0, 16\], and 255 is white"),  # scikit-learn's digits
        (np.arange(128), r"int64, are in \[0, 127\], and 255 is white"),
        (np.arange(129), None),
        (np.zeros(2), r"float64, are in \[0.0, 0.0\], and 1 is white"),
        (np.linspace(0, 1, 20) / 255, r"float64, are in \[0.0, 0.0039.*\], and 1 is white"),  # divided twice
        (np.array([0, 0.5]), None),
    ],
)
@pytest.mark.parametrize("part", ["train", "test"])
def test_dark_images(tmp_path, part, images, warned):
    path = tmp_path / "dark.npz"
    arrays = mnist_like()
    arrays[f"x_{part}"] = np.resize(images[::-1], arrays[f"x_{part}"].shape)
    np.savez(path, **arrays)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        dataset = data.load(path)
    white = 255 if images.dtype.kind in "iu" else 1
    assert getattr(dataset, f"x_{part}").max() == np.float32(images.max()) / np.float32(white)
    if warned is None:
        assert not caught
        return
    (warning,) = caught
    assert warning.category is data.DatasetWarning
    assert warning.filename == __file__
    assert re.fullmatch(
        f"{re.escape(str(path))}: x_{part} is dark: its pixels, {warned}. If their white is another value, "
        r"divide them by it and store floats in \[0, 1\].",
        str(warning.message),
    )


def test_dark_images_in_both_parts_are_one_warning(tmp_path):
    arrays = mnist_like()
    arrays |= {"x_train": arrays["x_train"] % 2, "x_test": arrays["x_test"] % 2}
    np.savez(tmp_path / "dark.npz", **arrays)
    with pytest.warns(data.DatasetWarning) as caught:
        data.load(tmp_path / "dark.npz")
    assert len(caught) == 1


def test_nothing_there(tmp_path):
    with pytest.raises(data.DatasetError, match="nowhere.npz: no such data set. Expected digits, mnist"):
        data.load(tmp_path / "nowhere.npz")


def test_malformed_idx(tmp_path):
    write_idx_folder(tmp_path, mnist_like())
    images = tmp_path / "train-images-idx3-ubyte"
    whole = images.read_bytes()
    for content, message in [
        (whole[:-1], r"expected 360 bytes of data.*\(12, 6, 5\). Received: 359"),
        (whole + b"x", "Received: 361"),
        (b"\0\0\x08\x01" + whole[4:], "starts with 00 00 08 03. Received: 00 00 08 01"),
        (b"", "starts with 00 00 08 03"),
    ]:
        images.write_bytes(content)
        with pytest.raises(data.DatasetError, match=message) as error:
            data.load(tmp_path)
        assert str(images) in str(error.value)
    images.write_bytes(whole)
    labels = tmp_path / "t10k-labels-idx1-ubyte"
    for path, sizes, message in [
        (images, (2**31, 2**31, 4), "machine's memory .*Received: 18446744073709551616 bytes"),  # wraps to 0
        (images, (2**32 - 1,) * 3, "machine's memory .*Received: 79228162458924105385300197375 bytes"),
        (images, (0, 6, 5), r"expected 0 bytes of data.* Received: 1 or more"),
        (images, (0, 6), "starts with 00 00 08 03. Received: 00 00 08 02"),
        (labels, (5000,), r"expected 5000 bytes of data.*Received: 5$"),
    ]:
        good = path.read_bytes()
        header = struct.pack(f">{1 + len(sizes)}I", 0x800 + len(sizes), *sizes)
        path.write_bytes(header + good[len(header) :])
        with pytest.raises(data.DatasetError, match=f"{re.escape(str(path))}: .*{message}"):
            data.load(tmp_path)
        path.write_bytes(good)
    images.unlink()
    with pytest.raises(data.DatasetError, match="Missing: train-images-idx3-ubyte"):
        data.load(tmp_path)
    images.with_suffix(".gz").write_bytes(gzip.compress(whole)[:-20])
    with pytest.raises(data.DatasetError, match="ubyte.gz: expected an idx file .* cannot be read"):
        data.load(tmp_path)
