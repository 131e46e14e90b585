"""KSchedule in training: which k each epoch has, which layer it is, and that nothing is retraced."""

import doctest

import keras
import numpy as np
import pytest

import separationfactor as sf
from separationfactor import callbacks


class CountingModel(keras.Model):
    """Counts how often its training step is traced."""

    traces = 0

    def train_step(self, data):
        self.traces += 1
        return super().train_step(data)


class Recorder(keras.callbacks.Callback):
    """Records the k of a layer in the batches of each epoch."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer
        self.seen = []

    def on_train_batch_end(self, batch, logs=None):
        self.seen.append(self.layer.k)


X = np.random.default_rng(0).standard_normal((8, 6)).astype("float32")


def model_with(*layers):
    inputs = outputs = keras.Input((6,))
    for layer in (keras.layers.Dense(20), *layers, keras.layers.Dense(6)):
        outputs = layer(outputs)
    model = CountingModel(inputs, outputs)
    model.compile("sgd", "mse")
    return model


def fit(model, *callbacks, **kwargs):
    return model.fit(X, X, batch_size=4, verbose=0, callbacks=list(callbacks), **kwargs)


def test_k_by_epoch_without_retracing(implementation):
    layer = sf.KSparse(5, implementation=implementation)
    model = model_with(layer)
    recorder = Recorder(layer)
    history = fit(model, sf.KSchedule(20, 5, epochs=3), recorder, epochs=5)
    assert history.history["k"] == [20, 15, 10, 5, 5]
    assert recorder.seen == [20, 20, 15, 15, 10, 10, 5, 5, 5, 5]
    assert layer.k == 5
    assert model.traces == 1


def test_k_takes_part_in_training(implementation):
    layer = sf.KSparse(5, implementation=implementation)
    model = model_with(layer)
    # Only the selected ones of the 20 units receive a gradient.
    fit(model, sf.KSchedule(0, 20, epochs=1), epochs=1)
    assert layer.k == 0
    before = model.layers[1].get_weights()[0]
    fit(model, sf.KSchedule(0, 20, epochs=1), epochs=1)
    np.testing.assert_array_equal(model.layers[1].get_weights()[0], before)
    fit(model, sf.KSchedule(0, 20, epochs=1), epochs=2, initial_epoch=1)
    assert layer.k == 20
    assert (model.layers[1].get_weights()[0] != before).all()


def test_k_depends_on_the_epoch_alone():
    layer = sf.KSparse(5)
    model = model_with(layer)
    schedule = sf.KSchedule(20, 5, epochs=5)
    whole = fit(model, schedule, epochs=7).history["k"]
    first = fit(model, schedule, epochs=3).history["k"]
    rest = fit(model, sf.KSchedule(20, 5, epochs=5), epochs=7, initial_epoch=3).history["k"]
    assert whole == [20, 17, 14, 11, 8, 5, 5]
    assert first + rest == whole


@pytest.mark.parametrize(
    ("start", "end", "epochs", "ks"),
    [
        (100, 15, 4, [100, 79, 58, 36, 15, 15]),
        (3, 3, 2, [3, 3, 3]),
        (0, 4, 2, [0, 2, 4, 4]),
        (7, 1, 1, [7, 1, 1]),
    ],
)
def test_k_at(start, end, epochs, ks):
    schedule = sf.KSchedule(start, end, epochs)
    assert [schedule.k_at(epoch) for epoch in range(len(ks))] == ks


def test_layer_by_name_and_by_instance():
    first, second = sf.KSparse(5, name="first"), sf.KSparse(5, name="second")
    model = model_with(first, second)
    history = fit(
        model,
        sf.KSchedule(20, 10, epochs=1, layer="first"),
        sf.KSchedule(8, 4, epochs=2, layer=second),
        epochs=3,
    )
    assert history.history["k_first"] == [20, 10, 10]
    assert history.history["k_second"] == [8, 6, 4]
    assert "k" not in history.history


def test_layer_of_a_nested_model():
    layer = sf.KSparse(5, name="nested")
    model = model_with(keras.Sequential([keras.layers.Dense(20), layer]))
    for which in (None, "nested", layer):
        fit(model, sf.KSchedule(20, 7, epochs=1, layer=which), epochs=2)
        assert layer.k == 7


def test_model_that_is_not_built_yet():
    layer = sf.KSparse(5)
    model = keras.Sequential([keras.layers.Dense(20), layer, keras.layers.Dense(6)])
    model.compile("sgd", "mse")
    assert fit(model, sf.KSchedule(20, 7, epochs=1), epochs=2).history["k"] == [20, 7]


def test_layer_that_is_not_found():
    model = model_with(sf.KSparse(5, name="one"), sf.KSparse(5, name="two"))
    for layer, received in (
        (None, "None"),
        ("three", "three"),
        ("dense", "dense"),
        (sf.KSparse(3, name="four"), "four"),
    ):
        with pytest.raises(ValueError, match=rf"are \['one', 'two'\]. Received: layer={received}"):
            fit(model, sf.KSchedule(20, 7, epochs=1, layer=layer))
    fixed = model_with(sf.SeparationFactor(1, 0, k=5))
    with pytest.raises(ValueError, match=r"`KSparse` layers are \[\]"):
        fit(fixed, sf.KSchedule(20, 7, epochs=1))


def test_k_beyond_the_layers_width():
    with pytest.raises(ValueError, match=r"at most the size of axis -1 of its inputs, 20.*k=21"):
        fit(model_with(sf.KSparse(5)), sf.KSchedule(21, 7, epochs=1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((-1, 5, 3), "`start` must be a non-negative integer. Received: start=-1"),
        ((5, 2.5, 3), "`end` must be a non-negative integer. Received: end=2.5"),
        ((5, 2, 0), "`epochs` must be a positive integer. Received: epochs=0"),
        ((5, 2, 3, 4), "`layer` must be a `KSparse` layer, its name, or `None`"),
        ((5, 2, 3, keras.layers.Dense(1)), "`layer` must be a `KSparse` layer"),
    ],
)
def test_argument_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        sf.KSchedule(*arguments)


def test_docstring_example():
    results = doctest.testmod(callbacks, globs={"np": np, **vars(callbacks)})
    assert results.attempted > 0
    assert results.failed == 0
