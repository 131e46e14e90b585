"""Studies: that they resume, what they leave, and errors; and the studies themselves, on a tiny setting."""

import csv
import dataclasses
import json
import os
import signal
import statistics

import click.testing
import keras
import numpy as np
import pytest
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from separationfactor_lab import cli, data, evaluation, figures, studies
from separationfactor_lab.errors import LabError
from separationfactor_lab.studies import training


def invoke(*arguments):
    return click.testing.CliRunner().invoke(cli.main, [str(argument) for argument in arguments])


# The framework, on a study that takes no time. Processes find its functions by name.


def prepare(dataset, folder, quick):
    (folder / "images.txt").write_text(f"{len(dataset.x_train)} {quick}")


def measure(trial):
    if trial.options.get("fails"):
        raise ArithmeticError("as it is meant to")
    (trial.folder / "note.txt").write_text((trial.shared / "images.txt").read_text())
    random = float(keras.random.uniform(()))
    return {"sum": np.float32(trial.options["number"] + trial.seed), "random": random, "name": trial.setting}


def measure_in_a_killed_process(trial):
    os.kill(os.getpid(), signal.SIGKILL)


def draw(results):
    figure = Figure()
    figure.add_subplot().bar(results.settings(), [results.mean(name, "sum") for name in results.settings()])
    return {"sums": figure}


def draw_nothing(results):
    return {}


TOY = studies.Study(
    name="toy",
    summary="Adds.",
    settings={"one": {"number": 1}, "ten": {"number": 10}},
    quick_settings=("ten",),
    measure=measure,
    draw=draw,
    columns={"sum": ".2f"},
    prepare=prepare,
)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    output = tmp_path_factory.mktemp("studies") / "toy"
    results = studies.run(TOY, output, seeds=2, jobs=2)
    return output, results


def rows_of(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_a_study_leaves_its_results(toy):
    output, results = toy
    assert [(row["setting"], row["seed"], row["sum"]) for row in results.rows] == [
        ("one", 0, 1),
        ("one", 1, 2),
        ("ten", 0, 10),
        ("ten", 1, 11),
    ]
    assert {path.name for path in output.iterdir()} == {
        "one",
        "ten",
        "shared",
        "study.json",
        "results.csv",
        "summary.csv",
        "table.md",
        "sums.png",
    }
    rows = rows_of(output / "results.csv")
    assert [float(row["sum"]) for row in rows] == [1, 2, 10, 11]
    assert [row["number"] for row in rows] == ["1", "1", "10", "10"]
    # The seed, not the setting nor the process, determines what is drawn.
    assert rows[0]["random"] == rows[2]["random"] != rows[1]["random"] == rows[3]["random"]

    summary = rows_of(output / "summary.csv")
    assert [float(row["sum"]) for row in summary] == [1.5, 10.5]
    assert float(summary[0]["sum_deviation"]) == pytest.approx(statistics.stdev([1, 2]))
    assert "| ten | 10.50 ± 0.71 | 2 |" in (output / "table.md").read_text()
    assert (output / "ten" / "seed-1" / "note.txt").read_text() == "1500 False"
    description = json.loads((output / "study.json").read_text())
    assert description["source"] == "digits"
    assert description["environment"]["keras"] == keras.version()


def measure_in_part(trial):
    """The first seed lacks one of its numbers, and both lack the other."""
    undefined = {"partly": None, "undefined": {"partly": "there is no second seed"}}
    return {"never": float("nan"), **({"partly": 3.0} if trial.seed else undefined)}


def test_a_study_keeps_what_is_undefined_out_of_its_means(tmp_path):
    study = dataclasses.replace(
        TOY, measure=measure_in_part, draw=draw_nothing, columns={"partly": ".1f", "never": ".1f"}
    )
    output = tmp_path / "study"
    studies.run(study, output, seeds=2, jobs=1, only=("one",))

    def refuse(constant):
        raise ValueError(f"JSON has no {constant}")

    content = (output / "one" / "seed-0" / "measured.json").read_text()
    measured = json.loads(content, parse_constant=refuse)["measured"]
    assert measured["partly"] is None
    assert measured["never"] is None
    assert measured["undefined"] == {"partly": "there is no second seed"}
    assert [(row["partly"], row["never"]) for row in rows_of(output / "results.csv")] == [
        ("", ""),
        ("3.0", ""),
    ]
    (summary,) = rows_of(output / "summary.csv")
    assert summary["partly"] == "3.0"
    assert "never" not in summary
    assert "| one | 3.0 (of 1) |  | 2 |" in (output / "table.md").read_text()


def test_a_study_goes_on_with_what_is_missing(toy):
    """Also after a trial has failed, which is named; the others are kept."""
    output, results = toy
    measured = sorted(output.glob("*/seed-*/measured.json"))
    before = {path: path.stat().st_mtime_ns for path in measured}
    missing = output / "ten" / "seed-0" / "measured.json"
    missing.unlink()
    (output / "results.csv").unlink()

    failing = dataclasses.replace(TOY, settings={**TOY.settings, "none": {"fails": True}})
    with pytest.raises(RuntimeError, match="toy: none, seed 0 failed") as caught:
        studies.run(failing, output, seeds=2, jobs=1)
    assert isinstance(caught.value.__cause__, ArithmeticError)

    again = studies.run(TOY, output, seeds=2, jobs=1)
    assert [path for path in measured if path.stat().st_mtime_ns != before[path]] == [missing]
    untimed = [{**row, "seconds": 0} for row in results.rows]
    assert [{**row, "seconds": 0} for row in again.rows] == untimed
    assert len(rows_of(output / "results.csv")) == 4


def test_a_killed_worker_is_one_error(tmp_path):
    study = dataclasses.replace(TOY, measure=measure_in_a_killed_process)
    with pytest.raises(studies.StudyError, match="a worker process was killed.*--jobs.*The same command"):
        studies.run(study, tmp_path / "toy", seeds=1, jobs=1)


def test_a_damaged_judge_is_one_error(tmp_path):
    (tmp_path / "judge.keras").write_bytes(b"no model")
    with pytest.raises(LabError, match="judge.keras: expected a model that Keras can load; remove it"):
        evaluation.judge_of(tmp_path, data.load("digits"))


def test_a_folder_serves_one_study(toy, tmp_path):
    output, _ = toy
    with pytest.raises(studies.StudyError, match="holds a study with quick=False"):
        studies.run(TOY, output, quick=True)
    with pytest.raises(studies.StudyError, match="holds a study with study=toy"):
        studies.run(dataclasses.replace(TOY, name="other"), output)
    changed = dataclasses.replace(TOY, settings={"one": {"number": 2}, "ten": {"number": 10}})
    with pytest.raises(studies.StudyError, match=r"measured with the options \{'number': 1\}"):
        studies.run(changed, output)
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(studies.StudyError, match="expected a new or empty folder"):
        studies.run(TOY, tmp_path)
    with pytest.raises(studies.StudyError, match="has no setting three. It has: one, ten"):
        studies.run(TOY, tmp_path / "new", only=["three"])


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"settings": {"a/b": {}}, "quick_settings": ()}, "a setting's name becomes a folder's"),
        ({"quick_settings": ("two",)}, "quick_settings must be settings"),
    ],
)
def test_a_study_checks_its_names(change, match):
    with pytest.raises(ValueError, match=match):
        dataclasses.replace(TOY, **change)


# Training in memory


def test_training_in_memory_is_what_keras_does():
    """One step on the whole of the data has no order, so both ways must agree."""
    images, targets = np.random.rand(32, 5).astype("float32"), np.random.rand(32, 1).astype("float32")

    def model():
        keras.utils.set_random_seed(3)
        model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.SGD(0.1), "mse", metrics=["mae"])
        return model

    mine, theirs = model(), model()
    epochs = []
    training.fit(mine, images, targets, epochs=4, batch_size=32, seed=0, before_epoch=epochs.append)
    theirs.fit(images, targets, epochs=4, batch_size=32, verbose=0)
    assert epochs == [0, 1, 2, 3]
    for one, other in zip(mine.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


# The studies


def test_a_trial_is_trained_once(tmp_path):
    trainings = []

    def weights_of_trial(options):
        trial = studies.Trial("some", options, 0, None, tmp_path, tmp_path, True)
        model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])

        def train():
            trainings.append(options)
            model.set_weights([np.ones((2, 1)), np.full(1, len(trainings))])

        training.once(trial, model, train)
        return model.get_weights()

    kept = weights_of_trial({"k": 1})
    for weight, same in zip(kept, weights_of_trial({"k": 1}), strict=True):
        np.testing.assert_array_equal(weight, same)
    assert trainings == [{"k": 1}]
    weights_of_trial({"k": 2})
    assert trainings == [{"k": 1}, {"k": 2}]
    for broken in (b"", b"no archive", (tmp_path / "weights.npz").read_bytes()[:200]):
        (tmp_path / "weights.npz").write_bytes(broken)
        weights_of_trial({"k": 2})
    assert trainings[2:] == [{"k": 2}] * 3


@pytest.fixture(scope="module")
def few_digits(tmp_path_factory):
    digits = data.load("digits")
    path = tmp_path_factory.mktemp("data") / "few.npz"
    np.savez(
        path,
        x_train=digits.x_train[:400],
        y_train=digits.y_train[:400],
        x_test=digits.x_test[:100],
        y_test=digits.y_test[:100],
    )
    return path


def test_the_separation_study(few_digits, tmp_path):
    """On a setting whose factor rises by a tenth of 10 an epoch: in the second and last of them it is 1."""
    output = tmp_path / "study"
    result = invoke(
        "study", "separation", "--quick", "--data", few_digits, "--output", output,
        "--only", "rising-factor=10", "--seeds", 1, "--jobs", 1,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    (row,) = rows_of(output / "results.csv")
    assert row["setting"] == "rising-factor=10"
    assert float(row["separation_factor"]) == 10
    assert float(row["separation"]) == 1
    assert float(row["negative_elbo"]) > 0
    assert {"swap_accuracy", "judge_accuracy", "leakage_linear", "mig_one_vs_rest"} <= set(row)
    assert "nothing to compare with" in result.output
    assert (output / "shared" / "judge.keras").exists()
    assert (output / "rising-factor=10" / "seed-0" / "class-swap.png").exists()
    assert {path.name for path in output.glob("*.png")} == {"likelihood-and-swaps.png"}


def separation_results(**settings):
    """Results whose settings have the given swap accuracy and negative ELBO, give or take."""
    rows = [
        {
            "setting": name.replace("_", "="),
            "seed": seed,
            "swap_accuracy": swaps,
            "negative_elbo": elbo + seed,
        }
        for name, (swaps, elbo) in settings.items()
        for seed in (-1, 0, 1)
    ]
    return studies.Results(rows, data.load("digits"), None, False)


def test_the_separation_study_finds_what_has_both():
    results = separation_results(
        concat=(0.5, 113), factor_10=(0.98, 113), factor_3=(0.9, 110), factor_30=(1, 114)
    )
    assert studies.SEPARATION.conclude(results) == (
        "concat: swap accuracy 0.500 ± 0.000, -ELBO 113.0 ± 1.0.\n"
        "As likely, with a swap accuracy of 0.98 or more:\n"
        "- factor=10: swap accuracy 0.980 ± 0.000, -ELBO 113.0 ± 1.0"
    )


def test_the_separation_study_compares_with_concat_trained_as_long_too():
    results = separation_results(
        **{"concat": (0.5, 113), "long-concat": (0.8, 106), "long-factor_10": (0.99, 107)}
    )
    assert studies.SEPARATION.conclude(results) == (
        "concat: swap accuracy 0.500 ± 0.000, -ELBO 113.0 ± 1.0.\n"
        "As likely, with a swap accuracy of 0.98 or more:\n"
        "- long-factor=10: swap accuracy 0.990 ± 0.000, -ELBO 107.0 ± 1.0\n"
        "long-concat: swap accuracy 0.800 ± 0.000, -ELBO 106.0 ± 1.0.\n"
        "No setting is as likely and has a swap accuracy of 0.98 or more.\n"
        "The likeliest with such a swap accuracy is long-factor=10: "
        "swap accuracy 0.990 ± 0.000, -ELBO 107.0 ± 1.0.\n"
        "The greatest swap accuracy of those as likely has long-concat: swap accuracy 0.800 ± 0.000, "
        "-ELBO 106.0 ± 1.0."
    )


def test_the_separation_study_says_that_nothing_has_both():
    results = separation_results(
        concat=(0.5, 113), factor_10=(0.99, 116), factor_3=(0.7, 112), factor_30=(1, 118)
    )
    assert studies.SEPARATION.conclude(results) == (
        "concat: swap accuracy 0.500 ± 0.000, -ELBO 113.0 ± 1.0.\n"
        "No setting is as likely and has a swap accuracy of 0.98 or more.\n"
        "The likeliest with such a swap accuracy is factor=10: "
        "swap accuracy 0.990 ± 0.000, -ELBO 116.0 ± 1.0.\n"
        "The greatest swap accuracy of those as likely has factor=3: swap accuracy 0.700 ± 0.000, "
        "-ELBO 112.0 ± 1.0."
    )


def test_the_separation_study_draws_what_the_factor_does():
    rows = [
        {
            "setting": name,
            "seed": seed,
            **dict.fromkeys(
                (
                    "negative_elbo",
                    "swap_accuracy",
                    "leakage_linear",
                    "judge_accuracy",
                    "prior_sample_accuracy",
                ),
                0.5,
            ),
        }
        for name in studies.SEPARATION.settings
        for seed in (0, 1)
    ]
    drawn = studies.SEPARATION.draw(studies.Results(rows, data.load("digits"), None, False))
    assert set(drawn) == {"likelihood-and-swaps", "factor"}


def test_names_of_crowded_points_do_not_overlap():
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    points = {f"point {i}": (0.5 + 0.01 * (i % 4), 0.5 + 0.01 * (i // 4)) for i in range(12)}
    axes.plot(*zip(*points.values(), strict=True), "o")
    axes.set(xlim=(0, 1), ylim=(0, 1))
    figures.label_points(axes, points)
    figure.draw_without_rendering()
    texts = [text for text in axes.texts if text.get_text()]
    assert [text.get_text() for text in texts] == list(points)
    boxes = [Bbox(text.get_window_extent()) for text in texts]
    for index, box in enumerate(boxes):
        assert not box.count_overlaps(boxes[:index])
        assert not any(box.contains(*axes.transData.transform(point)) for point in points.values())
        assert axes.bbox.fully_containsx(box.x0)
        assert axes.bbox.fully_containsx(box.x1)


def test_the_command_names_what_it_cannot_do(tmp_path):
    result = invoke("study", "separation", "--output", tmp_path, "--only", "nothing")
    assert result.exit_code == 1
    assert "separation has no setting nothing" in result.output
    assert "factor=10" in invoke("study", "separation", "--help").output


@pytest.mark.parametrize(
    ("name", "setting", "column", "pictures"),
    [
        ("k-sparse", "k=25", "error_percent", ["errors", "filters"]),
        ("completion", "quadrants=1", "importance_nll", ["completions", "likelihoods"]),
        ("expressive", "iaf+pixelcnn", "negative_elbo", ["bound", "images"]),
    ],
)
def test_the_other_studies(few_digits, tmp_path, name, setting, column, pictures):
    output = tmp_path / "study"
    result = invoke(
        "study", name, "--quick", "--data", few_digits, "--output", output,
        "--only", setting, "--seeds", 1, "--jobs", 1,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    (row,) = rows_of(output / "results.csv")
    assert row["setting"] == setting
    assert float(row[column]) > 0
    assert [path.stem for path in sorted(output.glob("*.png"))] == pictures


@pytest.mark.parametrize(
    "labels", [[0] * 30 + [1] * 20 + [2], [1], [0, 1], list(range(12)), [0, 0, 0, 1, 1, 1, 2, 2, 2]]
)
def test_the_k_sparse_study_takes_few_images_and_rare_classes(labels, tmp_path):
    """Of images each of which is bright where its class says: at most that of a class alone is wrong."""
    labels = np.array(labels, np.int32)
    images = np.eye(16, dtype=np.float32)[labels].reshape(-1, 4, 4, 1)
    dataset = data.Dataset("rows", images, labels, images, labels)
    trial = studies.Trial("raw-pixels", {}, 0, dataset, tmp_path, tmp_path, quick=False)
    assert studies.K_SPARSE.measure(trial)["error_percent"] == pytest.approx(0, abs=2)


def test_the_k_sparse_study_takes_fewer_images_than_a_batch(tmp_path):
    labels = np.arange(10, dtype=np.int32) % 2
    images = np.zeros((10, 4, 4, 1), np.float32)
    dataset = data.Dataset("black", images, labels, images, labels)
    options = {"units": 1000, "k": 25, "schedule": True}
    trial = studies.Trial("k=25", options, 0, dataset, tmp_path, tmp_path, quick=True)
    assert studies.K_SPARSE.measure(trial)["error_percent"] == 50
