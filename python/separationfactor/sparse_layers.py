"""Keras layers around `separationfactor.sparse`: an encoder to sparse codes, and a decoder of them."""

import keras

from separationfactor import _private, arguments, implementations, sparse


class SparseLayer(keras.layers.Layer):
    """The base class of the layers: the implementation, the weights and their arguments."""

    def __init__(
        self,
        *,
        use_bias,
        kernel_initializer,
        bias_initializer,
        kernel_regularizer,
        bias_regularizer,
        kernel_constraint,
        bias_constraint,
        implementation,
        **kwargs,
    ):
        super().__init__(**kwargs)
        if keras.backend.backend() != "tensorflow":
            raise RuntimeError(
                f"Layer {type(self).__name__} needs Keras' TensorFlow backend. "
                f"Received: backend={keras.backend.backend()}"
            )
        self.use_bias = bool(use_bias)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.bias_initializer = keras.initializers.get(bias_initializer)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.bias_regularizer = keras.regularizers.get(bias_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        self.bias_constraint = keras.constraints.get(bias_constraint)
        self.use(arguments.one_of("implementation", implementation, implementations.IMPLEMENTATIONS))
        self.supports_masking = True
        self.bias = None

    def use(self, implementation):
        """Changes the implementation. Functions that are already traced keep the old one."""
        self.implementation = implementation
        self.supports_jit = sparse.supports_jit(implementation)

    # No weight is cast to the compute dtype: the ops read float32, and a cast would copy all rows and make
    # their gradient dense.

    def _add_kernel(self, latents, features):
        return self.add_weight(
            shape=(latents, features),
            initializer=with_fans_of_rows(self.kernel_initializer),
            regularizer=self.kernel_regularizer,
            constraint=self.kernel_constraint,
            autocast=False,
            name="kernel",
        )

    def _add_bias(self, size):
        return self.add_weight(
            shape=(size,),
            initializer=self.bias_initializer,
            regularizer=self.bias_regularizer,
            constraint=self.bias_constraint,
            autocast=False,
            name="bias",
        )

    def get_config(self):
        config = {
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "bias_initializer": keras.initializers.serialize(self.bias_initializer),
            "kernel_regularizer": keras.regularizers.serialize(self.kernel_regularizer),
            "bias_regularizer": keras.regularizers.serialize(self.bias_regularizer),
            "kernel_constraint": keras.constraints.serialize(self.kernel_constraint),
            "bias_constraint": keras.constraints.serialize(self.bias_constraint),
            "implementation": self.implementation,
        }
        return {**super().get_config(), **config}


def with_fans_of_rows(initializer):
    """Returns an initializer of shape [n, d] that takes its fans from the transposed shape.

    Keras takes the first axis for the inputs of a kernel. Here, d numbers are the inputs of an encoder's
    latent. In a decoder, k latents are active, not n, and with the fan d the rows are as long as in the
    encoder.
    """
    if not isinstance(initializer, keras.initializers.VarianceScaling):
        return initializer
    return lambda shape, dtype=None: keras.ops.transpose(initializer(shape[::-1], dtype=dtype))


@keras.saving.register_keras_serializable(package="separationfactor")
class SparseEncoder(SparseLayer):
    """Computes the `k` greatest entries of a dense layer with many units, as values and indices.

    Formula:

    ```python
    values, indices = top_k(inputs @ transpose(kernel) + bias, k)
    ```

    This is the encoder of the [TopK autoencoder](https://arxiv.org/abs/2406.04093). `SparseDecoder` decodes
    the pair. The other entries are never held, and neither are their gradients: that of the kernel is
    `tf.IndexedSlices` of the latents in use. `separationfactor.optimizers.SparseAdam` trains with it.

    Example:
    >>> encoder, decoder = SparseEncoder(latents=64, k=4), SparseDecoder(features=8, latents=64)
    >>> values, indices = encoder(np.random.rand(2, 8))
    >>> values.shape, indices.shape, indices.dtype.name
    (TensorShape([2, 4]), TensorShape([2, 4]), 'int32')
    >>> decoder(values, indices).shape
    TensorShape([2, 8])

    Args:
        latents: Integer > 0. The number of latents.
        k: Integer in [0, `latents`]. The number of latents that are kept in each row. It is fixed.
        activation: `"linear"`, or `"relu"` for max(0, value), applied to the entries that are kept.
        use_bias: Boolean. Whether there is a bias. Defaults to `True`.
        chunk: Integer > 0 or `None`. See `separationfactor.sparse.encode`. Defaults to `None`.
        screen: `"bfloat16"` or `None`. See `separationfactor.sparse.encode`. Defaults to `None`.
        kernel_initializer: Initializer of the kernel, of shape `(latents, features)`. Its fans are taken from
            the transposed shape, so that the fan of the inputs is the number of features. Defaults to
            `"lecun_uniform"`.
        bias_initializer: Initializer of the bias. Defaults to `"zeros"`.
        kernel_regularizer: Regularizer of the kernel. It uses all rows, so it makes the gradient dense.
        bias_regularizer: Regularizer of the bias.
        kernel_constraint: Constraint of the kernel. It is applied to all rows after each step.
        bias_constraint: Constraint of the bias.
        implementation: `"native"` for the compiled ops, `"tf"` for plain TensorFlow ops with the same
            results to rounding, or `"auto"` for the compiled ops where they can run. Defaults to `"auto"`.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Input shape:
        `(..., features)`, of rank 1 or more.

    Output shape:
        Twice `(..., k)`: the values, and the indices, int32 and ascending in each row.
    """

    def __init__(
        self,
        latents,
        k,
        *,
        activation="linear",
        use_bias=True,
        chunk=None,
        screen=None,
        kernel_initializer="lecun_uniform",
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        implementation="auto",
        **kwargs,
    ):
        super().__init__(
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            implementation=implementation,
            **kwargs,
        )
        self.latents = arguments.integer("latents", latents, "a positive integer", least=1)
        self.k = arguments.count("k", k)
        if self.k > self.latents:
            raise ValueError(
                f"Argument `k` must be at most `latents`. Received: k={k}, latents={self.latents}"
            )
        self.activation = arguments.one_of("activation", activation, sparse.ACTIVATIONS)
        self.chunk = chunk
        if chunk is not None:
            self.chunk = arguments.integer("chunk", chunk, "a positive integer or `None`", least=1)
        self.screen = arguments.one_of("screen", screen, sparse.SCREENS)

    def build(self, input_shape):
        if self.built:
            return  # By a decoder that is tied to this layer.
        self._features = _known_size(self, input_shape)
        self.input_spec = keras.layers.InputSpec(min_ndim=1, axes={-1: self._features})
        self.kernel = self._add_kernel(self.latents, self._features)
        if self.use_bias:
            self.bias = self._add_bias(self.latents)

    def call(self, inputs):
        return sparse.encode(
            inputs,
            self.kernel,
            self.bias,
            self.k,
            activation=self.activation,
            chunk=self.chunk,
            screen=self.screen,
            implementation=self.implementation,
        )

    def compute_output_shape(self, input_shape):
        shape = (*input_shape[:-1], self.k)
        return shape, shape

    def compute_output_spec(self, inputs):
        shape, _ = self.compute_output_shape(inputs.shape)
        return keras.KerasTensor(shape, dtype=inputs.dtype), keras.KerasTensor(shape, dtype="int32")

    def compute_mask(self, inputs, previous_mask):
        return None if previous_mask is None else (previous_mask, previous_mask)

    def get_config(self):
        config = {
            "latents": self.latents,
            "k": self.k,
            "activation": self.activation,
            "chunk": self.chunk,
            "screen": self.screen,
        }
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable(package="separationfactor")
class SparseDecoder(SparseLayer):
    """Decodes a sparse code, given as values and indices.

    Formula:

    ```python
    outputs = sum over j of values[..., j] * kernel[indices[..., j]] + bias
    ```

    The gradient of the kernel is `tf.IndexedSlices` of the latents in use.
    `separationfactor.optimizers.SparseAdam` trains with it.

    Example:
    >>> encoder = SparseEncoder(latents=64, k=4)
    >>> decoder = SparseDecoder(features=8, latents=64, tied_to=encoder)
    >>> decoder(*encoder(np.random.rand(2, 8))).shape
    TensorShape([2, 8])
    >>> decoder.kernel is encoder.kernel
    True

    Args:
        features: Integer > 0. The size of the outputs.
        latents: Integer > 0. The number of latents.
        use_bias: Boolean. Whether there is a bias. Defaults to `True`.
        tied_to: A `SparseEncoder`, whose kernel this layer shares, or `None`. The kernel remains a weight of
            the encoder alone, which must be a part of the model. Defaults to `None`.
        kernel_initializer: Initializer of the kernel, of shape `(latents, features)`. Its fans are taken from
            the transposed shape. Defaults to `"lecun_uniform"`.
        bias_initializer: Initializer of the bias. Defaults to `"zeros"`.
        kernel_regularizer: Regularizer of the kernel. It uses all rows, so it makes the gradient dense.
        bias_regularizer: Regularizer of the bias.
        kernel_constraint: Constraint of the kernel. It is applied to all rows after each step.
        bias_constraint: Constraint of the bias.
        implementation: `"native"` for the compiled ops, `"tf"` for plain TensorFlow ops with the same
            results to rounding, or `"auto"` for the compiled ops where they can run. Defaults to `"auto"`.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Call arguments:
        values: Float tensor of shape `(..., k)`.
        indices: Integer tensor of the same shape, of numbers in [0, `latents`).
        values_mask: The mask of the values. The outputs have the same mask.

    Output shape:
        `(..., features)`.
    """

    def __init__(
        self,
        features,
        latents,
        *,
        use_bias=True,
        tied_to=None,
        kernel_initializer="lecun_uniform",
        bias_initializer="zeros",
        kernel_regularizer=None,
        bias_regularizer=None,
        kernel_constraint=None,
        bias_constraint=None,
        implementation="auto",
        **kwargs,
    ):
        super().__init__(
            use_bias=use_bias,
            kernel_initializer=kernel_initializer,
            bias_initializer=bias_initializer,
            kernel_regularizer=kernel_regularizer,
            bias_regularizer=bias_regularizer,
            kernel_constraint=kernel_constraint,
            bias_constraint=bias_constraint,
            implementation=implementation,
            **kwargs,
        )
        self.features = arguments.integer("features", features, "a positive integer", least=1)
        self.latents = arguments.integer("latents", latents, "a positive integer", least=1)
        if tied_to is not None:
            if not isinstance(tied_to, SparseEncoder):
                raise ValueError(
                    "Argument `tied_to` must be a `SparseEncoder` or `None`. "
                    f"Received: tied_to={tied_to} (of type {type(tied_to)})"
                )
            if tied_to.latents != self.latents:
                raise ValueError(
                    "Argument `latents` must be that of the layer `tied_to`, "
                    f"{tied_to.latents}. Received: latents={latents}"
                )
            for name in ("kernel_regularizer", "kernel_constraint"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"Argument `{name}` must be `None` if `tied_to` is given: it belongs to that layer. "
                        f"Received: {name}={getattr(self, name)}"
                    )
        self._tie(tied_to)
        self._is_tied_to_a_copy = False
        self._kernel = None

    def _tie(self, encoder):
        # In a function, because Keras would make a layer that is an attribute a part of this layer: freezing
        # this layer would freeze the encoder.
        self._tied_to = lambda: encoder

    @property
    def tied_to(self):
        """The encoder whose kernel this layer shares, or `None`."""
        return self._tied_to()

    @property
    def kernel(self):
        """The kernel, of shape `(latents, features)`: this layer's, or that of the encoder it is tied to."""
        return self._kernel if self.tied_to is None else self.tied_to.kernel

    def build(self, values_shape, indices_shape=None):
        if self.tied_to is None:
            self._kernel = self._add_kernel(self.latents, self.features)
        else:
            if not self.tied_to.built:
                self.tied_to.build((None, self.features))
            if self.kernel.shape != (self.latents, self.features):
                raise ValueError(
                    f"Argument `features` of layer '{self.name}' must be the number of features of the layer "
                    f"that it is tied to, '{self.tied_to.name}', {self.kernel.shape[1]}. Received: "
                    f"features={self.features}"
                )
        if self.use_bias:
            self.bias = self._add_bias(self.features)

    def __call__(self, values, indices=None, **kwargs):
        if self._is_tied_to_a_copy and isinstance(values, keras.KerasTensor):
            self._tie(_encoder_upstream(values, self.tied_to))
            self._is_tied_to_a_copy = False
        return super().__call__(values, indices, **kwargs)

    def call(self, values, indices, values_mask=None):
        return sparse.decode(values, indices, self.kernel, self.bias, implementation=self.implementation)

    def compute_output_shape(self, values_shape, indices_shape=None):
        return (*values_shape[:-1], self.features)

    def compute_output_spec(self, values, indices, values_mask=None):
        return keras.KerasTensor(self.compute_output_shape(values.shape), dtype=values.dtype)

    def get_config(self):
        tied_to = self.tied_to and keras.saving.serialize_keras_object(self.tied_to)
        config = {"features": self.features, "latents": self.latents, "tied_to": tied_to}
        return {**super().get_config(), **config}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        if not isinstance(config.get("tied_to"), dict):
            return super().from_config(config)
        config["tied_to"] = keras.saving.deserialize_keras_object(config["tied_to"])
        layer = super().from_config(config)
        layer._is_tied_to_a_copy = True
        return layer


def _known_size(layer, shape):
    if not shape or shape[-1] is None:
        raise ValueError(
            f"The last axis of the inputs of layer '{layer.name}' must have a known size. "
            f"Received: input_shape={tuple(shape)}"
        )
    return shape[-1]


def _encoder_upstream(values, encoder):
    """Returns the layer of the encoder's name from which symbolic values come, or else the encoder.

    A configuration holds the encoder to which a decoder is tied. When Keras rebuilds a functional model from
    configurations, it rebuilds the encoder twice, except when it loads a file. The one in the model counts.
    """
    pending, seen = [values], set()
    while pending:
        origin = _private.origin(pending.pop())
        if origin is None:
            continue
        operation, call, inputs = origin
        if isinstance(operation, SparseEncoder) and operation.name == encoder.name:
            return operation
        if (id(operation), call) not in seen:
            seen.add((id(operation), call))
            pending += inputs
    return encoder
