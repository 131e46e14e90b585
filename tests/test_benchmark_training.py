"""`benchmark --training`: every rival trains alike, a rival that does not is not timed, files are whole."""

import dataclasses
import json
import math
import os

import click.testing
import numpy as np
import pytest
import rich

from separationfactor_lab import cli
from separationfactor_lab.benchmark import cases, measuring, training, training_rivals
from separationfactor_lab.benchmark.cases import TrainingCase
from separationfactor_lab.benchmark.training_rivals import RIVALS

CASE = TrainingCase(12, 16, 48, 3)
BARE = f"TensorFlow, {training_rivals.BARE}"
TORCH = f"PyTorch, {training_rivals.TORCH}"


def losses_of_an_obvious_autoencoder(case, batches):
    """Losses of a k-sparse autoencoder trained by Adam, in float64, with the gradients written out."""
    encoder, decoder = (kernel.astype(np.float64) for kernel in cases.training_weights(case))
    weights = [encoder, np.zeros(case.n), decoder, np.zeros(case.d)]
    m, v = ([np.zeros_like(weight) for weight in weights] for _ in range(2))
    losses = []
    for step, x in enumerate(batches, 1):
        encoder, encoder_bias, decoder, decoder_bias = weights
        scores = x.astype(np.float64) @ encoder.T + encoder_bias
        order = np.argsort(-scores, axis=-1, kind="stable")[:, : case.k]
        mask = np.zeros_like(scores)
        np.put_along_axis(mask, order, 1.0, axis=-1)
        code = scores * mask
        error = code @ decoder + decoder_bias - x
        losses.append(np.mean(error**2))
        d_y = 2 * error / error.size
        d_code = d_y @ decoder.T * mask
        gradients = [d_code.T @ x, d_code.sum(0), code.T @ d_y, d_y.sum(0)]
        rate = training_rivals.LEARNING_RATE * math.sqrt(1 - 0.999**step) / (1 - 0.9**step)
        for weight, m_, v_, gradient in zip(weights, m, v, gradients, strict=True):
            m_ += 0.1 * (gradient - m_)
            v_ += 0.001 * (gradient**2 - v_)
            weight -= rate * m_ / (np.sqrt(v_) + training_rivals.EPSILON)
    return losses


@pytest.mark.parametrize("key", RIVALS)
def test_every_rival_trains_alike(key):
    if RIVALS[key].framework == "PyTorch":
        pytest.importorskip("torch")
    # With few features, weights are so large that a step of Adam is lost in the rounding of bfloat16.
    case = CASE if RIVALS[key].precision == "float32" else dataclasses.replace(CASE, d=512)
    data = cases.training_data(case)
    batches = [data[step % 2] for step in range(training.CHECKED_STEPS)]
    losses, note = training_rivals.prepare(key, case, training.CHECKED_STEPS)
    assert losses, note
    tolerance = training.TOLERANCES[RIVALS[key].precision]
    if "screen" in key:  # the candidates' values are computed in float32
        tolerance = training.TOLERANCES["float32"]
    assert training.deviation(losses, losses_of_an_obvious_autoencoder(case, batches)) < tolerance
    assert training_rivals.time_steps(2) > 0


@pytest.mark.parametrize("key", [training.OURS, BARE])
def test_a_burst_takes_one_step_more_than_it_times(key, monkeypatch):
    training_rivals.prepare(key, CASE, 1)
    # Every reading of the clock is a second after the last: the seconds per step tell what was counted.
    clock = iter(range(1000))
    monkeypatch.setattr(training_rivals.time, "perf_counter", lambda: next(clock))
    seconds = training_rivals.time_steps(4)
    # `fit` reads the clock at the end of each of five steps, the bare step before and after four.
    assert seconds == (1 if key == training.OURS else 0.25)


def test_the_same_data_and_weights_in_every_call():
    for function in (cases.training_data, cases.training_weights):
        for first, second in zip(function(CASE), function(CASE), strict=True):
            np.testing.assert_array_equal(first, second)
    batches = np.concatenate(cases.training_data(TrainingCase(256, 64, 8, 8)))
    assert np.var(batches) == pytest.approx(1, abs=0.2)


def test_a_deviation_is_a_fraction_of_the_fall():
    reference = [1.0, 0.8, 0.6, 0.4]
    assert training.deviation(reference, reference) == 0
    assert training.deviation([1.0, 0.8, 0.7, 0.4], reference) == pytest.approx(0.25)
    # One that does not train.
    assert training.deviation([1.0, 0.8, 1.0, 0.8], reference) == pytest.approx(1)
    assert math.isnan(training.deviation([1.0, math.nan, 0.6, 0.4], reference))
    with pytest.raises(training.TrainingError, match="must fall"):
        training.deviation(reference, [1.0, 0.8, 1.1, 0.7])


class Told:
    """A process whose rival has the given losses and takes the given time."""

    def __init__(self, losses, seconds, note=""):
        self.losses, self.seconds, self.note = losses, seconds, note
        self.timed = 0

    def __call__(self, function, *arguments):
        if function is training_rivals.prepare:
            return self.losses, self.note
        assert function is training_rivals.time_steps
        self.timed += 1
        return self.seconds


FALLING = [1.0, 1.0, 0.5, 0.5]


def results_of(processes, unavailable=None):
    return training._step_results(CASE, processes, unavailable or {}, 3, 60, lambda: None)


@pytest.mark.parametrize(
    ("told", "why"),
    [
        (Told([1.0, 1.0, 1.0, 1.0], 1e-3), "differs from the reference's by 1 of the fall, more than 0.01"),
        (Told([1.0, 1.0, math.nan, 0.5], 1e-3), "by nan of the fall"),
        (Told([], 1e-3, "ResourceExhaustedError: no memory"), "ResourceExhaustedError: no memory"),
    ],
)
def test_a_rival_that_trains_otherwise_is_not_timed(told, why):
    processes = {
        training.REFERENCE: Told(FALLING, 0.2),
        training.OURS: Told(FALLING, 0.1),
        TORCH: told,
    }
    steps = results_of(processes)
    (wrong,) = (step for step in steps if step["rival"] == TORCH)
    assert why in wrong["why_not"]
    assert wrong["milliseconds"] is None
    assert told.timed == 0
    assert training.ratios(steps, str(CASE))["PyTorch"] is None
    rows = printed({"steps": steps, "parts": [], "memory": []})
    (row,) = (line for line in rows.splitlines() if TORCH in line and "bfloat16" not in line)
    assert "not timed" in row
    assert why in row


def test_a_reference_that_fails_is_a_clear_error():
    with pytest.raises(training.TrainingError, match=r"Keras dense, failed: no memory"):
        results_of({training.REFERENCE: Told([], 1, "no memory")})


def printed(figures):
    console = rich.console.Console(width=400, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    for table in training.tables(figures):
        console.print(table)
    return console.export_text()


def test_ratios_are_against_the_fastest_of_the_same_precision():
    seconds = {
        training.REFERENCE: 0.40,
        f"TensorFlow, {training_rivals.KERAS_XLA}": 0.30,
        training.OURS: 0.10,
        BARE: 0.08,
        f"TensorFlow, {training_rivals.SCREENED}, bfloat16": 0.05,
        f"PyTorch, {training_rivals.TORCH}": 0.25,
        f"PyTorch, {training_rivals.TORCH_SPARSE}": 0.20,
        f"PyTorch, {training_rivals.TORCH_SPARSE}, bfloat16": 0.15,
    }
    steps = results_of({key: Told(FALLING, time) for key, time in seconds.items()})
    assert training.ratios(steps, str(CASE)) == pytest.approx(
        {
            "fit": 100,
            "bare step": 80,
            "screened": 50,
            "Keras": 300,
            "PyTorch": 200,
            "PyTorch, bfloat16": 150,
        }
    )
    rows = printed({"steps": steps, "parts": [], "memory": []})
    last = [line for line in rows.splitlines() if str(CASE) in line][-1]
    cells = [cell.strip() for cell in last.strip("│ ").split("│")]
    assert cells[1:] == ["100.0", "1.25", "20.0", "3.00", "2.00", "6.00", "3.00"]


def test_where_torch_is_missing_its_rows_say_so(monkeypatch):
    monkeypatch.setattr(training_rivals.importlib.util, "find_spec", lambda name: None)
    unavailable = {key: why for key, rival in RIVALS.items() if (why := rival.why_unavailable())}
    torch = {key for key, rival in RIVALS.items() if rival.framework == "PyTorch"}
    assert {
        key for key, why in unavailable.items() if "PyTorch is not installed: pip install" in why
    } == torch
    processes = {training.REFERENCE: Told(FALLING, 0.2), training.OURS: Told(FALLING, 0.1)}
    rows = printed({"steps": results_of(processes, unavailable), "parts": [], "memory": []})
    assert rows.count("PyTorch is not installed: pip install torch") == len(torch)


def test_take_turns_calls_advance_once_a_turn():
    turns = []
    samples = measuring.take_turns(
        {"a": lambda count: 0.001 * count, "b": lambda count: 1.0}, 4, 60, 0.01, lambda: turns.append(1)
    )
    assert len(turns) == 5
    assert samples == {"a": [pytest.approx(0.010)] * 4, "b": [1.0] * 4}


def test_a_limit_is_the_larger_of_operations_and_bytes():
    roofline = training_rivals.Roofline(flops=100.0, bandwidth=10.0)
    assert roofline.limit(training_rivals.Part(1, flops=50, bytes=1)) == 0.5
    assert roofline.limit(training_rivals.Part(1, flops=50, bytes=20)) == 2


def test_parts_of_the_step(monkeypatch):
    monkeypatch.setattr(training_rivals, "PRODUCT_SIZE", 16)
    monkeypatch.setattr(training_rivals, "COPIED_BYTES", 1024)
    monkeypatch.setattr(measuring, "BURST_SECONDS", 1e-5)
    parts, roofline = training_rivals.measure_parts(CASE, 3, 0.1)
    assert roofline.flops > 0
    assert roofline.bandwidth > 0
    assert set(parts) == {
        *("encode", "decode", "gather-dot", "rows and Adam", "rows alone", "Adam alone"),
        *("dense product", "tf.gather + einsum"),
    }
    assert all(part.seconds > 0 for part in parts.values())
    # 12 examples, 16 features, 48 latents.
    assert parts["encode"].flops == 2 * 12 * 16 * 48
    text = printed(
        {
            "steps": [],
            "memory": [],
            "parts": training._part_results(CASE, lambda *arguments: (parts, roofline), 3, 0.1),
        }
    )
    assert "rows and Adam" in text
    assert "The decoder's product alone" in text


def test_parts_that_fail_say_why():
    parts = training._part_results(CASE, lambda *arguments: "InternalError: no", 3, 0.1)
    assert "InternalError: no" in printed({"steps": [], "parts": parts, "memory": []})


def test_the_parts_are_those_of_the_step():
    functions, _ = training_rivals._parts(CASE)
    x = cases.training_data(CASE)[0].astype(np.float64)
    encoder, decoder = (kernel.astype(np.float64) for kernel in cases.training_weights(CASE))
    scores = x @ encoder.T
    order = np.sort(np.argsort(-scores, axis=-1)[:, : CASE.k], axis=-1)
    values, indices = functions["encode"]()
    np.testing.assert_array_equal(indices, order)
    np.testing.assert_allclose(values, np.take_along_axis(scores, order, -1), rtol=1e-4)
    code = np.zeros_like(scores)
    np.put_along_axis(code, order, np.take_along_axis(scores, order, -1), -1)
    for name in ("decode", "dense product", "tf.gather + einsum"):
        np.testing.assert_allclose(functions[name](), code @ decoder, rtol=1e-4, atol=1e-4)
    d_y = code @ decoder - x
    np.testing.assert_allclose(
        functions["gather-dot"](), np.take_along_axis(d_y @ decoder.T, order, -1), rtol=1e-3, atol=1e-3
    )
    (encoder_rows, latents), (decoder_rows, _) = functions["rows alone"]()
    np.testing.assert_array_equal(latents, np.unique(order))
    np.testing.assert_allclose(decoder_rows, (code.T @ d_y)[latents], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(encoder_rows, (code.T @ x)[latents], rtol=1e-3, atol=1e-3)


# Processes and the command


def test_a_process_has_its_threads_and_the_parent_keeps_its_own(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    before = os.sched_getaffinity(0), dict(os.environ)
    process = training.Process("a rival", 1, {"MALLOC_TRIM_THRESHOLD_": "0"})
    try:
        assert process(os.sched_getaffinity, 0) == {min(before[0])}
        assert process(os.getenv, "OMP_NUM_THREADS") == "1"
        assert process(os.getenv, "MALLOC_TRIM_THRESHOLD_") == "0"
        assert (os.sched_getaffinity(0), dict(os.environ)) == before
        with pytest.raises(training.TrainingError, match="the process of a rival ended while it ran _exit"):
            process(os._exit, 1)
    finally:
        process.close()


def test_peak_memory_of_a_step():
    case = TrainingCase(64, 128, 16384, 8)
    ours, dense = (training._memory_result(case, key, None) for key in (training.OURS, training.REFERENCE))
    if ours["why_not"]:
        pytest.skip(ours["why_not"])
    # The gradients of two kernels.
    assert dense["peak_bytes"] > 1.9 * 4 * case.n * case.d
    assert ours["peak_bytes"] < 0.75 * dense["peak_bytes"]
    assert f"{ours['peak_bytes'] / 1e9:.3f}" in printed({"steps": [], "parts": [], "memory": [ours]})


def test_the_command_writes_tables_and_results(monkeypatch, tmp_path):
    few = {key: RIVALS[key] for key in (training.REFERENCE, training.OURS, BARE, TORCH)}
    monkeypatch.setattr(training, "RIVALS", few)
    monkeypatch.setattr(cases, "QUICK_TRAINING", [dataclasses.replace(CASE, batch=5), CASE])
    monkeypatch.setattr(training, "STEP_BURST_SECONDS", 1e-3)
    monkeypatch.setattr(rich.get_console(), "width", 400)
    path = tmp_path / "out" / "steps.json"
    arguments = ["benchmark", "--training", "--quick", "--threads", "1", "--only", "12, 16", "--json", path]
    result = click.testing.CliRunner().invoke(cli.main, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    figures = json.loads(path.read_text())
    assert [child.name for child in path.parent.iterdir()] == ["steps.json"]
    assert figures["machine"]["processor"]
    assert figures["machine"]["threads"] == 1
    assert [step["rival"] for step in figures["steps"]] == list(few)
    for step in figures["steps"]:
        if step["rival"] == TORCH and few[TORCH].why_unavailable():
            assert step["why_not"] == training_rivals.NO_TORCH
            continue
        assert step["why_not"] is None
        assert 0 < step["fastest"] <= step["milliseconds"] <= step["slowest"]
        assert len(step["losses"]) == training.CHECKED_STEPS
    assert {part["part"] for part in figures["parts"]} >= {"encode", "rows and Adam"}
    for text in ("A training step, 12, 16 -> 48, 3", "Parts of the step", "against the fastest rivals"):
        assert text in result.output
    assert f"wrote {path}" in result.output


@pytest.mark.parametrize(
    ("arguments", "message", "status"),
    [
        (["--threads", "1"], "--threads needs --training", 2),
        (["--memory"], "--memory needs --training", 2),
        (["--json", "a.json"], "--json needs --training", 2),
        (["--training", "--device", "gpu"], "--training needs --device cpu", 2),
        (["--training", "--threads", "100000"], "`threads` must be from 1 to", 1),
        (
            ["--training", "--quick", "--only", "7, 7"],
            "`only` must be part of a case's name: 64, 128 -> 1",
            1,
        ),
    ],
)
def test_arguments_that_do_not_fit_are_clear_errors(arguments, message, status, tmp_path):
    output = tmp_path / "out"
    command = ["benchmark", *arguments, "--output", str(output)]
    result = click.testing.CliRunner().invoke(cli.main, command)
    assert result.exit_code == status
    assert message in " ".join(result.output.split())
    assert not output.exists()
