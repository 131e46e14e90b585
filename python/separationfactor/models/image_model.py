"""What the models of images share: a step of training, and a state of random numbers that is saved."""

import keras
import tensorflow as tf

from separationfactor import arguments
from separationfactor.distribution import place_in_batch


class ImageModel(keras.Model):
    """A model of images that its constructor builds, from the configuration alone.

    A subclass's `_terms(data, training)` returns tensors by name, an entry an example. Training minimizes
    the mean of `loss` over the global batch; what else there is, metrics of that name keep track of.
    """

    def __init__(self, image_shape, metrics, **kwargs):
        super().__init__(**kwargs)
        self.image_shape = arguments.image_shape(image_shape)
        self._metrics_by_name = {metric.name: metric for metric in metrics}

    def build(self, input_shape):
        self.built = True

    @property
    def metrics(self):
        return list(self._metrics_by_name.values())

    def _images_alone(self, data):
        """Returns the images of data that must have nothing else."""
        images, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if labels is not None or sample_weight is not None:
            raise ValueError(
                f"{type(self).__name__} is trained and evaluated on images alone. "
                f"Received: y={labels}, sample_weight={sample_weight}"
            )
        return images

    def _track(self, terms):
        for name, values in terms.items():
            self._metrics_by_name[name].update_state(values)
        return {metric.name: metric.result() for metric in self.metrics}

    def train_step(self, data):
        with tf.GradientTape() as tape:
            terms = self._terms(data, training=True)
            # Gradients are summed over replicas.
            _, rows = place_in_batch(tf.size(terms["loss"]))
            loss = tf.reduce_sum(terms["loss"]) / tf.cast(rows, terms["loss"].dtype)
            scaled_loss = self.optimizer.scale_loss(loss)
        weights = self.trainable_weights
        self.optimizer.apply_gradients(zip(tape.gradient(scaled_loss, weights), weights, strict=True))
        return self._track(terms)

    def test_step(self, data):
        return self._track(self._terms(data, training=False))

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)


class Seeded:
    """Gives a Keras model a seed generator whose state is saved, for a training that is continued."""

    def _seed(self, seed):
        self.seed = seed if seed is None else arguments.integer("seed", seed, "an integer or `None`")
        self.seed_generator = keras.random.SeedGenerator(self.seed)

    def save_own_variables(self, store):
        super().save_own_variables(store)
        store["seed_generator"] = self.seed_generator.state.numpy()

    def load_own_variables(self, store):
        variables = {name: store[name] for name in store.keys() if name != "seed_generator"}  # noqa: SIM118
        super().load_own_variables(variables)
        self.seed_generator.state.assign(store["seed_generator"])
