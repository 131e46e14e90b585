"""The contract in slow, obvious NumPy, and rows that have broken top-k kernels."""

import ml_dtypes
import numpy as np

DTYPES = {
    "float32": np.dtype(np.float32),
    "float64": np.dtype(np.float64),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "float16": np.dtype(np.float16),
}


def is_denormal(x):
    """Returns where flush-to-zero makes x zero. It does not flush float16's denormals."""
    if x.dtype == np.float16:
        return np.zeros(x.shape, bool)
    with np.errstate(invalid="ignore"):
        magnitude = np.abs(x.astype(np.float64))
    return (magnitude > 0) & (magnitude < float(ml_dtypes.finfo(x.dtype).smallest_normal))


def select(x, k, by="value"):
    """Returns which entries of each row (last axis) are among its k greatest: a bool array of x's shape."""

    def rank(entry):
        if np.isnan(entry):
            return (1, 0.0)
        return (0, abs(entry) if by == "magnitude" else entry + 0.0)

    with np.errstate(invalid="ignore"):
        scores = np.where(is_denormal(x), 0.0, x.astype(np.float64))
    selected = np.zeros(x.shape, bool)
    for row in np.ndindex(x.shape[:-1]):
        # Python's sort is stable: among ties the lowest index comes first.
        order = sorted(range(x.shape[-1]), key=lambda i, row=row: rank(scores[row][i]), reverse=True)
        selected[row][order[:k]] = True
    return selected


def scale(v, selected, separation, suppression):
    """v * (separation if selected else suppression), rounded once; a zero factor writes +0."""
    wide = np.float64 if v.dtype == np.float64 else np.float32
    out = np.zeros(v.shape, v.dtype)
    with np.errstate(all="ignore"):
        for factor, where in ((separation, selected), (suppression, ~selected)):
            factor = np.asarray(factor, v.dtype)
            if factor != 0:
                product = (v.astype(wide) * factor.astype(wide)).astype(v.dtype)
                out = np.where(where, product, out)
    return out


def separate(x, k, separation=1.0, suppression=0.0, by="value"):
    """The forward op along the last axis."""
    return scale(x, select(x, k, by), separation, suppression)


def sum_selected(u, v, selected):
    """The sums of u * v over the selected entries and over the others, in the documented order."""

    def total(numbers):
        numbers = numbers.ravel()
        while numbers.size > 1:
            groups = np.zeros((-(-numbers.size // 64), 64))
            groups.ravel()[: numbers.size] = numbers
            while groups.shape[1] > 1:
                half = groups.shape[1] // 2
                groups = groups[:, :half] + groups[:, half:]
            numbers = groups.ravel()
        number = numbers.sum() + 0.0
        return np.asarray(number if u.dtype == np.float64 else np.float32(number).astype(u.dtype))

    with np.errstate(all="ignore"):
        product = u.astype(np.float64) * v.astype(np.float64)
        return total(np.where(selected, product, 0.0)), total(np.where(selected, 0.0, product))


def bitmask(selected):
    """The compiled op's bitmask of a selection."""
    return np.packbits(selected, axis=-1, bitorder="little")


def assert_same(actual, expected, *, flushed=False, **state):
    """Bit for bit, any NaN equal to any; where `flushed`, a zero of the expected sign will do too.

    `flushed` marks where an operand was denormal. A denormal result may always be flushed.
    """
    actual = np.asarray(actual.numpy() if hasattr(actual, "numpy") else actual)
    expected = np.asarray(expected)
    assert actual.dtype == expected.dtype, state
    assert actual.shape == expected.shape, state
    bits = f"u{actual.dtype.itemsize}"
    zero = np.copysign(np.zeros_like(expected, np.float64), expected.astype(np.float64)).astype(
        expected.dtype
    )
    same = (actual.view(bits) == expected.view(bits)) | (np.isnan(actual) & np.isnan(expected))
    if expected.dtype == ml_dtypes.bfloat16:
        # Its product is rounded from float32's, where a denormal that would be rounded up to this is flushed.
        flushed = flushed | (abs(expected) == ml_dtypes.finfo(expected.dtype).smallest_normal)
    same |= (flushed | is_denormal(expected)) & (actual.view(bits) == zero.view(bits))
    if not same.all():
        where = tuple(index[0] for index in np.nonzero(~np.atleast_1d(same)))
        raise AssertionError(
            f"{np.count_nonzero(~same)} of {same.size} differ, first at {where}: "
            f"{np.atleast_1d(actual)[where]!r} is not {np.atleast_1d(expected)[where]!r}; {state}"
        )


def _specials(dtype):
    info = ml_dtypes.finfo(dtype)
    tiny, least, greatest = info.smallest_normal, info.smallest_subnormal, info.max
    numbers = [np.nan, -np.nan, np.inf, -np.inf, 0.0, -0.0, 1.0, -1.0, 1.5, greatest, -greatest]
    numbers += [tiny, -tiny, least, -least, tiny - least, least - tiny]
    return np.array([np.asarray(number, dtype) for number in numbers])


def _shuffled_fraction(fraction, special):
    def rows(rng, shape, dtype):
        x = rng.standard_normal(shape)
        return np.where(rng.random(shape) < fraction, special, x).astype(dtype)

    return rows


def _shared_leading_bits(rng, shape, dtype):
    bits = {2: 0x3F80, 4: 0x3F800000, 8: 0x3FF0000000000000}[dtype.itemsize]
    return (bits + rng.integers(0, 256, shape)).astype(f"u{dtype.itemsize}").view(dtype)


def _one_at_the_end(rng, shape, dtype):
    x = np.zeros(shape, dtype)
    x[..., -1:] = 1
    return x


# Name -> rows(rng, shape, dtype). Rows like these have found bugs in top-k kernels.
DISTRIBUTIONS = {
    "normal": lambda rng, shape, dtype: rng.standard_normal(shape).astype(dtype),
    "ascending": lambda rng, shape, dtype: np.sort(rng.standard_normal(shape)).astype(dtype),
    "descending": lambda rng, shape, dtype: -np.sort(rng.standard_normal(shape)).astype(dtype),
    "constant": lambda rng, shape, dtype: np.full(shape, rng.standard_normal()).astype(dtype),
    "half zeros": lambda rng, shape, dtype: np.maximum(rng.standard_normal(shape), 0).astype(dtype),
    "both zeros": lambda rng, shape, dtype: np.copysign(0.0, rng.standard_normal(shape)).astype(dtype),
    "four values": lambda rng, shape, dtype: rng.integers(-1, 3, shape).astype(dtype),
    "64 values": lambda rng, shape, dtype: rng.integers(-32, 32, shape).astype(dtype),
    "sawtooth": lambda rng, shape, dtype: (np.arange(np.prod(shape)).reshape(shape) % 7).astype(dtype),
    "shared leading bits": _shared_leading_bits,
    "10 % +inf": _shuffled_fraction(0.1, np.inf),
    "90 % -inf": _shuffled_fraction(0.9, -np.inf),
    "all -inf": _shuffled_fraction(1.1, -np.inf),
    "10 % NaN": _shuffled_fraction(0.1, np.nan),
    "denormals": lambda rng, shape, dtype: (
        rng.integers(-9, 9, shape) * float(ml_dtypes.finfo(dtype).smallest_subnormal)
    ).astype(dtype),
    "greatest at the end": _one_at_the_end,
    "specials": lambda rng, shape, dtype: rng.choice(_specials(dtype), shape),
    "any bits": lambda rng, shape, dtype: np.frombuffer(
        rng.bytes(int(np.prod(shape)) * dtype.itemsize), dtype
    ).reshape(shape),
}
