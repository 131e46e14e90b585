"""Corrupts .npz and idx files and loads them: each gives a sound `Dataset` or a `DatasetError`, nothing else.

    python tests/fuzz_data.py --cases 10000 --seed 0

A case is the same in every run: `--cases 1 --seed N` repeats case N.
"""

import collections
import gzip
import io
import re
import resource
import signal
import sys
import tempfile
import warnings
import zipfile
from pathlib import Path

import click
import numpy as np

from separationfactor_lab import data

SECONDS = 20
GIGABYTE = 2**30
MEMORY = 2 * GIGABYTE

# Values that replace an .npy header's dtype, its numbers, and any part of it.
DTYPES = [
    *("|u1", "<i8", ">i4", "<u8", "<f4", ">f8", "<f2", "<f16", "|b1", "<c8", "|O", "|S3", "<U3", "<U0"),
    *("<M8[s]", "<m8[s]", "|S2147483647", "|S9999999999", "[('a', '<f4'), ('b', '|O')]", "<f3", "|V0", ""),
]
NUMBERS = [
    *("0", "1", "-1", "7", "2147483648", "4294967297", "9223372036854775807", "18446744073709551616", "1e9"),
    *("3.5", "True", "None", "10L", "0777", "1_0", "(2, 3)", "'3'", "1 if", "0or 1"),
]
PIECES = [*"()[]{},:'\"\\#\n -\0\xff", "(" * 300, "{}" * 9, "\\N{", '"""']
# Values that replace a field of bytes.
SIZES = [0, 1, 2, 7, 255, 2**15, 2**16 - 1, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**63 - 1, 2**63, 2**64 - 1]


def one_of(rng, values):
    """Returns one of the values. NumPy's `choice` would convert it to a NumPy type."""
    return values[rng.integers(len(values))]


def good_arrays(rng):
    """Returns arrays that `load` takes, in one of the ways that it takes them."""
    count, test_count, classes = rng.integers(4, 20), rng.integers(1, 9), rng.integers(2, 5)
    height, width = rng.integers(1, 9, 2)
    arrays = {}
    for part, images in (("train", count), ("test", test_count)):
        x = rng.integers(0, 256, (images, height, width)).astype(one_of(rng, ["u1", "<i4", ">i8"]))
        if rng.random() < 0.3:
            x = (x / 255).astype(one_of(rng, ["<f4", ">f8", "f2"]))
        if rng.random() < 0.3:
            x = x[..., np.newaxis]
        arrays[f"x_{part}"] = np.asarray(x, order=one_of(rng, ["C", "F"]))
        arrays[f"y_{part}"] = (np.arange(images) % classes).astype(one_of(rng, ["u1", "<i8", ">u8"]))
    if rng.random() < 0.4:
        arrays["factor_names"] = np.array(["angle", "größe", "x"])
        for part, images in (("train", count), ("test", test_count)):
            factors = rng.normal(size=(images, 3))
            arrays[f"factors_{part}"] = factors.astype(one_of(rng, ["<f4", ">f8", "<f2"]))
    return arrays


def hostile_array(rng, array):
    """Returns an array that no data set may contain, or an unusual one that it may."""
    shape = array.shape
    values = array.astype(np.float64) if array.dtype.kind in "iuf" else np.ones(shape)
    makers = [
        lambda: values.astype(one_of(rng, ["c8", "?", "S3", "m8[s]", "M8[s]", "f2", "f16", "V4"])),
        lambda: np.zeros(shape, [("a", "f4"), ("b", "i2", (2,))]),
        lambda: np.full(shape, one_of(rng, [np.nan, np.inf, -np.inf, -1, 1e300, 5e-324, 1 + 1e-9, -0.0])),
        lambda: np.full(shape, one_of(rng, [-1, 256, 2**31, 2**32 + 1, 2**63 - 1])),
        lambda: np.full(shape, 2**64 - 1, np.uint64),
        lambda: np.frombuffer(rng.bytes(8 * values.size), one_of(rng, ["<f8", "<i8"])).reshape(shape),
        lambda: array.reshape(-1)[0],
        lambda: array.reshape(-1),
        lambda: array[:0],
        lambda: array[..., np.newaxis, np.newaxis],
        lambda: np.concatenate([array, array]),
        lambda: np.array(rng.choice(["", "a", "a\0b", "\ud800", "\x1b[31m"], 3)),
        lambda: np.full(3, 0x7FFFFFFF, "<u4").view("<U1"),
        lambda: np.array([b"angle", b"x", b"y"]),
    ]
    return one_of(rng, makers)()


def npy_files(arrays):
    """Returns the contents of .npy files by name."""
    contents = {}
    for key, array in arrays.items():
        file = io.BytesIO()
        np.lib.format.write_array(file, np.asanyarray(array))
        contents[f"{key}.npy"] = file.getvalue()
    return contents


def archive(rng, members):
    """Returns a zip archive, which rarely holds a member twice."""
    file = io.BytesIO()
    method = one_of(rng, [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
    with zipfile.ZipFile(file, "w", method) as writer, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a name that is there twice
        for name, content in members.items():
            for _ in range(1 + (rng.random() < 0.005)):
                writer.writestr(name, content)
    return file.getvalue()


def edited_header(rng, content):
    """Returns an .npy file with another value or character in its header."""
    start = 10  # magic, version and the header's length
    end = content.find(b"\n") + 1
    header = content[start:end].decode("latin1")
    if rng.random() < 0.4:
        dtype = one_of(rng, DTYPES)
        header = re.sub("'descr': [^,]*", lambda _: f"'descr': {dtype!r}", header, count=1)
    elif rng.random() < 0.6:
        numbers = list(re.finditer(r"\d+(?=[,)])", header)) or list(re.finditer("False|True", header))
        chosen = one_of(rng, numbers)
        header = header[: chosen.start()] + one_of(rng, NUMBERS) + header[chosen.end() :]
    else:
        at = rng.integers(len(header))
        header = header[:at] + one_of(rng, PIECES) + header[at + rng.integers(2) :]
    size = len(header) if rng.random() < 0.8 else one_of(rng, SIZES[:7])
    version = bytes([1 if rng.random() < 0.9 else rng.integers(256), 0])
    return content[:6] + version + size.to_bytes(2, "little") + header.encode("latin1") + content[end:]


def overwrite(rng, content, at):
    """Writes one of `SIZES`, in one to eight bytes of either order."""
    length, order = one_of(rng, [1, 2, 4, 8]), one_of(rng, ["little", "big"])
    content[at : at + length] = (one_of(rng, SIZES) % 256**length).to_bytes(length, order)


def damaged(rng, content):
    """Returns bytes with some changed, cut out, put in, repeated or cut off."""
    content = bytearray(content)
    for _ in range(one_of(rng, [1, 1, 1, 2, 5])):
        at = int(rng.integers(len(content) + 1))
        length = one_of(rng, [1, 2, 4, 8, 50])
        kind = one_of(rng, ["flip", "truncate", "cut", "replace", "insert", "repeat", "size"])
        if kind == "flip":
            content[at : at + 1] = bytes(byte ^ 1 << int(rng.integers(8)) for byte in content[at : at + 1])
        elif kind == "truncate":
            del content[at:]
        elif kind == "cut":
            del content[at : at + length]
        elif kind == "replace":
            content[at : at + length] = rng.bytes(length)
        elif kind == "insert":
            content[at:at] = rng.bytes(length)
        elif kind == "repeat":
            other = int(rng.integers(len(content) + 1))
            content[at:at] = content[other : other + 3 * length]
        else:
            overwrite(rng, content, at)
    return bytes(content)


def damaged_records(rng, content):
    """Returns a zip archive with other values in its headers."""
    content = bytearray(content)
    marks = [match.start() for match in re.finditer(b"PK(\x01\x02|\x03\x04|\x05\x06)", content)]
    for _ in range(rng.integers(1, 4)):
        overwrite(rng, content, one_of(rng, marks) + int(rng.integers(4, 46)))
    return bytes(content)


def swapped(rng, parts):
    """Returns a dictionary in which two keys have each other's values, or both have one's."""
    one, other = rng.choice(list(parts), 2)
    return {**parts, one: parts[other], other: parts[one_of(rng, [one, other])]}


def npz_case(rng):
    """Returns the content of an .npz file with one kind of damage, and the kind."""
    kind = one_of(
        rng, ["none", "array", "swap", "member", "header", "text", "names", "splice", "zip", "file"]
    )
    arrays = good_arrays(rng)
    key = one_of(rng, list(arrays))
    if kind == "array":
        arrays[key] = hostile_array(rng, arrays[key])
    members = npy_files(arrays)
    name = f"{key}.npy"
    if kind == "swap":
        members = swapped(rng, members)
    elif kind == "member":
        members[name] = damaged(rng, members[name])
    elif kind == "header":
        members[name] = edited_header(rng, members[name])
    elif kind == "text":
        members[name] = one_of(rng, [b"", b"hello", b"\x93NUMPY", b"\x80\x04N.", members[name][:9]])
    elif kind == "names":
        other = one_of(rng, [key, f"/{name}", "ü.npy", "\x1b.npy", "a/b"])
        members[other] = members[name] if rng.random() < 0.5 else members.pop(name)
    content = archive(rng, members)
    if kind == "splice":
        other = archive(rng, npy_files(good_arrays(rng)))
        content = content[: rng.integers(len(content))] + other[rng.integers(len(other)) :]
    elif kind == "zip":
        content = damaged_records(rng, content)
    elif kind == "file":
        content = damaged(rng, content)
    return content, f"npz, {kind}"


def idx_case(rng):
    """Returns the contents of the four idx files by name, with one kind of damage, and the kind."""
    count, test_count, height, width = (int(size) for size in rng.integers(4, 12, 4))
    arrays = {
        "x_train": rng.integers(0, 256, (count, height, width), np.uint8),
        "y_train": np.arange(count, dtype=np.uint8) % 3,
        "x_test": rng.integers(0, 256, (test_count, height, width), np.uint8),
        "y_test": np.arange(test_count, dtype=np.uint8) % 3,
    }
    files = {}
    for key, array in arrays.items():
        header = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes()
        files[data._IDX_FILES[key]] = header + array.tobytes()
    kind = one_of(rng, ["none", "swap", "sizes", "content", "compressed"])
    name = one_of(rng, list(files))
    if kind == "swap":
        files = swapped(rng, files)
    elif kind == "sizes":
        content = bytearray(files[name])
        for at in rng.integers(0, 4, rng.integers(1, 4)):
            content[4 * at : 4 * at + 4] = (one_of(rng, SIZES) % 2**32).to_bytes(4, "big")
        files[name] = bytes(content)
    elif kind == "content":
        files[name] = damaged(rng, files[name])
    if kind != "compressed" and rng.random() < 0.5:
        return files, f"idx, {kind}"
    files = {f"{name}.gz": gzip.compress(content, mtime=0) for name, content in files.items()}
    if kind == "compressed":
        files[f"{name}.gz"] = damaged(rng, files[f"{name}.gz"])
    return files, f"idx.gz, {kind}"


def write_case(number, folder):
    """Writes a case to an empty folder. Returns the argument of `load` and the kind of damage."""
    rng = np.random.default_rng(number)
    if rng.random() < 0.7:
        content, kind = npz_case(rng)
        (folder / "case.npz").write_bytes(content)
        return folder / "case.npz", kind
    files, kind = idx_case(rng)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder, kind


def check_sound(dataset):
    for images, labels, factors in (
        (dataset.x_train, dataset.y_train, dataset.factors_train),
        (dataset.x_test, dataset.y_test, dataset.factors_test),
    ):
        assert images.dtype == np.float32, images.dtype
        assert images.size > 0, images.shape
        assert images.shape == (len(images), *images.shape[1:3], 1), images.shape
        assert images.shape[1:] == dataset.image_shape, images.shape
        assert images.min() >= 0, images.min()
        assert images.max() <= 1, images.max()
        assert labels.dtype == np.int32, labels.dtype
        assert labels.shape == images.shape[:1], labels.shape
        assert labels.min() >= 0, labels.min()
        assert labels.max() < dataset.num_classes, labels.max()
        assert (factors is None) == (dataset.factor_names == ()), factors
        if factors is not None:
            assert factors.dtype == np.float32, factors.dtype
            assert factors.shape == (len(images), len(dataset.factor_names)), factors.shape
            assert np.isfinite(factors).all(), factors
    assert 2 <= dataset.num_classes <= len(dataset.y_train), dataset.num_classes
    assert len(set(dataset.factor_names)) == len(dataset.factor_names), dataset.factor_names
    assert all(isinstance(name, str) and name for name in dataset.factor_names), dataset.factor_names
    assert len(dataset.fingerprint) == 8, dataset.fingerprint


def outcome(path):
    """Loads a data set and returns "loaded" or "refused".

    Raises:
        Exception: If it is neither a sound data set nor refused by a `DatasetError` that names the path, or
            if a warning is given that is no `DatasetWarning`.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", data.DatasetWarning)
        try:
            dataset = data.load(path)
        except data.DatasetError as error:
            if str(path) not in str(error):
                raise AssertionError(f"the message does not name {path}") from error
            return "refused"
        check_sound(dataset)
        return "loaded"


class TooSlowError(BaseException):
    """Not an `Exception`, which `load` would take for one of the library that reads the file."""


def _too_slow(*_):
    raise TooSlowError(f"more than {SECONDS} seconds")


def _peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@click.command(context_settings={"show_default": True})
@click.option("--cases", help="How many.", default=10_000, type=click.IntRange(1))
@click.option("--seed", help="The number of the first case.", default=0, type=click.IntRange(0))
def main(cases, seed):
    """Loads corrupted data sets, and fails unless each gives a sound one or a DatasetError."""
    # A reader that runs wild then fails before it takes the machine's memory.
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + 2 * MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    signal.signal(signal.SIGALRM, _too_slow)
    counts = collections.Counter()
    with click.progressbar(range(seed, seed + cases), label="data sets", file=sys.stderr) as numbers:
        for number in numbers:
            before = _peak()
            with tempfile.TemporaryDirectory() as folder:
                path, kind = write_case(number, Path(folder))
                signal.alarm(SECONDS)
                try:
                    result = outcome(path)
                    if _peak() - before > MEMORY:
                        raise MemoryError(f"{(_peak() - before) / GIGABYTE:.1f} GiB")
                except (Exception, TooSlowError) as error:
                    result = "failed"
                    click.echo(f"\n--cases 1 --seed {number}: {kind}: {type(error).__name__}: {error}")
                finally:
                    signal.alarm(0)
            counts[kind, result] += 1
    results = ("loaded", "refused", "failed")
    for kind in sorted({kind for kind, _ in counts}):
        click.echo(f"{kind}: {', '.join(f'{counts[kind, result]} {result}' for result in results)}")
    failed = sum(count for (_, result), count in counts.items() if result == "failed")
    click.echo(f"{cases} cases, {failed} failed")
    sys.exit(failed > 0)


if __name__ == "__main__":
    main()
