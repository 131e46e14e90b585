"""The op beside what else does its work: speed, exactness and memory, measured together.

Every rival of a row of the table is checked against a stable sort, then all are timed in turns: bursts of
about ten milliseconds, the first call of each dropped, since it pays for the caches and threads that the
rival before it left. A figure is the median of the bursts' times by call. The floor is `relu` on the same
tensor: one read, one write.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import csv
import dataclasses
import functools
import gc
import json
import multiprocessing
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import keras
import numpy as np
import rich
import tensorflow as tf
from matplotlib.figure import Figure
from rich.progress import Progress
from rich.table import Table

from separationfactor import native
from separationfactor.models import ConditionalVAE
from separationfactor.ops import separate
from separationfactor.runs import save_figure, written_at_once

BURST_SECONDS = 0.01
_PHASES = ("forward", "gradient")


@dataclasses.dataclass(frozen=True)
class Case:
    """One row of the table: which rows are masked, and how.

    Attributes:
        rows, n: The shape of the tensor.
        k: How many entries of each row are selected; the factor of the selected is 1.
        dtype: The tensor's.
        suppression: The factor of the others.
        distribution: What the rows hold, a key of `DISTRIBUTIONS`.
    """

    rows: int
    n: int
    k: int
    dtype: str = "float32"
    suppression: float = 0.0
    distribution: str = "normal"

    def __str__(self) -> str:
        text = f"{self.rows}x{self.n}, {self.k}"
        if self.dtype != "float32":
            text += f", {self.dtype}"
        if self.suppression:
            text += f", suppression {self.suppression:g}"
        if self.distribution != "normal":
            text += f", {self.distribution}"
        return text


def _normal(rng, shape):
    return rng.standard_normal(shape)


DISTRIBUTIONS: dict[str, Callable[[np.random.Generator, tuple[int, int]], np.ndarray]] = {
    "normal": _normal,
    "ascending": lambda rng, shape: np.sort(_normal(rng, shape), axis=-1),
    "descending": lambda rng, shape: -np.sort(_normal(rng, shape), axis=-1),
    "all equal": lambda rng, shape: np.ones(shape),
    "half zeros": lambda rng, shape: np.maximum(_normal(rng, shape), 0),
    "sawtooth": lambda rng, shape: np.broadcast_to(np.arange(shape[1]) % 97, shape),
    "four values": lambda rng, shape: rng.integers(0, 4, shape),
}

HEADLINE = [
    Case(200, 10, 1),
    Case(65536, 10, 1),
    Case(4096, 64, 8),
    Case(1024, 1000, 25),
    Case(256, 16384, 32),
    Case(64, 131072, 64),
    Case(8, 1_000_000, 100),
    Case(1024, 1000, 500),
    Case(64, 32768, 16384),
]
SPARSE_AUTOENCODER = HEADLINE[4]
LONG_ROW = Case(1, 16_777_216, 1000)
MORE = [
    LONG_ROW,
    *(dataclasses.replace(SPARSE_AUTOENCODER, dtype=dtype) for dtype in ("bfloat16", "float16", "float64")),
    *(dataclasses.replace(case, suppression=0.25) for case in HEADLINE[3:7]),
    *(
        dataclasses.replace(SPARSE_AUTOENCODER, distribution=name)
        for name in DISTRIBUTIONS
        if name != "normal"
    ),
]


# The rivals


@dataclasses.dataclass(frozen=True)
class Rival:
    """One way to compute the masking.

    Attributes:
        name, mode: What it is, and how it runs: "eager", "function", "xla", or another library's name.
        forward: Computes y.
        gradient: Computes y and dx, or None where that is not measured.
        is_floor: Whether it only reads and writes the tensor.
    """

    name: str
    mode: str
    forward: Callable[[], Any] | None
    gradient: Callable[[], Any] | None = None
    is_floor: bool = False


OURS, PLAIN, FLOOR = "this op", "this op in tf", "relu"


def _compositions(case: Case) -> dict[str, Callable[[tf.Tensor], tf.Tensor]]:
    """Returns what a user would write in plain TensorFlow; exact but for ties."""
    k, suppression = case.k, case.suppression

    def mask(x, selected):
        return tf.where(selected, x, tf.zeros_like(x) if suppression == 0 else x * suppression)

    def threshold(x):
        # The minimum, as XLA's fast top_k is lost on a slice of its result.
        values = tf.math.top_k(x, k, sorted=False).values
        return mask(x, x >= tf.reduce_min(values, axis=-1, keepdims=True))

    def scatter(x):
        values, indices = tf.math.top_k(x, k, sorted=False)
        rows = tf.broadcast_to(tf.range(case.rows)[:, tf.newaxis], (case.rows, k))
        indices = tf.stack([rows, indices], -1)
        if suppression == 0:
            return tf.scatter_nd(indices, values, x.shape)
        return tf.tensor_scatter_nd_update(x * suppression, indices, values)

    compositions = {"top_k + threshold": threshold, "top_k + scatter": scatter}
    if k == 1:
        compositions["max + threshold"] = lambda x: mask(x, x >= tf.reduce_max(x, -1, keepdims=True))
        compositions["argmax + one_hot"] = lambda x: mask(
            x, tf.one_hot(tf.argmax(x, -1), case.n, on_value=True, off_value=False, dtype=tf.bool)
        )
    return compositions


def _loop_over_rows(case: Case) -> Callable[[tf.Tensor], tf.Tensor]:
    """The layer that the project began with: a loop over rows, each with sparse adds."""

    def masked(x):
        def body(row, result):
            index = tf.argmax(x[row], output_type=tf.int32)
            scaled = tf.sparse.add(
                x[row] * case.suppression,
                tf.SparseTensor(
                    tf.cast([[index]], tf.int64), [x[row, index] * (1 - case.suppression)], [case.n]
                ),
            )
            return row + 1, tf.tensor_scatter_nd_update(result, [[row]], [scaled])

        return tf.while_loop(lambda row, _: row < case.rows, body, (tf.constant(0), tf.zeros_like(x)))[1]

    return masked


def _tensorflow_rivals(case: Case, x: np.ndarray, d_y: np.ndarray) -> Iterator[Rival]:
    x, d_y = tf.constant(x), tf.constant(d_y)

    def rival(name, formula, mode, is_floor=False):
        def value_and_gradient(x, d_y):
            with tf.GradientTape() as tape:
                tape.watch(x)
                y = formula(x)
            return y, tape.gradient(y, x, output_gradients=d_y)

        if mode == "eager":
            return Rival(name, mode, functools.partial(formula, x), is_floor=is_floor)
        wrap = functools.partial(tf.function, jit_compile=mode == "xla")
        forward, gradient = wrap(formula), wrap(value_and_gradient)
        return Rival(name, mode, lambda: forward(x), lambda: gradient(x, d_y), is_floor)

    modes = ("eager", "function", "xla")
    yield rival("copy", lambda x: tf.raw_ops.DeepCopy(x=x), "eager", is_floor=True)
    for mode in modes:
        yield rival(FLOOR, tf.nn.relu, mode, is_floor=True)
    if native.ops is not None:
        masked = functools.partial(separate, k=case.k, suppression=case.suppression, implementation="native")
        for mode in modes if native.supports_jit("native") else modes[:2]:
            yield rival(OURS, masked, mode)
    masked = functools.partial(separate, k=case.k, suppression=case.suppression, implementation="tf")
    for mode in modes:
        yield rival(PLAIN, masked, mode)
    for name, formula in _compositions(case).items():
        for mode in modes:
            yield rival(name, formula, mode)
    if case.k == 1 and case.rows <= 200:
        for mode in modes[:2]:
            yield rival("loop over rows", _loop_over_rows(case), mode)


def _core_rivals(case: Case, x: np.ndarray) -> Iterator[Rival]:
    """The kernels alone, on one thread and on all, where one row is shared among them."""
    if native.ops is None or case.rows > 1:
        return
    import separationfactor_core as core

    for threads in sorted({1, len(os.sched_getaffinity(0))}):
        forward = functools.partial(core.separate, x, k=case.k, suppression=case.suppression, threads=threads)
        yield Rival("kernel", f"{threads} threads", lambda forward=forward: forward()[0])


def _numpy_rival(case: Case, x: np.ndarray) -> Iterator[Rival]:
    if case.dtype == "bfloat16":
        return  # NumPy sorts no type that is not its own

    def partition():
        threshold = np.partition(x, case.n - case.k, axis=-1)[:, case.n - case.k, np.newaxis]
        return np.where(x >= threshold, x, x * x.dtype.type(case.suppression))

    yield Rival("partition", "numpy", partition)


def _torch_rival(case: Case, x: np.ndarray, d_y: np.ndarray) -> Iterator[Rival]:
    try:
        import torch
    except ImportError:
        return
    dtype = getattr(torch, case.dtype)
    x = torch.from_numpy(x.astype(np.float64)).to(dtype)
    d_y = torch.from_numpy(d_y.astype(np.float64)).to(dtype)
    leaf = x.clone().requires_grad_()

    def masked(x):
        values, indices = x.topk(case.k, sorted=False)
        others = torch.zeros_like(x) if case.suppression == 0 else x * case.suppression
        return others.scatter(-1, indices, values)

    def forward():
        with torch.inference_mode():
            return masked(x)

    def gradient():
        y = masked(leaf)
        return y.detach(), torch.autograd.grad(y, leaf, d_y)[0]

    yield Rival("topk + scatter", "torch", forward, gradient)


def _jax_rival(case: Case, x: np.ndarray, d_y: np.ndarray) -> Iterator[Rival]:
    try:
        import jax
    except ImportError:
        return
    jax.config.update("jax_enable_x64", True)
    x, d_y = jax.numpy.asarray(x), jax.numpy.asarray(d_y)

    @jax.jit
    def masked(x):
        values, indices = jax.lax.top_k(x, case.k)
        others = jax.numpy.zeros_like(x) if case.suppression == 0 else x * case.suppression
        return others.at[jax.numpy.arange(case.rows)[:, None], indices].set(values)

    @jax.jit
    def value_and_gradient(x, d_y):
        y, pull_back = jax.vjp(masked, x)
        return y, pull_back(d_y)[0]

    yield Rival(
        "lax.top_k + scatter",
        "jax",
        lambda: masked(x).block_until_ready(),
        lambda: jax.block_until_ready(value_and_gradient(x, d_y)),
    )


def _rivals(case: Case, x: np.ndarray, d_y: np.ndarray) -> list[Rival]:
    # Each rival is a function of its own, which TensorFlow takes for one that is traced again and again.
    tf.get_logger().setLevel("ERROR")
    return [
        *_tensorflow_rivals(case, x, d_y),
        *_core_rivals(case, x),
        *_numpy_rival(case, x),
        *_torch_rival(case, x, d_y),
        *_jax_rival(case, x, d_y),
    ]


# Checking and timing


def _data(case: Case) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    shape = (case.rows, case.n)
    dtype = tf.as_dtype(case.dtype).as_numpy_dtype
    x = DISTRIBUTIONS[case.distribution](rng, shape).astype(dtype)
    return x, rng.standard_normal(shape).astype(dtype)


def _expected(case: Case, x: np.ndarray, d_y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns y and dx by a stable sort, whose ties go to the lowest index."""
    order = np.argsort(-x.astype(np.float64), axis=-1, kind="stable")[:, : case.k]
    selected = np.zeros(x.shape, bool)
    np.put_along_axis(selected, order, True, axis=-1)
    suppression = x.dtype.type(case.suppression)
    return np.where(selected, x, x * suppression), np.where(selected, d_y, d_y * suppression)


def _array(tensor: Any) -> np.ndarray:
    if hasattr(tensor, "detach"):  # a torch tensor, whose bfloat16 NumPy does not know
        tensor = tensor.double()
    return np.asarray(tensor).astype(np.float64)


def _is_exact(results: Any, expected: tuple[np.ndarray, ...]) -> bool:
    results = results if isinstance(results, tuple) else (results,)
    return all(
        np.array_equal(_array(result), _array(right))
        for result, right in zip(results, expected, strict=False)
    )


def _time_by_call(function: Callable[[], Any], calls: int) -> float:
    """Returns the seconds a call takes in a burst, whose first call is not counted."""
    function()
    start = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - start) / calls


def measure(functions: dict[Any, Callable[[], Any]], bursts: int, limit: float) -> dict[Any, float]:
    """Times functions in turns.

    Args:
        functions: The functions by any key; each was called before.
        bursts: How many bursts each gets.
        limit: The seconds after which a slow one gets no more, once it had three.

    Returns:
        The median of the bursts' seconds a call, by key.
    """
    calls = {}
    for key, function in functions.items():
        calls[key] = max(1, int(BURST_SECONDS / max(_time_by_call(function, 1), 1e-7)))
    samples: dict[Any, list[float]] = {key: [] for key in functions}
    spent = dict.fromkeys(functions, 0.0)
    for burst in range(bursts):
        for key, function in functions.items():
            if burst < 3 or spent[key] < limit:
                start = time.perf_counter()
                samples[key].append(_time_by_call(function, calls[key]))
                spent[key] += time.perf_counter() - start
    return {key: statistics.median(times) for key, times in samples.items()}


def _status(field: str) -> int:
    """Returns a size of this process, in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")


def peak_memory(function: Callable[[], Any]) -> int | None:
    """Returns how many bytes a call holds at its peak beyond those before, or None if nothing tells."""
    function()
    gc.collect()
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak is now what is held now
        before = _status("VmRSS")
        function()
        return max(0, _status("VmHWM") - before)
    except OSError:
        return None


def _peak_memories(case: Case) -> dict[tuple[str, str, str], int | None]:
    """Returns the peak memory of each rival by phase, name and mode. `_memory_process` is for it."""
    x, d_y = _data(case)
    return {
        (phase, rival.name, rival.mode): peak_memory(getattr(rival, phase))
        for rival in _rivals(case, x, d_y)
        for phase in _PHASES
        if getattr(rival, phase) is not None
    }


@contextlib.contextmanager
def _memory_process() -> Iterator[Callable[[Case], dict[tuple[str, str, str], int | None]]]:
    """Yields `_peak_memories` in a process of its own, whose freed memory returns to the system at once."""
    environment = {
        "TF_ENABLE_ONEDNN_OPTS": "0",
        "MALLOC_MMAP_THRESHOLD_": "65536",
        "MALLOC_TRIM_THRESHOLD_": "0",
    }
    before = dict(os.environ)
    os.environ.update(environment)
    try:
        context = multiprocessing.get_context("spawn")
        with concurrent.futures.ProcessPoolExecutor(1, context) as pool:
            yield lambda case: pool.submit(_peak_memories, case).result()
    finally:
        os.environ.clear()
        os.environ.update(before)


def _measure_case(
    case: Case,
    bursts: int,
    limit: float,
    memory: dict[tuple[str, str, str], int | None],
    advance: Callable[[], None],
) -> list[dict[str, Any]]:
    x, d_y = _data(case)
    expected = _expected(case, x, d_y)
    rivals = _rivals(case, x, d_y)
    results = []
    for phase in _PHASES:
        functions = {
            (rival.name, rival.mode): getattr(rival, phase)
            for rival in rivals
            if getattr(rival, phase) is not None
        }
        floors = {(rival.name, rival.mode) for rival in rivals if rival.is_floor}
        exact = {
            key: None if key in floors else _is_exact(function(), expected)
            for key, function in functions.items()
        }
        for name, mode in functions:
            if name in (OURS, PLAIN) and not exact[name, mode]:
                raise AssertionError(f"{name} ({mode}) is wrong at {case}")
        seconds = measure(functions, bursts, limit)
        results += [
            {
                "case": str(case),
                **dataclasses.asdict(case),
                "phase": phase,
                "rival": name,
                "mode": mode,
                "microseconds": 1e6 * seconds[name, mode],
                "exact": exact[name, mode],
                "peak_bytes": memory.get((phase, name, mode)),
            }
            for name, mode in functions
        ]
        advance()
    return results


def _training_steps(bursts: int, limit: float, advance: Callable[[], None]) -> list[dict[str, Any]]:
    """Times a whole training step of the reference model: with the layer, and with nothing in its place."""
    rng = np.random.default_rng(0)
    images = rng.random((100, 28, 28, 1), np.float32)
    labels = rng.integers(0, 10, 100)
    implementations = ("native", "tf") if native.ops is not None else ("tf",)
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


def _machine() -> dict[str, Any]:
    processor = platform.processor()
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        processor = next(line.split(": ")[1] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration, IndexError):
        pass
    return {
        "processor": processor,
        "threads": tf.config.threading.get_intra_op_parallelism_threads() or len(os.sched_getaffinity(0)),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "keras": keras.version(),
        **native.build_info(),
    }


def run(output: str | Path, quick: bool = False) -> dict[str, Any]:
    """Runs the benchmark with a progress bar, and writes its tables and plots.

    Args:
        output: A folder for results.json, results.csv, forward.png and gradient.png.
        quick: Whether to take fewer cases and shorter measurements: under two minutes on two cores in place
            of under thirty.

    Returns:
        What results.json holds: `machine`, and `results`, a list of figures. Each names its case, phase
        ("forward", "gradient" for forward and gradient in one call, "step" for a training step), rival and
        mode, and has the median `microseconds` of a call, whether the result was `exact`, and `peak_bytes`,
        the memory a call holds at its peak beyond what was held before.

    Raises:
        AssertionError: If one of this package's implementations gives a wrong result.
    """
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    cases = [HEADLINE[0], HEADLINE[3], HEADLINE[4]] if quick else [*HEADLINE, *MORE]
    bursts, limit = (5, 0.2) if quick else (15, 3.0)
    results = []
    with Progress(console=rich.get_console()) as progress, _memory_process() as peak_memories:
        task = progress.add_task("", total=3 * len(cases) + 1)
        for case in cases:
            progress.update(task, description=str(case))
            # Where tensors are small, their memory is lost among the rest.
            memory = peak_memories(case) if case in HEADLINE and case.rows * case.n > 4_000_000 else {}
            progress.advance(task)
            results += _measure_case(case, bursts, limit, memory, lambda: progress.advance(task))
        progress.update(task, description="training steps")
        results += _training_steps(bursts, limit, lambda: progress.advance(task))
    machine = _machine()
    report = {"machine": machine, "results": results}
    with written_at_once(output / "results.json") as temporary:
        temporary.write_text(json.dumps(report, indent=1) + "\n")
    with written_at_once(output / "results.csv") as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, [*results[0], "machine"])
        writer.writeheader()
        described = "{processor}, {threads} threads, {instruction_set}, TensorFlow {tensorflow}".format(
            **machine
        )
        writer.writerows({**result, "machine": described} for result in results)
    for phase in _PHASES:
        save_figure(plot(results, phase), output / f"{phase}.png")
    return report


# Tables and plots

# What is compared, and which rivals and modes may stand for it. A small call of a tf.function costs a hundred
# microseconds whatever is in it, so forward passes are compared as called eagerly.
_GROUPS = {
    FLOOR: ([FLOOR], {"forward": ["eager"], "gradient": ["function"]}),
    OURS: ([OURS], {"forward": ["eager"], "gradient": ["function"]}),
    PLAIN: ([PLAIN], None),
    "TensorFlow": (["top_k + threshold", "top_k + scatter", "max + threshold", "argmax + one_hot"], None),
    "NumPy": (["partition"], None),
    "PyTorch": (["topk + scatter"], None),
    "JAX": (["lax.top_k + scatter"], None),
}


def _best(results: list[dict[str, Any]], case: str, phase: str, group: str) -> dict[str, Any] | None:
    names, modes = _GROUPS[group]
    found = [
        result
        for result in results
        if result["case"] == case
        and result["phase"] == phase
        and result["rival"] in names
        and (modes is None or result["mode"] in modes[phase])
    ]
    return min(found, key=lambda result: result["microseconds"], default=None)


def _cases(results: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(result["case"] for result in results if result["phase"] == "forward"))


def table(results: list[dict[str, Any]], phase: str) -> Table:
    """Lays out the best figure of each group by case, in microseconds.

    A figure with a ~ is of a rival whose result was not exact, as where it keeps every tie.
    """
    title = {"forward": "Forward", "gradient": "Forward and gradient in one call"}[phase]
    groups = [
        group for group in _GROUPS if any(_best(results, case, phase, group) for case in _cases(results))
    ]
    layout = Table("shape, k", *groups, title=f"{title}: microseconds (times {FLOOR})")
    for case in _cases(results):
        floor = _best(results, case, phase, FLOOR)["microseconds"]
        cells = []
        for group in groups:
            best = _best(results, case, phase, group)
            if best is None:
                cells.append("")
                continue
            mark = "~" if best["exact"] is False else ""
            cells.append(f"{mark}{best['microseconds']:,.0f} ({best['microseconds'] / floor:.2f})")
        layout.add_row(case, *cells)
    return layout


def memory_table(results: list[dict[str, Any]]) -> Table:
    """Lays out each group's peak memory in forward and gradient by case, in tensors of the case's size."""
    measured = [result for result in results if result.get("peak_bytes") is not None]
    groups = [group for group in _GROUPS if group != "NumPy"]
    layout = Table("shape, k", *groups, title="Peak memory of forward and gradient, in tensors of x's size")
    for case in _cases(measured):
        cells = []
        for group in groups:
            best = _best(measured, case, "gradient", group)
            size = best and best["rows"] * best["n"] * tf.as_dtype(best["dtype"]).size
            cells.append(f"{best['peak_bytes'] / size:.2f}" if best else "")
        layout.add_row(case, *cells)
    return layout


def step_table(results: list[dict[str, Any]]) -> Table:
    """Lays out the training steps' figures."""
    layout = Table("layer", "microseconds", title="A training step of the reference model, 100 images")
    for result in results:
        if result["phase"] == "step":
            layout.add_row(result["rival"], f"{result['microseconds']:,.0f}")
    return layout


def plot(results: list[dict[str, Any]], phase: str) -> Figure:
    """Draws each group's best time as a multiple of the floor's, by case."""
    cases = _cases(results)
    figure = Figure(figsize=(9, 0.9 + 0.42 * len(cases)), layout="constrained")
    axes = figure.add_subplot()
    markers = dict(zip(list(_GROUPS)[1:], "oXs^Dv", strict=True))
    for group, marker in markers.items():
        points = [
            (best["microseconds"] / _best(results, case, phase, FLOOR)["microseconds"], row)
            for row, case in enumerate(cases)
            if (best := _best(results, case, phase, group))
        ]
        if points:
            ours = group == OURS
            axes.scatter(
                *zip(*points, strict=True),
                s=70 if ours else 36,
                marker=marker,
                label=group,
                zorder=3 if ours else 2,
            )
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_yticks(range(len(cases)), cases)
    axes.invert_yaxis()
    axes.grid(alpha=0.3)
    axes.set_xlabel(f"time, as a multiple of {FLOOR}'s")
    axes.set_title({"forward": "Forward", "gradient": "Forward and gradient"}[phase], fontsize=11)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


@click.command("benchmark", context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.option("--quick", is_flag=True, help="Three cases only, in under two minutes.")
@click.option(
    "--output", default="benchmark", type=click.Path(path_type=Path), help="Where tables and plots go."
)
def main(quick, output):
    """Times the op beside plain TensorFlow, NumPy and, where installed, PyTorch and JAX."""
    results = run(output, quick)["results"]
    console = rich.get_console()
    for phase in _PHASES:
        console.print(table(results, phase))
    console.print(memory_table(results))
    console.print(step_table(results))
    console.print(f"wrote {output}/results.json, results.csv, forward.png and gradient.png", soft_wrap=True)


if __name__ == "__main__":
    main()
