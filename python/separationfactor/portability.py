"""Copies of models that use only TensorFlow's own ops."""

from __future__ import annotations

import contextlib
import functools
import tempfile
import warnings

import keras

from separationfactor import _private
from separationfactor.layers import SelectingLayer
from separationfactor.ops import Separate
from separationfactor.sparse_layers import SparseLayer


def portable(model: keras.Model) -> keras.Model:
    """Returns a copy of a model that uses TensorFlow's own ops instead of the compiled op.

    The copy computes the same bits. An export of the copy, such as `portable(model).export(path)`, loads
    without this package. It converts to ONNX, and to TFLite with built-in ops only.

    Every `SeparationFactor`, `KSparse`, `SparseEncoder` and `SparseDecoder` layer, and every `separate` of a
    `keras.KerasTensor`, gets `implementation="tf"`, at any depth of nested functional, sequential and
    subclassed models and of wrappers. If a model's own code calls `separationfactor.separate`, the call
    itself must choose the implementation.

    The copy has the same weights, including trained factors and the current `k`. Layers shared within
    functional models, including nested models, stay shared. The copy is compiled like the model, with a new
    optimizer state.

    Functional and sequential models are rebuilt from their layers. All others are rebuilt from `get_config()`
    or, if they have none, from their attributes. No class needs to be registered.

    Example:
    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(20), KSparse(3)])
    >>> portable(model).layers[-1].implementation
    'tf'

    Args:
        model: A `keras.Model`. It is not modified.

    Returns:
        A `keras.Model`.

    Raises:
        ValueError: If `model` is not a Keras model or cannot be rebuilt.
    """
    if not isinstance(model, keras.Model):
        raise ValueError(
            f"Argument `model` must be a Keras model. Received: model={model} (of type {type(model)})"
        )
    layers = _private.all_layers(model)
    classes = {type(layer) for layer in layers if not type(layer).__module__.startswith("keras.")}
    with keras.saving.custom_object_scope({each.__name__: each for each in classes}):
        try:
            with _uncompiled(layers):
                copy = _clone(model, {})
            _copy_state(model, copy, set())
        except Exception as error:
            raise ValueError(
                f"Argument `model` must be a model that can be rebuilt. {type(model).__name__} "
                f"'{model.name}' cannot be rebuilt: {error}\nIf a subclassed model has a `get_config()`, it "
                "must return the constructor's arguments. The model's `build()` must create its weights."
            ) from error
        for layer in _private.all_layers(copy):
            if isinstance(layer, (SelectingLayer, SparseLayer)):
                layer.use("tf")
            for operation in layer.operations if _is_functional(layer) else ():
                if isinstance(operation, Separate):
                    operation.implementation = "tf"
        if model.compiled:
            _compile_alike(model, copy)
    return copy


@contextlib.contextmanager
def _uncompiled(layers):
    """Marks models as not compiled while they are cloned: their compile arguments may not be serializable."""
    compiled = [layer for layer in layers if isinstance(layer, keras.Model) and layer.compiled]
    try:
        for model in compiled:
            model.compiled = False
        yield
    finally:
        for model in compiled:
            model.compiled = True


def _clone(layer, clones):
    """Returns the clone of a layer, model or operation. The same object always gives the same clone."""
    if id(layer) not in clones:
        if isinstance(layer, keras.Sequential) or _is_functional(layer):
            clone = keras.models.clone_model(layer, clone_function=lambda inner: _clone(inner, clones))
        elif isinstance(layer, keras.layers.Lambda):
            # Its configuration holds bytecode, which cannot resolve the names that the function uses.
            config = keras.layers.Layer.get_config(layer)
            output_shape = _private.output_shape(layer)
            clone = keras.layers.Lambda(layer.function, output_shape, layer.mask, layer.arguments, **config)
        else:
            try:
                config = layer.get_config()
            except NotImplementedError:  # A subclass without `get_config`.
                clone = _clone_by_attributes(layer, clones)
            else:
                clone = type(layer).from_config(config)
        clones[id(layer)] = clone
    return clones[id(layer)]


def _clone_by_attributes(layer, clones):
    """Returns a layer of the same class whose attributes hold clones of the layers and weights."""

    def clone_value(value):
        if isinstance(value, keras.layers.Layer):
            return _clone(value, clones)
        if isinstance(value, keras.Variable):
            return keras.Variable(value, dtype=value.dtype, trainable=value.trainable, name=value.name)
        if isinstance(value, (keras.metrics.Metric, keras.random.SeedGenerator)):
            return type(value).from_config(value.get_config())
        if isinstance(value, dict):
            return {key: clone_value(each) for key, each in value.items()}
        for container in (list, set):  # Keras has its own subclasses of list, set and dict.
            if isinstance(value, container):
                return container(clone_value(each) for each in value)
        return tuple(clone_value(each) for each in value) if type(value) is tuple else value

    base, plain = keras.layers.Layer, keras.layers.Layer()
    if isinstance(layer, keras.Model):
        base, plain = keras.Model, keras.Model()
        plain.compile("sgd", "mse")
    clone = type(layer).__new__(type(layer))
    base.__init__(clone, name=layer.name, dtype=layer.dtype_policy)
    for name, value in vars(layer).items():
        # The clone already has the attributes that Keras and TensorFlow add to every object.
        if name not in vars(plain) and name != "history" and not _private.is_bookkeeping(name):
            setattr(clone, name, clone_value(value))
    clone.built = layer.built
    return clone


@functools.cache
def _functional_class():
    """Returns the class that `keras.Model(inputs, outputs)` makes, which Keras does not export."""
    inputs = keras.Input((1,), name="input")
    return type(keras.Model(inputs, inputs, name="model"))


def _is_functional(layer):
    return isinstance(layer, _functional_class())


def _copy_state(source, target, done):
    """Builds `target` and its inner layers like `source`, then copies the state of `source` to them."""
    if id(source) in done:
        return
    done.add(id(source))
    if source.built and not target.built:
        target.build_from_config(source.get_build_config())
        target.built = True
    target.trainable = source.trainable
    _private.copy_call_state(source, target)
    state = {}
    source.save_own_variables(state)
    target.load_own_variables(state)
    if hasattr(source, "save_assets"):  # For example, a vocabulary.
        with tempfile.TemporaryDirectory() as folder:
            source.save_assets(folder)
            target.load_assets(folder)
    inner = [_private.inner_layers(layer) for layer in (source, target)]
    if [type(layer) for layer in inner[0]] != [type(layer) for layer in inner[1]]:
        raise ValueError(
            f"The copy of '{source.name}' was made with the layers {[layer.name for layer in inner[1]]} "
            f"instead of {[layer.name for layer in inner[0]]}."
        )
    for pair in zip(*inner, strict=True):
        _copy_state(*pair, done)


def _compile_alike(model, copy):
    try:
        copy.compile_from_config(model.get_compile_config())
    except Exception as error:
        warnings.warn(
            f"The portable copy of model '{model.name}' is not compiled, because Keras cannot rebuild the "
            f"arguments of the model's `compile()`: {error}",
            stacklevel=3,
        )
