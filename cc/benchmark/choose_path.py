"""Fits the limits of the choice of path to paths.csv and writes cc/core/cpu/choose_path.h.

    python cc/benchmark/choose_path.py           # writes the header
    python cc/benchmark/choose_path.py --check   # reports how near the choice is to the fastest path

paths.csv holds the nanoseconds per entry of every path that handles a shape, for each instruction set and
dtype. `kernels_benchmark --paths` measures it. To choose for another processor, replace the file and run this
program.

The choice asks a few questions about a shape, and each answer is one group of limits (`Limits`). They are
fitted separately for each instruction set and dtype. A question is about some of the points only, so its
limits are found by trying all combinations of a few values. The best ones have the smallest worst ratio to
the fastest path, and among those the smallest mean ratio.
"""

import argparse
import csv
import dataclasses
import functools
import itertools
from pathlib import Path

HERE = Path(__file__).resolve().parent
MEASURED = HERE / "paths.csv"
HEADER = HERE.parent / "core/cpu/choose_path.h"

SETS = ("baseline", "avx2", "avx512")
DTYPES = ("float32", "float64", "bfloat16", "float16")  # in the order of the enum DType
NEVER = 2**31 - 1  # no row is longer

# path.h
MOST_IN_LANES, MAX_WORD, MOST_SORTED = 256, 32, 8
LEAST_IN_REGISTERS, MOST_IN_REGISTERS = 4, 16
SAMPLE, LEAST_STREAM_PER_K = 512, 8
ROWS = (1, 4, 16)  # the numbers of rows for which lanes have limits

# A ratio below this is noise: two measurements of the same path differ by as much.
NOISE = 1.05


@dataclasses.dataclass(frozen=True)
class Limits:
    """The limits of one instruction set and dtype. The header explains them."""

    lanes_greatest: tuple[int, int, int]
    lanes_sorted: tuple[int, int, int]
    lanes_bisected: tuple[int, int, int]
    registers: int
    greatest: int
    stream: tuple[int, int, int]
    sample: tuple[int, int, int]


@dataclasses.dataclass(frozen=True)
class Point:
    """A measured shape, and the nanoseconds per entry of each path that handles it."""

    rows: int
    n: int
    k: int
    times: dict[str, float]

    def without(self, path):
        return dataclasses.replace(self, times={name: t for name, t in self.times.items() if name != path})

    @functools.cached_property
    def ratios(self):
        """How much longer each path takes than the fastest one."""
        fastest = min(self.times.values())
        return {path: time / fastest for path, time in self.times.items()}


def read(path):
    """Returns the points of each pair of instruction set and dtype."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(line for line in file if not line.startswith("#")))
    points = {}
    for row in rows:
        key = row.pop("instruction_set"), row.pop("dtype")
        shape = [int(row.pop(name)) for name in ("rows", "n", "k")]
        times = {name: float(time) for name, time in row.items() if time}
        points.setdefault(key, []).append(Point(*shape, times))
    return points


def question_of(n, k):
    """Returns the field with the limits that decide first about a shape."""
    if k == 1:
        return "lanes_greatest"
    if n <= MAX_WORD or k <= MOST_SORTED or n - k + 1 <= MOST_SORTED:
        return "lanes_sorted"
    return "lanes_bisected"


def choose(limits, dtype, rows, n, k):
    """Returns the path for a shape. The header's ChoosePath is the same function."""
    if k in (0, n):
        return "all_or_none"
    most = getattr(limits, question_of(n, k))
    if n <= most[(rows >= ROWS[1]) + (rows >= ROWS[2])]:
        fits_registers = dtype in ("float32", "float64") and LEAST_IN_REGISTERS <= n <= MOST_IN_REGISTERS
        return "rows_in_registers" if fits_registers and rows * n >= limits.registers else "rows_in_lanes"
    if k == 1:
        return "greatest" if n <= limits.greatest else "stream"
    least, per_k, always = limits.sample
    sampled = n >= always or (n >= least and n >= per_k * min(k, n - k))
    square_per_k, *per_k = limits.stream
    if n >= SAMPLE and n * n >= square_per_k * k and n >= per_k[sampled] * k:
        return "stream"
    return "sample" if sampled else "bisection"


def fit(points, dtype):
    """Returns the limits with the smallest ratios at these points."""
    lengths = sorted({point.n for point in points})
    steps = sorted({2**i for i in range(21)} | {3 * 2**i for i in range(20)})  # 1, 2, 3, 4, 6, 8, 12, ...
    short = [0, *(n for n in lengths if n <= MOST_IN_LANES)]
    long = [n for n in lengths if n > MOST_IN_LANES] + [NEVER]
    never_stream = (2**62, LEAST_STREAM_PER_K, LEAST_STREAM_PER_K)
    limits = Limits((0, 0, 0), (0, 0, 0), (0, 0, 0), 0, NEVER, never_stream, (NEVER, 1, NEVER))

    def best(name, candidates, affected):
        def cost(candidate):
            tried = dataclasses.replace(limits, **{name: candidate})
            ratios = [p.ratios[choose(tried, dtype, p.rows, p.n, p.k)] for p in affected]
            return (round(max(NOISE, *ratios), 2), round(sum(ratios), 2)) if ratios else 0

        return dataclasses.replace(limits, **{name: min(candidates, key=cost)})

    # Whether rows are in registers is asked afterwards, so the better of both counts as lanes.
    either = ("rows_in_lanes", "rows_in_registers")
    for name in ("lanes_greatest", "lanes_sorted", "lanes_bisected"):
        affected = []
        for p in points:
            if p.n <= MOST_IN_LANES and question_of(p.n, p.k) == name:
                lanes = min(p.times[path] for path in either if path in p.times)
                affected.append(dataclasses.replace(p, times=p.times | dict.fromkeys(either, lanes)))
        for i, least in enumerate(ROWS):
            at_least = [p for p in affected if p.rows >= least and p.rows not in ROWS[i + 1 :]]
            if i < len(ROWS) - 1:
                at_least = [p for p in at_least if p.rows < ROWS[i + 1]]
            most = getattr(limits, name)
            limits = best(name, [(*most[:i], n, *most[i + 1 :]) for n in short], at_least)
    limits = best("registers", steps[:16], [p for p in points if "rows_in_registers" in p.times])
    # From the last: what holds up to the longest measured rows is taken to hold for longer ones.
    limits = best("greatest", long[::-1], [p for p in points if p.n > MOST_IN_LANES and p.k == 1])
    affected = [p for p in points if p.n > MOST_IN_LANES and p.k > 1]
    samples = [
        (least, per_k, always)
        for least, per_k, always in itertools.product(long, (2, 4, 8, 16, 32), long)
        if least <= always
    ]
    per_k = [step for step in steps if LEAST_STREAM_PER_K <= step <= 256]
    streams = list(itertools.product([2**i for i in range(11, 21)], per_k, per_k))
    # Each of the two depends on the other. The first time, sampling is compared with bisection alone.
    limits = best("sample", samples, [p.without("stream") for p in affected])
    limits = best("stream", streams, affected)
    limits = best("sample", samples, affected)
    return best("stream", streams, affected)


def fit_all(points):
    return {key: fit(measured, key[1]) for key, measured in points.items()}


TEMPLATE = """\
// Generated by cc/benchmark/choose_path.py from cc/benchmark/paths.csv. Do not edit.

#ifndef SEPARATIONFACTOR_CORE_CPU_CHOOSE_PATH_H_
#define SEPARATIONFACTOR_CORE_CPU_CHOOSE_PATH_H_

#include <cstdint>

#include "core/cpu/path.h"
#include "core/separate.h"

namespace separationfactor {
namespace {

// The limits of one instruction set and dtype.
struct PathLimits {
  // Rows of up to this length are processed in lanes, if there are at least 1, 4 or 16 of them: a batch with
  // one row takes as long as a full batch. The limits depend on how lanes find the cut.
  int64_t lanes_greatest[3], lanes_sorted[3], lanes_bisected[3];
  // Rows with this many entries together are processed in registers instead.
  int64_t registers;
  // The greatest entry is searched for in rows of up to this length. Longer rows are streamed.
  int64_t greatest;
  // Rows of n entries are streamed if n * n >= square_per_k * k, and if n >= per_k * k. For rows that would
  // otherwise be sampled, not bisected, the second limit is per_k_sampled.
  struct Stream {
    int64_t square_per_k, per_k, per_k_sampled;
  } stream;
  // Rows are sampled if n >= least, and if n >= per_k * k or n >= per_k * (n - k). Rows of n >= always are
  // sampled for every k.
  struct Sample {
    int64_t least, per_k, always;
  } sample;
};

constexpr int64_t kNever = INT32_MAX;

// By bytes of a vector (16: the baseline, 32: AVX2, 64: AVX-512), and by DType.
constexpr PathLimits kPathLimits[3][4] = {
@TABLE@
};

// Returns the path for rows of a shape.
constexpr Path ChoosePath(int vector_bytes, DType dtype, int64_t rows, int64_t n, int64_t k) {
  if (k == 0 || k == n) return Path::kAllOrNone;
  const PathLimits& limits = kPathLimits[vector_bytes / 32][static_cast<int>(dtype)];
  const int64_t* const most =
      k == 1 ? limits.lanes_greatest : (IsSortedInLanes(n, k) ? limits.lanes_sorted : limits.lanes_bisected);
  if (n <= most[(rows >= 4) + (rows >= 16)]) {
    const bool fits_registers = Handles(Path::kRowsInRegisters, dtype, n, k);
    return fits_registers && rows * n >= limits.registers ? Path::kRowsInRegisters : Path::kRowsInLanes;
  }
  if (k == 1) return n <= limits.greatest ? Path::kGreatest : Path::kStream;
  const int64_t fewer = k < n - k ? k : n - k;
  const PathLimits::Sample& sample = limits.sample;
  const bool is_sampled = n >= sample.always || (n >= sample.least && n >= sample.per_k * fewer);
  const int64_t per_k = is_sampled ? limits.stream.per_k_sampled : limits.stream.per_k;
  const bool is_handled = Handles(Path::kStream, dtype, n, k);
  if (is_handled && n * n >= limits.stream.square_per_k * k && n >= per_k * k) return Path::kStream;
  return is_sampled ? Path::kSample : Path::kBisection;
}

}  // namespace
}  // namespace separationfactor

#endif  // SEPARATIONFACTOR_CORE_CPU_CHOOSE_PATH_H_
"""


def header(limits):
    """Returns the text of choose_path.h."""

    def braces(values):
        if isinstance(values, tuple):
            return "{" + ", ".join(map(braces, values)) + "}"
        return "kNever" if values == NEVER else str(values)

    def row(instructions):
        rows = [braces(dataclasses.astuple(limits[instructions, dtype])) for dtype in DTYPES]
        return "    {" + ",\n     ".join(rows) + "},"

    return TEMPLATE.replace("@TABLE@", "\n".join(map(row, SETS)))


def check(points, limits, allowed):
    """Prints how much longer the chosen paths take than the fastest, and the points above `allowed`."""
    print("set       dtype     points   mean  worst  above")
    above = []
    for (instructions, dtype), measured in points.items():
        ratios = []
        for p in measured:
            path = choose(limits[instructions, dtype], dtype, p.rows, p.n, p.k)
            ratios.append(p.ratios[path])
            if ratios[-1] > allowed:
                above.append((ratios[-1], instructions, dtype, p, path))
        print(
            f"{instructions:9} {dtype:9} {len(ratios):6} {sum(ratios) / len(ratios):6.3f} {max(ratios):6.2f} "
            f"{sum(ratio > allowed for ratio in ratios):6}"
        )
    print(f"{len(above)} of {sum(map(len, points.values()))} points are above {allowed}")
    for ratio, instructions, dtype, p, path in sorted(above, key=lambda point: point[0], reverse=True):
        fastest = min(p.times, key=p.times.get)
        print(
            f"{ratio:.2f}  {instructions} {dtype} {p.rows}x{p.n},{p.k}: "
            f"{path} {p.times[path]:.3f} ns, {fastest} {p.times[fastest]:.3f} ns"
        )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="report, and write nothing")
    parser.add_argument(
        "--measured", type=Path, default=MEASURED, help="the points to report on; default: paths.csv"
    )
    parser.add_argument("--allowed", type=float, default=1.1, help="the ratio above which points are listed")
    given = parser.parse_args()
    limits = fit_all(read(MEASURED))
    if given.check:
        check(read(given.measured), limits, given.allowed)
    else:
        HEADER.write_text(header(limits))


if __name__ == "__main__":
    main()
