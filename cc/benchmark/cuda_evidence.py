"""Reports facts about the CUDA kernels without a GPU: registers, spills, access widths, occupancy, bytes.

    python cc/benchmark/cuda_evidence.py                # sm_80 and sm_90, as `make cuda-evidence`
    python cc/benchmark/cuda_evidence.py --check 90     # fails if a kernel uses local memory

Requires nvcc. Access widths also require nvdisasm, from the toolkit or the package nvidia-cuda-nvdisasm.
The figures per kernel are those of ptxas. The launches are those of the real host code: cuda_launches.cc runs
it on a runtime that records them. NVIDIA's cuda_occupancy.h computes the occupancy.
"""

from __future__ import annotations

import argparse
import collections
import dataclasses
import functools
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import rich
from rich.table import Table

ROOT = Path(__file__).resolve().parents[2]
ELEMENT_BYTES = {"float32": 4, "float64": 8, "bfloat16": 2}


class EvidenceError(RuntimeError):
    """A required tool is missing or fails."""


@dataclasses.dataclass
class Kernel:
    """The figures of ptxas and of the disassembly for a kernel.

    Attributes:
        symbol, name: The mangled and the readable name.
        registers: Registers per thread.
        shared_bytes: Static shared memory.
        frame_bytes, spill_stores, spill_loads: Local memory, in bytes. They should be zero.
        widths: The number of instructions for each access width in bits, by space and direction, such as
            `{"global load": {128: 4, 32: 2}}`. Empty without a disassembler.
    """

    symbol: str
    name: str
    registers: int = 0
    shared_bytes: int = 0
    frame_bytes: int = 0
    spill_stores: int = 0
    spill_loads: int = 0
    widths: dict[str, collections.Counter[int]] = dataclasses.field(default_factory=dict)

    @property
    def uses_local_memory(self) -> bool:
        local = any(space.startswith("local") for space in self.widths)
        return bool(self.frame_bytes or self.spill_stores or self.spill_loads or local)


def _run(*command, **options) -> subprocess.CompletedProcess[str]:
    command = [str(part) for part in command]
    result = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    if result.returncode != 0:
        raise EvidenceError(f"{' '.join(command)}\n{result.stderr}")
    return result


def find_nvcc() -> str | None:
    """Returns the path of the nvcc that the build uses, or None."""
    if "CUDACXX" in os.environ:
        return shutil.which(os.environ["CUDACXX"])
    folders = [os.environ[name] for name in ("CUDA_PATH", "CUDA_HOME") if name in os.environ]
    return shutil.which("nvcc") or shutil.which(
        "nvcc", path=os.pathsep.join(f"{folder}/bin" for folder in [*folders, "/usr/local/cuda"])
    )


def find_tool(name: str) -> str | None:
    """Returns the path of nvdisasm or cuobjdump, in the toolkit or the package nvidia-cuda-NAME, or None."""
    packages = [f"{folder}/nvidia/{version}/bin" for folder in sys.path for version in ("cu13", "cu12")]
    nvcc = find_nvcc()
    toolkit = [str(Path(nvcc).resolve().parent)] if nvcc else []
    return shutil.which(name, path=os.pathsep.join([*toolkit, os.environ.get("PATH", ""), *packages]))


@functools.cache
def name_of(symbol: str) -> str:
    """Returns the readable name of a kernel, such as `Scale<Float32>`, for its mangled name."""
    name = _run("c++filt", symbol).stdout.strip().replace("(anonymous namespace)::", "")
    return re.sub(r"\b(separationfactor|cuda)::", "", name).removeprefix("void ").split("(")[0]


def parse_ptxas(text: str) -> dict[str, Kernel]:
    """Parses the report of `ptxas -v`."""
    kernels: dict[str, Kernel] = {}
    kernel = None
    for line in text.splitlines():
        if found := re.search(r"Compiling entry function '(\w+)'", line):
            kernel = kernels.setdefault(found[1], Kernel(found[1], name_of(found[1])))
        elif kernel is None:
            continue
        elif found := re.search(
            r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill", line
        ):
            kernel.frame_bytes, kernel.spill_stores, kernel.spill_loads = map(int, found.groups())
        elif found := re.search(r"Used (\d+) registers", line):
            kernel.registers = int(found[1])
            if shared := re.search(r"(\d+) bytes smem", line):
                kernel.shared_bytes = int(shared[1])
    return kernels


_SPACES = {"G": "global", "S": "shared", "L": "local"}


def parse_sass(text: str) -> dict[str, dict[str, collections.Counter[int]]]:
    """Parses a disassembly. Returns access widths in bits by kernel, space and direction."""
    found: dict[str, dict[str, collections.Counter[int]]] = {}
    widths: dict[str, collections.Counter[int]] = {}
    for line in text.splitlines():
        if section := re.match(r"\s*\.section\s+\.text\.(\w+)", line):
            widths = found.setdefault(section[1], {})
        elif access := re.search(r"\b(LD|ST)([GSL])((?:\.\w+)*) ", line):
            direction = "load" if access[1] == "LD" else "store"
            bits = next((int(part) for part in re.findall(r"(?<=[.US])(?:8|16|64|128)\b", access[3])), 32)
            widths.setdefault(f"{_SPACES[access[2]]} {direction}", collections.Counter())[bits] += 1
    return found


def examine(architecture: str, folder: Path) -> tuple[dict[str, Kernel], list[dict]]:
    """Compiles the kernels for an architecture.

    Returns:
        The kernels by mangled name, and the launches that `cuda_launches.cc` records. There are none for an
        architecture without a GPU in its list.
    """
    nvcc = find_nvcc()
    if nvcc is None:
        raise EvidenceError("nvcc was not found in PATH, CUDA_PATH, CUDA_HOME or /usr/local/cuda")
    kernels: dict[str, Kernel] = {}
    objects = []
    for source in sorted((ROOT / "cc/core/cuda").glob("*.cu")):
        objects.append(folder / f"{source.stem}.o")
        report = _run(
            nvcc, "-std=c++17", "-O3", "-DNDEBUG", f"-arch=sm_{architecture}", f"-I{ROOT / 'cc'}",
            "-Xptxas", "-v", "--keep", "--keep-dir", folder, "-c", source, "-o", objects[-1],
        )  # fmt: skip
        kernels |= parse_ptxas(report.stderr)
    if nvdisasm := find_tool("nvdisasm"):
        for cubin in folder.glob("*.cubin"):
            for symbol, widths in parse_sass(_run(nvdisasm, "-c", cubin).stdout).items():
                if symbol in kernels:
                    kernels[symbol].widths = widths
    program = folder / "cuda_launches"
    _run(
        nvcc, "-std=c++17", f"-I{ROOT / 'cc'}", "-cudart", "none", "-o", program,
        ROOT / "cc/benchmark/cuda_launches.cc", *objects,
    )  # fmt: skip
    figures = "".join(
        f"{kernel.symbol} {kernel.registers} {kernel.shared_bytes}\n" for kernel in kernels.values()
    )
    launches = [json.loads(line) for line in _run(program, architecture, input=figures).stdout.splitlines()]
    return kernels, launches


def _widths(kernel: Kernel, space: str) -> str:
    return ", ".join(
        f"{count}x{bits}" for bits, count in sorted(kernel.widths.get(space, {}).items(), reverse=True)
    )


def kernel_table(architecture: str, kernels: dict[str, Kernel]) -> Table:
    """Returns a table of the figures per kernel."""
    table = Table(title=f"sm_{architecture}: kernels, from ptxas and the disassembly")
    table.add_column("kernel")
    for column in ("registers", "shared", "frame", "spills", *("global load", "global store", "shared load")):
        table.add_column(column, justify="right")
    for kernel in sorted(kernels.values(), key=lambda kernel: kernel.name):
        table.add_row(
            kernel.name,
            str(kernel.registers),
            str(kernel.shared_bytes),
            str(kernel.frame_bytes),
            str(kernel.spill_stores + kernel.spill_loads),
            *(_widths(kernel, space) for space in ("global load", "global store", "shared load")),
        )
    return table


def _by_shape(launches: list[dict], dtype: str) -> dict[tuple[int, int], list[dict]]:
    """Groups the launches of the forward op for a dtype by shape."""
    shapes: dict[tuple[int, int], list[dict]] = {}
    for launch in launches:
        if launch["op"] == "Separate" and launch["dtype"] == dtype:
            shapes.setdefault((launch["rows"], launch["n"]), []).append(launch)
    return shapes


def launch_table(kernels: dict[str, Kernel], launches: list[dict], dtype: str) -> Table:
    """Returns a table of the launches of the forward op for each shape, and their occupancy."""
    table = Table(title=f"Launches for {dtype} rows on a GPU like the {launches[0]['card']}")
    table.add_column("rows x n")
    table.add_column("kernel")
    for column in ("launches", "blocks", "threads", "shared", "occupancy"):
        table.add_column(column, justify="right")
    for (rows, n), of_shape in _by_shape(launches, dtype).items():
        for symbol, count in collections.Counter(launch["kernel"] for launch in of_shape).items():
            launch = next(launch for launch in of_shape if launch["kernel"] == symbol)
            resident = launch["threads"] * launch["blocks_a_multiprocessor"]
            table.add_row(
                f"{rows}x{n}",
                kernels[symbol].name,
                str(count),
                f"{launch['blocks']:,}",
                f"{launch['threads']:,}",
                f"{launch['shared_bytes']:,}",
                f"{resident / launch['max_threads']:.0%}",
            )
    return table


def bytes_table(kernels: dict[str, Kernel], launches: list[dict]) -> Table:
    """Returns a table of the bytes that the forward op moves, and of the minimum.

    The minimum is x, y and the bitmask, once each. Rows that fit on the chip are read once. Rows that are
    split among blocks are read twice: one pass counts and one writes. The entries that the count leaves
    undecided, at most an eighth of a row, are stored in a list and read again. Adverse rows are rows whose
    entries agree in their leading bits. They are read once for each digit.
    """
    table = Table(title="Bytes moved in device memory, in MB, and as a multiple of the minimum")
    for column in ("rows x n", "dtype", "path"):
        table.add_column(column)
    for column in ("minimum", "moved", "", "moved, adverse rows", ""):
        table.add_column(column, justify="right")
    for dtype, size in ELEMENT_BYTES.items():  # float16 is the same as bfloat16
        for (rows, n), of_shape in _by_shape(launches, dtype).items():
            tensor, bitmask = rows * n * size, rows * -(-n // 8)
            minimum = usual = adverse = 2 * tensor + bitmask
            names = collections.Counter(kernels[launch["kernel"]].name.split("<")[0] for launch in of_shape)
            if counts := names["CountDigits"]:
                batches = names["WriteDecided"]
                candidates = rows * (n // 8) * (size + 4)
                usual = minimum + tensor
                adverse = minimum + counts // batches * tensor + 2 * candidates
            table.add_row(
                f"{rows}x{n}",
                dtype,
                "several blocks per row" if counts else next(iter(names)),
                f"{minimum / 1e6:,.1f}",
                f"{usual / 1e6:,.1f}",
                f"{usual / minimum:.2f}",
                f"{adverse / 1e6:,.1f}",
                f"{adverse / minimum:.2f}",
            )
    return table


def main() -> None:
    """Prints the tables. With --check, fails if a kernel uses local memory."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("architectures", nargs="*", default=["80", "90"], metavar="ARCHITECTURE")
    parser.add_argument("--check", action="store_true", help="fail if a kernel uses local memory")
    arguments = parser.parse_args()
    console = rich.get_console()
    if not console.is_terminal:
        console.width = 140  # wide enough for whole names in a file
    failures = []
    for architecture in arguments.architectures:
        with tempfile.TemporaryDirectory() as folder, console.status(f"compiling for sm_{architecture}"):
            try:
                kernels, launches = examine(architecture, Path(folder))
            except EvidenceError as error:
                raise SystemExit(f"cuda_evidence: {error}") from None
        console.print(kernel_table(architecture, kernels))
        console.print(launch_table(kernels, launches, "float32"))
        console.print(bytes_table(kernels, launches))
        failures += [
            f"sm_{architecture} {kernel.name}" for kernel in kernels.values() if kernel.uses_local_memory
        ]
    if arguments.check and failures:
        raise SystemExit("cuda_evidence: these kernels use local memory: " + ", ".join(failures))


if __name__ == "__main__":
    main()
