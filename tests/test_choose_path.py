"""The choice of path of the CPU kernels: the header is what its generator makes of the measurements."""

import shutil
import subprocess
from pathlib import Path

import choose_path
import pytest
from choose_path import NEVER, Limits, Point

ROOT = Path(__file__).resolve().parent.parent
POINTS = choose_path.read(choose_path.MEASURED)


@pytest.fixture(scope="module")
def limits():
    return choose_path.fit_all(POINTS)


def test_the_header_is_generated(limits):
    assert choose_path.HEADER.read_text() == choose_path.header(limits), (
        "run python cc/benchmark/choose_path.py"
    )


def test_every_instruction_set_and_dtype_is_measured():
    expected = {(name, dtype) for name in choose_path.SETS for dtype in choose_path.DTYPES}
    assert set(POINTS) == expected


@pytest.mark.skipif(shutil.which("c++") is None, reason="there is no C++ compiler")
def test_the_header_chooses_as_the_generator_does(limits, tmp_path):
    cases = [(kernels, p) for kernels, points in POINTS.items() for p in points]
    # Also shapes that nobody measured.
    for kernels in POINTS:
        cases += [
            (kernels, Point(rows, n, k, {}))
            for rows in (1, 3, 1000)
            for n in (1, 3, 5, 33, 100, 255, 257, 2047, 5000, 2**31 - 1)
            for k in {0, 1, 8, 9, n // 3, n - 1, n}
            if 0 <= k <= n
        ]
    source = tmp_path / "choose.cc"
    source.write_text(
        """
        #include <cstdio>
        #include "core/cpu/choose_path.h"
        using namespace separationfactor;
        int main() {
          int vector_bytes, dtype;
          long rows, n, k;
          while (std::scanf("%d %d %ld %ld %ld", &vector_bytes, &dtype, &rows, &n, &k) == 5) {
            std::puts(NameOf(ChoosePath(vector_bytes, static_cast<DType>(dtype), rows, n, k)));
          }
        }
        """
    )
    program = tmp_path / "choose"
    subprocess.run(["c++", "-std=c++17", f"-I{ROOT / 'cc'}", "-o", program, source], check=True)
    numbers = {dtype: number for number, dtype in enumerate(choose_path.DTYPES)}
    lines = "\n".join(
        f"{choose_path.SETS[name]} {numbers[dtype]} {p.rows} {p.n} {p.k}" for (name, dtype), p in cases
    )
    ran = subprocess.run([program], input=lines, capture_output=True, text=True, check=True)
    expected = [choose_path.choose(limits[kernels], kernels, p.rows, p.n, p.k) for kernels, p in cases]
    assert ran.stdout.split() == expected


def test_the_choice_is_near_the_fastest_path_at_every_measured_point(limits):
    slower = []
    for kernels, points in POINTS.items():
        for p in points:
            path = choose_path.choose(limits[kernels], kernels, p.rows, p.n, p.k)
            if p.ratios[path] > choose_path.ALLOWED:
                slower.append((kernels, p, path))
    assert not slower, "the limits may need another form"


@pytest.mark.parametrize(("ratio", "ranges"), [(1.09, 1), (1.11, 2)])
def test_long_rows_have_no_more_ranges_than_needed(ratio, ranges):
    """Bisection is the fastest at 1,024 entries, and sampling at 2,048."""
    points = [
        Point(4, 1024, 512, {"sample": ratio, "bisection": 1.0}),
        Point(4, 2048, 1024, {"sample": 1.0, "bisection": ratio}),
    ]
    assert len(choose_path.fit_long_rows(points)) == ranges


def test_fit_finds_the_limits_of_made_up_measurements(capsys):
    """One path is the fastest where its limits say so, and all others are slower."""
    kernels = ("avx2", "float32")
    limits = Limits(
        lanes_greatest=(0, 16, 64),
        lanes_sorted=(16, 64, 256),
        lanes_bisected=(0, 60, 192),
        registers=64,
        greatest=2048,
        long_rows=((16384, 64, 2), (2048, 16, 8), (0, 512, NEVER)),
    )
    points = []
    for n in (8, 16, 48, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768):
        shares = (1024, 512, 256, 128, 64, 32, 16, 8, 4, 2)
        ks = {k for k in (1, 2, 9, *(n // share for share in shares), n - n // 8) if 0 < k < n}
        for rows in (1, 4, 16, 1000):
            for k in sorted(ks):
                paths = ["bisection", *(["greatest"] if k == 1 else [])]
                paths += ["rows_in_registers"] if n <= 16 else []
                paths += ["rows_in_lanes"] if n <= 256 else ["sample", *(["stream"] if k <= n // 8 else [])]
                fastest = choose_path.choose(limits, kernels, rows, n, k)
                points.append(Point(rows, n, k, {path: 1.0 if path == fastest else 2.0 for path in paths}))
    fitted = choose_path.fit(points, kernels)
    for p in points:
        assert p.ratios[choose_path.choose(fitted, kernels, p.rows, p.n, p.k)] == 1, p
    assert fitted.lanes_sorted == limits.lanes_sorted
    assert fitted.lanes_bisected == limits.lanes_bisected
    assert fitted.greatest == limits.greatest
    assert [least for least, *_ in fitted.long_rows] == [16384, 2048, 0]
    choose_path.check({kernels: points}, {kernels: fitted}, allowed=1.0)
    assert f"0 of {len(points)} points are above 1.0" in capsys.readouterr().out
