"""What all commands have in common: paths to the letter, and errors in one line."""

import json
import os
import resource
import shlex
from pathlib import Path

import keras
import numpy as np
import pytest
from click.testing import CliRunner

import separationfactor as sf
from separationfactor.models import ConditionalVAE
from separationfactor_lab import (
    benchmark,
    cli,
    evaluation,
    export,
    figures,
    runs,
    studies,
    synthetic_images,
)

STRANGE = ["[v2]", "[/v2]", "[red]", ":smile:", "ü", "with space", "-dash", "new\nline"]
SPRITES = ["factors", "sprites", "--train", 2, "--test", 2, "--size", 8]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(3)
    model = ConditionalVAE((6, 6, 1), 2, seed=1)
    model.compile("adam")
    model.optimizer.build(model.trainable_variables)
    return model


@pytest.fixture
def run(folder, model):
    """The folder of a run without an epoch."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (8, 6, 6)).astype(np.uint8)
    labels = np.arange(8) % 2
    np.savez("d.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    dataset = runs.data.load("d.npz")
    run = runs.Run("run")
    run.folder.mkdir()
    options = {"dataset": str(folder / "d.npz"), "epochs": 1}
    source = {"source": options["dataset"], "fingerprint": dataset.fingerprint}
    run._write_config({"options": options, "dataset": source})
    model.save(run.model_path)
    return run


def invoke(*arguments):
    return CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


def fails(result, message, code=1):
    """Asserts that a command failed as commands do: with a status, and a line in place of a traceback."""
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == code, result.output
    lines = result.output.splitlines()
    assert lines[-1].startswith("Error: ")
    assert message in lines[-1]
    assert code == 2 or len(lines) == 1


def nothing_else(*expected):
    """Asserts that the working folder holds just these paths."""
    assert {str(path) for path in Path().rglob("*") if path.is_file()} == set(expected)


# Text


@pytest.mark.parametrize("name", STRANGE)
def test_paths_are_printed_to_the_letter(run, name):
    picture = Path(name, f"{name}.png")
    result = invoke("traverse", run, f"--output={picture}")
    assert (result.exit_code, result.output) == (0, f"drew {picture}\n")
    assert picture.exists()
    result = invoke(*SPRITES, f"--output={name}/data.npz")
    assert (result.exit_code, result.output) == (0, f"wrote {name}/data.npz\n")


def test_tables_show_names_to_the_letter(run, monkeypatch):
    Path("[").mkdir()
    moved = run.folder.rename("[/run]:smile:")
    monkeypatch.setattr(evaluation, "evaluate", lambda *_, **__: {"kl": 1.5})
    result = invoke("evaluate", moved)
    assert result.exit_code == 0, result.exception
    assert "[/run]:smile:" in result.output.splitlines()[0]
    assert result.output.endswith("wrote [/run]:smile:/metrics.json\n")
    monkeypatch.setattr(sf, "build_info", lambda: {"flags": "-DX=[/red]"})
    assert "-DX=[/red]" in invoke("info").output
    study = studies.STUDIES[0]
    table = studies.table(study, studies.Results([], runs.data.Dataset("[/x]", *[None] * 4), Path(), False))
    assert table.title.plain == f"{study.name} on [/x]"
    assert table.caption is None


def test_what_the_terminal_lacks_is_escaped(run, monkeypatch):
    result = CliRunner(charset="ascii").invoke(cli.main, ["traverse", "run", "--output", "ü\udcff.png"])
    assert result.exit_code == 0, result.exception
    assert result.output == "drew \\xfc\\udcff.png\n"


# Values


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--output", "run"],
        ["evaluate", "run"],
        [*SPRITES, "--output", "s.npz"],
        ["factors", "digits", "--output", "d.npz"],
    ],
)
@pytest.mark.parametrize("seed", [-1, 2**32])
def test_seeds_have_32_bits(folder, command, seed):
    fails(invoke(*command, "--seed", seed), f"{seed} is not in the range 0<=x<=4294967295", code=2)
    assert os.listdir() == []


def test_the_greatest_seed(folder):
    assert invoke(*SPRITES, "--seed", 2**32 - 1, "--output", "s.npz").exit_code == 0


@pytest.mark.parametrize("picture", ["picture", "picture.xyz", ".png", "picture.pgf"])
def test_a_picture_needs_a_suffix(run, picture):
    before = sorted(os.listdir())
    result = invoke("traverse", run, "--output", picture)
    fails(result, "a picture's path must end in one of", code=2)
    assert result.output.endswith(f"Received: {picture}\n")
    assert sorted(os.listdir()) == before
    with pytest.raises(ValueError, match="must end in one of"):
        runs.save_figure(figures.Figure(), picture)


def test_capital_suffixes_are_fine(folder):
    runs.save_figure(figures.Figure(), "picture.PNG")
    assert Path("picture.PNG").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    "command",
    [
        ["traverse", ""],
        ["evaluate", ""],
        ["export", "", "--format", "tflite"],
        ["train", "--output", ""],
        ["traverse", "run", "--output", ""],
        ["export", "run", "--format", "tflite", "--output", ""],
        [*SPRITES, "--output", ""],
        ["study", "separation", "--output", ""],
        ["benchmark", "--output", ""],
    ],
)
def test_an_empty_path(folder, command):
    fails(invoke(*command), "a path must not be empty", code=2)
    assert os.listdir() == []


def test_metrics_that_are_not_defined(run, monkeypatch):
    result = {"kl": 0.123456, "mig_factors": None, "undefined": {"mig_factors": "one class [only]"}}
    monkeypatch.setattr(evaluation, "evaluate", lambda *_, **__: result)
    result = invoke("evaluate", run)
    assert result.exit_code == 0, result.exception
    rows = [line.split("│")[1:3] for line in result.output.splitlines() if "│" in line]
    cells = [[cell.strip() for cell in row] for row in rows]
    assert cells == [["kl", "0.1235"], ["mig factors", "undefined"]]
    assert "mig factors is undefined: one class [only]\n" in result.output


def test_info_as_json():
    result = invoke("info", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == json.loads(json.dumps(sf.build_info()))


def test_a_quick_study_says_that_it_is_one(folder):
    study = studies.framework.Study(
        "toy", "a toy", {"one": {}}, ("one",), None, lambda _: {}, {"error": ".1f"}
    )
    dataset = runs.data.Dataset("digits", *[None] * 4)
    for quick in (True, False):
        results = studies.Results([{"setting": "one", "seed": 0, "error": 1.0}], dataset, Path(), quick)
        studies.framework._write(study, results)
        assert (studies.QUICK_NOTE in Path("table.md").read_text()) == quick
        assert (studies.table(study, results).caption == studies.QUICK_NOTE) == quick


# Files


@pytest.fixture
def full():
    """A process that can write a few kilobytes to a file, as on a file system that is full."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(size):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))

    yield fill
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


@pytest.mark.parametrize(
    ("command", "path"),
    [
        (["factors", "sprites", "--train", 100, "--test", 2, "--output", "out/s.npz"], "out/s.npz"),
        (["traverse", "run", "--output", "out/picture.png"], "out/picture.png"),
        (["export", "run", "--format", "tflite", "--output", "out/m.tflite"], "out/m.tflite"),
        (["export", "run", "--format", "saved-model", "--output", "out/model"], "out/model"),
    ],
)
def test_a_full_file_system(run, full, command, path):
    before = {str(path) for path in Path().rglob("*") if path.is_file()}
    full(2000)
    result = invoke(*command)
    full(resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    fails(result, f"Error: {path}: File too large")
    nothing_else(*before)


def test_training_on_a_full_file_system(run, full):
    full(1000)
    result = invoke("train", "--dataset", "d.npz", "--epochs", 1, "--output", "out")
    full(resource.getrlimit(resource.RLIMIT_FSIZE)[1])
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code == 1
    assert result.output.splitlines()[-1].startswith("Error: out")
    assert "File too large" in result.output
    assert not list(Path("out").rglob(".*"))


def test_a_read_only_file_system(run, monkeypatch):
    def refuse(*_, **__):
        raise OSError(os_error.errno, os_error.strerror, "/some/temporary/name")

    os_error = OSError(30, "Read-only file system")
    monkeypatch.setattr(figures.Figure, "savefig", refuse)
    fails(invoke("traverse", run, "--output", "p.png"), "Error: p.png: Read-only file system")
    monkeypatch.setattr(Path, "mkdir", refuse)
    for command in (["train", "--dataset", "d.npz"], ["study", "separation"], ["benchmark", "--quick"]):
        result = invoke(*command, "--output", "out")
        fails(result, "Error: /some/temporary/name: Read-only file system")


def test_a_file_where_a_folder_is_due(run):
    Path("file").write_text("")
    for command, message, code in [
        (["train", "--dataset", "d.npz", "--output", "file"], "file: expected a new or empty folder", 1),
        (["train", "--dataset", "d.npz", "--output", "file/run"], "file/run: Not a directory", 1),
        (["traverse", "run", "--output", "file/p.png"], "file: Not a directory", 1),
        ([*SPRITES, "--output", "file/s.npz"], "file: Not a directory", 1),
        (["export", "run", "--format", "tflite", "--output", "file/m"], "file: Not a directory", 1),
        (["export", "run", "--format", "saved-model", "--output", "file"], "file: exists already", 1),
        (["study", "separation", "--output", "file"], "file: expected a new or empty folder", 1),
        (["study", "separation", "--output", "file/s"], "file/s: Not a directory", 1),
        (["benchmark", "--quick", "--output", "file"], "Directory 'file' is a file", 2),
        (["benchmark", "--quick", "--output", "file/b"], "file/b: Not a directory", 1),
        (["traverse", "file"], "file/config.json: cannot be read", 1),
        (["evaluate", "file"], "file/config.json: cannot be read", 1),
    ]:
        fails(invoke(*command), message, code)
    assert Path("file").read_text() == ""


def test_a_folder_where_a_file_is_due(run):
    Path("folder.png").mkdir()
    for command, message, code in [
        (["traverse", "run", "--output", "folder.png"], "File 'folder.png' is a directory", 2),
        ([*SPRITES, "--output", "folder.png"], "File 'folder.png' is a directory", 2),
        (["export", "run", "--format", "tflite", "--output", "folder.png"], "folder.png: exists already", 1),
    ]:
        fails(invoke(*command), message, code)


# Runs and studies that are broken


def test_resuming_needs_a_run(folder):
    result = invoke("train", "--resume", "--output", "nowhere")
    fails(result, "Error: nowhere: expected a run's folder to continue (resume)")
    assert os.listdir() == []


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 half of one"])
def test_a_broken_model(run, content):
    run.model_path.write_bytes(content)
    for command in (["traverse", run], ["evaluate", run], ["export", run, "--format", "tflite"]):
        fails(invoke(*command), "Error: run/model.keras: expected a model that Keras can load")


def test_another_model(run):
    keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]).save(run.model_path)
    fails(invoke("traverse", run), "model.keras: expected a ConditionalVAE. Received: Sequential")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "cannot be read"),
        ("[]", "expected a run's "),
        ("{}", "expected a run's "),
        ('{"options": {"seed": 4294967296}}', "expected a run's "),
        ('{"options": {"epochs": "x"}}', "expected a run's "),
        ('{"options": {}}', "expected a run's dataset"),
        ('{"options": {}, "dataset": {"source": "digits"}}', "expected a run's dataset"),
    ],
)
def test_a_broken_config(run, content, message):
    run.config_path.write_text(content)
    fails(invoke("train", "--resume", "--output", run), f"Error: run/config.json: {message}")
    fails(invoke("evaluate", run), "Error: run/config.json: ")


COLUMNS = ["epoch", *figures.CURVES]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (None, "expected 1 epochs, as many as the model was trained for. Received: 0"),
        ([COLUMNS], "expected 1 epochs, as many as the model was trained for. Received: 0"),
        ([COLUMNS, ["1", *"23456789"], ["2", "x"]], "cannot be read"),
        ([COLUMNS, ["1", *"2345678"]], "cannot be read"),
        ([COLUMNS, ["1", *"234567899"]], "cannot be read"),
        ([COLUMNS, ["2", *"23456789"]], "expected the metrics of epoch 1 in row 1. Missing: that epoch"),
        ([["epoch", "kl"], ["1", "2"]], "Missing: negative_elbo, val_negative_elbo"),
        ([["kl"], ["2"]], "Missing: epoch, negative_elbo"),
    ],
)
def test_a_broken_history(run, rows, message):
    model = run.model()
    model.optimizer.iterations.assign(1)  # the eight images of one epoch
    model.save(run.model_path)
    if rows:
        run.history_path.write_text("".join(f"{','.join(row)}\n" for row in rows))
    before = run.config_path.read_text()
    result = invoke("train", "--resume", "--output", run)
    fails(result, "Error: run/history.csv: ")
    assert message in result.output
    assert run.config_path.read_text() == before


@pytest.mark.parametrize("content", ["", "[]", '{"study": "separation"}'])
def test_a_broken_study(folder, content):
    Path("study").mkdir()
    Path("study/study.json").write_text(content)
    fails(
        invoke("study", "separation", "--output", "study"),
        "Error: study/study.json: expected JSON with study",
    )


# Interruptions


def interrupted(*_, **__):
    raise KeyboardInterrupt


def test_an_interrupted_training_says_how_it_goes_on(run, monkeypatch):
    moved = run.folder.rename("it's; here")
    monkeypatch.setattr(runs, "train", interrupted)
    result = invoke("train", "--resume", "--output", moved)
    fails(result, "interrupted; ")
    advice = result.output.split("interrupted; ")[1].split(" continues")[0]
    assert shlex.split(advice) == ["--resume", "--output", str(moved)]
    # What has not started cannot be continued.
    fails(invoke("train", "--output", "new"), "Error: interrupted")
    assert "resume" not in invoke("train", "--output", "new").output


def test_interrupted_commands(run, monkeypatch):
    for module, name, command in [
        (evaluation, "evaluate", ["evaluate", "run"]),
        (figures, "traversals", ["traverse", "run"]),
        (export, "export", ["export", "run", "--format", "tflite"]),
        (synthetic_images, "moved_digits", ["factors", "digits", "--output", "d.npz"]),
        (studies, "run", ["study", "separation", "--output", "s"]),
        (benchmark, "run", ["benchmark"]),
        (sf, "build_info", ["info"]),
    ]:
        monkeypatch.setattr(module, name, interrupted)
        fails(invoke(*command), "Error: interrupted")
