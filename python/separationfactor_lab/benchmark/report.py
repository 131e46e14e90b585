"""Tables and plots of the results."""

from __future__ import annotations

from typing import Any

import tensorflow as tf
from matplotlib.figure import Figure
from rich.table import Table

from separationfactor_lab.benchmark.rivals import COPY, FLOOR, KERNEL, OURS, OURS_TF

# The compared groups: the rivals of each, and the modes that are considered (`None`: all). Forward passes are
# compared as eager calls, because a call of a tf.function takes about a hundred microseconds whatever it
# computes.
_GROUPS = {
    FLOOR: ([FLOOR], {"forward": ["eager"], "gradient": ["function"]}),
    OURS: ([OURS], {"forward": ["eager"], "gradient": ["function"]}),
    OURS_TF: ([OURS_TF], None),
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
    """Returns a table of the fastest time of each group by case, in microseconds.

    A ~ marks a rival whose result was not exact, for example because it keeps all ties.
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
    """Returns a table of each group's peak memory of forward and gradient, in multiples of the size of x."""
    measured = [result for result in results if result.get("peak_bytes") is not None]
    groups = [group for group in _GROUPS if group != "NumPy"]
    layout = Table("shape, k", *groups, title="Peak memory of forward and gradient, in multiples of x's size")
    for case in _cases(measured):
        cells = []
        for group in groups:
            best = _best(measured, case, "gradient", group)
            size = best and best["rows"] * best["n"] * tf.as_dtype(best["dtype"]).size
            cells.append(f"{best['peak_bytes'] / size:.2f}" if best else "")
        layout.add_row(case, *cells)
    return layout


def threads_table(results: list[dict[str, Any]]) -> Table:
    """Returns a table of the times of the kernel and of a copy on one row, by number of threads."""
    found = {
        (result["case"], result["mode"], result["rival"]): f"{result['microseconds']:,.0f}"
        for result in results
        if result["rival"] in (KERNEL, COPY) and "thread" in result["mode"]
    }
    layout = Table("shape, k", "", KERNEL, COPY, title="One row split among threads: microseconds")
    for case, mode in dict.fromkeys(key[:2] for key in found):
        layout.add_row(case, mode, found[case, mode, KERNEL], found[case, mode, COPY])
    return layout


def step_table(results: list[dict[str, Any]]) -> Table:
    """Returns a table of the times of training steps."""
    layout = Table("layer", "microseconds", title="A training step of the reference model, 100 images")
    for result in results:
        if result["phase"] == "step":
            layout.add_row(result["rival"], f"{result['microseconds']:,.0f}")
    return layout


def plot(results: list[dict[str, Any]], phase: str) -> Figure:
    """Plots each group's fastest time by case, as a multiple of the floor's time."""
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
    axes.set_xlabel(f"time, as a multiple of {FLOOR}'s time")
    axes.set_title({"forward": "Forward", "gradient": "Forward and gradient"}[phase], fontsize=11)
    axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure
