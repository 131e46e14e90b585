"""Data sets: each source gives the same kind of arrays, and whatever is wrong with one is said plainly."""

import gzip
import io
import os
import warnings
import zipfile

import numpy as np
import pytest

import fuzz_data
from separationfactor import data


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


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_keras_data_sets(monkeypatch, name):
    arrays = mnist_like()
    module = getattr(data.keras.datasets, name.replace("-", "_"))
    parts = (arrays["x_train"], arrays["y_train"]), (arrays["x_test"], arrays["y_test"])
    monkeypatch.setattr(module, "load_data", lambda: parts)
    assert_is(data.load(name), arrays)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_offline(monkeypatch, name):
    def fail():
        raise Exception("URL fetch failure on https://somewhere: None -- Name or service not known")

    monkeypatch.setattr(getattr(data.keras.datasets, name.replace("-", "_")), "load_data", fail)
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
        ({"y_train": np.zeros(11, int)}, r"y_train must hold one integer for each of 12.*\(11,\)"),
        ({"y_train": np.zeros(12)}, "y_train must hold one integer.*float64"),
        ({"y_test": np.full(5, -1)}, "y_test must not be negative. Received: -1"),
        ({"y_test": np.full(5, 7)}, "y_train must hold .* all of y_test's.* 2 in y_train, 7 in y_test"),
        ({"y_train": np.zeros(12, int)}, "y_train must hold at least two classes"),
    ],
)
def test_malformed_npz(tmp_path, change, message):
    path = tmp_path / "bad.npz"
    arrays = {name: array for name, array in {**mnist_like(), **change}.items() if array is not None}
    np.savez(path, **arrays)
    with pytest.raises(data.DatasetError, match=message) as error:
        data.load(path)
    assert str(path) in str(error.value)


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
    images.unlink()
    with pytest.raises(data.DatasetError, match="Missing: train-images-idx3-ubyte"):
        data.load(tmp_path)
    images.with_suffix(".gz").write_bytes(gzip.compress(whole)[:-20])
    with pytest.raises(data.DatasetError, match="ubyte.gz: expected an idx file .* cannot be read"):
        data.load(tmp_path)


# Files that nobody should make, and that come all the same


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def archive(path, **members):
    with zipfile.ZipFile(path, "w") as file:
        for name, content in {**{key: npy(array) for key, array in mnist_like().items()}, **members}.items():
            file.writestr(f"{name}.npy", content)
    return path


def with_zip_field(path, offset, value):
    """Changes a byte of each of an archive's local headers and, two bytes further, of its central ones."""
    content = bytearray(path.read_bytes())
    for mark, start in ((b"PK\3\4", offset), (b"PK\1\2", offset + 2)):
        at = content.find(mark)
        while at >= 0:
            content[at + start] = value
            at = content.find(mark, at + 4)
    path.write_bytes(content)


MALFORMED = {
    "text for an array": lambda path: archive(path, x_train=b"hello"),
    "an unclosed bracket": lambda path: archive(
        path, x_train=npy(mnist_like()["x_train"]).replace(b")", b"(", 1)
    ),
    "ten terabytes": lambda path: archive(
        path, x_train=npy(mnist_like()["x_train"]).replace(b"(12, 6, 5)", b"(9999999999999, 6, 5)")
    ),
    "encrypted": lambda path: with_zip_field(archive(path), 6, 1),
    "Deflate64": lambda path: with_zip_field(archive(path), 8, 9),
    "zip version 9.9": lambda path: with_zip_field(archive(path), 4, 99),
    "objects": lambda path: np.savez(path, **{**mnist_like(), "y_test": np.array([{}] * 5)}),
    "records": lambda path: np.savez(path, **{**mnist_like(), "y_test": np.zeros(5, [("a", "i4")])}),
    "complex numbers": lambda path: np.savez(path, **{**mnist_like(), "x_test": np.ones((5, 6, 5), "c8")}),
    "a single number": lambda path: np.savez(path, **{**mnist_like(), "x_test": np.uint8(1)}),
    "durations": lambda path: np.savez(path, **{**mnist_like(), "y_test": np.zeros(5, "m8[s]")}),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_archives(name, tmp_path):
    path = tmp_path / "file.npz"
    MALFORMED[name](path)
    with pytest.raises(data.DatasetError, match="file.npz.* (expected|must)"):
        data.load(path)


def test_idx_sizes_whose_product_wraps(tmp_path):
    write_idx_folder(tmp_path, mnist_like())
    sizes = np.array([2**31, 2**31, 4], ">u4")
    (tmp_path / data._IDX_FILES["x_train"]).write_bytes(bytes([0, 0, 8, 3]) + sizes.tobytes())
    with pytest.raises(data.DatasetError, match=f"fit into this machine's memory.*Received: {2**64} bytes"):
        data.load(tmp_path)


@pytest.mark.parametrize("greatest", [12, 2**31, 2**32 + 1, 2**63, 2**64 - 1])
def test_labels_that_can_be_no_classes(greatest, tmp_path):
    labels = np.zeros(12, np.uint64)
    labels[3] = greatest
    np.savez(tmp_path / "file.npz", **{**mnist_like(), "y_train": labels, "y_test": np.zeros(5, int)})
    message = f"y_train must be less than 12, .*Received: greatest label {greatest}$"
    with pytest.raises(data.DatasetError, match=message):
        data.load(tmp_path / "file.npz")


@pytest.mark.parametrize(
    "names", [[b"a", b"b"], ["a", "a"], ["a", ""], ["a", "\x1b[31m"], [1, 2], [["a", "b"]]], ids=repr
)
def test_names_that_name_no_factors(names, tmp_path):
    factors = {f"factors_{part}": np.ones((count, 2)) for part, count in (("train", 12), ("test", 5))}
    np.savez(tmp_path / "file.npz", **mnist_like(), factor_names=np.array(names), **factors)
    with pytest.raises(data.DatasetError, match=r"file.npz: (factor_names|factors_train) must"):
        data.load(tmp_path / "file.npz")


@pytest.mark.parametrize("dtype", [">i2", "<u8", ">u4", "i1"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_other_machines(dtype, order, tmp_path):
    arrays = {key: array % 128 for key, array in mnist_like().items()}
    others = {key: np.asarray(array, dtype, order=order) for key, array in arrays.items()}
    np.savez(tmp_path / "file.npz", **others)
    with pytest.warns(data.DatasetWarning, match="x_train is dark"):
        assert_is(data.load(tmp_path / "file.npz"), arrays)


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(data.DatasetError, match="no such data set"):
        data.load(tmp_path / "pipe.npz")


@pytest.mark.parametrize(("greatest", "dtype", "is_dark"), [
    (1, "u1", True), (16, "u1", True), (127, "i4", True), (128, "u1", False), (255, "u1", False),
    (1 / 255, "f4", True), (0.4, "f8", True), (1.0, "f4", False),
])  # fmt: skip
def test_dark_images_are_told_of(greatest, dtype, is_dark, tmp_path):
    arrays = mnist_like()
    for part in ("x_train", "x_test"):
        arrays[part] = (arrays[part] % 2 * greatest).astype(dtype)
    np.savez(tmp_path / "file.npz", **arrays)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data.load(tmp_path / "file.npz")
    messages = [str(warning.message) for warning in caught if warning.category is data.DatasetWarning]
    assert len(messages) == is_dark
    if is_dark:
        white = 255 if dtype[0] in "ui" else 1
        assert "file.npz: x_train is dark" in messages[0]
        assert f"and {white} is white" in messages[0]


@pytest.mark.parametrize("number", range(150))
def test_corrupted_files_are_refused_or_sound(number, tmp_path):
    """A small sample of what tests/fuzz_data.py loads."""
    path, _ = fuzz_data.write_case(number, tmp_path)
    fuzz_data.outcome(path)
