"""Measuring a model: what a run's metrics.json holds, and that the numbers are of what they say."""

import dataclasses
import json

import click.testing
import keras
import numpy as np
import pytest

import separationfactor as sf
from separationfactor_lab import cli, data, evaluation, metrics, runs, synthetic_images


@pytest.fixture(scope="module")
def sprites(tmp_path_factory):
    """Images with factors, few of them."""
    path = tmp_path_factory.mktemp("data") / "sprites.npz"
    np.savez(path, **synthetic_images.sprites(200, 120, size=12))
    return data.load(path)


@pytest.fixture(scope="module")
def run(sprites, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    return runs.train(folder, dataset=sprites.name, epochs=1, verbose=0)


def test_the_command_writes_all_metrics(run):
    arguments = ["evaluate", str(run), "--images", "100", "--samples", "3"]
    result = click.testing.CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 0, result.output
    found = json.loads((run.folder / "metrics.json").read_text())
    assert {
        "negative_elbo",
        "reconstruction",
        "kl",
        "importance_weighted_nll",
        "active_units",
        "classifier_accuracy",
        "classifier_calibration_error",
        "swap_accuracy",
        "prior_sample_accuracy",
        "judge_accuracy",
        "leakage_linear",
        "leakage_mlp",
        "silhouette_z",
        "silhouette_code",
        "knn_accuracy_z",
        "knn_accuracy_code",
    } <= set(found)
    for suffix in ("one_vs_rest", "collapsed", "factors"):
        for name in ("mig", "sap", "dci_disentanglement", "dci_completeness", "dci_informativeness"):
            assert 0 <= found[f"{name}_{suffix}"] <= 1
    for suffix in ("one_vs_rest", "factors"):
        for name in ("modularity", "explicitness", "factor_vae", "beta_vae", "irs"):
            assert 0 <= found[f"{name}_{suffix}"] <= 1
    assert found["negative_elbo"] == pytest.approx(found["reconstruction"] + found["kl"], rel=1e-4)
    assert found["negative_elbo"] == pytest.approx(run.history()["val_negative_elbo"][-1], rel=0.05)
    assert found["classifier_accuracy"] == pytest.approx(run.history()["val_classifier_accuracy"][-1])
    assert "swap accuracy" in result.output

    # The judge is kept, and the rest is determined by the seed.
    kept = (run.folder / "judge.keras").stat().st_mtime_ns
    again = evaluation.evaluate(run, images=100, samples=3)
    assert (run.folder / "judge.keras").stat().st_mtime_ns == kept
    assert again == pytest.approx(found, rel=1e-5)


def test_what_is_no_run_cannot_be_evaluated(tmp_path):
    result = click.testing.CliRunner().invoke(cli.main, ["evaluate", str(tmp_path)])
    assert result.exit_code == 1
    assert "expected a run's folder" in result.output


class Oracle(sf.models.ConditionalVAE):
    """Draws images that are bright in the row of their class, or that ignore the class."""

    def __init__(self, obeys, **kwargs):
        self.obeys = obeys
        super().__init__((4, 4, 1), 4, **kwargs)

    def decode(self, z, labels, seed=None):
        labels = np.asarray(labels) if self.obeys else np.zeros(len(labels), int)
        return np.eye(4, dtype=np.float32)[labels][:, :, np.newaxis, np.newaxis].repeat(4, axis=2)


@pytest.mark.parametrize(("obeys", "accuracy"), [(True, 1.0), (False, 0.25)])
def test_swaps_and_samples_are_judged_by_the_class_asked_for(obeys, accuracy):
    labels = np.arange(100).astype(np.int32) % 4
    model = Oracle(obeys)
    images = model.__class__(True).decode(None, labels)
    dataset = data.Dataset("rows", images, labels, images, labels)
    model.compile()
    # The index of the bright row is the class.
    judge = keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Lambda(lambda x: x[:, :, 0, 0])])
    result = evaluation.evaluate_model(model, dataset, judge, samples=1)
    assert result["judge_accuracy"] == 1
    # An image of each class as each other class: with a quarter of them of class 0 already, 3 of 12 swaps.
    assert result["swap_accuracy"] == accuracy
    assert result["prior_sample_accuracy"] == accuracy


@pytest.fixture(scope="module")
def tiny_model():
    model = sf.models.ConditionalVAE((4, 4, 1), 4, seed=0)
    model.compile()
    return model


def few_images(labels, factors):
    """Rows as above, with two factors, one of which is constant."""
    labels = np.array(labels, np.int32)
    images = np.eye(4, dtype=np.float32)[labels][:, :, np.newaxis, np.newaxis].repeat(4, axis=2)
    factors = np.column_stack([factors, np.full(len(labels), 3)]).astype(np.float32)
    parts = {"factors_train": factors, "factors_test": factors}
    return data.Dataset("few", images, labels, images, labels, factor_names=("varies", "constant"), **parts)


@pytest.fixture(scope="module")
def row_judge():
    return keras.Sequential([keras.Input((4, 4, 1)), keras.layers.Lambda(lambda x: x[:, :, 0, 0])])


@pytest.mark.parametrize(
    ("labels", "undefined"),
    [
        ([2], {"leakage_linear", "silhouette_z", "knn_accuracy_code", "mig_collapsed", "irs_factors"}),
        ([1, 1, 1, 1, 1, 1], {"silhouette_code", "mig_one_vs_rest", "factor_vae_factors"}),
        ([0, 1, 2, 3], {"sap_collapsed", "explicitness_one_vs_rest"}),
        ([0] * 8 + [1] * 3 + [2], set()),
    ],
)
def test_few_images_have_numbers_or_reasons(tiny_model, row_judge, labels, undefined):
    dataset = few_images(labels, np.arange(len(labels)) % 2)
    result = evaluation.evaluate_model(tiny_model, dataset, row_judge, samples=1)
    json.dumps(result, allow_nan=False)
    reasons = result.pop("undefined", {})
    assert {name for name, value in result.items() if value is None} == set(reasons)
    assert undefined <= set(reasons)
    assert bool(undefined) == bool(reasons)
    assert all(isinstance(reason, str) and reason for reason in reasons.values())
    # Measures that need no second image or class have a value.
    assert {"negative_elbo", "swap_accuracy", "active_units", "classifier_calibration_error"} <= set(result)
    assert {"negative_elbo", "swap_accuracy", "active_units"}.isdisjoint(reasons)


def test_a_seed_determines_all_of_an_evaluation(tiny_model, row_judge):
    dataset = few_images([0, 1, 2, 3] * 3, np.arange(12))
    before = tiny_model.seed_generator.state.numpy()
    results = [
        evaluation.evaluate_model(tiny_model, dataset, row_judge, samples=2, seed=s) for s in (1, 1, 2)
    ]
    np.testing.assert_array_equal(tiny_model.seed_generator.state, before)
    assert results[0] == pytest.approx(results[1], rel=1e-6)
    for name in ("negative_elbo", "importance_weighted_nll"):
        assert results[0][name] != pytest.approx(results[2][name], rel=1e-6)


def test_a_constant_factor_is_left_out(tiny_model, row_judge):
    labels = np.arange(40) % 4
    dataset = few_images(labels, np.arange(40) // 8)
    both = evaluation.evaluate_model(tiny_model, dataset, row_judge, samples=1)
    varying = dataclasses.replace(
        dataset,
        factor_names=("varies",),
        factors_train=dataset.factors_train[:, :1],
        factors_test=dataset.factors_test[:, :1],
    )
    alone = evaluation.evaluate_model(tiny_model, varying, row_judge, samples=1)
    names = [name for name in both if name.endswith("_factors")]
    assert len(names) == 10
    assert [both[name] for name in names] == [alone[name] for name in names]


def test_a_model_that_diverged_has_reasons(run, monkeypatch):
    """They are in metrics.json and in the table, and both are what their readers can take."""
    model = run.model()
    model.set_weights([np.full_like(weights, np.nan) for weights in model.get_weights()])
    monkeypatch.setattr(runs.Run, "model", lambda self: model)
    arguments = ["evaluate", str(run), "--images", "100", "--samples", "1"]
    result = click.testing.CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == 0, result.output
    assert "undefined:" in result.output

    def refuse(constant):
        raise ValueError(f"JSON has no {constant}")

    found = json.loads((run.folder / "metrics.json").read_text(), parse_constant=refuse)
    assert found["negative_elbo"] is None
    assert found["undefined"]["negative_elbo"] == "the value is nan"
    assert found["undefined"]["mig_factors"].startswith("codes must be finite")


@pytest.mark.parametrize(
    "options", [{}, {"combine": "concat"}, {"latent_dim": 12}, {"condition": "predicted"}]
)
def test_log_weights_average_to_the_bound(options):
    digits = data.load("digits")
    model = sf.models.ConditionalVAE((8, 8, 1), 10, seed=1, **options)
    model.compile(keras.optimizers.Adam(1e-3))
    images, labels = digits.x_train[:50], digits.y_train[:50]
    model.fit(images, labels, epochs=5, verbose=0)
    log_weights = np.array([model.log_weights(images, labels) for _ in range(30)])
    bounds = [model.evaluate(images, labels, verbose=0, return_dict=True)["negative_elbo"] for _ in range(5)]
    assert -log_weights.mean() == pytest.approx(np.mean(bounds), rel=0.01)
    assert metrics.importance_weighted_nll(log_weights) < np.mean(bounds)


def test_a_representation_is_what_the_decoder_is_given():
    digits = data.load("digits")
    images, labels = digits.x_train[:5], digits.y_train[:5]
    one_hot = np.eye(10)[labels]
    for options, expected in (
        ({}, lambda z: z + 7 * one_hot),
        ({"latent_dim": 12}, lambda z: z + 7 * np.eye(12)[labels]),
        ({"combine": "concat", "latent_dim": 3}, lambda z: np.hstack([z, 7 * one_hot])),
    ):
        model = sf.models.ConditionalVAE((8, 8, 1), 10, separation_factor=7.0, **options)
        z, _ = model.encode(images, labels)
        code = model.represent(images, labels).numpy()
        np.testing.assert_allclose(code, expected(z.numpy()), rtol=1e-6)
        redrawn = keras.ops.sigmoid(model.decoder(code))
        np.testing.assert_allclose(redrawn, model.reconstruct(images, labels), atol=1e-6)
