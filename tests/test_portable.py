"""Models saved, loaded in other processes, copied to TensorFlow's own ops and converted."""

import doctest
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
import tensorflow as tf

import oracle
import separationfactor as sf
from conftest import needs_native
from separationfactor import library, portability
from separationfactor.layers import SelectingLayer

NATIVE = "native" if library.ops is not None else "tf"


class Configured(keras.Model):
    """A subclassed model, not registered, whose layers its configuration does not name."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units
        self.dense = keras.layers.Dense(units)
        self.selecting = [
            sf.KSparse(2, inference_k=3, implementation=NATIVE),
            sf.SeparationFactor(3, 0.5, trainable_factors=True, implementation=NATIVE),
        ]

    def call(self, inputs, training=False):
        sparse, separation = self.selecting
        return separation(sparse(self.dense(inputs), training=training))

    def get_config(self):
        return {**super().get_config(), "units": self.units}


class Unconfigured(keras.Model):
    """A subclassed model without a `get_config`."""

    def __init__(self, units, activation):
        super().__init__()
        self.dense, self.activation = keras.layers.Dense(units), activation
        self.by_name = {"sparse": sf.KSparse(2, implementation=NATIVE)}
        self.scale = self.add_weight(shape=(), initializer="ones", name="scale")

    def call(self, inputs):
        return self.by_name["sparse"](self.activation(self.dense(inputs))) * self.scale


def sequential():
    return keras.Sequential([keras.Input((6,)), keras.layers.Dense(8), sf.KSparse(3, implementation=NATIVE)])


def sharing():
    """Two models that share a layer, which the outer one uses as well."""
    shared = sf.KSparse(2, implementation=NATIVE)
    first = keras.Sequential([keras.Input((6,)), keras.layers.Dense(6), shared])
    second = keras.Sequential([keras.Input((6,)), shared, keras.layers.Dense(6)])
    inputs = keras.Input((6,))
    return keras.Model(inputs, [first(inputs), second(first(inputs)), shared(2 * inputs + 1)])


def wrapped():
    inner = keras.Sequential([keras.layers.Dense(6), sf.SeparationFactor(3, 0.5, implementation=NATIVE)])
    inputs = keras.Input((6,))
    rows = keras.layers.Reshape((2, 3))(keras.layers.Dropout(0.5)(inputs))
    outputs = keras.layers.TimeDistributed(inner)(rows)
    return keras.Model(inputs, keras.layers.Lambda(lambda rows: tf.nn.relu(rows))(outputs))


def subclassed_in_functional():
    inputs = keras.Input((6,))
    inner = Configured(5)
    return keras.Model(inputs, [inner(inputs), inner(-inputs)])


MODELS = {
    "sequential": sequential,
    "sharing": sharing,
    "wrapped": wrapped,
    "subclassed": lambda: Configured(5),
    "subclassed in functional": subclassed_in_functional,
    "without a configuration": lambda: Unconfigured(7, tf.nn.relu),
    "around a model": lambda: Unconfigured(6, sharing().layers[1]),
}
models = pytest.mark.parametrize("name", MODELS)


def normal(shape=(5, 6), seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def selecting(model):
    return [layer for layer in model._flatten_layers() if isinstance(layer, SelectingLayer)]


def assert_same(actual, expected):
    for one, other in zip(keras.tree.flatten(actual), keras.tree.flatten(expected), strict=True):
        oracle.assert_same(one, np.asarray(other))


# The copy


@models
def test_the_copy_computes_the_same_with_tensorflows_ops(name):
    model = MODELS[name]()
    expected = model(normal())
    for layer in selecting(model):
        if isinstance(layer, sf.KSparse):
            layer.k = 1
    expected = model(normal())

    copy = sf.portable(model)

    assert type(copy) is type(model)
    assert_same(copy(normal()), expected)
    assert [layer.implementation for layer in selecting(copy)] == ["tf"] * len(selecting(model))
    assert all(layer.supports_jit for layer in selecting(copy))
    assert [layer.implementation for layer in selecting(model)] == [NATIVE] * len(selecting(model))
    for weight in copy.weights:
        weight.assign(weight + 1)
    assert_same(model(normal()), expected)
    assert not {id(weight) for weight in copy.weights} & {id(weight) for weight in model.weights}


@pytest.mark.parametrize("name", ["subclassed", "without a configuration"])
def test_the_copy_of_a_subclassed_model_is_exported(name, tmp_path):
    model = MODELS[name]()
    expected = model(normal())
    sf.portable(model).export(tmp_path, verbose=False)
    loaded = tf.saved_model.load(tmp_path)
    np.testing.assert_allclose(loaded.serve(normal()), expected, rtol=1e-6)


def functional():
    """A model that calls `separate`, and contains another model that does."""
    inputs = keras.Input((6,))
    inner = keras.Model(inputs, sf.separate(inputs, np.int16(3), 2.0, 0.5, implementation=NATIVE))
    outer = sf.separate(
        inner(keras.layers.Dense(6)(inputs)), 2, axis=1, by="magnitude", implementation=NATIVE
    )
    return keras.Model(inputs, outer)


def test_separate_of_a_keras_tensor(tmp_path):
    model = functional()
    assert model.output_shape == (None, 6)
    hidden = model.layers[1](normal())
    first = oracle.separate(np.asarray(hidden), 3, 2.0, 0.5)
    oracle.assert_same(model(normal()), oracle.separate(first, 2, by="magnitude"))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_same(loaded(normal()), model(normal()))
    copy = sf.portable(model)
    assert_same(copy(normal()), model(normal()))

    def implementations(model):
        layers = [model, *model._flatten_layers(include_self=False)]
        operations = [each for layer in layers for each in getattr(layer, "operations", ())]
        return [each.implementation for each in operations if hasattr(each, "implementation")]

    assert implementations(copy) == ["tf"] * 2
    assert implementations(model) == [NATIVE] * 2


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"k": 7}, tf.errors.InvalidArgumentError, r"k must be in \[0, n\].*k = 7, n = 6"),
        ({"k": -1}, tf.errors.InvalidArgumentError, r"k must be in \[0, n\].*k = -1"),
        ({"k": tf.constant(2)}, TypeError, "`k` must be an int if `x` is a KerasTensor"),
        ({"k": True}, TypeError, "`k` must be an int if.*k=True"),
        ({"separation": tf.constant(2.0)}, TypeError, "`separation` must be a number if"),
        ({"suppression": "0"}, TypeError, "`suppression` must be a number if.*'0'"),
        ({"axis": 2}, ValueError, r"`axis` must be an int in \[-rank, rank\).*axis=2 for x of rank 2"),
        ({"axis": 0.5}, ValueError, "`axis` must be an int.*axis=0.5"),
        ({"by": "size"}, ValueError, "`by` must be 'value' or 'magnitude'.*'size'"),
        ({"implementation": "cuda"}, ValueError, "`implementation` must be one of 'auto'.*'cuda'"),
        ({"x": keras.Input((6,), dtype="int32")}, TypeError, "`x` must be of dtype float32.*int32"),
        ({"x": keras.Input((6,), sparse=True)}, TypeError, "`x` must be a dense tensor.*sparse=True"),
        ({"x": keras.KerasTensor(())}, ValueError, "`x` must have at least one axis"),
    ],
)
def test_bad_arguments_beside_a_keras_tensor(arguments, error, message):
    with pytest.raises(error, match=message):
        sf.separate(**{"x": keras.Input((6,)), **arguments})


def test_k_beyond_a_keras_tensors_batch():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, sf.separate(inputs, 3, axis=0, implementation=NATIVE))
    assert np.count_nonzero(model(normal())) == 18
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"k must be in \[0, n\].*k = 3, n = 2"):
        model(normal((2, 6)))


def test_what_is_shared_stays_shared():
    copy = sf.portable(sharing())
    (shared,) = selecting(copy)
    shared.k = 0
    for output in (copy(normal())[0], copy(normal())[2]):
        assert np.count_nonzero(output) == 0


def test_trained_factors_schedules_and_what_is_frozen_are_kept():
    model = Configured(5)
    model.compile("sgd", "mse", metrics=["mae"])
    x, y = normal(), normal((5, 5), seed=1)
    model.fit(x, y, epochs=2, verbose=0, callbacks=[sf.KSchedule(5, 4, 1)])
    model.dense.trainable = False

    copy = sf.portable(model)

    sparse, separation = copy.selecting
    assert (sparse.k, sparse.inference_k) == (4, 3)
    assert separation.separation.numpy() == model.selecting[1].separation.numpy() != 3
    assert [weight.name for weight in copy.trainable_weights] == ["separation", "suppression"]
    assert copy.evaluate(x, y, verbose=0) == model.evaluate(x, y, verbose=0)
    copy.fit(x, y, verbose=0, callbacks=[sf.KSchedule(5, 4, 1)])
    assert model.selecting[0].k == 4
    assert copy.selecting[0].k == 5


def test_a_model_that_was_not_built_is_built_later():
    copy = sf.portable(keras.Sequential([keras.layers.Dense(8), sf.KSparse(3, implementation=NATIVE)]))
    assert not copy.built
    assert np.count_nonzero(copy(normal())) == 15


def test_a_vocabulary_is_kept():
    vectorization = keras.layers.TextVectorization(output_mode="count")
    vectorization.adapt(["a b c", "d e"])
    inputs = keras.Input((), dtype="string")
    counts = keras.ops.cast(vectorization(inputs), "float32")
    model = keras.Model(inputs, sf.KSparse(2, implementation=NATIVE)(counts))
    assert_same(sf.portable(model)(tf.constant(["a a e", "b"])), model(tf.constant(["a a e", "b"])))


def test_the_reference_model():
    model = sf.models.ConditionalVAE((8, 8, 1), 3, trainable_factors=True, implementation=NATIVE, seed=4)
    model.compile(keras.optimizers.Adam(1e-2))
    images, labels = np.random.default_rng(0).random((8, 8, 8, 1), np.float32), np.arange(8) % 3
    model.fit(images, labels, verbose=0)
    copy = sf.portable(model)
    assert copy.separation.implementation == copy.get_config()["implementation"] == "tf"
    # With the state of its seed generator.
    assert_same(copy.generate([0, 1, 2]), model.generate([0, 1, 2]))
    copy.fit(images, labels, verbose=0)


def test_what_cannot_be_compiled_alike_is_not_compiled():
    model = sequential()
    model.compile("sgd", lambda y, predicted: y - predicted)
    with pytest.warns(UserWarning, match="portable copy of model .* is not compiled"):
        copy = sf.portable(model)
    assert model.compiled
    assert not copy.compiled


def test_what_is_no_model_and_what_cannot_be_rebuilt():
    with pytest.raises(ValueError, match="Argument `model` must be a Keras model.*KSparse"):
        sf.portable(sf.KSparse(2))

    class Wrong(Configured):
        def get_config(self):
            return {**super().get_config(), "size": 3}

    with pytest.raises(ValueError, match="must be a model that can be rebuilt.*Wrong.*size"):
        sf.portable(Wrong(5))

    class Grown(Configured):
        def __init__(self, units, **kwargs):
            super().__init__(units, **kwargs)
            self.more = []

    grown = Grown(5)
    grown.more.append(keras.layers.Dense(2))
    with pytest.raises(ValueError, match="was made with the layers"):
        sf.portable(grown)


def test_docstring_examples():
    globs = {"keras": keras, "KSparse": sf.KSparse, **vars(portability)}
    results = doctest.testmod(portability, globs=globs)
    assert results.attempted > 0
    assert results.failed == 0


# Other processes and other runtimes

# Rows in which ties, signs of zero, infinities and NaN decide the selection.
ROWS = np.concatenate(
    [
        normal((4, 9)),
        np.round(normal((4, 9), seed=1)),
        np.zeros((1, 9), np.float32),
        np.array([[0, -0.0] * 4 + [0]], np.float32),
        np.array([[1, np.inf, np.inf, -np.inf, np.inf, 0, 2, np.inf, 3]], np.float32),
        np.array([[1, np.nan, np.inf, np.nan, 5, 0, 2, np.inf, np.nan]], np.float32),
    ]
)


def all_layers(implementation):
    """A model of our layers alone, whose k is a variable and a constant and whose factors are both."""
    inputs = keras.Input((9,))
    return keras.Model(
        inputs,
        [
            sf.KSparse(3, implementation=implementation)(inputs),
            sf.KSparse(3, inference_k=4, by="magnitude", implementation=implementation)(inputs),
            sf.SeparationFactor(10, 0.25, implementation=implementation)(inputs),
            sf.SeparationFactor(-2, 0, k=2, trainable_factors=True, implementation=implementation)(inputs),
        ],
    )


def run_python(code, *arguments):
    process = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout.splitlines()[-1])


WITHOUT_US = """
import json, sys
import numpy as np
import tensorflow as tf

portable, native, rows, results = sys.argv[1:]
x = tf.constant(np.load(rows))
loaded = tf.saved_model.load(portable)
np.savez(results, *loaded.serve(x))
np.savez(results.replace(".npz", "-signature.npz"), **loaded.signatures["serving_default"](x))
try:
    tf.saved_model.load(native)
    error = None
except Exception as raised:
    error = f"{type(raised).__name__}: {raised}"
names = [name for name in sys.modules if name.startswith("separationfactor")]
print(json.dumps([names, error]))
"""


@needs_native
def test_an_export_loads_where_this_package_is_not_imported(tmp_path):
    model = all_layers("native")
    expected = model(ROWS)
    model.export(tmp_path / "native", verbose=False)
    sf.portable(model).export(tmp_path / "portable", verbose=False)
    np.save(tmp_path / "rows.npy", ROWS)
    names, error = run_python(
        WITHOUT_US, *(tmp_path / name for name in ("portable", "native", "rows.npy", "results.npz"))
    )
    assert names == []
    # The message that the README explains.
    assert "Op type not registered 'SeparationFactor>Separate' in binary" in error
    for file in ("results.npz", "results-signature.npz"):
        results = np.load(tmp_path / file)
        assert_same([results[name] for name in sorted(results.files)], expected)


WITH_US = """
import json, sys
import keras
import numpy as np
import tensorflow as tf
import separationfactor as sf

folder, implementation = sys.argv[1:]
x = tf.constant(np.load(f"{folder}/rows.npy"))
expected = [np.load(f"{folder}/expected.npz")[f"arr_{i}"] for i in range(4)]

def check(outputs):
    for output, right in zip(outputs, expected, strict=True):
        np.testing.assert_array_equal(output, right)

exported = tf.saved_model.load(f"{folder}/export")
check(exported.serve(x))

loaded = tf.saved_model.load(f"{folder}/saved-model")
with tf.GradientTape() as tape:
    tape.watch(x)
    outputs = loaded(x)
    total = tf.add_n([tf.reduce_sum(output) for output in outputs])
check(outputs)
np.testing.assert_array_equal(tape.gradient(total, x), np.load(f"{folder}/gradient.npy"))

model = keras.models.load_model(f"{folder}/model.keras")
check(model(x))
for weight in model.weights:
    weight.assign(weight * 0)
model.load_weights(f"{folder}/model.weights.h5")
check(model(x))
for weight in model.weights:
    weight.assign(weight * 0)
tf.train.Checkpoint(model=model).restore(f"{folder}/checkpoint-1").assert_consumed()
check(model(x))
print(json.dumps([layer.implementation for layer in model.layers[1:]]))
"""


def test_what_is_saved_loads_where_this_package_is_imported(implementation, tmp_path):
    model = all_layers(implementation)
    model.layers[1].k = 5
    # Without NaN, whose sum would hide all else.
    x = tf.constant(ROWS[:-2])
    with tf.GradientTape() as tape:
        tape.watch(x)
        expected = model(x)
        total = tf.add_n([tf.reduce_sum(output) for output in expected])
    np.save(tmp_path / "rows.npy", x)
    np.save(tmp_path / "gradient.npy", tape.gradient(total, x))
    np.savez(tmp_path / "expected.npz", *expected)
    model.export(tmp_path / "export", verbose=False)
    module = tf.Module()
    module.model = model
    module.__call__ = tf.function(lambda x: model(x), input_signature=[tf.TensorSpec((None, 9))])
    tf.saved_model.save(module, tmp_path / "saved-model")
    model.save(tmp_path / "model.keras")
    model.save_weights(tmp_path / "model.weights.h5")
    tf.train.Checkpoint(model=model).save(tmp_path / "checkpoint")
    assert run_python(WITH_US, tmp_path, implementation) == [implementation] * 4


def tflite_interpreter(path):
    try:
        from ai_edge_litert import interpreter
    except ImportError:
        interpreter = tf.lite
    return interpreter.Interpreter(model_path=str(path))


def tflite_outputs(model, rows, folder):
    """Returns what a model of built-in ops alone gives when it is exported, converted and run."""
    model.export(folder, verbose=False)
    converter = tf.lite.TFLiteConverter.from_saved_model(str(folder))
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    (folder / "model.tflite").write_bytes(converter.convert())
    runner = tflite_interpreter(folder / "model.tflite").get_signature_runner()
    (name,) = runner.get_input_details()
    outputs = runner(**{name: rows})
    return [outputs[name] for name in sorted(outputs)]


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
def test_tflite_of_built_in_ops_gives_the_same(tmp_path):
    rows = ROWS
    inputs = keras.Input((9,))
    product = keras.Model(inputs, keras.layers.Rescaling(0.25)(inputs))
    if not np.isinf(tflite_outputs(product, rows[-2:], tmp_path / "product")).any():
        rows = ROWS[:-2]  # TensorFlow's own products end at the greatest finite number before 2.19
    model = all_layers(NATIVE)
    assert_same(tflite_outputs(sf.portable(model), rows, tmp_path / "portable"), model(rows))


def over_the_batch():
    """Models whose k an export cannot check, because its runtimes leave out assertions."""
    model = keras.Sequential([keras.Input((9,)), sf.KSparse(3, axis=0, implementation=NATIVE)])
    model(ROWS)  # Keras exports to ONNX only models that were called.
    return model, sf.portable(model)


@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated")
def test_tflite_of_a_batch_smaller_than_k_is_nan(tmp_path):
    model, portable = over_the_batch()
    rows = ROWS[:4]
    assert_same(tflite_outputs(portable, rows, tmp_path / "right"), [model(rows)])
    assert np.isnan(tflite_outputs(portable, rows[:2], tmp_path / "wrong")[0]).all()


def test_onnx_of_a_batch_smaller_than_k_is_nan(tmp_path):
    pytest.importorskip("tf2onnx", reason="the extra onnx is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    model, portable = over_the_batch()
    portable.export(tmp_path / "model.onnx", format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    name = session.get_inputs()[0].name
    np.testing.assert_array_equal(session.run(None, {name: ROWS[:4]})[0], model(ROWS[:4]))
    assert np.isnan(session.run(None, {name: ROWS[:2]})[0]).all()


def test_onnx_gives_the_same(tmp_path):
    pytest.importorskip("tf2onnx", reason="the extra onnx is not installed")
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
    model = all_layers(NATIVE)
    rows = ROWS[
        :-2
    ]  # tf2onnx adds and multiplies where TensorFlow chooses, so only numbers and no zeros' signs
    expected = model(rows)
    sf.portable(model).export(tmp_path / "model.onnx", format="onnx", verbose=False)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    outputs = session.run(None, {session.get_inputs()[0].name: rows})
    for output, right in zip(outputs, expected, strict=True):
        np.testing.assert_array_equal(output, right)
