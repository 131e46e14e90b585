"""The benchmark measures what it says: rivals are checked, medians are medians, files are whole."""

import csv
import json
import time

import click.testing
import numpy as np
import pytest
import rich

from conftest import needs_native
from separationfactor import library
from separationfactor_lab import benchmark, cli
from separationfactor_lab.benchmark import cases, measuring, rivals

CASES = [
    cases.Case(7, 10, 1),
    cases.Case(5, 33, 4, "bfloat16", 0.25),
    cases.Case(4, 40, 3, "float64", 0.5, "four values"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_rival_computes_the_same(case):
    x, d_y = cases.data(case)
    expected = cases.expected(case, x, d_y)
    ties = case.distribution != "normal"
    found = [rival for rival in rivals.rivals(case, x, d_y) if not rival.is_floor]
    assert {rival.name for rival in found} >= {rivals.OURS_TF, "top_k + threshold", "top_k + scatter"}
    for rival in found:
        for function in (rival.forward, rival.gradient):
            if function is None:
                continue
            exact = measuring.is_exact(function(), expected)
            if rival.name in (rivals.OURS, rivals.OURS_TF, "top_k + scatter"):
                assert exact, (rival.name, rival.mode)
            elif "threshold" in rival.name or rival.name == "partition":
                assert exact != ties, (rival.name, rival.mode, "keeps every tie")


@needs_native
def test_one_row_is_shared_by_threads():
    case = cases.Case(1, 1001, 3)
    x, d_y = cases.data(case)
    found = list(rivals._rivals_by_threads(case, x))
    assert {rival.name for rival in found} == {rivals.KERNEL, rivals.COPY}
    for rival in found:
        expected = cases.expected(case, x, d_y)[0] if rival.name == rivals.KERNEL else x
        np.testing.assert_array_equal(rival.forward(), expected)


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_rivals_of_other_libraries(library):
    pytest.importorskip(library)
    case = CASES[0]
    x, d_y = cases.data(case)
    (rival,) = getattr(rivals, f"_{library}_rival")(case, x, d_y, "cpu")
    expected = cases.expected(case, x, d_y)
    assert measuring.is_exact(rival.forward(), expected)
    assert measuring.is_exact(rival.gradient(), expected)


def test_the_expected_result_is_the_contracts():
    x = np.array([[1.0, 3.0, 3.0, 2.0, 3.0]])
    y, d_x = cases.expected(cases.Case(1, 5, 2, suppression=0.5), x, np.ones_like(x))
    np.testing.assert_array_equal(y, [[0.5, 3, 3, 1, 1.5]])
    np.testing.assert_array_equal(d_x, [[0.5, 1, 1, 0.5, 0.5]])


def test_measure_takes_turns_drops_the_first_call_and_takes_the_median(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])
    order = []

    def function(name, seconds):
        def call():
            if not order or order[-1] != name:
                order.append(name)
                clock[0] += 1.0  # the first call of a burst is slow
            else:
                clock[0] += next(seconds)

        return call

    fast = iter([0.004] + [0.004] * 2 + [0.002] * 2 + [0.1] * 2)
    slow = iter([0.5] * 4)
    seconds = measuring.measure(
        {"fast": function("fast", fast), "slow": function("slow", slow)}, bursts=3, limit=60
    )
    assert order == ["fast", "slow"] * 4
    assert seconds["fast"] == pytest.approx(0.004)
    assert seconds["slow"] == pytest.approx(0.5)


def test_a_slow_function_gets_three_bursts_and_no_more(monkeypatch):
    calls, clock = {"slow": 0, "fast": 0}, [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def function(name, seconds):
        def call():
            calls[name] += 1
            clock[0] += seconds

        return call

    measuring.measure({"slow": function("slow", 0.02), "fast": function("fast", 0.001)}, bursts=6, limit=0.05)
    assert calls["slow"] == 2 + 3 * 2
    assert calls["fast"] > 6 * 5


def test_a_burst_ends_when_the_last_result_is_there(monkeypatch):
    """As on a GPU: calls return at once, and the work is done in order."""
    clock, done_at = [0.0], [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def call():
        clock[0] += 0.001
        done_at[0] = max(done_at[0], clock[0]) + 0.010
        return done_at[0]

    def wait(result):
        clock[0] = max(clock[0], result)

    seconds = measuring.measure({"call": call}, bursts=3, limit=60, waits={"call": wait})
    assert 0.010 <= seconds["call"] <= 0.011


def test_a_gpu_that_is_not_there_is_a_clear_error(monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark.tf.config, "get_visible_devices", lambda kind: [])
    result = click.testing.CliRunner().invoke(
        cli.main, ["benchmark", "--device", "gpu", "--output", str(tmp_path / "out")]
    )
    assert result.exit_code == 1
    assert "--device gpu needs a GPU that TensorFlow can use" in result.output
    assert not (tmp_path / "out").exists()


def test_a_build_without_kernels_for_a_gpu_is_a_clear_error(monkeypatch):
    monkeypatch.setattr(benchmark.tf.config, "get_visible_devices", lambda kind: ["a card"])
    monkeypatch.setattr(library, "why_not_cuda", "it was built without")
    with pytest.raises(benchmark.DeviceError, match="there are none: it was built without"):
        benchmark.run("nowhere", device="gpu")


def test_peak_memory_sees_what_a_call_holds():
    def hold(size):
        return lambda: np.ones(size, np.uint8).sum()

    if measuring.peak_memory(hold(1)) is None:
        pytest.skip("this system does not tell a process's peak")
    assert measuring.peak_memory(hold(100_000_000)) == pytest.approx(100e6, rel=0.1)


@needs_native
def test_backward_keeps_a_bit_an_element():
    """The memory process measures y, dx and the bitmask, and nothing else of x's size."""
    case = cases.Case(64, 16384, 8)
    with measuring.memory_process() as peak_memories:
        memory = peak_memories(case)
    tensor = case.rows * case.n * 4
    key = ("gradient", rivals.OURS, "function")
    if memory[key] is None:
        pytest.skip("this system does not tell a process's peak")
    assert 1.9 * tensor < memory[key] < 2.2 * tensor
    assert memory["gradient", rivals.OURS_TF, "function"] > 1.05 * memory[key]


@needs_native
def test_a_wrong_result_of_ours_is_not_timed(monkeypatch):
    monkeypatch.setattr(measuring, "is_exact", lambda results, expected: False)
    with pytest.raises(AssertionError, match="is wrong at 7x10, 1"):
        measuring.measure_case(CASES[0], 1, 0.01, {}, lambda: None)


def test_a_case_that_is_not_there_is_a_clear_error(tmp_path):
    result = click.testing.CliRunner().invoke(
        cli.main, ["benchmark", "--quick", "--only", "7x7", "--output", str(tmp_path / "out")]
    )
    assert result.exit_code == 1
    assert "`only` must be part of a case's name: 200x10, 1;" in result.output
    assert "'7x7'" in result.output
    assert not (tmp_path / "out").exists()


def test_the_command_writes_tables_and_plots(monkeypatch, tmp_path):
    case = CASES[2]
    monkeypatch.setattr(benchmark, "HEADLINE", [case, cases.Case(1, 1001, 3)])
    monkeypatch.setattr(benchmark, "MORE", [])
    monkeypatch.setattr(measuring, "BURST_SECONDS", 1e-4)
    # Wide enough that no cell is folded in any terminal.
    monkeypatch.setattr(rich.get_console(), "width", 400)
    result = click.testing.CliRunner().invoke(cli.main, ["benchmark", "--output", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "results.json").read_text())
    assert report["machine"]["processor"]
    with open(tmp_path / "out" / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(report["results"])
    assert all(report["machine"]["processor"] in row["machine"] for row in rows)
    for figure in report["results"]:
        assert figure["microseconds"] > 0
    assert str(case) in result.output
    assert ("One row split among threads" in result.output) == (library.ops is not None)
    ties = [figure for figure in report["results"] if figure["case"] == str(case)]
    assert {figure["exact"] for figure in ties if figure["rival"] == "top_k + threshold"} == {False}
    assert {figure["rival"] for figure in report["results"] if figure["phase"] == "step"} >= {
        "tf",
        "no layer",
    }
    for name in ("forward", "gradient"):
        assert (tmp_path / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
