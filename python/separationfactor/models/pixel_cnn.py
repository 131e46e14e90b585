"""A small PixelCNN, the last stage of the decoder in `ConditionalVAE(decoder="pixelcnn")`."""

import keras
import numpy as np
import tensorflow as tf

from separationfactor import arguments
from separationfactor.models.image_layers import Conv2D


class _CausalConvolution(Conv2D):
    """A convolution over the rows above a pixel and the pixels to its left.

    The kernel has `reach + 1` rows and `2 * reach + 1` columns. Its last row is the pixel's own row. There is
    no padding: the output has `reach` rows and `2 * reach` columns fewer than the input.

    Args:
        filters: The number of output features.
        reach: The number of rows above, and of columns on either side, that the kernel covers.
        sees_itself: Whether the kernel includes the pixel itself, as in the paper's mask B. Mask A excludes
            it.
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
    """Predicts each pixel from the pixels before it, in row-major order, and from the pixel's features.

    ```
    p(x | features) = prod_i Bernoulli(x_i | x_before_i, features_i)
    ```

    Masked convolutions run over the pixels
    ([van den Oord et al., 2016](https://arxiv.org/abs/1601.06759)). Their output is concatenated with the
    features from a VAE decoder, as in PixelVAE
    ([Gulrajani et al., 2016](https://arxiv.org/abs/1611.05013)). A pixel sees 4 rows up and 4 columns
    to either side. Information from further away must come through the features. The channels of a
    pixel are independent given the pixels before it.

    Args:
        channels: Integer > 0. The number of channels of an image.
        filters: Integer > 0. The number of features of each layer.
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
        """Returns the logits of the pixels whose whole context is in `context`."""
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
                [0, 1). A pixel is 1 if its noise is less than its mean.

        Returns:
            The drawn images, of zeros and ones, and the mean of each pixel given the drawn pixels before
            it. The means are an unbiased estimate of the mean image of p(x). They have less noise than the
            drawn images.
        """
        batch, height, width = tf.unstack(tf.shape(features)[:3])
        reach = self.reach
        features, noise = (tf.cast(each, self.compute_dtype) for each in (features, noise))
        features, noise = (
            # The pixel axes come first, so that one pixel of the whole batch is contiguous.
            tf.transpose(each, (1, 2, 0, 3))
            for each in (features, tf.broadcast_to(noise, (batch, height, width, self.channels)))
        )

        def draw_pixel(index, padded, means):
            row, column = index // width, index % width
            # The context that the pixel's logits depend on.
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
