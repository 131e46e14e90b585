"""The k-sparse autoencoder: its loss and code against NumPy, its options, dead units, schedule and saving."""

import doctest
import io
import json
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf

import oracle
from conftest import needs_native
from separationfactor import KSchedule
from separationfactor.models import KSparseAutoencoder, k_sparse_autoencoder
from separationfactor.optimizers import SparseAdam

pytestmark = pytest.mark.usefixtures("deterministic")

SHAPE = (4, 5, 1)
OPTIONS = {
    "paper": {},
    "alpha": {"alpha": 2.5},
    "untied": {"tied": False},
    "relu": {"activation": "relu"},
    "untied, relu, tf": {"tied": False, "activation": "relu", "implementation": "tf"},
    "dropout": {"k": 12, "activation": "relu", "code_dropout": 0.5},
    "denoising": {"k": 12, "activation": "relu", "input_dropout": 0.2},
}


def data(count=40, seed=0):
    """Sums of few of eight patterns."""
    rng = np.random.default_rng(seed)
    patterns = rng.random((8, *SHAPE))
    weights = rng.random((count, 8)) * (rng.random((count, 8)) < 0.3)
    return np.tensordot(weights, patterns, 1).astype("float32")


def make(*, compiled=True, **arguments):
    keras.utils.set_random_seed(1)
    model = KSparseAutoencoder(SHAPE, 12, **{"k": 3, "seed": 1, **arguments})
    rng = np.random.default_rng(2)
    for bias in (model.bias, model.decoder_bias):
        bias.assign(rng.normal(scale=0.1, size=bias.shape))
    if compiled:
        model.compile(keras.optimizers.SGD(0.02, momentum=0.9))
    return model


def fit(model, epochs=1, **arguments):
    return model.fit(data(), epochs=epochs, batch_size=8, verbose=0, shuffle=False, **arguments).history


def expected(model, images, k):
    """The code and the reconstruction in NumPy."""
    pixels = images.reshape(len(images), -1).astype(np.float64)
    code = pixels @ model.kernel.numpy().T + model.bias.numpy()
    if model.activation == "relu":
        code = np.maximum(code, 0)
    code = oracle.separate(code, k, 1, 0)
    dictionary = (model.kernel if model.tied else model.decoder_kernel).numpy()
    return code, (code @ dictionary + model.decoder_bias.numpy()).reshape(images.shape)


@pytest.mark.parametrize("options", OPTIONS)
def test_the_model_is_the_papers(options):
    """At inference: alpha * k units, and nothing dropped."""
    model, images = make(**OPTIONS[options]), data()
    k = min(12, round(model.alpha * model.k))
    code, redrawn = expected(model, images, k)
    np.testing.assert_allclose(model.encode(images), code, rtol=1e-4, atol=1e-5)
    assert np.count_nonzero(model.encode(images), axis=-1).max() <= k
    for result in (model.reconstruct(images), model.decode(model.encode(images)), model(images)):
        np.testing.assert_allclose(result, redrawn, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(model.predict(images, verbose=0), redrawn, rtol=1e-4, atol=1e-5)
    result = model.evaluate(images, verbose=0, batch_size=7, return_dict=True)
    np.testing.assert_allclose(result["loss"], ((redrawn - images) ** 2).sum((1, 2, 3)).mean(), rtol=1e-4)
    assert result["dead_units"] == (code == 0).all(0).sum()


def test_training_keeps_k_units():
    model, images = make(alpha=2.0), data()
    _, redrawn = expected(model, images, 3)
    np.testing.assert_allclose(model(images, training=True), redrawn, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("option", "scale"), [("input_dropout", 0.75), ("code_dropout", 0.75)])
def test_dropout_is_for_training_and_keeps_the_mean(option, scale):
    model = make(k=12, **{option: 1 - scale})
    images = np.repeat(data(1), 5000, axis=0)
    trained = model(images, training=True).numpy()
    assert trained.std(0).min() > 0
    np.testing.assert_allclose(trained.mean(0), model(images[:1])[0], atol=0.05)


@pytest.mark.parametrize("options", ["paper", "untied", "dropout", "denoising"])
def test_training_lowers_the_loss_and_moves_every_weight(options):
    model = make(**OPTIONS[options])
    before = [weight.numpy() for weight in model.trainable_weights]
    assert len(before) == (3 if model.tied else 4)
    losses = fit(model, epochs=8)["loss"]
    assert np.isfinite(losses).all()
    assert losses[-1] < 0.7 * losses[0]
    for weight, was in zip(model.trainable_weights, before, strict=True):
        assert not np.array_equal(weight, was)


def test_the_gradient_of_tied_weights_has_both_parts():
    model, images = make(k=12, compiled=False), data(3)
    with tf.GradientTape() as tape:
        losses = model._terms(images, training=False)["loss"]
    gradient = tf.convert_to_tensor(tape.gradient(losses, model.kernel.value))
    weights = model.kernel.numpy()
    for place in [(0, 0), (3, 7), (11, 19)]:
        sides = []
        for step in (1e-2, -1e-2):
            moved = weights.copy()
            moved[place] += step
            model.kernel.assign(moved)
            sides.append(model._terms(images, training=False)["loss"].numpy().sum())
        np.testing.assert_allclose(gradient[place], (sides[0] - sides[1]) / 2e-2, rtol=2e-2, atol=1e-2)


def test_dead_units_are_counted_over_an_epoch():
    metric = k_sparse_autoencoder.DeadUnits(4)
    metric.update_state(tf.constant([[0.0, 1, 0, 0], [0, 0, 0, 0]]))
    assert metric.result() == 3
    metric.update_state(tf.constant([[-1.0, 0, 0, 0]]))
    assert metric.result() == 2
    metric.reset_state()
    assert metric.result() == 4

    # Units whose bias is far below that of three others never win.
    model = make()
    model.bias.assign(np.where(np.arange(12) < 9, -100.0, 0.0))
    assert fit(model)["dead_units"] == [9]


def test_a_schedule_moves_k():
    model = make(alpha=2.0)
    history = fit(model, epochs=3, callbacks=[KSchedule(start=12, end=3, epochs=2)])
    assert history["k"] == [12, 8, 3]
    assert model.k == 3
    assert model.sparsity.inference_k == 6


@needs_native
@pytest.mark.parametrize("optimizer", [keras.optimizers.Adam, SparseAdam])
@pytest.mark.parametrize("options", ["paper", "untied", "relu", "dropout"])
def test_both_implementations_train_alike(options, optimizer):
    """With sparse and dense codes, and k from more than a quarter of the units to less."""
    histories = []
    for implementation in ("native", "tf"):
        model = make(**{**OPTIONS[options], "implementation": implementation}, compiled=False)
        model.compile(optimizer(0.01))
        histories.append(fit(model, 3, callbacks=[KSchedule(start=5, end=2, epochs=2)]))
    for name, values in histories[0].items():
        np.testing.assert_allclose(values, histories[1][name], rtol=1e-4, err_msg=name)


@needs_native
def test_a_training_step_has_no_dense_code():
    model = KSparseAutoencoder(SHAPE, 64, 3, seed=1)
    model.compile(SparseAdam(0.01))
    step = tf.function(lambda images: model.train_step((images,)))
    step(tf.constant(data(8)))
    graph = step.get_concrete_function(tf.TensorSpec((8, *SHAPE))).graph
    assert "SeparationFactor>SparseRowsAdam" in {op.type for op in graph.get_operations()}
    shapes = {tuple(each.shape) for op in graph.get_operations() for each in op.outputs if each.shape.rank}
    assert (8, 64) not in shapes


def as_earlier(path):
    """Rewrites a file as the model wrote it when its kernel had one column for each unit."""
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    weights = io.BytesIO(files["model.weights.h5"])
    with h5py.File(weights, "a") as file:
        del file["vars/kernel_has_rows_of_units"]
        # The optimizer's iteration and learning rate come before the moments.
        for name in ("vars/0", "optimizer/vars/2"):
            transposed = np.transpose(file[name])
            del file[name]
            file[name] = transposed
    files["model.weights.h5"] = weights.getvalue()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("tied", [False, True])
def test_earlier_files_load(tied, tmp_path):
    model = make(tied=tied)
    fit(model)
    model.save(tmp_path / "model.keras")
    as_earlier(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.reconstruct(data()), model.reconstruct(data()))
    assert fit(loaded, epochs=2) == fit(model, epochs=2)


def test_filters_are_what_a_unit_draws():
    for tied in (True, False):
        model = make(tied=tied)
        one_hot = np.eye(12, dtype="float32")
        drawn = model.decode(one_hot) - model.decode(np.zeros_like(one_hot))
        assert model.filters().shape == (12, *SHAPE)
        np.testing.assert_allclose(model.filters(), drawn, atol=1e-6)


@pytest.mark.parametrize("options", ["untied, relu, tf", "dropout"])
def test_a_saved_model_goes_on_as_the_same(options, tmp_path):
    model = make(**OPTIONS[options])
    fit(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(loaded.reconstruct(data()), model.reconstruct(data()))
    assert fit(loaded, epochs=2) == fit(model, epochs=2)


@pytest.mark.parametrize("options", OPTIONS)
def test_config_round_trip(options):
    config = make(**OPTIONS[options], compiled=False, name="some").get_config()
    assert config == json.loads(json.dumps(config))
    assert KSparseAutoencoder.from_config(config).get_config() == config
    for name, value in OPTIONS[options].items():
        assert config[name] == value


def test_mixed_precision():
    model = make(dtype="mixed_bfloat16")
    losses = fit(model, epochs=5)["loss"]
    assert losses[-1] < losses[0]
    assert model.sparsity.compute_dtype == "bfloat16"
    assert model.reconstruct(data()).dtype == tf.float32


def test_docstring_example():
    results = doctest.testmod(k_sparse_autoencoder, globs={"np": np, **vars(k_sparse_autoencoder)})
    assert results.attempted > 0
    assert results.failed == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_shape": (28, 28)}, "`image_shape` must be three positive integers"),
        ({"units": 0}, "`units` must be a positive integer"),
        ({"units": 10, "k": 11}, "`k` must be at most `units`. Received: k=11, units=10"),
        ({"k": -1}, "`k` must be a non-negative integer"),
        ({"alpha": 0}, "`alpha` must be positive"),
        ({"alpha": "2"}, "`alpha` must be a finite number"),
        ({"activation": "tanh"}, "`activation` must be one of .*'relu'.*activation=tanh"),
        ({"input_dropout": 1.0}, r"`input_dropout` must be in the range \[0, 1\)"),
        ({"code_dropout": -0.1}, r"`code_dropout` must be in the range \[0, 1\)"),
        ({"seed": 1.5}, "`seed` must be an integer or `None`"),
        ({"implementation": "gpu"}, "`implementation` must be one of"),
    ],
)
def test_argument_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        KSparseAutoencoder(**arguments)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m, x: m.fit(x, x), "images alone"),
        (lambda m, x: m.encode(x[:, :3]), r"shape \(batch, 4, 5, 1\).*\(40, 3, 5, 1\)"),
        (lambda m, x: m.reconstruct(x.astype(int)), "floats"),
    ],
)
def test_call_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call(make(), data())
