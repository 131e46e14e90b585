"""The core on NumPy arrays: against the oracle, without TensorFlow, without copies, with clear errors."""

import inspect
import os
import subprocess
import sys

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import oracle

core = pytest.importorskip("separationfactor_core", reason="installed without compiled code")

dtypes = pytest.mark.parametrize("dtype", oracle.DTYPES)


@st.composite
def cases(draw):
    n = draw(st.one_of(st.integers(0, 40), st.sampled_from([63, 64, 65, 127, 300])))
    return {
        "shape": (draw(st.integers(0, 5)), n),
        "distribution": draw(st.sampled_from(list(oracle.DISTRIBUTIONS))),
        "seed": draw(st.integers(0, 2**32 - 1)),
        "k": draw(st.one_of(st.integers(0, n), st.sampled_from([0, n]))),
        "by": draw(st.sampled_from(["value", "magnitude"])),
        "factors": draw(st.sampled_from([(1.0, 0.0), (10.0, 0.25), (0.0, -2.0), (-0.0, 1.0)])),
        "threads": draw(st.integers(1, 4)),
    }


def rows_of(case, dtype, offset=0):
    rng = np.random.default_rng(case["seed"] + offset)
    return oracle.DISTRIBUTIONS[case["distribution"]](rng, case["shape"], oracle.DTYPES[dtype])


@pytest.fixture
def restored_instruction_set():
    before = core.instruction_set()
    yield
    core.set_instruction_set(before)


@dtypes
@pytest.mark.parametrize("instruction_set", core.instruction_sets())
@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(case=cases(), in_place=st.booleans())
def test_separate_and_its_gradient_have_the_oracles_bits(
    restored_instruction_set, instruction_set, dtype, case, in_place
):
    core.set_instruction_set(instruction_set)
    x, d_y = rows_of(case, dtype), rows_of(case, dtype, offset=1)
    selected = oracle.select(x, case["k"], case["by"])
    separation, suppression = case["factors"]
    factors = {"separation": separation, "suppression": suppression, "threads": case["threads"]}

    out = x.copy() if in_place else None
    y, bitmask = core.separate(x if out is None else out, k=case["k"], by=case["by"], out=out, **factors)
    assert (y is out) == in_place
    oracle.assert_same(y, oracle.scale(x, selected, *case["factors"]), flushed=oracle.is_denormal(x), **case)
    np.testing.assert_array_equal(bitmask, oracle.bitmask(selected))

    out = d_y.copy() if in_place else None
    d_x = core.scale_selected(d_y if out is None else out, bitmask, out=out, **factors)
    oracle.assert_same(
        d_x, oracle.scale(d_y, selected, *case["factors"]), flushed=oracle.is_denormal(d_y), **case
    )


@dtypes
@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (1, 1), (7, 9), (65, 63), (3, 5000), (300, 271)])
def test_sums_are_the_oracles_on_any_number_of_threads(dtype, shape):
    rng = np.random.default_rng(0)
    u, v = (rng.standard_normal(shape).astype(oracle.DTYPES[dtype]) for _ in range(2))
    selected = oracle.select(v, shape[1] // 3)
    expected = oracle.sum_selected(u, v, selected)
    for threads in (1, 2, 5):
        sums = core.sum_selected(u, v, oracle.bitmask(selected), threads=threads)
        assert tuple(np.asarray(total).astype(u.dtype) for total in sums) == expected


def test_instruction_sets(restored_instruction_set):
    assert core.instruction_sets()[0] == "baseline"
    for name in core.instruction_sets():
        core.set_instruction_set(name)
        assert core.instruction_set() == name
    with pytest.raises(ValueError, match=r"name must be one of \['baseline'.*Received: 'mmx'"):
        core.set_instruction_set("mmx")


@pytest.mark.parametrize("value", [*core.instruction_sets(), "", "mmx"])
def test_the_environment_names_the_instruction_set(value):
    program = "import separationfactor_core as core; print(core.instruction_set())"
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "SEPARATIONFACTOR_INSTRUCTION_SET": value},
        capture_output=True,
        text=True,
        check=True,
    )
    best = core.instruction_sets()[-1]
    assert result.stdout.strip() == (value if value in core.instruction_sets() else best)
    assert ("must be one that this CPU supports" in result.stderr) == (value == "mmx")


@dtypes
def test_a_long_row_is_shared_among_threads(dtype):
    """One row, long enough to be split. Every value occurs often, so that ties cross the parts."""
    rng = np.random.default_rng(0)
    x = rng.integers(-50, 50, (1, 1_100_003)).astype(oracle.DTYPES[dtype])
    k = 123_457
    order = np.argsort(-x[0].astype(np.float64), kind="stable")[:k]
    selected = np.zeros(x.shape, bool)
    selected[0, order] = True
    expected = oracle.scale(x, selected, 1.5, 0.25)
    for threads in (1, 2, 3, 7):
        y, bitmask = core.separate(x, k=k, separation=1.5, suppression=0.25, threads=threads)
        oracle.assert_same(y, expected, threads=threads)
        np.testing.assert_array_equal(bitmask, oracle.bitmask(selected))
        scaled = core.scale_selected(x, bitmask, separation=1.5, suppression=0.25, threads=threads)
        oracle.assert_same(scaled, expected, threads=threads)


def test_any_leading_dimensions():
    rng = np.random.default_rng(0)
    for shape in [(5,), (1, 5), (2, 3, 5), (2, 1, 3, 9)]:
        x = rng.standard_normal(shape)
        y, bitmask = core.separate(x, k=2)
        oracle.assert_same(y, oracle.separate(x, 2))
        assert bitmask.shape == (*shape[:-1], (shape[-1] + 7) // 8)


def test_nothing_is_copied():
    x = np.zeros((1000, 1000), np.float32)
    x.setflags(write=False)
    y, _ = core.separate(x)
    assert not np.shares_memory(x, y)
    view = np.zeros((8, 1000), np.float32)[2:5]
    y, _ = core.separate(view, out=view)
    assert y is view


def test_tensorflow_is_not_imported():
    program = (
        "import sys, numpy, separationfactor_core as core; core.separate(numpy.ones((2, 3)));"
        "assert not any(name.startswith(('tensorflow', 'keras')) for name in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)


X = np.arange(12, dtype=np.float32).reshape(3, 4)
MASK = np.zeros((3, 1), np.uint8)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: core.separate(X.astype(int)), TypeError, "x must be of dtype float32.*Received: int64"),
        (lambda: core.separate(X.astype(">f4")), TypeError, "x must be in native byte order.*>f4"),
        (lambda: core.separate(X.astype(ml_dtypes.float8_e4m3fn)), TypeError, "x must be of dtype.*float8"),
        (lambda: core.separate([[1.0, 2.0]]), TypeError, "incompatible function arguments"),
        (lambda: core.separate(np.float32(1)), TypeError, "incompatible function arguments"),
        (lambda: core.separate(np.array(1.0)), ValueError, "x must have at least one axis"),
        (lambda: core.separate(X.T), ValueError, "x must be C-contiguous.*numpy.ascontiguousarray"),
        (lambda: core.separate(X[:, ::2]), ValueError, r"x must be C-contiguous.*shape \(3, 2\)"),
        (lambda: core.separate(X, k=5), ValueError, r"k must be in \[0, n\]. Received: k = 5, n = 4"),
        (lambda: core.separate(X, k=-1), ValueError, r"k must be in \[0, n\]. Received: k = -1"),
        (lambda: core.separate(X, k=1.5), TypeError, "incompatible function arguments"),
        (lambda: core.separate(X, by="size"), ValueError, "by must be 'value' or 'magnitude'.*'size'"),
        (lambda: core.separate(X, threads=0), ValueError, "threads must be at least 1. Received: 0"),
        (lambda: core.separate(X, out=X[:2]), ValueError, "out must have the dtype and shape of its input"),
        (lambda: core.separate(X, out=X.astype(float)), ValueError, "out must have the dtype.*float64"),
        (lambda: core.separate(X[:2], out=X[1:]), ValueError, "out must be the input itself or not overlap"),
        (lambda: core.scale_selected(X, MASK[:2]), ValueError, r"selected must be uint8.*\(3, 1\).*\(2, 1\)"),
        (lambda: core.scale_selected(X, MASK.astype(bool)), ValueError, "selected must be uint8.*bool"),
        (lambda: core.sum_selected(X, X[:2], MASK), ValueError, "v must have the dtype and shape of u"),
        (lambda: core.sum_selected(X, X.astype(float), MASK), ValueError, "v must have the dtype.*float64"),
    ],
)
def test_errors(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_a_read_only_output():
    out = np.zeros_like(X)
    out.setflags(write=False)
    with pytest.raises(ValueError, match="out must be writeable"):
        core.separate(X, out=out)


def test_every_function_is_documented():
    functions = [function for name, function in inspect.getmembers(core, inspect.isbuiltin)]
    assert len(functions) >= 6
    for function in functions:
        signature, text = function.__doc__.split("\n", 1)
        assert text.strip(), signature
