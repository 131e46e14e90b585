"""The k-sparse autoencoder of Makhzani and Frey."""

import math

import keras
import tensorflow as tf

from separationfactor import arguments
from separationfactor.layers import KSparse
from separationfactor.models.image_model import ImageModel, Seeded


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
        self.fired.assign_add(tf.cast(tf.reduce_any(code != 0, axis=0), self.fired.dtype))

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
        """The number of units kept in training: the k of the `KSparse` layer, a weight."""
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

    # Inference with a trained model.

    def encode(self, images):
        """Returns the codes of images. At most `alpha * k` units of a code are not zero.

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
