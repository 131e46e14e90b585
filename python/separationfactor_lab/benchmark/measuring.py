"""Measures the time, exactness and memory of every rival of a case."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import functools
import gc
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from separationfactor import implementations, library
from separationfactor.models import ConditionalVAE
from separationfactor_lab.benchmark.cases import Case, data, expected
from separationfactor_lab.benchmark.rivals import OURS, OURS_TF, TENSORFLOW_MODES, rivals
from separationfactor_lab.startup import load

BURST_SECONDS = 0.01
PHASES = ("forward", "gradient")


def _array(tensor: Any) -> np.ndarray:
    if hasattr(tensor, "detach"):  # a torch tensor; NumPy does not support its bfloat16
        tensor = tensor.double().cpu()
    return np.asarray(tensor).astype(np.float64)


def is_exact(results: Any, expected: tuple[np.ndarray, ...]) -> bool:
    """Returns whether y, or y and dx, equal the expected arrays."""
    results = results if isinstance(results, tuple) else (results,)
    return all(
        np.array_equal(_array(result), _array(right))
        for result, right in zip(results, expected, strict=False)
    )


def _time_by_call(function: Callable[[], Any], calls: int, wait: Callable[[Any], None]) -> float:
    """Returns the seconds per call in a burst. The first call is not timed."""
    wait(function())
    start = time.perf_counter()
    for _ in range(calls):
        result = function()
    wait(result)
    return (time.perf_counter() - start) / calls


def measure(
    functions: Mapping[Any, Callable[[], Any]],
    bursts: int,
    limit: float,
    waits: Mapping[Any, Callable[[Any], None]] | None = None,
) -> dict[Any, float]:
    """Times functions in turns.

    Args:
        functions: The functions by key. Each must have been called before.
        bursts: The number of bursts for each function.
        limit: The seconds after which a slow function gets no further bursts. Every function gets at least
            three.
        waits: By key, functions that wait for a result, for calls that return before their result is ready.

    Returns:
        By key, the median over bursts of the seconds per call.
    """
    waits = {key: (waits or {}).get(key, lambda result: None) for key in functions}
    calls = {}
    for key, function in functions.items():
        calls[key] = max(1, int(BURST_SECONDS / max(_time_by_call(function, 1, waits[key]), 1e-7)))
    samples: dict[Any, list[float]] = {key: [] for key in functions}
    spent = dict.fromkeys(functions, 0.0)
    for burst in range(bursts):
        for key, function in functions.items():
            if burst < 3 or spent[key] < limit:
                start = time.perf_counter()
                samples[key].append(_time_by_call(function, calls[key], waits[key]))
                spent[key] += time.perf_counter() - start
    return {key: statistics.median(times) for key, times in samples.items()}


def _status(field: str) -> int:
    """Returns a size field of /proc/self/status, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def peak_memory(function: Callable[[], Any]) -> int | None:
    """Returns a call's peak memory minus the memory in use before it, in bytes.

    Returns `None` if the operating system does not report it.
    """
    function()
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak to the current size
        before = _status("VmRSS")
        function()
        return max(0, _status("VmHWM") - before)
    except OSError:
        return None


def gpu_peak_memory(function: Callable[[], Any]) -> int:
    """Returns a call's peak memory on TensorFlow's GPU minus the memory in use before it, in bytes."""
    function()
    tf.test.experimental.sync_devices()
    gc.collect()
    tf.config.experimental.reset_memory_stats("GPU:0")
    before = tf.config.experimental.get_memory_info("GPU:0")["current"]
    function()
    tf.test.experimental.sync_devices()
    return tf.config.experimental.get_memory_info("GPU:0")["peak"] - before


def _peak_memories(case: Case) -> dict[tuple[str, str, str], int | None]:
    """Returns the peak memory of each rival by phase, name and mode. To be called in `memory_process`."""
    x, d_y = data(case)
    return {
        (phase, rival.name, rival.mode): peak_memory(getattr(rival, phase))
        for rival in rivals(case, x, d_y)
        for phase in PHASES
        if getattr(rival, phase) is not None
    }


@contextlib.contextmanager
def memory_process() -> Iterator[Callable[[Case], dict[tuple[str, str, str], int | None]]]:
    """Yields `_peak_memories` as a function that runs in a separate process.

    In that process, freed memory is returned to the operating system immediately.
    """
    environment = {
        "CUDA_VISIBLE_DEVICES": "-1",
        "TF_ENABLE_ONEDNN_OPTS": "0",
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "0",
    }
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(1, context, load, (__name__,)) as pool:
            yield lambda case: pool.submit(_peak_memories, case).result()
    finally:
        os.environ.clear()
        os.environ.update(before)


def measure_case(
    case: Case,
    bursts: int,
    limit: float,
    memory: Mapping[tuple[str, str, str], int | None],
    advance: Callable[[], None],
    device: str = "cpu",
) -> list[dict[str, Any]]:
    """Checks the results of every rival of a case, then measures the rivals.

    Args:
        case: The case to measure.
        bursts: The number of bursts for each rival.
        limit: The seconds after which a slow rival gets no further bursts, as in `measure`.
        memory: Known peak memory on the CPU by phase, name and mode.
        advance: Called when a phase is done.
        device: "cpu" or "gpu". On a GPU, rivals without a kernel for the case are left out.

    Returns:
        A dict for each phase and rival.

    Raises:
        AssertionError: If an implementation of this package gives a wrong result.
    """
    x, d_y = data(case)
    right = expected(case, x, d_y)
    found = {(rival.name, rival.mode): rival for rival in rivals(case, x, d_y, device)}
    results = []
    for phase in PHASES:
        functions, exact, peaks = {}, {}, {}
        for (name, mode), rival in found.items():
            function = getattr(rival, phase)
            if function is None:
                continue
            try:
                result = function()
            except (tf.errors.InvalidArgumentError, tf.errors.NotFoundError, tf.errors.UnimplementedError):
                if device == "cpu" or name in (OURS, OURS_TF):
                    raise
                continue
            exact[name, mode] = None if rival.is_floor else is_exact(result, right)
            del result
            if name in (OURS, OURS_TF) and not exact[name, mode]:
                raise AssertionError(f"{name} ({mode}) is wrong at {case}")
            functions[name, mode] = function
            peaks[name, mode] = memory.get((phase, name, mode))
            if device == "gpu" and mode in TENSORFLOW_MODES:
                peaks[name, mode] = gpu_peak_memory(function)
        seconds = measure(functions, bursts, limit, {key: found[key].wait for key in functions})
        results += [
            {
                "case": str(case),
                **dataclasses.asdict(case),
                "phase": phase,
                "rival": name,
                "mode": mode,
                "microseconds": 1e6 * seconds[name, mode],
                "exact": exact[name, mode],
                "peak_bytes": peaks[name, mode],
            }
            for name, mode in functions
        ]
        advance()
    return results


def training_steps(bursts: int, limit: float, advance: Callable[[], None]) -> list[dict[str, Any]]:
    """Times a training step of the reference model, with and without the separation layer."""
    rng = np.random.default_rng(0)
    images = rng.random((100, 28, 28, 1), np.float32)
    labels = rng.integers(0, 10, 100)
    implementations = ("native", "tf") if library.ops is not None else ("tf",)
    steps = {}
    for name in (*implementations, "no layer"):
        keras.utils.set_random_seed(0)
        model = ConditionalVAE(seed=0, implementation=name if name in implementations else "tf")
        if name == "no layer":
            model.separation.call = tf.identity
        model.compile(keras.optimizers.Adam(1e-3))
        steps[name] = functools.partial(model.train_on_batch, images, labels)
        steps[name]()
    seconds = measure(steps, bursts, limit)
    advance()
    return [
        {"case": "CVAE", "phase": "step", "rival": name, "mode": "fit", "microseconds": 1e6 * seconds[name]}
        for name in steps
    ]


def machine(device: str = "cpu") -> dict[str, Any]:
    """Describes the processor, the GPU (if `device` is "gpu") and the versions of the software."""
    processor = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration, IndexError):
        pass
    gpu = {}
    if device == "gpu":
        gpu = tf.config.experimental.get_device_details(tf.config.list_physical_devices("GPU")[0])
    return {
        "processor": processor,
        "gpu": gpu.get("device_name"),
        "threads": tf.config.threading.get_intra_op_parallelism_threads() or len(os.sched_getaffinity(0)),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "keras": keras.version(),
        **implementations.build_info(),
    }
