"""The reference model in the formats of other runtimes, and the command that writes them."""

import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from click.testing import CliRunner

from separationfactor import installation
from separationfactor.models import ConditionalVAE
from separationfactor_lab import cli, export, runs
from test_portable import tflite_interpreter


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run's folder, without a training."""
    run = runs.Run(tmp_path_factory.mktemp("run"))
    keras.utils.set_random_seed(3)
    model = ConditionalVAE((8, 8, 1), 3, trainable_factors=True, seed=1)
    run._write_config({"options": {}})
    model.save(run.model_path)
    return run


@pytest.fixture(scope="module")
def calls(run):
    """What each function is called with and what it returns, by the model itself."""
    model, rng = run.model(), np.random.default_rng(0)
    given = {
        "images": rng.random((4, 8, 8, 1), np.float32),
        "labels": np.array([0, 2, 1, 1], np.int32),
        "z": rng.standard_normal((4, 3)).astype(np.float32),
    }
    images, labels, z = given.values()
    mean, log_variance = model.encode(images, labels)
    return {
        "classify": ({"images": images}, {"probabilities": model.classify(images)}),
        "encode": ({"images": images, "labels": labels}, {"mean": mean, "log_variance": log_variance}),
        "decode": ({"z": z, "labels": labels}, {"images": model.decode(z, labels)}),
        "reconstruct": ({"images": images}, {"reconstructions": model.reconstruct(images)}),
        "swap": ({"images": images, "labels": labels}, {"swapped": model.swap(images, labels)}),
    }


def assert_close(outputs, expected):
    assert outputs.keys() == expected.keys()
    for name in expected:
        np.testing.assert_allclose(outputs[name], expected[name], rtol=1e-4, atol=1e-5)


def invoke(*arguments):
    return CliRunner().invoke(cli.main, ["export", *map(str, arguments)])


LOAD = """
import json, sys
import numpy as np
import tensorflow as tf

path, given, results = sys.argv[1:]
given = dict(np.load(given))
for name, function in tf.saved_model.load(path).signatures.items():
    takes = function.structured_input_signature[1]
    outputs = function(**{each: tf.constant(given[each]) for each in takes})
    np.savez(f"{results}/{name}.npz", **outputs)
print(json.dumps([name for name in sys.modules if name.startswith("separationfactor")]))
"""


def test_a_saved_model_runs_without_this_package(run, calls, tmp_path):
    result = invoke(run, "--format", "saved-model")
    assert result.exit_code == 0, result.output
    path = run.folder / "saved-model"
    assert f"wrote {path}" in result.output
    np.savez(tmp_path / "given.npz", **(calls["swap"][0] | calls["decode"][0]))
    process = subprocess.run(
        [sys.executable, "-c", LOAD, str(path), str(tmp_path / "given.npz"), str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    assert json.loads(process.stdout.splitlines()[-1]) == []
    for name, (_, expected) in calls.items():
        assert_close(dict(np.load(tmp_path / f"{name}.npz")), expected)

    again = invoke(run, "--format", "saved-model")
    assert again.exit_code == 1
    assert f"{path}: exists already" in again.output


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
def test_a_tflite_file_has_the_signatures(run, calls, tmp_path):
    path = tmp_path / "new" / "model.tflite"
    for _ in range(2):  # a file is replaced
        export.export(run.model(), path, "tflite")
    assert [each.name for each in path.parent.iterdir()] == ["model.tflite"]
    interpreter = tflite_interpreter(path)
    assert interpreter.get_signature_list().keys() == calls.keys()
    for name, (given, expected) in calls.items():
        assert_close(interpreter.get_signature_runner(name)(**given), expected)


def test_onnx_files(run, calls, tmp_path):
    pytest.importorskip("tf2onnx", reason="the extra onnx is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    result = invoke(run, "--format", "onnx", "--output", tmp_path / "onnx")
    assert result.exit_code == 0, result.output
    assert {path.name for path in (tmp_path / "onnx").iterdir()} == {f"{name}.onnx" for name in calls}
    for name, (given, expected) in calls.items():
        session = onnxruntime.InferenceSession(tmp_path / "onnx" / f"{name}.onnx")
        outputs = [output.name for output in session.get_outputs()]
        assert_close(dict(zip(outputs, session.run(outputs, given), strict=True)), expected)


def test_what_is_missing_is_said(run, tmp_path, monkeypatch):
    monkeypatch.setattr(installation, "command", lambda extra: f"pip install '/the sources{extra}'")
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    result = invoke(run, "--format", "onnx", "--output", tmp_path / "onnx")
    assert result.exit_code == 1
    assert result.output.endswith(": pip install '/the sources[onnx]'\n")
    assert list(tmp_path.iterdir()) == []

    unfinished = runs.Run(tmp_path / "unfinished")
    unfinished.folder.mkdir()
    for expected in ("expected a run's folder", "no epoch was finished"):
        result = invoke(unfinished, "--format", "tflite")
        assert result.exit_code == 1
        assert expected in result.output
        unfinished._write_config({"options": {}})

    assert invoke(run, "--format", "pickle").exit_code == 2
    with pytest.raises(ValueError, match="Argument `format` must be one of.*pickle"):
        export.export(run.model(), tmp_path / "model", "pickle")


def test_a_failed_export_leaves_nothing(run, tmp_path, monkeypatch):
    def fail(model, path):
        path.mkdir()
        (path / "half").write_text("")
        raise KeyboardInterrupt

    monkeypatch.setattr(export, "_write_saved_model", fail)
    with pytest.raises(KeyboardInterrupt):
        export.export(run.model(), tmp_path / "model", "saved-model")
    assert list(tmp_path.iterdir()) == []
