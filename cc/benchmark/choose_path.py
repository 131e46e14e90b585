"""Fits the limits of the choice of path to paths.csv and writes cc/core/cpu/choose_path.h.

    python cc/benchmark/choose_path.py           # writes the header
    python cc/benchmark/choose_path.py --check   # reports how near the choice is to the fastest path

paths.csv holds the nanoseconds per entry of every path that handles a shape, for each instruction set and
dtype. `kernels_benchmark --paths` measures it. To choose for another processor, replace the file and run this
program.

The choice asks a few questions about a shape, and each answer is one group of limits (`Limits`). They are
fitted separately for each instruction set and dtype. A question is about some of the points only, so its
limits are found by trying all values that are different for these points. A limit must not choose a path that
takes more than 1.1 times as long as the fastest one (ALLOWED). Among the limits that do not, or that do it
least, the best have the smallest mean ratio to the fastest path.
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

SETS = {"baseline": 16, "avx2": 32, "avx512": 64}  # with the bytes of a vector
DTYPES = {"float32": 4, "float64": 8, "bfloat16": 2, "float16": 2}  # with the bytes of an entry, as in DType
NEVER = 2**31 - 1  # no row is longer

# path.h
MOST_IN_LANES, MAX_WORD, MOST_SORTED = 256, 32, 8
LEAST_IN_REGISTERS, MOST_IN_REGISTERS = 4, 16
SAMPLE = 512
ROWS = (1, 4, 16)  # the numbers of rows for which lanes have limits

ALLOWED = 1.1  # the ratio to the fastest path that the limits keep to
# The limits of n / k that long rows may have. Streaming handles rows from the least of its limits.
STREAM_PER_K = [*sorted({2**i for i in range(3, 13)} | {3 * 2**i for i in range(2, 11)}), NEVER]
SAMPLE_PER_K = [2, 4, 8, 16, 32, NEVER]
LONG_ROWS = list(itertools.product(STREAM_PER_K, SAMPLE_PER_K))


@dataclasses.dataclass(frozen=True)
class Limits:
    """The limits of one instruction set and dtype. The header explains them."""

    lanes_greatest: tuple[int, int, int]
    lanes_sorted: tuple[int, int, int]
    lanes_bisected: tuple[int, int, int]
    registers: int
    greatest: int
    long_rows: tuple[tuple[int, int, int], ...]


@dataclasses.dataclass(frozen=True)
class Point:
    """A measured shape, and the nanoseconds per entry of each path that handles it."""

    rows: int
    n: int
    k: int
    times: dict[str, float]

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


def length_in_lanes(kernels, question, n, k):
    """Returns the length of a row that the limits of lanes are compared with."""
    if question == "lanes_bisected":
        return n + min(k, n - k)
    instructions, dtype = kernels
    vector = SETS[instructions] // DTYPES[dtype]
    return n + vector if question == "lanes_greatest" and n % vector == 0 else n


def long_path(stream_per_k, sample_per_k, n, k):
    """Returns the path for a long row with these limits."""
    if n >= stream_per_k * k:
        return "stream"
    return "sample" if n >= sample_per_k * min(k, n - k) else "bisection"


def choose(limits, kernels, rows, n, k):
    """Returns the path for a shape. The header's ChoosePath is the same function.

    `kernels` is the pair of instruction set and dtype that the limits are for.
    """
    if k in (0, n):
        return "all_or_none"
    question = question_of(n, k)
    most = getattr(limits, question)[(rows >= ROWS[1]) + (rows >= ROWS[2])]
    if n <= MOST_IN_LANES and length_in_lanes(kernels, question, n, k) <= most:
        fits_registers = DTYPES[kernels[1]] > 2 and LEAST_IN_REGISTERS <= n <= MOST_IN_REGISTERS
        return "rows_in_registers" if fits_registers and rows * n >= limits.registers else "rows_in_lanes"
    if k == 1:
        return "greatest" if n <= limits.greatest else "stream"
    if n < SAMPLE:
        return "bisection"
    return next(long_path(*per_k, n, k) for least, *per_k in limits.long_rows if n >= least)


def cost(ratios):
    """Returns by how much the ratios are above ALLOWED, and their sum."""
    return round(sum(max(0, ratio - ALLOWED) for ratio in ratios), 6), round(sum(ratios), 6)


def fit_long_rows(points):
    """Returns the limits of long rows, for as few ranges of n as keep the ratios to ALLOWED."""
    lengths = sorted({p.n for p in points})
    costs = []  # for each length, the costs of all pairs of limits
    for n in lengths:
        at_n = [p for p in points if p.n == n]
        costs.append([cost([p.ratios[long_path(*per_k, n, p.k)] for p in at_n]) for per_k in LONG_ROWS])

    # best[i] is about the i shortest lengths: by how much their ratios are above ALLOWED, the number of
    # ranges, the sum of the ratios, and the ranges.
    best = [(0, 0, 0, ())]
    for end in range(1, len(lengths) + 1):
        candidates = []
        sums = [(0, 0)] * len(LONG_ROWS)
        for start in reversed(range(end)):
            sums = [(a + c, b + d) for (a, b), (c, d) in zip(sums, costs[start], strict=True)]
            above, ratios = min(sums)
            least = lengths[start] if start else 0
            limits = (least, *LONG_ROWS[sums.index((above, ratios))])
            before = best[start]
            candidates.append((before[0] + above, before[1] + 1, before[2] + ratios, (limits, *before[3])))
        best.append(min(candidates))
    return best[-1][3]


def fit(points, kernels):
    """Returns the limits with the smallest ratios at these points of an instruction set and dtype."""
    short = [p for p in points if p.n <= MOST_IN_LANES]
    long = [p for p in points if p.n > MOST_IN_LANES]
    limits = Limits((0, 0, 0), (0, 0, 0), (0, 0, 0), 0, NEVER, fit_long_rows([p for p in long if p.k > 1]))

    def best(name, candidates, affected):
        def cost_of(candidate):
            tried = dataclasses.replace(limits, **{name: candidate})
            return cost([p.ratios[choose(tried, kernels, p.rows, p.n, p.k)] for p in affected])

        return dataclasses.replace(limits, **{name: min(candidates, key=cost_of)})

    # Whether rows are in registers is asked afterwards, so the better of both counts as lanes.
    either = ("rows_in_lanes", "rows_in_registers")
    for name in ("lanes_greatest", "lanes_sorted", "lanes_bisected"):
        affected = []
        for p in short:
            if question_of(p.n, p.k) == name:
                lanes = min(p.times[path] for path in either if path in p.times)
                affected.append(dataclasses.replace(p, times=p.times | dict.fromkeys(either, lanes)))
        lengths = [0, *sorted({length_in_lanes(kernels, name, p.n, p.k) for p in affected})]
        for i, least in enumerate(ROWS):
            less = ROWS[i + 1] if i + 1 < len(ROWS) else NEVER
            most = getattr(limits, name)
            candidates = [(*most[:i], length, *most[i + 1 :]) for length in lengths]
            limits = best(name, candidates, [p for p in affected if least <= p.rows < less])
    affected = [p for p in short if "rows_in_registers" in p.times]
    limits = best("registers", [1, *sorted({p.rows * p.n for p in affected})], affected)
    # From the last: what holds up to the longest measured rows is taken to hold for longer ones.
    lengths = sorted({p.n for p in long}, reverse=True)
    return best("greatest", [NEVER, *lengths], [p for p in long if p.k == 1])


def fit_all(points):
    return {kernels: fit(measured, kernels) for kernels, measured in points.items()}


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
  // one row takes as long as a full batch. The limits, and the length that counts, depend on how lanes find
  // the cut:
  // - The greatest entry: n, plus the entries of a vector if n is a multiple of them. Alone, a row with a
  //   remainder can take longer than a longer row without one.
  // - By sorting: n.
  // - By bisection: n plus the smaller of k and n - k. The nearer k is to n / 2, the less is gained by lanes.
  int64_t lanes_greatest[3], lanes_sorted[3], lanes_bisected[3];
  // Rows with this many entries together are processed in registers instead.
  int64_t registers;
  // The greatest entry is searched for in rows of up to this length. Longer rows are streamed.
  int64_t greatest;
  // Rows of at least kSample entries have limits for ranges of n, from the longest rows: the first range with
  // n >= least counts. They are streamed if n >= stream_per_k * k; stream_per_k is at least 8, because this
  // path needs n >= 8 * k. Otherwise they are sampled if n >= sample_per_k * min(k, n - k).
  // All other rows are bisected.
  struct LongRows {
    int64_t least, stream_per_k, sample_per_k;
  } long_rows[@RANGES@];
};

constexpr int64_t kNever = INT32_MAX;

// By bytes of a vector (16: the baseline, 32: AVX2, 64: AVX-512), and by DType.
// clang-format off: the ranges of n have lines of their own
constexpr PathLimits kPathLimits[3][4] = {
@TABLE@
};
// clang-format on

// Returns the path for rows of a shape.
constexpr Path ChoosePath(int vector_bytes, DType dtype, int64_t rows, int64_t n, int64_t k) {
  if (k == 0 || k == n) return Path::kAllOrNone;
  const PathLimits& limits = kPathLimits[vector_bytes / 32][static_cast<int>(dtype)];
  const int64_t fewer = k < n - k ? k : n - k;
  const int64_t vector = vector_bytes / (dtype == DType::kFloat32 ? 4 : dtype == DType::kFloat64 ? 8 : 2);
  const int64_t length = n % vector == 0 ? n + vector : n;
  const int i = (rows >= 4) + (rows >= 16);
  const bool is_in_lanes = k == 1                  ? length <= limits.lanes_greatest[i]
                           : IsSortedInLanes(n, k) ? n <= limits.lanes_sorted[i]
                                                   : n + fewer <= limits.lanes_bisected[i];
  if (is_in_lanes && n <= kMostInLanes) {
    const bool fits_registers = Handles(Path::kRowsInRegisters, dtype, n, k);
    return fits_registers && rows * n >= limits.registers ? Path::kRowsInRegisters : Path::kRowsInLanes;
  }
  if (k == 1) return n <= limits.greatest ? Path::kGreatest : Path::kStream;
  if (n < kSample) return Path::kBisection;
  const PathLimits::LongRows* range = limits.long_rows;
  while (n < range->least) ++range;
  if (n >= range->stream_per_k * k) return Path::kStream;
  return n >= range->sample_per_k * fewer ? Path::kSample : Path::kBisection;
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

    def entry(of):
        *groups, ranges = dataclasses.astuple(of)
        return f"{{{', '.join(map(braces, groups))},\n      {braces(ranges)}}}"

    def row(instructions):
        return "    {" + ",\n     ".join(entry(limits[instructions, dtype]) for dtype in DTYPES) + "},"

    ranges = max(len(of.long_rows) for of in limits.values())
    return TEMPLATE.replace("@TABLE@", "\n".join(map(row, SETS))).replace("@RANGES@", str(ranges))


def check(points, limits, allowed):
    """Prints how much longer the chosen paths take than the fastest, and the points above `allowed`."""
    print("set       dtype     points   mean  worst  above")
    above = []
    for kernels, measured in points.items():
        instructions, dtype = kernels
        ratios = []
        for p in measured:
            path = choose(limits[kernels], kernels, p.rows, p.n, p.k)
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
    parser.add_argument("--allowed", type=float, default=ALLOWED, help="the ratio above which points count")
    given = parser.parse_args()
    limits = fit_all(read(MEASURED))
    if given.check:
        check(read(given.measured), limits, given.allowed)
    else:
        HEADER.write_text(header(limits))


if __name__ == "__main__":
    main()
