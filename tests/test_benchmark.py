"""The benchmark measures what it says: rivals are checked, medians are medians, files are whole."""

import csv
import json
import time

import click.testing
import numpy as np
import pytest

from conftest import needs_native
from separationfactor import benchmark

CASES = [
    benchmark.Case(7, 10, 1),
    benchmark.Case(5, 33, 4, "bfloat16", 0.25),
    benchmark.Case(4, 40, 3, "float64", 0.5, "four values"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_rival_computes_the_same(case):
    x, d_y = benchmark._data(case)
    expected = benchmark._expected(case, x, d_y)
    ties = case.distribution != "normal"
    rivals = [rival for rival in benchmark._rivals(case, x, d_y) if not rival.is_floor]
    assert {rival.name for rival in rivals} >= {benchmark.PLAIN, "top_k + threshold", "top_k + scatter"}
    for rival in rivals:
        for function in (rival.forward, rival.gradient):
            if function is None:
                continue
            exact = benchmark._is_exact(function(), expected)
            if rival.name in (benchmark.OURS, benchmark.PLAIN, "top_k + scatter"):
                assert exact, (rival.name, rival.mode)
            elif "threshold" in rival.name or rival.name == "partition":
                assert exact != ties, (rival.name, rival.mode, "keeps every tie")


@pytest.mark.parametrize("library", ["torch", "jax"])
def test_rivals_of_other_libraries(library):
    pytest.importorskip(library)
    case = CASES[0]
    x, d_y = benchmark._data(case)
    (rival,) = getattr(benchmark, f"_{library}_rival")(case, x, d_y)
    expected = benchmark._expected(case, x, d_y)
    assert benchmark._is_exact(rival.forward(), expected)
    assert benchmark._is_exact(rival.gradient(), expected)


def test_the_expected_result_is_the_contracts():
    x = np.array([[1.0, 3.0, 3.0, 2.0, 3.0]])
    y, d_x = benchmark._expected(benchmark.Case(1, 5, 2, suppression=0.5), x, np.ones_like(x))
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
    seconds = benchmark.measure(
        {"fast": function("fast", fast), "slow": function("slow", slow)}, bursts=3, limit=60
    )
    assert order == ["fast", "slow"] * 4
    assert seconds["fast"] == pytest.approx(0.004)
    assert seconds["slow"] == pytest.approx(0.5)


def test_a_slow_function_gets_three_bursts_and_no_more():
    calls = {"slow": 0, "fast": 0}

    def function(name, seconds):
        def call():
            calls[name] += 1
            time.sleep(seconds)

        return call

    benchmark.measure({"slow": function("slow", 0.02), "fast": function("fast", 0.001)}, bursts=6, limit=0.05)
    assert calls["slow"] == 2 + 3 * 2
    assert calls["fast"] > 6 * 5


def test_peak_memory_sees_what_a_call_holds():
    def hold(size):
        return lambda: np.ones(size, np.uint8).sum()

    if benchmark.peak_memory(hold(1)) is None:
        pytest.skip("this system does not tell a process's peak")
    assert benchmark.peak_memory(hold(100_000_000)) == pytest.approx(100e6, rel=0.1)


@needs_native
def test_backward_keeps_a_bit_an_element():
    """What the memory process finds of a case: y and dx, the bitmask, and nothing of x's size beside."""
    case = benchmark.Case(64, 16384, 8)
    with benchmark._memory_process() as peak_memories:
        memory = peak_memories(case)
    tensor = case.rows * case.n * 4
    key = ("gradient", benchmark.OURS, "function")
    if memory[key] is None:
        pytest.skip("this system does not tell a process's peak")
    assert 1.9 * tensor < memory[key] < 2.2 * tensor
    assert memory["gradient", benchmark.PLAIN, "function"] > 1.2 * memory[key]


@needs_native
def test_a_wrong_result_of_ours_is_not_timed(monkeypatch):
    monkeypatch.setattr(benchmark, "_is_exact", lambda results, expected: False)
    with pytest.raises(AssertionError, match="is wrong at 7x10, 1"):
        benchmark._measure_case(CASES[0], 1, 0.01, {}, lambda: None)


def test_the_command_writes_tables_and_plots(monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark, "HEADLINE", CASES)
    monkeypatch.setattr(benchmark, "MORE", [])
    monkeypatch.setattr(benchmark, "BURST_SECONDS", 1e-4)
    monkeypatch.setenv("COLUMNS", "200")
    result = click.testing.CliRunner().invoke(benchmark.main, ["--output", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "out" / "results.json").read_text())
    assert report["machine"]["processor"]
    with open(tmp_path / "out" / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(report["results"])
    assert all(report["machine"]["processor"] in row["machine"] for row in rows)
    for figure in report["results"]:
        assert figure["microseconds"] > 0
    for case in CASES:
        assert str(case) in result.output
    ties = [figure for figure in report["results"] if figure["case"] == str(CASES[2])]
    assert {figure["exact"] for figure in ties if figure["rival"] == "top_k + threshold"} == {False}
    assert {figure["rival"] for figure in report["results"] if figure["phase"] == "step"} >= {
        "tf",
        "no layer",
    }
    for name in ("forward", "gradient"):
        assert (tmp_path / "out" / f"{name}.png").read_bytes().startswith(b"\x89PNG")
