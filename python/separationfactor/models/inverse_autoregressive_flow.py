"""Inverse autoregressive flow, the posterior of z in `ConditionalVAE(posterior="iaf")`."""

import keras
import numpy as np
import tensorflow as tf

from separationfactor import arguments


@keras.saving.register_keras_serializable(package="separationfactor")
class InverseAutoregressiveFlow(keras.layers.Layer):
    """Transforms a Gaussian sample into a sample of a richer distribution with a known density.

    This is the flow of [Kingma et al., 2016](https://arxiv.org/abs/1606.04934), in the numerically
    stable form of the paper's algorithm 1. Each step is

    ```
    m, s = network(z, context),    z <- sigmoid(s) * z + (1 - sigmoid(s)) * m
    ```

    The network is autoregressive: entry i of m and s depends only on the context and on the entries
    of z before i. It is a masked network with one hidden layer
    ([Germain et al., 2015](https://arxiv.org/abs/1502.03509)). So the Jacobian of a step is
    triangular, and the logarithm of its determinant is the sum of log sigmoid(s). The order of the
    entries is reversed between steps.

    Args:
        steps: Integer > 0. The number of steps.
        units: Integer > 0. The size of the hidden layer of each step.
        **kwargs: Base layer keyword arguments, such as `name` and `dtype`.

    Call arguments:
        z: Float tensor of shape `(..., size)`.
        context: Float tensor of shape `(..., context_size)`, such as an encoder's features. Its leading
            axes broadcast to those of z.

    Returns:
        The new z, of the same shape, and log |det dz_new/dz|, of shape `(...)`.
    """

    def __init__(self, steps=4, units=64, **kwargs):
        super().__init__(**kwargs)
        self.steps = arguments.integer("steps", steps, "a positive integer", least=1)
        self.units = arguments.integer("units", units, "a positive integer", least=1)

    def build(self, z_shape, context_shape):
        size, context_size = z_shape[-1], context_shape[-1]
        # Hidden unit h sees the first `degree[h]` entries, from none to all but the last.
        degree = np.arange(self.units) % size
        entry = np.arange(size)
        self._hidden_mask = (entry[:, None] < degree).astype("float32")
        self._output_mask = np.tile(degree[:, None] <= entry, 2).astype("float32")
        self._weights_of_steps = [
            {
                "hidden": self.add_weight(shape=(size, self.units), name=f"hidden_{step}"),
                "context": self.add_weight(shape=(context_size, self.units), name=f"context_{step}"),
                "hidden_bias": self.add_weight(
                    shape=(self.units,), initializer="zeros", name=f"hidden_bias_{step}"
                ),
                "output": self.add_weight(shape=(self.units, 2 * size), name=f"output_{step}"),
                "output_bias": self.add_weight(
                    shape=(2 * size,),
                    # m = 0 and s = 1.5, so that an untrained step keeps most of z, as the paper advises.
                    initializer=lambda shape, dtype: tf.repeat(tf.constant([0.0, 1.5], dtype), shape[0] // 2),
                    name=f"output_bias_{step}",
                ),
            }
            for step in range(self.steps)
        ]

    def call(self, z, context):
        log_determinant = 0.0
        hidden_mask, output_mask = (
            tf.cast(mask, self.compute_dtype) for mask in (self._hidden_mask, self._output_mask)
        )
        for step, weights in enumerate(self._weights_of_steps):
            if step > 0:
                z = tf.reverse(z, axis=[-1])
            hidden = tf.nn.relu(
                z @ (weights["hidden"] * hidden_mask) + context @ weights["context"] + weights["hidden_bias"]
            )
            m, s = tf.split(hidden @ (weights["output"] * output_mask) + weights["output_bias"], 2, axis=-1)
            gate = tf.nn.sigmoid(s)
            z = gate * z + (1 - gate) * m
            log_determinant += tf.reduce_sum(tf.math.log_sigmoid(s), axis=-1)
        return z, log_determinant

    def get_config(self):
        return {**super().get_config(), "steps": self.steps, "units": self.units}
