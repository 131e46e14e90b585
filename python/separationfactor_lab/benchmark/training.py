"""`separationfactor benchmark --training`: a training step of a k-sparse autoencoder, against its rivals.

Before anything is timed, every rival takes the same steps, and its loss must fall as the reference's does.
The rivals that pass are timed in turns, in bursts of about half a second. The first step of a burst is not
timed. A reported time is the median over bursts of the time per step.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import importlib.metadata
import json
import multiprocessing
import os
import statistics
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import rich
from rich.progress import Progress
from rich.table import Table

from separationfactor_lab.benchmark import cases, measuring
from separationfactor_lab.benchmark import training_rivals as rivals
from separationfactor_lab.benchmark.cases import TrainingCase
from separationfactor_lab.benchmark.training_rivals import RIVALS, Part, Roofline
from separationfactor_lab.errors import LabError
from separationfactor_lab.files import make_folder, written_at_once
from separationfactor_lab.startup import quiet_start

STEP_BURST_SECONDS = 0.5
CHECKED_STEPS = 8
# The most that a rival's loss may differ from the reference's, as a fraction of the reference's fall.
TOLERANCES = {"float32": 0.01, "bfloat16": 0.1}
REFERENCE = f"TensorFlow, {rivals.KERAS}"
OURS = f"TensorFlow, {rivals.OURS}"


class TrainingError(LabError, RuntimeError):
    """A training benchmark cannot be run. The message says why."""


# Processes


@contextlib.contextmanager
def _environment(threads: int, variables: Mapping[str, str]) -> Iterator[None]:
    """Sets what new processes inherit: environment variables, and the cores that they may use."""
    before, cores = dict(os.environ), os.sched_getaffinity(0)
    os.environ.update(
        {
            "CUDA_VISIBLE_DEVICES": "-1",
            "OMP_NUM_THREADS": str(threads),
            "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1"),
            **variables,
        }
    )
    os.sched_setaffinity(0, sorted(cores)[:threads])
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
        os.environ.clear()
        os.environ.update(before)


class Process:
    """A process that runs the functions of `training_rivals` for one rival.

    Args:
        name: The rival's name, for errors.
        threads: The number of threads and of cores.
        variables: Environment variables.
    """

    def __init__(self, name: str, threads: int, variables: Mapping[str, str] | None = None):
        self._name = name
        with _environment(threads, variables or {}):
            context = multiprocessing.get_context("spawn")
            self._pool = concurrent.futures.ProcessPoolExecutor(
                1, context, *quiet_start(rivals.start, threads)
            )
            self(os.getpid)  # the pool starts its process now, with this environment

    def __call__(self, function: Callable, *arguments: Any) -> Any:
        """Returns the result of a function in the process."""
        try:
            return self._pool.submit(function, *arguments).result()
        except concurrent.futures.BrokenExecutor as error:
            raise TrainingError(
                f"the process of {self._name} ended while it ran {function.__name__}. The largest case needs "
                "about 20 GB for all rivals; `--only` chooses cases"
            ) from error

    def close(self) -> None:
        """Ends the process."""
        self._pool.shutdown()


# With these, freed memory is returned to the operating system immediately. oneDNN's allocator keeps a pool.
_MEMORY_VARIABLES = {
    "MALLOC_MMAP_THRESHOLD_": "65536",
    "MALLOC_TRIM_THRESHOLD_": "0",
    "TF_ENABLE_ONEDNN_OPTS": "0",
}


# Losses


def deviation(losses: list[float], reference: list[float]) -> float:
    """Returns the largest difference of two loss curves, as a fraction of the reference's fall.

    The steps use two batches alternately. The fall is that of the mean over both.

    Raises:
        TrainingError: If the reference does not fall.
    """
    fall = sum(reference[:2]) / 2 - sum(reference[-2:]) / 2
    if not fall > 0:
        raise TrainingError(f"the reference's loss must fall. Received: {reference}")
    # Not Python's max, which ignores NaN in some orders.
    return float(np.max(np.abs(np.subtract(losses, reference))) / fall)


# Measurement


def _step_results(
    case: TrainingCase,
    processes: Mapping[str, Process],
    unavailable: Mapping[str, str],
    bursts: int,
    limit: float,
    advance: Callable[[], None],
) -> list[dict[str, Any]]:
    """Checks the losses of all rivals of a case, then times those that pass."""
    checked, samples = {}, {}
    for key, process in processes.items():
        checked[key] = process(rivals.prepare, key, case, CHECKED_STEPS)
        advance()
    reference, why = checked[REFERENCE]
    if not reference:
        raise TrainingError(f"the reference for losses, {REFERENCE}, failed: {why}")
    deviations = {
        key: deviation(losses, reference) if losses else None for key, (losses, _) in checked.items()
    }
    failures = {}
    for key, (losses, note) in checked.items():
        tolerance = TOLERANCES[RIVALS[key].precision]
        if not losses:
            failures[key] = note
        elif not deviations[key] <= tolerance:
            failures[key] = (
                f"its loss differs from the reference's by {deviations[key]:.2g} of the fall, "
                f"more than {tolerance:g}"
            )
    timers = {
        key: functools.partial(process, rivals.time_steps)
        for key, process in processes.items()
        if key not in failures
    }
    samples = measuring.take_turns(timers, bursts, limit, STEP_BURST_SECONDS, advance)
    results = []
    for key, rival in RIVALS.items():
        times = samples.get(key, [])
        losses, note = checked.get(key, ([], ""))
        failure = unavailable.get(key) or failures.get(key)
        results.append(
            {
                "case": str(case),
                **dataclasses.asdict(case),
                "rival": key,
                "precision": rival.precision,
                "trains_by": rival.trains_by,
                "milliseconds": 1e3 * statistics.median(times) if times else None,
                "fastest": 1e3 * min(times) if times else None,
                "slowest": 1e3 * max(times) if times else None,
                "losses": losses,
                "deviation": deviations.get(key),
                "why_not": failure,
                "note": "" if failure else note,
            }
        )
    return results


def _part_results(case: TrainingCase, process: Process, bursts: int, limit: float) -> list[dict[str, Any]]:
    measured = process(rivals.measure_parts, case, bursts, limit)
    if isinstance(measured, str):
        return [{"case": str(case), "part": None, "why_not": measured}]
    parts: dict[str, Part]
    roofline: Roofline
    parts, roofline = measured
    return [
        {
            "case": str(case),
            "part": name,
            "milliseconds": 1e3 * part.seconds,
            "limit": 1e3 * roofline.limit(part) if part.flops or part.bytes else None,
            "flops": part.flops,
            "bytes": part.bytes,
            "peak_flops": roofline.flops,
            "bandwidth": roofline.bandwidth,
            "why_not": None,
        }
        for name, part in parts.items()
    ]


def _memory_result(case: TrainingCase, key: str, why_not: str | None) -> dict[str, Any]:
    """Returns the peak memory of a rival's steps, in a new process."""
    peak = None
    if why_not is None:
        process = Process(key, case.threads, _MEMORY_VARIABLES)
        try:
            losses, why = process(rivals.prepare, key, case, 1)
            peak = process(rivals.peak_memory) if losses else None
            if not losses:
                why_not = why
            elif peak is None:
                why_not = "this system does not report the peak memory of a process"
        except TrainingError as error:
            why_not = str(error)
        finally:
            process.close()
    return {
        "case": str(case),
        "rival": key,
        "precision": RIVALS[key].precision,
        "peak_bytes": peak,
        "why_not": why_not,
    }


def run(
    output: str | Path,
    quick: bool = False,
    only: str = "",
    threads: int | None = None,
    memory: bool = False,
) -> dict[str, Any]:
    """Runs the benchmark with a progress bar, and writes its results.

    Args:
        output: The JSON file for the results.
        quick: Whether to measure small cases for a short time.
        only: Measure only the cases whose names contain this text.
        threads: The number of threads and of cores of every rival, or None for all cores.
        memory: Whether to measure the peak memory of a step too, beyond weights and moments.

    Returns:
        The content of the file: a dict with `machine`, `steps`, `parts` and `memory`. The last three are
        lists of dicts. Each of `steps` has the case, the rival, its median time of a step in `milliseconds`,
        the `fastest` and the `slowest` burst, its `losses` and their `deviation` from the reference's; or, in
        `why_not`, why it was not timed. Each of `parts` has the median time of a part of this project's step
        and the `limit` of the machine for it, in milliseconds.

    Raises:
        TrainingError: If `threads` is not a number of cores, a process ends, or the reference fails.
        CaseError: If no case's name contains `only`.
    """
    cores = len(os.sched_getaffinity(0))
    threads = cores if threads is None else threads
    if not 1 <= threads <= cores:
        raise TrainingError(f"`threads` must be from 1 to {cores}, the number of cores. Received: {threads}")
    every_case = cases.QUICK_TRAINING if quick else cases.TRAINING
    if not (chosen := [case for case in every_case if only in str(case)]):
        names = "; ".join(map(str, every_case))
        raise cases.CaseError(f"`only` must be part of a case's name: {names}. Received: {only!r}")
    machine = {
        **measuring.machine(),
        "threads": threads,
        "compiled_ops": rivals.uses_compiled_ops(),
        "torch": _torch_version(),
    }
    make_folder(Path(output).parent)  # a folder that cannot be written fails before the measurement
    bursts, limit = (5, 1.0) if quick else (9, 20.0)
    unavailable = {key: why for key, rival in RIVALS.items() if (why := rival.why_unavailable())}
    available = [key for key in RIVALS if key not in unavailable]
    steps, parts, memories = [], [], []
    per_case = len(available) + bursts + 2
    total = len(available) + len(chosen) * per_case + memory * len(RIVALS)
    with Progress(console=rich.get_console()) as progress, contextlib.ExitStack() as stack:
        task = progress.add_task("", total=total)

        def advance(count=1):
            progress.advance(task, count)

        if memory:  # first, while no other process holds memory
            case = cases.QUICK_MEMORY if quick else cases.MEMORY
            case = dataclasses.replace(case, threads=threads)
            for key in RIVALS:
                progress.update(task, description=f"memory of {key}")
                memories.append(_memory_result(case, key, unavailable.get(key)))
                advance()
        processes = {}
        progress.update(task, description="starting a process for each rival")
        for key in available:
            processes[key] = Process(key, threads)
            stack.callback(processes[key].close)
            advance()
        for case in (dataclasses.replace(case, threads=threads) for case in chosen):
            progress.update(task, description=str(case))
            steps += _step_results(case, processes, unavailable, bursts, limit, advance)
            # The process of the bare step, because it has nothing but this project's ops.
            bare = processes[f"TensorFlow, {rivals.BARE}"]
            parts += _part_results(case, bare, bursts, limit)
            advance()
    figures = {"machine": machine, "steps": steps, "parts": parts, "memory": memories}
    with written_at_once(output) as temporary:
        temporary.write_text(json.dumps(figures, indent=1) + "\n")
    return figures


def _torch_version() -> str | None:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return None


# Tables


def _names(results: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(result["case"] for result in results))


def _milliseconds(steps: list[dict[str, Any]], case: str, *keys: str) -> float | None:
    """Returns the time of the fastest of some rivals that were timed."""
    found = [
        step["milliseconds"]
        for step in steps
        if step["case"] == case and step["rival"] in keys and step["milliseconds"] is not None
    ]
    return min(found, default=None)


def _step_table(steps: list[dict[str, Any]], case: str) -> Table:
    layout = Table(
        "rival",
        "by",
        "ms",
        "fastest to slowest burst",
        "times this project's fit",
        "loss differs by",
        title=f"A training step, {case}",
    )
    ours = _milliseconds(steps, case, OURS)
    for step in steps:
        if step["case"] != case:
            continue
        differs = "" if step["deviation"] is None else f"{100 * step['deviation']:.2g} %"
        if step["milliseconds"] is None:
            layout.add_row(step["rival"], step["trains_by"], "not timed", step["why_not"], "", differs)
            continue
        ratio = f"{step['milliseconds'] / ours:.2f}" if ours else ""
        layout.add_row(
            step["rival"] + (f" ({step['note']})" if step["note"] else ""),
            step["trains_by"],
            f"{step['milliseconds']:,.1f}",
            f"{step['fastest']:,.1f} to {step['slowest']:,.1f}",
            ratio,
            differs,
        )
    return layout


def _ratio(numerator: float | None, denominator: float | None) -> str:
    if numerator is None or denominator is None:
        return "not timed"
    return f"{numerator / denominator:.2f}"


def ratios(steps: list[dict[str, Any]], case: str) -> dict[str, float | None]:
    """Returns the times of a case that are compared, in milliseconds: None where nothing was timed."""
    torch = {
        precision: [
            key
            for key, rival in RIVALS.items()
            if rival.framework == "PyTorch" and rival.precision == precision
        ]
        for precision in TOLERANCES
    }
    keras = [f"TensorFlow, {name}" for name in (rivals.KERAS, rivals.KERAS_XLA)]
    return {
        "fit": _milliseconds(steps, case, OURS),
        "bare step": _milliseconds(steps, case, f"TensorFlow, {rivals.BARE}"),
        "screened": _milliseconds(steps, case, f"TensorFlow, {rivals.SCREENED}, bfloat16"),
        "Keras": _milliseconds(steps, case, *keras),
        "PyTorch": _milliseconds(steps, case, *torch["float32"]),
        "PyTorch, bfloat16": _milliseconds(steps, case, *torch["bfloat16"]),
    }


def _ratio_table(steps: list[dict[str, Any]]) -> Table:
    layout = Table(
        "batch, d -> n, k",
        "fit, ms",
        "fit / bare step",
        "fit - bare step, ms",
        "Keras' faster / fit",
        "PyTorch's fastest / fit",
        "Keras' faster / screened",
        "PyTorch's fastest in bfloat16 / screened",
        title="This project's fit against the fastest rivals",
    )
    for case in _names(steps):
        found = ratios(steps, case)
        fit, bare = found["fit"], found["bare step"]
        layout.add_row(
            case,
            "not timed" if fit is None else f"{fit:,.1f}",
            _ratio(fit, bare),
            "not timed" if fit is None or bare is None else f"{fit - bare:,.1f}",
            _ratio(found["Keras"], fit),
            _ratio(found["PyTorch"], fit),
            _ratio(found["Keras"], found["screened"]),
            _ratio(found["PyTorch, bfloat16"], found["screened"]),
        )
    return layout


def _part_table(parts: list[dict[str, Any]]) -> Table:
    layout = Table(
        "batch, d -> n, k", "part", "ms", "limit, ms", "times the limit", title="Parts of the step"
    )
    for case in _names(parts):
        for part in parts:
            if part["case"] != case:
                continue
            if part["why_not"]:
                layout.add_row(case, "not timed", part["why_not"], "", "")
                continue
            limit, time = part["limit"], part["milliseconds"]
            layout.add_row(
                case,
                part["part"],
                f"{time:,.2f}",
                f"{limit:,.2f}" if limit else "",
                f"{time / limit:.2f}" if limit else "",
            )
    rates = [part for part in parts if not part["why_not"]]
    if rates:
        layout.caption = (
            f"limit: the operations at {max(part['peak_flops'] for part in rates) / 1e9:,.0f} GFLOP/s, the "
            "fastest large product, or the bytes at "
            f"{max(part['bandwidth'] for part in rates) / 1e9:,.1f} GB/s read and written, the fastest copy, "
            "whichever takes longer; each case has its own. What stays in the caches can be faster."
        )
    return layout


def _decode_table(parts: list[dict[str, Any]]) -> Table:
    layout = Table(
        "batch, d -> n, k",
        "decode, ms",
        "dense product, ms",
        "tf.gather + einsum, ms",
        "dense product / decode",
        title="The decoder's product alone",
    )
    for case in _names(parts):
        found = {
            part["part"]: part["milliseconds"] for part in parts if part["case"] == case and part["part"]
        }
        if not found:
            continue
        decode, dense, gather = (
            found[name] for name in (rivals.DECODE, rivals.DENSE_PRODUCT, rivals.GATHER_PRODUCT)
        )
        layout.add_row(case, f"{decode:,.2f}", f"{dense:,.2f}", f"{gather:,.2f}", f"{dense / decode:.1f}")
    return layout


def _memory_table(memories: list[dict[str, Any]]) -> Table:
    case = memories[0]["case"] if memories else ""
    layout = Table("rival", "GB", title=f"Peak memory of a step beyond weights and moments, {case}")
    for memory in memories:
        peak = memory["peak_bytes"]
        layout.add_row(memory["rival"], memory["why_not"] if peak is None else f"{peak / 1e9:.3f}")
    return layout


def tables(figures: dict[str, Any]) -> list[Table]:
    """Returns the non-empty tables of the results."""
    steps, parts = figures["steps"], figures["parts"]
    found = [
        *(_step_table(steps, case) for case in _names(steps)),
        _ratio_table(steps),
        _part_table(parts),
        _decode_table(parts),
        _memory_table(figures["memory"]),
    ]
    return [table for table in found if table.row_count]
