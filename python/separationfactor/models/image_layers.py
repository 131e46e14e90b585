"""Keras' layers of images, also for a replica that has no image.

A small batch leaves some replicas none. With oneDNN, which TensorFlow uses on processors that have AVX-512's
VNNI, the result of its convolution of an empty batch has the images' shape, as has a transposed one's
gradient, and max-pooling's gradient ends the process (seen in 2.21). So replicas compute one image more.
"""

import keras
import tensorflow as tf

# So that a network of a model can be saved by itself.
_registered = keras.saving.register_keras_serializable(package="separationfactor")


class _WithOneImageMore:
    def call(self, inputs):
        if tf.distribute.get_strategy().num_replicas_in_sync == 1:
            return super().call(inputs)
        # Not `tf.pad`, whose padding of the batch is lost where it is fused with a convolution.
        one = tf.zeros(tf.concat([[1], tf.shape(inputs)[1:]], axis=0), inputs.dtype)
        return super().call(tf.concat([inputs, one], axis=0))[:-1]


@_registered
class Conv2D(_WithOneImageMore, keras.layers.Conv2D):
    pass


@_registered
class Conv2DTranspose(_WithOneImageMore, keras.layers.Conv2DTranspose):
    pass


@_registered
class MaxPooling2D(_WithOneImageMore, keras.layers.MaxPooling2D):
    pass
