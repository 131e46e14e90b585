"""Keras layers around `separationfactor.separate`."""

import keras
import tensorflow as tf

from separationfactor import arguments, implementations, ops
from separationfactor.sparse_layers import SparseDecoder, SparseEncoder

__all__ = ["KSparse", "SelectingLayer", "SeparationFactor", "SparseDecoder", "SparseEncoder"]


class SelectingLayer(keras.layers.Layer):
    """The base class of the layers: the axis, the score, the implementation and the input checks."""

    def __init__(self, *, axis, by, implementation, **kwargs):
        super().__init__(**kwargs)
        if keras.backend.backend() != "tensorflow":
            raise RuntimeError(
                f"Layer {type(self).__name__} needs Keras' TensorFlow backend. "
                f"Received: backend={keras.backend.backend()}"
            )
        self.axis = arguments.integer("axis", axis, "an integer")
        self.by = ops.check_score(by)
        self.use(arguments.one_of("implementation", implementation, implementations.IMPLEMENTATIONS))
        self.input_spec = keras.layers.InputSpec(min_ndim=1)
        self.supports_masking = True
        self._axis_size = None

    def use(self, implementation):
        """Changes the implementation. Functions that are already traced keep the old one."""
        self.implementation = implementation
        self.supports_jit = implementations.supports_jit(implementation)

    def build(self, input_shape):
        rank = len(input_shape)
        if not -rank <= self.axis < rank:
            raise ValueError(
                f"Argument `axis` of layer '{self.name}' must be in the range [{-rank}, {rank}) "
                f"for inputs of rank {rank}. "
                f"Received: axis={self.axis}, input_shape={tuple(input_shape)}"
            )
        # The size of the batch axis may change from batch to batch, so there the op checks k at each call.
        if self.axis not in (0, -rank):
            self._axis_size = input_shape[self.axis]

    def _check_k(self, name, k):
        """Raises an error if `k` is greater than the size of the axis and the size is known."""
        if self._axis_size is not None and k > self._axis_size:
            raise ValueError(
                f"Argument `{name}` of layer '{self.name}' must be at most the size of axis "
                f"{self.axis} of its inputs, {self._axis_size}. Received: {name}={k}"
            )

    def _tensor(self, inputs):
        """Returns the inputs, such as an array or a variable, as a dense tensor of a supported dtype."""
        symbolic = isinstance(inputs, keras.KerasTensor)
        if symbolic:
            dense = not (inputs.sparse or getattr(inputs, "ragged", False))
        else:
            dense = not isinstance(inputs, (tf.RaggedTensor, tf.SparseTensor))
        if not dense:
            raise ValueError(
                f"Layer '{self.name}' (of type {type(self).__name__}) expects one dense tensor. "
                f"Received: inputs={inputs} (of type {type(inputs)})"
            )
        if not symbolic and not isinstance(inputs, tf.Tensor):
            inputs = keras.ops.convert_to_tensor(inputs)
        if tf.as_dtype(inputs.dtype) not in ops.DTYPES:
            raise ValueError(
                f"Layer '{self.name}' (of type {type(self).__name__}) expects inputs whose dtype "
                f"is one of {[dtype.name for dtype in ops.DTYPES]}. "
                f"Received: inputs.dtype={tf.as_dtype(inputs.dtype).name}"
            )
        return inputs

    def _separate(self, inputs, k, separation, suppression):
        return ops.separate(
            inputs,
            k,
            separation,
            suppression,
            axis=self.axis,
            by=self.by,
            implementation=self.implementation,
        )

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

    def compute_output_spec(self, inputs, training=False):
        self._tensor(inputs)
        return keras.KerasTensor(inputs.shape, dtype=inputs.dtype)

    def get_config(self):
        config = {"axis": self.axis, "by": self.by, "implementation": self.implementation}
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable(package="separationfactor")
class SeparationFactor(SelectingLayer):
    """Multiplies the `k` greatest entries along an axis by one factor and the others by another.

    Formula:

    ```python
    f(x)[i] = x[i] * separation_factor   # for the k entries with the greatest score
    f(x)[i] = x[i] * suppression_factor  # for all others
    ```

    Ties go to the lowest index. NaN ranks above infinity.

    Example:
    >>> layer = SeparationFactor(separation_factor=10, suppression_factor=0.25)
    >>> probabilities = np.array([[0.5, 0.25, 0.25], [0.0, 0.0, 1.0]], "float32")
    >>> layer(probabilities).numpy()
    array([[ 5.    ,  0.0625,  0.0625],
           [ 0.    ,  0.    , 10.    ]], dtype=float32)

    Args:
        separation_factor: Float. The factor of the selected entries.
        suppression_factor: Float. The factor of all other entries. The spelling
            `supression_factor` is also accepted.
        k: Integer >= 0. The number of entries selected in each row. It is fixed. To change `k`
            during training, use `KSparse`. Defaults to `1`.
        axis: Integer. The axis along which entries compete. With `axis=0` the examples of a
            batch compete, so every batch needs at least `k` examples. Defaults to `-1`.
        by: `"value"` or `"magnitude"`. Whether the score of an entry `x` is `x` or `|x|`.
            Defaults to `"value"`.
        trainable_factors: Boolean. If `True`, the two factors are scalar weights, which training
            starts from the given values. If `False`, they are constants, and backpropagation
            keeps one bit per element. Defaults to `False`.
        implementation: `"native"` for the compiled op, `"tf"` for plain TensorFlow ops with the
            same results, or `"auto"` for the compiled op if it loads, else `"tf"`. Defaults to
            `"auto"`.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Input shape:
        Arbitrary, of rank 1 or more.

    Output shape:
        Same shape as the input.
    """

    def __init__(
        self,
        separation_factor,
        suppression_factor=None,
        *,
        k=1,
        axis=-1,
        by="value",
        trainable_factors=False,
        implementation="auto",
        **kwargs,
    ):
        if "supression_factor" in kwargs:
            if suppression_factor is not None:
                raise TypeError(
                    "SeparationFactor.__init__() got both 'suppression_factor' and its other "
                    "spelling 'supression_factor'."
                )
            suppression_factor = kwargs.pop("supression_factor")
        elif suppression_factor is None:
            raise TypeError(
                "SeparationFactor.__init__() missing 1 required positional argument: 'suppression_factor'"
            )
        super().__init__(axis=axis, by=by, implementation=implementation, **kwargs)
        self.separation_factor = arguments.finite("separation_factor", separation_factor)
        self.suppression_factor = arguments.finite("suppression_factor", suppression_factor)
        if not isinstance(trainable_factors, bool):
            raise ValueError(
                "Argument `trainable_factors` must be a boolean. "
                f"Received: trainable_factors={trainable_factors}"
            )
        self.trainable_factors = trainable_factors
        self._k = arguments.count("k", k)

    @property
    def k(self):
        """The number of selected entries. Read-only, because a traced graph may hold it."""
        return self._k

    def build(self, input_shape):
        super().build(input_shape)
        self._check_k("k", self.k)
        # Constants stay floats: the gradient keeps the op's input if a factor is a tensor.
        self.separation, self.suppression = self.separation_factor, self.suppression_factor
        if self.trainable_factors:
            self.separation = self._add_factor("separation", self.separation_factor)
            self.suppression = self._add_factor("suppression", self.suppression_factor)

    def _add_factor(self, name, value):
        return self.add_weight(shape=(), initializer=keras.initializers.Constant(value), name=name)

    def call(self, inputs):
        inputs = self._tensor(inputs)
        separation, suppression = self.separation, self.suppression
        if self.trainable_factors:
            separation = tf.cast(separation, inputs.dtype)
            suppression = tf.cast(suppression, inputs.dtype)
        return self._separate(inputs, self._k, separation, suppression)

    def get_config(self):
        config = {
            "separation_factor": self.separation_factor,
            "suppression_factor": self.suppression_factor,
            "k": self.k,
            "trainable_factors": self.trainable_factors,
        }
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable(package="separationfactor")
class KSparse(SelectingLayer):
    """Keeps the `k` greatest entries along an axis and sets all others to zero.

    This is the activation of the [k-sparse autoencoder](https://arxiv.org/abs/1312.5663) and the
    TopK activation of [sparse autoencoders](https://arxiv.org/abs/2406.04093).

    `k` is a non-trainable weight. It can be assigned at any time, even in a compiled model, and
    no graph is retraced. `separationfactor.KSchedule` changes it during `fit()`.

    Example:
    >>> layer = KSparse(2)
    >>> x = np.array([[1.0, 4.0, 3.0, 2.0]], "float32")
    >>> layer(x).numpy()
    array([[0., 4., 3., 0.]], dtype=float32)
    >>> layer.k = 3
    >>> layer(x).numpy()
    array([[0., 4., 3., 2.]], dtype=float32)

    Args:
        k: Integer >= 0. The number of entries kept in each row.
        inference_k: Integer >= 0, or `None`. The number of entries kept at inference. A value
            slightly greater than `k` often gives better features. It is fixed. With `None`,
            inference uses the current `k`. Defaults to `None`.
        axis: Integer. The axis along which entries compete. With `axis=0` the examples of a
            batch compete, so every batch needs at least `k` examples. Defaults to `-1`.
        by: `"value"` or `"magnitude"`. Whether the score of an entry `x` is `x` or `|x|`.
            Defaults to `"value"`.
        implementation: `"native"` for the compiled op, `"tf"` for plain TensorFlow ops with the
            same results, or `"auto"` for the compiled op if it loads, else `"tf"`. Defaults to
            `"auto"`.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: Input tensor, of rank 1 or more.
        training: Python boolean. If `True`, `k` entries are kept, else `inference_k`.

    Input shape:
        Arbitrary, of rank 1 or more.

    Output shape:
        Same shape as the input.
    """

    def __init__(self, k, *, inference_k=None, axis=-1, by="value", implementation="auto", **kwargs):
        super().__init__(axis=axis, by=by, implementation=implementation, **kwargs)
        self._k = arguments.count("k", k)
        self._inference_k = None if inference_k is None else arguments.count("inference_k", inference_k)

    @property
    def k(self):
        """The number of entries kept, as a Python integer. It can be assigned."""
        return int(keras.ops.convert_to_numpy(self._k))

    @k.setter
    def k(self, value):
        value = arguments.count("k", value)
        self._check_k("k", value)
        if self.built:
            self._k.assign(value)
        else:
            self._k = value

    @property
    def inference_k(self):
        """The number of entries kept at inference. Read-only, because a traced graph may hold it."""
        return self.k if self._inference_k is None else self._inference_k

    def build(self, input_shape):
        super().build(input_shape)
        self._check_k("k", self._k)
        if self._inference_k is not None:
            self._check_k("inference_k", self._inference_k)
        # int64, like Keras' own counters. TensorFlow places int32 variables on the CPU even if the
        # computation is on a GPU, and XLA rejects a variable on another device.
        self._k = self.add_weight(
            shape=(),
            initializer=keras.initializers.Constant(self._k),
            dtype="int64",
            trainable=False,
            autocast=False,
            name="k",
        )

    def call(self, inputs, training=False):
        follows_k = training or self._inference_k is None
        k = tf.convert_to_tensor(self._k) if follows_k else self._inference_k
        return self._separate(self._tensor(inputs), k, 1.0, 0.0)

    def get_config(self):
        config = {"k": self.k, "inference_k": self._inference_k}
        return {**super().get_config(), **config}
