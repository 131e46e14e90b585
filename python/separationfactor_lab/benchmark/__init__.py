"""Benchmark of the op against its alternatives: speed, exactness and memory.

The result of every rival of a case is compared with that of a stable sort. Then all rivals are timed in
turns, in bursts of about ten milliseconds. The first call of each burst is not timed, because it refills the
caches and wakes the threads after the previous rival. A reported time is the median over bursts of the time
per call. The floor is `relu` on the same tensor, which reads and writes each entry once.
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
from separationfactor_lab.benchmark.cases import HEADLINE, MORE, CaseError
from separationfactor_lab.benchmark.measuring import PHASES
from separationfactor_lab.errors import LabError
from separationfactor_lab.files import make_folder, save_figure, written_at_once


class DeviceError(LabError, RuntimeError):
    """The requested device is missing or cannot be used."""


def _check_gpu() -> None:
    if not tf.config.get_visible_devices("GPU"):
        why = (
            "TensorFlow finds none; `nvidia-smi` shows whether the driver finds one"
            if tf.test.is_built_with_cuda()
            else "this TensorFlow was built without CUDA: pip install 'tensorflow[and-cuda]'"
        )
        raise DeviceError(f"--device gpu needs a GPU that TensorFlow can use: {why}")
    if library.why_not_cuda is not None:
        raise DeviceError(
            f"--device gpu needs the compiled op's GPU kernels, but there are none: {library.why_not_cuda}"
        )
    # By default, TensorFlow reserves the memory of the whole GPU. The other frameworks need some of it.
    with contextlib.suppress(RuntimeError):  # the GPU is initialized already
        for gpu in tf.config.get_visible_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)


def run(output: str | Path, quick: bool = False, device: str = "cpu", only: str = "") -> dict[str, Any]:
    """Runs the benchmark with a progress bar, and writes its tables and plots.

    Args:
        output: The folder for results.json, results.csv, forward.png and gradient.png.
        quick: Whether to measure fewer cases for a shorter time: under two minutes on two cores instead of
            under thirty.
        device: The device to measure, "cpu" or "gpu".
        only: Measure only the cases whose names contain this text. If it is given, training steps are not
            measured.

    Returns:
        The content of results.json: a dict with `machine` and `results`. `results` is a list of dicts, each
        with the case, the phase ("forward", "gradient" for forward and gradient in one call, or "step" for a
        training step), the rival and the mode. Each dict also has the median time of a call in
        `microseconds`, whether the result was `exact`, and `peak_bytes`: the peak memory of a call on the
        device minus the memory in use before the call. On a GPU, only the rivals that TensorFlow runs have
        `peak_bytes`.

    Raises:
        AssertionError: If an implementation of this package gives a wrong result.
        DeviceError: If `device` is "gpu" and there is no GPU, or the compiled op has no kernels for it.
        CaseError: If no case's name contains `only`.
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
            # The memory of small tensors cannot be distinguished from other allocations.
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
    """Returns the non-empty tables of a benchmark's results."""
    all_tables = (
        *(report.table(results, phase) for phase in PHASES),
        report.memory_table(results),
        report.threads_table(results),
        report.step_table(results),
    )
    return [table for table in all_tables if table.row_count]
