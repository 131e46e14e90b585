"""Keras' image layers, fixed for replicas that have no image.

A small batch leaves some replicas without images. On processors with AVX-512 VNNI, TensorFlow uses oneDNN and
handles an empty batch wrongly (seen in 2.21). The output of a convolution has the shape of the images, and so
has the gradient of a transposed convolution. The gradient of max-pooling ends the process. So every replica
computes one extra image.
"""

import keras
import tensorflow as tf

# Registered so that a model's networks can be saved separately.
_registered = keras.saving.register_keras_serializable(package="separationfactor")


class _WithOneImageMore:
    def call(self, inputs):
        if tf.distribute.get_strategy().num_replicas_in_sync == 1:
            return super().call(inputs)
        # Not `tf.pad`: if it is fused with a convolution, the padding of the batch axis is lost.
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
