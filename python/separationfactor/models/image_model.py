"""Base classes of the image models: the training step, and a seed generator whose state is saved."""

import contextlib
import warnings

import keras
import tensorflow as tf

from separationfactor import _private, arguments
from separationfactor.distribution import place_in_batch


class ImageModel(keras.Model):
    """A model of images. Its constructor builds it from the configuration alone.

    A subclass implements `_terms(data, training)`, which returns a dict of tensors with one entry per
    example. Training minimizes the mean of the term `loss` over the global batch. A metric of the same name
    tracks each term. The penalties of the model's layers are added to `loss`: regularizers, activity
    penalties and `add_loss`.
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
        """Returns the images of `data`, which must not have labels or sample weights."""
        images, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if labels is not None or sample_weight is not None:
            raise ValueError(
                f"{type(self).__name__} must be trained and evaluated on images alone. "
                f"Received: y={labels}, sample_weight={sample_weight}"
            )
        return images

    def _terms_and_penalties(self, data, training):
        # Keras clears the losses of the last step only if the model itself is called.
        earlier = {id(penalty): penalty for penalty in _private.clear_losses(self)}
        terms = self._terms(data, training)
        # Added to each example's loss, so that each replica has the weight of its share of the global batch.
        for penalty in self.losses:
            if id(penalty) not in earlier:
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
            gradients = self._gradients(tape, scaled_loss, weights)
            self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
        else:
            warnings.warn("The model does not have any trainable weights.", stacklevel=2)  # As Keras does.
        return self._track(terms)

    def _gradients(self, tape, loss, weights):
        """Returns the gradients that the optimizer gets."""
        return tape.gradient(loss, weights)

    def test_step(self, data):
        return self._track(self._terms_and_penalties(data, training=False))

    def compute_output_shape(self, input_shape):
        return tuple(input_shape)


class Seeded:
    """Gives a Keras model a seed generator. Its state is saved, so that training can be resumed."""

    def _seed(self, seed):
        self.seed = seed if seed is None else arguments.integer("seed", seed, "an integer or `None`")
        self.seed_generator = keras.random.SeedGenerator(self.seed)

    @contextlib.contextmanager
    def drawing_from(self, seed):
        """Returns a context in which the model draws random numbers from `seed`.

        Afterwards the seed generator continues from its previous state.

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
