"""Data sets: each source gives the same kind of arrays, and whatever is wrong with one is said plainly."""

import gzip

import numpy as np
import pytest

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
    with pytest.raises(data.DatasetError, match="train-images-idx3-ubyte.gz: cannot be read"):
        data.load(tmp_path)
