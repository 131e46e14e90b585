"""The k-sparse autoencoder of Makhzani and Frey."""

import math

import keras
import tensorflow as tf

from separationfactor import arguments
from separationfactor.layers import KSparse
from separationfactor.models.image_model import ImageModel, Seeded


class DeadUnits(keras.metrics.Metric):
    """How many units of a code were zero for every example since the last reset.

    Args:
        units: Integer > 0. The size of the code.
        **kwargs: Base metric keyword arguments.
    """

    def __init__(self, units, name="dead_units", **kwargs):
        super().__init__(name=name, **kwargs)
        # A count, as those of several replicas are added.
        self.fired = self.add_variable((units,), "zeros", name="fired")

    def update_state(self, code, sample_weight=None):
        self.fired.assign_add(tf.cast(tf.reduce_any(code != 0, axis=0), self.fired.dtype))

    def result(self):
        return tf.reduce_sum(tf.cast(self.fired == 0, self.fired.dtype))


class _Sparsity(KSparse):
    """A `KSparse` that keeps `alpha * k` units at inference, at most all, whatever k is at the time."""

    def __init__(self, k, alpha, units, **kwargs):
        super().__init__(k, **kwargs)
        self._alpha, self._units = alpha, units

    @property
    def inference_k(self):
        return min(self._units, round(self._alpha * self.k))

    def call(self, inputs, training=False):
        if training or self._alpha == 1:
            return super().call(inputs)
        k = tf.round(self._alpha * tf.cast(self._k, tf.float64))
        k = tf.minimum(tf.cast(k, tf.int64), self._units)
        return self._separate(self._tensor(inputs), k, 1.0, 0.0)

    def get_config(self):
        return {**super().get_config(), "alpha": self._alpha, "units": self._units}


@keras.saving.register_keras_serializable(package="separationfactor")
class KSparseAutoencoder(Seeded, ImageModel):
    """An autoencoder of one hidden layer that keeps the `k` greatest units of its code.

    [Makhzani and Frey, 2013](https://arxiv.org/abs/1312.5663):

    ```
    code = KSparse(activation(x W + b)),    reconstruction = code W^T + b'
    ```

    `fit(images)` minimizes the squared error, summed over pixels and averaged over the batch. At
    inference `alpha * k` units are kept. With a small `k` from the start most units may never be
    selected and never learn: `separationfactor.KSchedule` lowers k over the first epochs.

    With `k=units` everything is kept, and this is the usual autoencoder; with `code_dropout` or
    `input_dropout` as well, the dropout or the denoising autoencoder that the paper compares with.

    The metric `dead_units` counts the units that were zero for every image of the epoch.

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
        image_shape: Tuple of three integers, height, width and channels of an image.
        units: Integer > 0. The size of the code.
        k: Integer in [0, `units`]. How many units are kept in training. It is a weight, which a schedule
            may move and `load_weights` loads.
        alpha: Float > 0. At inference `alpha * k` units are kept, rounded and at most `units`, for
            the k of the time.
        tied: Boolean. Whether the decoder's weights are the encoder's, transposed.
        activation: `"linear"` or `"relu"`, what the code passes before its units compete.
        input_dropout: Float in [0, 1). The fraction of the pixels that are set to zero in training;
            the others are scaled up to keep the mean.
        code_dropout: Float in [0, 1). The same for the units that are kept.
        implementation: The `KSparse` layer's.
        seed: Integer or `None`. Seeds the dropout. With `None`, a random one.
        **kwargs: Base model keyword arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: Images of shape `(batch, *image_shape)`.

    Returns:
        The images' reconstructions, of the same shape.
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
        self.kernel = self.add_weight(shape=(pixels, self.units), name="kernel")
        self.bias = self.add_weight(shape=(self.units,), initializer="zeros", name="bias")
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
            self.decoder_kernel = self.add_weight(shape=(self.units, pixels), name="decoder_kernel")
        self.decoder_bias = self.add_weight(shape=(pixels,), initializer="zeros", name="decoder_bias")
        self.build((None, *self.image_shape))

    @property
    def k(self):
        """How many units are kept in training: the `KSparse` layer's k, a weight that a schedule moves."""
        return self.sparsity.k

    def _code(self, images, training):
        pixels = tf.cast(tf.reshape(images, (-1, math.prod(self.image_shape))), self.compute_dtype)
        if training and self.input_dropout:
            pixels = keras.random.dropout(pixels, self.input_dropout, seed=self.seed_generator)
        code = pixels @ tf.cast(self.kernel, pixels.dtype) + tf.cast(self.bias, pixels.dtype)
        if self.activation == "relu":
            code = tf.nn.relu(code)
        code = self.sparsity(code, training=training)
        if training and self.code_dropout:
            code = keras.random.dropout(code, self.code_dropout, seed=self.seed_generator)
        return code

    def _reconstruction(self, code):
        pixels = code @ tf.cast(self._dictionary(), code.dtype) + tf.cast(self.decoder_bias, code.dtype)
        return tf.cast(tf.reshape(pixels, (-1, *self.image_shape)), tf.float32)

    def _dictionary(self):
        return tf.transpose(self.kernel) if self.tied else tf.convert_to_tensor(self.decoder_kernel)

    def _terms(self, data, training):
        images = arguments.images(self._images_alone(data), self.image_shape)
        code = self._code(images, training)
        errors = tf.reduce_sum(tf.square(self._reconstruction(code) - images), axis=(1, 2, 3))
        return {"loss": errors, "dead_units": code}

    def call(self, inputs, training=False):
        return self._reconstruction(self._code(arguments.images(inputs, self.image_shape), training))

    # What a trained model can do.

    def encode(self, images):
        """Returns the images' codes, in which at most `alpha * k` units are not zero.

        Args:
            images: Float tensor of shape `(batch, *image_shape)`.

        Returns:
            A tensor of shape `(batch, units)`.
        """
        return self._code(arguments.images(images, self.image_shape), training=False)

    def decode(self, code):
        """Returns the images of codes.

        Args:
            code: Float tensor of shape `(batch, units)`.

        Returns:
            A tensor of shape `(batch, *image_shape)`, of any values.
        """
        return self._reconstruction(tf.cast(code, self.compute_dtype))

    def reconstruct(self, images):
        """Returns the images as the model sees them, `decode(encode(images))`."""
        return self.decode(self.encode(images))

    def filters(self):
        """Returns what each unit draws: the decoder's weights, of shape `(units, *image_shape)`."""
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
