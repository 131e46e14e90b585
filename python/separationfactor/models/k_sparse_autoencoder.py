"""The k-sparse autoencoder of Makhzani and Frey."""

import math

import keras
import numpy as np
import tensorflow as tf

from separationfactor import _private, arguments, optimizers, sparse
from separationfactor.layers import KSparse
from separationfactor.models.image_model import ImageModel, Seeded
from separationfactor.sparse_layers import with_fans_of_rows

# The sparse code of an image is worth its overhead up to this fraction of the units.
_SPARSE_FRACTION = 1 / 4


class DeadUnits(keras.metrics.Metric):
    """The number of units of a code that were zero for every example since the last reset.

    Args:
        units: Integer > 0. The size of the code.
        **kwargs: Base metric keyword arguments.
    """

    def __init__(self, units, name="dead_units", **kwargs):
        super().__init__(name=name, **kwargs)
        # A count and not a flag, because the values of several replicas are added.
        self.fired = self.add_variable((units,), "zeros", name="fired")

    def update_state(self, code, sample_weight=None):
        """Counts the units of codes: a dense tensor, or the values and indices of sparse codes."""
        if isinstance(code, tuple):
            values, indices = (tf.reshape(each, [-1]) for each in code)
            units = self.fired.shape[0]
            fired = tf.math.unsorted_segment_sum(tf.cast(values != 0, tf.float32), indices, units) > 0
        else:
            fired = tf.reduce_any(code != 0, axis=0)
        self.fired.assign_add(tf.cast(fired, self.fired.dtype))

    def result(self):
        return tf.reduce_sum(tf.cast(self.fired == 0, self.fired.dtype))


class _Sparsity(KSparse):
    """A `KSparse` layer that keeps `alpha * k` units at inference, at most all, for the current k."""

    def __init__(self, k, alpha, units, **kwargs):
        super().__init__(k, **kwargs)
        self._alpha, self._units = alpha, units

    @property
    def inference_k(self):
        return min(self._units, round(self._alpha * self.k))

    def current_k(self, training):
        """Returns k as a tensor."""
        k = tf.convert_to_tensor(self._k)
        if training or self._alpha == 1:
            return k
        return tf.minimum(tf.cast(tf.round(self._alpha * tf.cast(k, tf.float64)), tf.int64), self._units)

    def call(self, inputs, training=False):
        return self._separate(self._tensor(inputs), self.current_k(training), 1.0, 0.0)

    def get_config(self):
        return {**super().get_config(), "alpha": self._alpha, "units": self._units}


@keras.saving.register_keras_serializable(package="separationfactor")
class KSparseAutoencoder(Seeded, ImageModel):
    """An autoencoder with one hidden layer that keeps the `k` greatest units of its code.

    This is the model of [Makhzani and Frey, 2013](https://arxiv.org/abs/1312.5663):

    ```
    code = KSparse(activation(x W + b)),    reconstruction = code W^T + b'
    ```

    `fit(images)` minimizes the squared error, summed over pixels and averaged over the batch. At
    inference, `alpha * k` units are kept. If `k` is small from the start, most units may never be
    selected and never learn. To avoid this, `separationfactor.KSchedule` lowers k over the first
    epochs.

    With `k=units` all units are kept, and the model is an ordinary autoencoder. With `code_dropout` or
    `input_dropout` as well, it is the dropout or the denoising autoencoder, the paper's baselines.

    The metric `dead_units` counts the units that were zero for every image of the epoch.

    If k is at most a quarter of the units, the compiled ops of `separationfactor.sparse` compute the code
    without the units that are zero, and the reconstruction from it. With
    `separationfactor.optimizers.SparseAdam`, no gradient is dense either. The result is that of
    `keras.optimizers.Adam` to rounding.

    Example:
    >>> model = KSparseAutoencoder((8, 8, 1), units=32, k=4, alpha=2)
    >>> model.compile(keras.optimizers.SGD(0.01, momentum=0.9))
    >>> images = np.random.rand(16, 8, 8, 1)
    >>> history = model.fit(images, verbose=0)
    >>> sorted(history.history)
    ['dead_units', 'loss']
    >>> int(np.count_nonzero(model.encode(images), axis=-1).max())
    8

    Args:
        image_shape: Tuple of three integers: the height, width and channels of an image.
        units: Integer > 0. The size of the code.
        k: Integer in [0, `units`]. The number of units kept in training. It is a weight: a schedule can
            change it, and `load_weights` loads it.
        alpha: Float > 0. At inference, `alpha * k` units are kept, rounded and at most `units`. k is the
            current value.
        tied: Boolean. Whether the decoder's weights are the transposed weights of the encoder.
        activation: `"linear"` or `"relu"`. The activation of the code before its units compete.
        input_dropout: Float in [0, 1). The fraction of the pixels that are set to zero in training.
            The other pixels are scaled up to keep the mean.
        code_dropout: Float in [0, 1). The same for the units that are kept.
        implementation: The implementation of the `KSparse` layer.
        seed: Integer or `None`. The seed for dropout. With `None`, a random seed.
        **kwargs: Base model keyword arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: Images of shape `(batch, *image_shape)`.

    Returns:
        The reconstructions of the images, of the same shape.
    """

    def __init__(
        self,
        image_shape=(28, 28, 1),
        units=1000,
        k=25,
        *,
        alpha=1.0,
        tied=True,
        activation="linear",
        input_dropout=0.0,
        code_dropout=0.0,
        implementation="auto",
        seed=None,
        **kwargs,
    ):
        units = arguments.integer("units", units, "a positive integer", least=1)
        super().__init__(image_shape, [keras.metrics.Mean(name="loss"), DeadUnits(units)], **kwargs)
        self.units = units
        k = arguments.count("k", k)
        if k > self.units:
            raise ValueError(f"Argument `k` must be at most `units`. Received: k={k}, units={units}")
        self.alpha = arguments.finite("alpha", alpha)
        if self.alpha <= 0:
            raise ValueError(f"Argument `alpha` must be positive. Received: alpha={alpha}")
        self.tied = bool(tied)
        self.activation = arguments.one_of("activation", activation, ("linear", "relu"))
        self.input_dropout = arguments.fraction("input_dropout", input_dropout)
        self.code_dropout = arguments.fraction("code_dropout", code_dropout)
        self._seed(seed)

        pixels = math.prod(self.image_shape)
        # The rows are the units' weights, in the encoder's kernel as in the decoder's. The initial numbers
        # are those of a kernel with one column for each unit.
        self.kernel = self.add_weight(
            shape=(self.units, pixels),
            initializer=with_fans_of_rows(keras.initializers.GlorotUniform()),
            autocast=False,
            name="kernel",
        )
        self.bias = self.add_weight(shape=(self.units,), initializer="zeros", autocast=False, name="bias")
        self.sparsity = _Sparsity(
            k,
            self.alpha,
            self.units,
            implementation=implementation,
            name="sparsity",
            dtype=self.dtype_policy,
        )
        self.sparsity.build((None, self.units))
        if not self.tied:
            self.decoder_kernel = self.add_weight(
                shape=(self.units, pixels), autocast=False, name="decoder_kernel"
            )
        self.decoder_bias = self.add_weight(
            shape=(pixels,), initializer="zeros", autocast=False, name="decoder_bias"
        )
        self._candidate_counts = self._counts_of_candidates(k)
        self.build((None, *self.image_shape))

    @property
    def k(self):
        """The number of units kept in training: the k of the `KSparse` layer, a weight."""
        return self.sparsity.k

    def _counts_of_candidates(self, k):
        """Returns the numbers of units of which the k greatest are chosen. The last is all units.

        A sparse code has a fixed number of entries, and k is a weight that may change. So the least of these
        numbers that is enough is the number of entries, of which all but k become zero.
        """
        most = int(self.units * _SPARSE_FRACTION)
        counts = {k, min(self.units, round(self.alpha * k))}
        count = max(k, 1)
        while count <= most:
            counts.add(count)
            count *= 2
        return (*sorted(each for each in counts if each <= most), self.units)

    def _is_sparse(self, training):
        """Returns whether codes are computed as values and indices."""
        # XLA needs a number of entries that does not depend on k. Dropout draws a number for each unit.
        return not (
            (training and self.code_dropout)
            or len(self._candidate_counts) == 1
            or _private.in_xla_context()
            or sparse.resolve(self.sparsity.implementation) == "tf"
        )

    def _code(self, images, training):
        """Returns the codes of images: values and indices, or a dense tensor."""
        pixels = tf.cast(tf.reshape(images, (-1, math.prod(self.image_shape))), self.compute_dtype)
        if training and self.input_dropout:
            pixels = keras.random.dropout(pixels, self.input_dropout, seed=self.seed_generator)
        if self._is_sparse(training):
            return self._sparse_code(pixels, training)
        kernel = tf.cast(self.kernel, pixels.dtype)
        code = tf.matmul(pixels, kernel, transpose_b=True) + tf.cast(self.bias, pixels.dtype)
        if self.activation == "relu":
            code = tf.nn.relu(code)
        code = self.sparsity(code, training=training)
        if training and self.code_dropout:
            code = keras.random.dropout(code, self.code_dropout, seed=self.seed_generator)
        return code

    def _sparse_code(self, pixels, training):
        k = self.sparsity.current_k(training)
        kernel, bias = tf.convert_to_tensor(self.kernel), tf.convert_to_tensor(self.bias)
        use = {"implementation": self.sparsity.implementation}

        def candidates(count):
            if count == self.units:
                return tf.broadcast_to(tf.range(count), tf.stack([tf.shape(pixels)[0], count]))
            return sparse.encode(*fixed, count, **use)[1]

        # Only the indices come from a branch, so that the gradients do not pass through it.
        fixed = [tf.stop_gradient(each) for each in (pixels, kernel, bias)]
        enough = tf.reduce_sum(tf.cast(k > self._candidate_counts[:-1], tf.int32))
        indices = tf.switch_case(
            enough, [lambda count=count: candidates(count) for count in self._candidate_counts]
        )
        values = sparse.gather_dot(pixels, kernel, indices, **use)
        values += tf.cast(tf.gather(bias, indices), values.dtype)
        if self.activation == "relu":
            values = tf.nn.relu(values)
        return self.sparsity(values, training=training), indices

    def _reconstruction(self, code):
        if isinstance(code, tuple):
            implementation = self.sparsity.implementation
            pixels = sparse.decode(
                *code, self._dictionary(), self.decoder_bias, implementation=implementation
            )
        else:
            pixels = code @ tf.cast(self._dictionary(), code.dtype) + tf.cast(self.decoder_bias, code.dtype)
        return tf.cast(tf.reshape(pixels, (-1, *self.image_shape)), tf.float32)

    def _dictionary(self):
        return tf.convert_to_tensor(self.kernel if self.tied else self.decoder_kernel)

    def _terms(self, data, training):
        images = arguments.images(self._images_alone(data), self.image_shape)
        code = self._code(images, training)
        errors = tf.reduce_sum(tf.square(self._reconstruction(code) - images), axis=(1, 2, 3))
        return {"loss": errors, "dead_units": code}

    def _gradients(self, tape, loss, weights):
        gradients = super()._gradients(tape, loss, weights)
        optimizer = getattr(self.optimizer, "inner_optimizer", self.optimizer)
        if isinstance(optimizer, optimizers.SparseAdam):
            return gradients
        # Keras' optimizers are wrong on the slices of a tied kernel, whose two uses repeat indices.
        return [None if each is None else tf.convert_to_tensor(each) for each in gradients]

    def call(self, inputs, training=False):
        return self._reconstruction(self._code(arguments.images(inputs, self.image_shape), training))

    # Files. The kernel of earlier files has one column for each unit.

    def save_own_variables(self, store):
        super().save_own_variables(store)
        store["kernel_has_rows_of_units"] = np.array(True)

    def load_own_variables(self, store):
        variables = {name: store[name] for name in store.keys()}  # noqa: SIM118
        optimizer = getattr(self, "optimizer", None)
        if optimizer is not None:
            vars(optimizer).pop("load_own_variables", None)
        if variables.pop("kernel_has_rows_of_units", None) is None:
            variables["0"] = np.transpose(variables["0"])
            if optimizer is not None:
                self._load_transposed_moments(optimizer)
        super().load_own_variables(variables)

    def _load_transposed_moments(self, optimizer):
        """Lets the next loading of an optimizer's state transpose the variables of the kernel."""
        load = optimizer.load_own_variables
        prefix = f"{self.kernel.path.replace('/', '_')}_"

        def load_transposed(store):
            vars(optimizer).pop("load_own_variables")
            state = {name: np.array(store[name]) for name in store.keys()}  # noqa: SIM118
            for i, variable in enumerate(optimizer.variables):
                if variable.name.startswith(prefix) and str(i) in state:
                    state[str(i)] = np.transpose(state[str(i)])
            load(state)

        optimizer.load_own_variables = load_transposed

    # Inference with a trained model.

    def encode(self, images):
        """Returns the codes of images. At most `alpha * k` units of a code are not zero.

        Args:
            images: Float tensor of shape `(batch, *image_shape)`.

        Returns:
            A tensor of shape `(batch, units)`.
        """
        code = self._code(arguments.images(images, self.image_shape), training=False)
        return sparse.to_dense(*code, self.units) if isinstance(code, tuple) else code

    def decode(self, code):
        """Returns the images of codes.

        Args:
            code: Float tensor of shape `(batch, units)`.

        Returns:
            A tensor of shape `(batch, *image_shape)`. Its values are not limited to a range.
        """
        return self._reconstruction(tf.cast(code, self.compute_dtype))

    def reconstruct(self, images):
        """Returns the reconstructions of images, `decode(encode(images))`."""
        return self.decode(self.encode(images))

    def filters(self):
        """Returns the image that each unit adds: the decoder's weights, of shape `(units, *image_shape)`."""
        return tf.reshape(self._dictionary(), (self.units, *self.image_shape))

    def get_config(self):
        config = {
            "image_shape": list(self.image_shape),
            "units": self.units,
            "k": self.k,
            "alpha": self.alpha,
            "tied": self.tied,
            "activation": self.activation,
            "input_dropout": self.input_dropout,
            "code_dropout": self.code_dropout,
            "implementation": self.sparsity.implementation,
            "seed": self.seed,
        }
        return {**super().get_config(), **config}
