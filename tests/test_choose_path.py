"""The choice of path of the CPU kernels: the header is what its generator makes of the measurements."""

import shutil
import subprocess
from pathlib import Path

import choose_path
import pytest
from choose_path import Limits, Point

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
    cases = [(name, dtype, p) for (name, dtype), points in POINTS.items() for p in points]
    # Also shapes that nobody measured.
    for name, dtype in POINTS:
        cases += [
            (name, dtype, Point(rows, n, k, {}))
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
    vector_bytes = dict(zip(choose_path.SETS, (16, 32, 64), strict=True))
    numbers = {dtype: number for number, dtype in enumerate(choose_path.DTYPES)}
    lines = "\n".join(
        f"{vector_bytes[name]} {numbers[dtype]} {p.rows} {p.n} {p.k}" for name, dtype, p in cases
    )
    ran = subprocess.run([program], input=lines, capture_output=True, text=True, check=True)
    expected = [choose_path.choose(limits[name, dtype], dtype, p.rows, p.n, p.k) for name, dtype, p in cases]
    assert ran.stdout.split() == expected


def test_fit_finds_the_limits_of_made_up_measurements(capsys):
    """One path is the fastest where its limits say so, and all others are slower."""
    limits = Limits(
        lanes_greatest=(0, 16, 64),
        lanes_sorted=(16, 64, 256),
        lanes_bisected=(0, 48, 128),
        registers=64,
        greatest=2048,
        stream=(2**16, 16, 64),
        sample=(4096, 4, 16384),
    )
    points = []
    for n in (8, 16, 48, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768):
        for rows in (1, 4, 16, 1000):
            for k in sorted(
                {1, 2, 9, *(n // part for part in (512, 256, 64, 32, 16, 8, 4, 2)), n - n // 8} - {0}
            ):
                paths = ["bisection", *(["greatest"] if k == 1 else [])]
                paths += ["rows_in_registers"] if n <= 16 else []
                paths += ["rows_in_lanes"] if n <= 256 else ["sample", *(["stream"] if k <= n // 8 else [])]
                fastest = choose_path.choose(limits, "float32", rows, n, k)
                points.append(Point(rows, n, k, {path: 1.0 if path == fastest else 2.0 for path in paths}))
    fitted = choose_path.fit(points, "float32")
    for p in points:
        assert p.ratios[choose_path.choose(fitted, "float32", p.rows, p.n, p.k)] == 1, p
    assert fitted.lanes_sorted == limits.lanes_sorted
    assert fitted.greatest == limits.greatest
    choose_path.check({("avx2", "float32"): points}, {("avx2", "float32"): fitted}, allowed=1.0)
    assert f"0 of {len(points)} points are above 1.0" in capsys.readouterr().out
