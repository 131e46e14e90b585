"""The private names of TensorFlow, Keras and Python: one module uses them, and works without them."""

import ast
import importlib.util
import re
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

import oracle
import separationfactor as sf
from separationfactor import _private, implementations, ops
from separationfactor.models.image_model import ImageModel

PYTHON = Path(sf.__file__).parents[1]
TREE = ast.parse(Path(_private.__file__).read_text())


def imported_names():
    """Returns the names that `_private` imports, and the names that it reads from the imported modules."""
    imports = [
        (alias.asname or alias.name, f"{node.module}.{alias.name}")
        for node in ast.walk(TREE)
        if isinstance(node, ast.ImportFrom) and node.module.startswith("tensorflow.python")
        for alias in node.names
    ]
    modules = dict(imports)
    read = [
        f"{modules[node.value.id]}.{node.attr}"
        for node in ast.walk(TREE)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id in modules
        # These modules need the function `context` before `_private` could miss it.
        and node.attr != "context"
    ]
    return sorted({*modules.values(), *read})


IMPORTED = imported_names()
# The attributes that `_private` reads with `getattr`.
ATTRIBUTES = sorted(
    {
        node.value
        for node in ast.walk(TREE)
        if isinstance(node, ast.Constant) and re.fullmatch("_[a-z_]+[a-z]", str(node.value))
    }
)


def remove(monkeypatch, path):
    """Removes a name from its module, and from the loaded modules if it is one."""
    module, _, name = path.rpartition(".")
    monkeypatch.delattr(importlib.import_module(module), name, raising=False)
    if path in sys.modules:
        monkeypatch.setitem(sys.modules, path, None)


def use_private_without(monkeypatch, names):
    """Lets the package use a copy of `_private` that was imported while the names were missing."""
    spec = importlib.util.spec_from_file_location("separationfactor._private", _private.__file__)
    copy = importlib.util.module_from_spec(spec)

    # Keras itself needs its attributes, so they are hidden from `_private` only.
    def getattr_public(thing, name, default):
        return default if name in names else getattr(thing, name, default)

    copy.getattr = getattr_public
    with monkeypatch.context() as patch:
        for name in sorted(set(names) & set(IMPORTED), reverse=True):  # A module after the names in it.
            remove(patch, name)
        spec.loader.exec_module(copy)
    for name, value in vars(copy).items():
        if not name.startswith("__"):
            monkeypatch.setattr(_private, name, value, raising=False)
    monkeypatch.setattr(ops, "EagerTensor", copy.EagerTensor)
    environment, key = copy.environment(implementations._ENVIRONMENT_VARIABLE)
    monkeypatch.setattr(implementations, "_environment", environment)
    monkeypatch.setattr(implementations, "_KEY", key)


def missing(names):
    """Runs a test while each name is missing, and while all are."""
    cases = [*([name] for name in names), IMPORTED + ATTRIBUTES]
    return pytest.mark.parametrize("names", cases, ids=[*names, "all"])


X = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)


def test_the_names_are_found():
    assert "tensorflow.python.eager.record.stop_recording" in IMPORTED
    assert "_flatten_layers" in ATTRIBUTES


def test_without_the_imports_nothing_private_is_left(monkeypatch):
    use_private_without(monkeypatch, IMPORTED)
    assert _private.EagerTensor is None
    assert not _private.has_tapes()
    assert _private.RegisterPFor is None


@missing(IMPORTED)
def test_results_and_gradients(monkeypatch, names, implementation):
    use_private_without(monkeypatch, names)
    selected = np.sort(X)[:, -2:-1] <= X
    factor = np.where(selected, np.float32(2), np.float32(0.5))

    def gradients(x, separation):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as tape:
                tape.watch([x, separation])
                y = sf.separate(x, 2, separation, 0.5, implementation=implementation)
                f = tf.reduce_sum(y**2)
            d_x, d_separation = tape.gradient(f, [x, separation])
        return y, d_x, d_separation, outer.gradient(d_x, x)

    for how in (lambda f: f, tf.function):
        y, d_x, d_separation, second = how(gradients)(tf.constant(X), tf.constant(2.0))
        np.testing.assert_array_equal(y, X * factor)
        np.testing.assert_allclose(d_x, 2 * X * factor**2, rtol=1e-6)
        np.testing.assert_allclose(d_separation, (4 * X**2)[selected].sum(), rtol=1e-6)
        np.testing.assert_allclose(second, 2 * factor**2, rtol=1e-6)
    x = tf.constant(X)
    np.testing.assert_array_equal(sf.separate(x, 2, 2.0, 0.5, implementation=implementation), X * factor)
    with pytest.raises(tf.errors.InvalidArgumentError, match=r"k must be in \[0, n\]"):
        sf.separate(x, 7, 2.0, 0.5, implementation=implementation)


class Inner(keras.layers.Layer):
    """Layers that only the attributes know."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.by_name = {"dense": keras.layers.Dense(8), "others": [sf.KSparse(3)]}

    def call(self, x):
        return self.by_name["others"][0](self.by_name["dense"](x))


@missing(ATTRIBUTES)
def test_layers_schedules_and_copies(monkeypatch, names):
    use_private_without(monkeypatch, names)
    wrapper = keras.layers.TimeDistributed(
        keras.Sequential([keras.layers.Dense(4), sf.SeparationFactor(2, 0.5)])
    )
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.Sequential([Inner()]),
            keras.layers.Reshape((2, 4)),
            wrapper,
            keras.layers.Lambda(lambda x: 2 * x),
        ]
    )
    (sparse,) = (layer for layer in _private.all_layers(model) if isinstance(layer, sf.KSparse))
    assert wrapper.layer.layers[1] in _private.all_layers(model)
    model.compile("sgd", "mse")
    model.fit(X, np.ones((4, 2, 4)), verbose=0, callbacks=[sf.KSchedule(6, 5, 2)])
    assert sparse.k == 6

    copy = sf.portable(model)

    oracle.assert_same(copy(X), np.asarray(model(X)))
    used = [layer.implementation for layer in _private.all_layers(copy) if hasattr(layer, "implementation")]
    assert used == ["tf", "tf"]


ADAM = ["_get_variable_index", "_momentums", "_velocities", "_velocity_hats"]


@missing(ADAM)
@pytest.mark.parametrize("amsgrad", [False, True])
def test_sparse_adam_finds_its_moments(monkeypatch, names, amsgrad):
    def trained(optimizer):
        keras.utils.set_random_seed(0)
        model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3), keras.layers.Dense(2)])
        model.compile(optimizer, "mse")
        model.fit(X, X[:, :2], batch_size=2, epochs=2, verbose=0)
        return model.get_weights()

    expected = trained(keras.optimizers.Adam(0.01, amsgrad=amsgrad))
    use_private_without(monkeypatch, names)
    for weights, wanted in zip(
        trained(sf.optimizers.SparseAdam(0.01, amsgrad=amsgrad)), expected, strict=True
    ):
        np.testing.assert_allclose(weights, wanted, rtol=1e-4, atol=1e-5)


class Penalized(ImageModel):
    """A model that adds a penalty of 2 to each example's loss of 1."""

    def __init__(self):
        super().__init__((2, 2, 1), [keras.metrics.Mean("loss")])

    def _terms(self, data, training):
        self.add_loss(tf.constant(2.0))
        return {"loss": tf.ones(tf.shape(self._images_alone(data))[0])}


@pytest.mark.parametrize("run_eagerly", [False, True])
@missing(["_clear_losses"])
@pytest.mark.filterwarnings("ignore:The model does not have any trainable weights")
def test_losses_of_earlier_steps_do_not_count(monkeypatch, names, run_eagerly):
    use_private_without(monkeypatch, names)
    model = Penalized()
    model.compile("sgd", run_eagerly=run_eagerly)
    images = np.zeros((3, 2, 2, 1), np.float32)
    for _ in range(2):
        assert model.evaluate(images, batch_size=1, verbose=0) == 3
        assert model.fit(images, batch_size=1, verbose=0).history["loss"] == [3]


@missing(["_data"])
def test_the_environment_says_what_auto_means(monkeypatch, names):
    use_private_without(monkeypatch, names)
    monkeypatch.setenv(implementations._ENVIRONMENT_VARIABLE, "tf")
    assert not implementations.runs_eagerly("auto")
    monkeypatch.delenv(implementations._ENVIRONMENT_VARIABLE)
    assert implementations.runs_eagerly("auto") == implementations.runs_eagerly("native")


def private_names(tree):
    """Returns the names with a leading underscore that code reads, and those that it defines."""
    read, defined = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            defined.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            defined.add(node.id)
        elif isinstance(node, ast.alias):
            defined.add(node.asname or node.name)
        elif isinstance(node, ast.Attribute):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls", "run")
            (defined if own and isinstance(node.ctx, ast.Store) else read).add(node.attr)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("getattr", "hasattr", "setattr"):
            read.add(str(getattr(node.args[1], "value", "")))
    return {name for name in read if re.fullmatch("_[a-z]\\w*[a-z]", name)}, defined


def private_imports(tree):
    for node in ast.walk(tree):
        names = [node.module] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        yield from (name for name in names if name and name.startswith(("tensorflow.", "keras.")))


def test_no_other_module_uses_private_names():
    # Where the package is installed, other packages lie beside it.
    packages = (PYTHON / name for name in ("separationfactor", "separationfactor_lab"))
    paths = [path for package in packages for path in package.rglob("*.py")]
    trees = {path: ast.parse(path.read_text()) for path in paths}
    assert len(trees) > 40
    defined = set().union(*(private_names(tree)[1] for path, tree in trees.items()))
    for path, tree in trees.items():
        if path == Path(_private.__file__):
            assert private_names(tree)[0] - defined
            assert list(private_imports(tree))
        else:
            assert not private_names(tree)[0] - defined, path
            assert not list(private_imports(tree)), path
