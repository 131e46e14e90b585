"""The op beside what else does its work: speed, exactness and memory, measured together.

Every rival of a row of the table is checked against a stable sort, then all are timed in turns: bursts of
about ten milliseconds, the first call of each dropped, since it pays for the caches and threads that the
rival before it left. A figure is the median of the bursts' times by call. The floor is `relu` on the same
tensor: one read, one write.
"""

from __future__ import annotations

import contextlib
import csv
import json
from pathlib import Path
from typing import Any

import rich
import tensorflow as tf
from rich.progress import Progress
from rich.table import Table

from separationfactor import library
from separationfactor_lab.benchmark import measuring, report
from separationfactor_lab.benchmark.cases import HEADLINE, MORE
from separationfactor_lab.benchmark.measuring import PHASES
from separationfactor_lab.errors import LabError
from separationfactor_lab.files import make_folder, save_figure, written_at_once


class DeviceError(LabError, RuntimeError):
    """The device that is to be measured is not there, or not of use."""


class CaseError(LabError, ValueError):
    """No case has such a name."""


def _check_gpu() -> None:
    if not tf.config.get_visible_devices("GPU"):
        why = (
            "TensorFlow sees none; `nvidia-smi` tells whether the driver does"
            if tf.test.is_built_with_cuda()
            else "this TensorFlow was built without CUDA: pip install 'tensorflow[and-cuda]'"
        )
        raise DeviceError(f"--device gpu needs a GPU that TensorFlow can use: {why}")
    if library.why_not_cuda is not None:
        raise DeviceError(
            f"--device gpu measures the compiled op's kernels for a GPU, and there are none: "
            f"{library.why_not_cuda}"
        )
    # The card's memory is for all.
    with contextlib.suppress(RuntimeError):  # it is in use already
        for gpu in tf.config.get_visible_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)


def run(output: str | Path, quick: bool = False, device: str = "cpu", only: str = "") -> dict[str, Any]:
    """Runs the benchmark with a progress bar, and writes its tables and plots.

    Args:
        output: A folder for results.json, results.csv, forward.png and gradient.png.
        quick: Whether to take fewer cases and shorter measurements: under two minutes on two cores in place
            of under thirty.
        device: What computes, "cpu" or "gpu".
        only: Cases whose names do not hold this are left out and, where it is given, the training steps.

    Returns:
        What results.json holds: `machine`, and `results`, a list of figures. Each names its case, phase
        ("forward", "gradient" for forward and gradient in one call, "step" for a training step), rival and
        mode, and has the median `microseconds` of a call, whether the result was `exact`, and `peak_bytes`,
        the memory of the device that a call holds at its peak beyond what was held before (on a GPU, for
        what TensorFlow runs).

    Raises:
        AssertionError: If one of this package's implementations gives a wrong result.
        DeviceError: If a GPU is to be measured and there is none, or the compiled op has no kernels for it.
        CaseError: If no case's name holds `only`.
    """
    cases = [HEADLINE[0], HEADLINE[3], HEADLINE[4]] if quick else [*HEADLINE, *MORE]
    if not (chosen := [case for case in cases if only in str(case)]):
        names = "; ".join(map(str, cases))
        raise CaseError(f"`only` must be part of a case's name: {names}. Received: {only!r}")
    if device == "gpu":
        _check_gpu()
    output = Path(output)
    make_folder(output)
    bursts, limit = (5, 0.2) if quick else (15, 3.0)
    results = []
    memory_process = contextlib.nullcontext() if device == "gpu" else measuring.memory_process()
    with (
        Progress(console=rich.get_console()) as progress,
        memory_process as peak_memories,
        tf.device(f"/{device}:0"),
    ):
        task = progress.add_task("", total=3 * len(chosen) + (not only))
        for case in chosen:
            progress.update(task, description=str(case))
            # Where tensors are small, their memory is lost among the rest.
            is_large = case in HEADLINE and case.rows * case.n > 4_000_000
            memory = peak_memories(case) if peak_memories and is_large else {}
            progress.advance(task)
            results += measuring.measure_case(
                case, bursts, limit, memory, lambda: progress.advance(task), device
            )
        if not only:
            progress.update(task, description="training steps")
            results += measuring.training_steps(bursts, limit, lambda: progress.advance(task))
    machine = measuring.machine(device)
    figures = {"machine": machine, "results": results}
    with written_at_once(output / "results.json") as temporary:
        temporary.write_text(json.dumps(figures, indent=1) + "\n")
    with written_at_once(output / "results.csv") as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, [*results[0], "machine"])
        writer.writeheader()
        described = "{processor}, {threads} threads, {instruction_set}, TensorFlow {tensorflow}"
        if device == "gpu":
            described = "{gpu}, CUDA {cuda[version]}, TensorFlow {tensorflow}"
        described = described.format(**machine)
        writer.writerows({**result, "machine": described} for result in results)
    for phase in PHASES:
        save_figure(report.plot(results, phase), output / f"{phase}.png")
    return figures


def tables(results: list[dict[str, Any]]) -> list[Table]:
    """Returns the tables of a benchmark's results that have rows."""
    all_tables = (
        *(report.table(results, phase) for phase in PHASES),
        report.memory_table(results),
        report.threads_table(results),
        report.step_table(results),
    )
    return [table for table in all_tables if table.row_count]
