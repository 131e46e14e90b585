"""A small PixelCNN, the decoder's end in `ConditionalVAE(decoder="pixelcnn")`."""

import keras
import numpy as np
import tensorflow as tf

from separationfactor import arguments
from separationfactor.models.image_layers import Conv2D


class _CausalConvolution(Conv2D):
    """A convolution over the rows above and the pixels on the left.

    Its kernel has `reach + 1` rows, the last of which is the pixel's own, and `2 * reach + 1` columns.
    Nothing is padded: an output is `reach` rows lower and `2 * reach` columns narrower than the input.

    Args:
        filters: How many features it makes.
        reach: How many rows up, and columns to either side, it sees.
        sees_itself: Whether a pixel's own entry is seen, as in the paper's mask B, or not, as in mask A.
        **kwargs: Base layer keyword arguments.
    """

    def __init__(self, filters, reach, sees_itself, **kwargs):
        size = (reach + 1, 2 * reach + 1)
        super().__init__(filters, size, activation="relu", kernel_initializer="he_uniform", **kwargs)
        self.reach = reach
        self._mask = np.ones((*size, 1, 1), "float32")
        self._mask[-1, reach + sees_itself :] = 0

    def convolution_op(self, inputs, kernel):
        return super().convolution_op(inputs, kernel * tf.cast(self._mask, kernel.dtype))


@keras.saving.register_keras_serializable(package="separationfactor")
class PixelCNN(keras.layers.Layer):
    """Predicts each pixel from those before it, row by row, and from features of its own.

    ```
    p(x | features) = prod_i Bernoulli(x_i | x_before_i, features_i)
    ```

    with masked convolutions ([van den Oord et al., 2016](https://arxiv.org/abs/1601.06759)) over the
    pixels, whose result is joined with a VAE decoder's features, as in PixelVAE
    ([Gulrajani et al., 2016](https://arxiv.org/abs/1611.05013)). A pixel sees 4 rows up and 4 columns
    to either side; what lies further off has to come through the features. The channels of a pixel
    are independent given the pixels before it.

    Args:
        channels: Integer > 0. An image's channels.
        filters: Integer > 0. The features of a layer.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Call arguments:
        images: Float tensor of shape `(batch, height, width, channels)`, with values in [0, 1].
        features: Float tensor of shape `(batch, height, width, features)`.

    Returns:
        The pixels' logits, of the images' shape.
    """

    def __init__(self, channels=1, filters=32, **kwargs):
        super().__init__(**kwargs)
        self.channels = arguments.integer("channels", channels, "a positive integer", least=1)
        self.filters = arguments.integer("filters", filters, "a positive integer", least=1)
        self.convolutions = [
            _CausalConvolution(
                self.filters, reach, sees_itself, name=f"causal_{index}", dtype=self.dtype_policy
            )
            for index, (reach, sees_itself) in enumerate(((2, False), (1, True), (1, True)))
        ]
        self.reach = sum(layer.reach for layer in self.convolutions)
        self.joint = keras.layers.Dense(
            self.filters, activation="relu", name="joint", dtype=self.dtype_policy
        )
        self.logits = keras.layers.Dense(self.channels, name="logits", dtype=self.dtype_policy)

    def build(self, images_shape, features_shape):
        channels = self.channels
        for layer in self.convolutions:
            layer.build((None, None, None, channels))
            channels = self.filters
        self.joint.build((None, None, None, self.filters + features_shape[-1]))
        self.logits.build((None, None, None, self.filters))

    def _pad(self, images):
        return tf.pad(images, ((0, 0), (self.reach, 0), (self.reach, self.reach), (0, 0)))

    def _logits(self, context, features):
        """Returns the logits of the pixels that have all of the context they see around them."""
        for layer in self.convolutions:
            context = layer(context)
        return self.logits(self.joint(tf.concat([context, features], axis=-1)))

    def call(self, images, features):
        return self._logits(self._pad(images), features)

    @tf.function(reduce_retracing=True)
    def draw(self, features, noise):
        """Draws images pixel by pixel.

        Args:
            features: Float tensor of shape `(batch, height, width, features)`.
            noise: Float tensor that broadcasts to `(batch, height, width, channels)`, uniform in
                [0, 1): a pixel is 1 where its noise is below its mean.

        Returns:
            The drawn images, of zeros and ones, and each pixel's mean given the drawn pixels before it.
            The latter is an unbiased estimate of p(x)'s mean image, with less noise than the former.
        """
        batch, height, width = tf.unstack(tf.shape(features)[:3])
        reach = self.reach
        features, noise = (tf.cast(each, self.compute_dtype) for each in (features, noise))
        features, noise = (
            # The pixels' axes come first, so that a pixel of the whole batch is one piece.
            tf.transpose(each, (1, 2, 0, 3))
            for each in (features, tf.broadcast_to(noise, (batch, height, width, self.channels)))
        )

        def draw_pixel(index, padded, means):
            row, column = index // width, index % width
            # The part of the image that the pixel's logits depend on.
            window = tf.slice(padded, (row, column, 0, 0), (reach + 1, 2 * reach + 1, -1, -1))
            logits = self._logits(tf.transpose(window, (2, 0, 1, 3)), features[row, column][:, None, None])
            mean = tf.nn.sigmoid(logits[:, 0, 0])
            pixel = tf.cast(noise[row, column] < mean, mean.dtype)
            padded = tf.tensor_scatter_nd_update(padded, [[row + reach, column + reach]], [pixel])
            return index + 1, padded, means.write(index, mean)

        _, padded, means = tf.while_loop(
            lambda index, padded, means: index < height * width,
            draw_pixel,
            (
                tf.constant(0),
                tf.zeros((height + reach, width + 2 * reach, batch, self.channels), self.compute_dtype),
                tf.TensorArray(self.compute_dtype, height * width),
            ),
        )
        images = padded[reach:, reach:-reach]
        means = tf.reshape(means.stack(), tf.shape(images))
        return tuple(tf.transpose(each, (2, 0, 1, 3)) for each in (images, means))

    def get_config(self):
        return {**super().get_config(), "channels": self.channels, "filters": self.filters}
