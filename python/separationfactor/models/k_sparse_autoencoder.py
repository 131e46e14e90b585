"""The k-sparse autoencoder of Makhzani and Frey."""

import math

import keras
import tensorflow as tf

from separationfactor import arguments
from separationfactor.layers import KSparse


class DeadUnits(keras.metrics.Metric):
    """How many units of a code were zero for every example since the last reset.

    Args:
        units: Integer > 0. The size of the code.
        **kwargs: Base metric keyword arguments.
    """

    def __init__(self, units, name="dead_units", **kwargs):
        super().__init__(name=name, **kwargs)
        self.alive = self.add_variable((units,), "zeros", name="alive")

    def update_state(self, code, sample_weight=None):
        fired = tf.cast(tf.reduce_any(code != 0, axis=0), self.alive.dtype)
        self.alive.assign(tf.maximum(self.alive, fired))

    def result(self):
        return tf.reduce_sum(1 - self.alive)


@keras.saving.register_keras_serializable(package="separationfactor")
class KSparseAutoencoder(keras.Model):
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
        k: Integer in [0, `units`]. How many units are kept in training. A schedule may start from
            another and should end with it.
        alpha: Float > 0. At inference `alpha * k` units are kept, rounded and at most `units`.
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
        super().__init__(**kwargs)
        self.image_shape = arguments.image_shape(image_shape)
        self.units = arguments.integer("units", units, "a positive integer", least=1)
        self.k = arguments.count("k", k)
        if self.k > self.units:
            raise ValueError(f"Argument `k` must be at most `units`. Received: k={k}, units={units}")
        self.alpha = arguments.finite("alpha", alpha)
        if self.alpha <= 0:
            raise ValueError(f"Argument `alpha` must be positive. Received: alpha={alpha}")
        self.tied = bool(tied)
        self.activation = arguments.one_of("activation", activation, ("linear", "relu"))
        self.input_dropout = arguments.fraction("input_dropout", input_dropout)
        self.code_dropout = arguments.fraction("code_dropout", code_dropout)
        self.seed = seed if seed is None else arguments.integer("seed", seed, "an integer or `None`")
        self.seed_generator = keras.random.SeedGenerator(self.seed)

        pixels = math.prod(self.image_shape)
        self.kernel = self.add_weight(shape=(pixels, self.units), name="kernel")
        self.bias = self.add_weight(shape=(self.units,), initializer="zeros", name="bias")
        self.sparsity = KSparse(
            self.k,
            inference_k=min(self.units, round(self.alpha * self.k)),
            implementation=implementation,
            name="sparsity",
            dtype=self.dtype_policy,
        )
        self.sparsity.build((None, self.units))
        if not self.tied:
            self.decoder_kernel = self.add_weight(shape=(self.units, pixels), name="decoder_kernel")
        self.decoder_bias = self.add_weight(shape=(pixels,), initializer="zeros", name="decoder_bias")
        self._loss_tracker = keras.metrics.Mean(name="loss")
        self._dead_units = DeadUnits(self.units)
        self.build((None, *self.image_shape))

    def build(self, input_shape):
        # The weights are made in the constructor, from the configuration alone.
        self.built = True

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

    def _loss_and_code(self, data, training):
        images, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if labels is not None or sample_weight is not None:
            raise ValueError(
                "KSparseAutoencoder is trained and evaluated on images alone. "
                f"Received: y={labels}, sample_weight={sample_weight}"
            )
        images = arguments.images(images, self.image_shape)
        code = self._code(images, training)
        return tf.reduce_sum(tf.square(self._reconstruction(code) - images), axis=(1, 2, 3)), code

    def _track(self, losses, code):
        self._loss_tracker.update_state(losses)
        self._dead_units.update_state(code)
        return {metric.name: metric.result() for metric in self.metrics}

    @property
    def metrics(self):
        return [self._loss_tracker, self._dead_units]

    def train_step(self, data):
        with tf.GradientTape() as tape:
            losses, code = self._loss_and_code(data, training=True)
            loss = self.optimizer.scale_loss(tf.reduce_mean(losses))
        weights = self.trainable_weights
        self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
        return self._track(losses, code)

    def test_step(self, data):
        return self._track(*self._loss_and_code(data, training=False))

    def call(self, inputs, training=False):
        return self._reconstruction(self._code(arguments.images(inputs, self.image_shape), training))

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)

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

    # That a continued training drops what it would have dropped takes the state of the seed generator.

    def save_own_variables(self, store):
        super().save_own_variables(store)
        store["seed_generator"] = self.seed_generator.state.numpy()

    def load_own_variables(self, store):
        variables = {name: store[name] for name in store.keys() if name != "seed_generator"}  # noqa: SIM118
        super().load_own_variables(variables)
        self.seed_generator.state.assign(store["seed_generator"])

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
