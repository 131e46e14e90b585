"""What the models of images share: a step of training, and a state of random numbers that is saved."""

import contextlib
import warnings

import keras
import tensorflow as tf

from separationfactor import arguments
from separationfactor.distribution import place_in_batch


class ImageModel(keras.Model):
    """A model of images that its constructor builds, from the configuration alone.

    A subclass's `_terms(data, training)` returns tensors by name, an entry an example. Training minimizes
    the mean of `loss` over the global batch; what else there is, metrics of that name keep track of. The
    penalties of the model's layers are added to `loss`: regularizers, activity penalties and `add_loss`.
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

    def _terms_and_penalties(self, data, training):
        self._clear_losses()  # of the last step, which Keras clears where a model is called as a whole
        terms = self._terms(data, training)
        # Added to each example's loss, so that a replica counts by its share of the global batch.
        for penalty in self.losses:
            terms["loss"] += tf.cast(tf.reduce_sum(penalty), terms["loss"].dtype)
        return terms

    def _track(self, terms):
        for name, values in terms.items():
            self._metrics_by_name[name].update_state(values)
        return {metric.name: metric.result() for metric in self.metrics}

    def train_step(self, data):
        with tf.GradientTape() as tape:
            terms = self._terms_and_penalties(data, training=True)
            # Gradients are summed over replicas.
            _, rows = place_in_batch(tf.size(terms["loss"]))
            loss = tf.reduce_sum(terms["loss"]) / tf.cast(rows, terms["loss"].dtype)
            scaled_loss = self.optimizer.scale_loss(loss)
        if weights := self.trainable_weights:
            self.optimizer.apply_gradients(zip(tape.gradient(scaled_loss, weights), weights, strict=True))
        else:
            warnings.warn("The model does not have any trainable weights.", stacklevel=2)  # as Keras warns
        return self._track(terms)

    def test_step(self, data):
        return self._track(self._terms_and_penalties(data, training=False))

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)


class Seeded:
    """Gives a Keras model a seed generator whose state is saved, for a training that is continued."""

    def _seed(self, seed):
        self.seed = seed if seed is None else arguments.integer("seed", seed, "an integer or `None`")
        self.seed_generator = keras.random.SeedGenerator(self.seed)

    @contextlib.contextmanager
    def drawing_from(self, seed):
        """Has the model draw by `seed` in a `with` block, and then go on drawing where it was before.

        Args:
            seed: Integer.
        """
        before = self.seed_generator.state.numpy()
        self.seed_generator.state.assign(keras.random.SeedGenerator(seed).state)
        try:
            yield
        finally:
            self.seed_generator.state.assign(before)

    def save_own_variables(self, store):
        super().save_own_variables(store)
        store["seed_generator"] = self.seed_generator.state.numpy()

    def load_own_variables(self, store):
        variables = {name: store[name] for name in store.keys() if name != "seed_generator"}  # noqa: SIM118
        super().load_own_variables(variables)
        self.seed_generator.state.assign(store["seed_generator"])
