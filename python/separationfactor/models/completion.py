"""Image completion: the conditional VAE of Sohn, Lee and Yan for structured outputs, and its baseline."""

import math

import keras
import numpy as np
import tensorflow as tf

from separationfactor import arguments
from separationfactor.models.image_model import ImageModel, Seeded

_LOG_2_PI = math.log(2 * math.pi)


def observed_pixels(image_shape, quadrants):
    """Returns which pixels of an image are observed.

    Args:
        image_shape: Tuple of three integers: the height, width and channels of an image.
        quadrants: 1, 2 or 3. The number of observed quadrants, in the order lower left, upper left, upper
            right, as in [Sohn, Lee and Yan, 2015](https://papers.nips.cc/paper/5775).

    Returns:
        A boolean array of the image's shape.
    """
    height, width, _ = image_shape
    observed = np.zeros(image_shape, bool)
    observed[height // 2 :, : width // 2] = True
    if quadrants >= 2:
        observed[: height // 2, : width // 2] = True
    if quadrants >= 3:
        observed[: height // 2, width // 2 :] = True
    return observed


class _Completion(ImageModel):
    """The base class of the baseline and the CVAE: splits images in two parts and trains on images alone."""

    def __init__(self, image_shape, quadrants, hidden_units, term_names, **kwargs):
        metrics = [keras.metrics.Mean(name=name) for name in term_names]
        super().__init__(image_shape, metrics, **kwargs)
        if min(self.image_shape[:2]) < 2:
            raise ValueError(
                f"Argument `image_shape` must be at least 2 x 2 pixels. Received: image_shape={image_shape}"
            )
        self.quadrants = arguments.one_of("quadrants", quadrants, (1, 2, 3))
        self.hidden_units = arguments.integer("hidden_units", hidden_units, "a positive integer", least=1)
        observed = observed_pixels(self.image_shape, self.quadrants).ravel()
        self._observed, self._missing = np.flatnonzero(observed), np.flatnonzero(~observed)
        # The place of each pixel of an image after the observed and missing pixels are concatenated.
        self._places = np.argsort(np.concatenate([self._observed, self._missing]))

    def _network(self, inputs, outputs, name):
        """Returns a network with two hidden layers, given the sizes of its input and output vectors."""
        inputs = [keras.Input((size,)) for size in inputs]
        features = inputs[0] if len(inputs) == 1 else keras.layers.Concatenate()(inputs)
        for _ in range(2):
            features = keras.layers.Dense(self.hidden_units, activation="relu")(features)
        outputs = [keras.layers.Dense(size, dtype="float32")(features) for size in outputs]
        inputs, outputs = (each[0] if len(each) == 1 else each for each in (inputs, outputs))
        return keras.Model(inputs, outputs, name=name)

    def _parts(self, images):
        """Returns the observed and the missing pixels, two tensors of shape `(batch, pixels)`.

        The observed pixels are in [0, 1]. The missing pixels may be any numbers.
        """
        images = arguments.images(images, self.image_shape)
        pixels = tf.reshape(images, (-1, math.prod(self.image_shape)))
        observed = arguments.unit_range(tf.gather(pixels, self._observed, axis=1))
        return observed, tf.gather(pixels, self._missing, axis=1)

    def _whole(self, observed, missing):
        """Returns images, given their observed and missing pixels."""
        pixels = tf.gather(tf.concat([observed, missing], axis=1), self._places, axis=1)
        return tf.reshape(pixels, (-1, *self.image_shape))

    def _terms(self, data, training):
        observed, missing = self._parts(self._images_alone(data))
        return self._objective(observed, arguments.unit_range(missing), training)


def _cross_entropy(pixels, logits):
    """Returns -log p(pixels), summed over the last axis."""
    return tf.reduce_sum(tf.nn.sigmoid_cross_entropy_with_logits(labels=pixels, logits=logits), axis=-1)


def _log_normal(z, mean, log_variance):
    """Returns log N(z; mean, exp(log_variance)), summed over the last axis."""
    squares = tf.square(z - mean) * tf.exp(-log_variance)
    return -0.5 * tf.reduce_sum(squares + log_variance + _LOG_2_PI, axis=-1)


@keras.saving.register_keras_serializable(package="separationfactor")
class CompletionBaseline(_Completion):
    """Predicts the missing pixels of an image from the observed pixels, each pixel independently.

    This is the baseline network of [Sohn, Lee and Yan, 2015](https://papers.nips.cc/paper/5775):
    `p(missing | observed)` is a product of Bernoulli distributions. `fit(images)` minimizes the
    negative conditional log-likelihood, averaged over the batch. Grey pixels enter the likelihood
    unchanged, as means of black and white pixels.

    Args:
        image_shape: Tuple of three integers: the height, width and channels of an image.
        quadrants: 1, 2 or 3. The number of observed quadrants, see `observed_pixels`.
        hidden_units: Integer > 0. The size of each of the two hidden layers.
        **kwargs: Base model keyword arguments, such as `name`.

    Call arguments:
        inputs: Images of shape `(batch, *image_shape)`, with values in [0, 1]. Their missing pixels may
            have any values.

    Returns:
        The images, with the missing pixels replaced by their predicted means.
    """

    def __init__(self, image_shape=(28, 28, 1), quadrants=1, hidden_units=500, **kwargs):
        super().__init__(image_shape, quadrants, hidden_units, ("loss",), **kwargs)
        self.network = self._network([self._observed.size], [self._missing.size], "network")
        self.build((None, *self.image_shape))

    def _objective(self, observed, missing, training):
        return {"loss": _cross_entropy(missing, self.network(observed, training=training))}

    def call(self, inputs, training=False):
        observed, _ = self._parts(inputs)
        return self._whole(observed, tf.nn.sigmoid(self.network(observed, training=training)))

    def get_config(self):
        config = {
            "image_shape": list(self.image_shape),
            "quadrants": self.quadrants,
            "hidden_units": self.hidden_units,
        }
        return {**super().get_config(), **config}


@keras.saving.register_keras_serializable(package="separationfactor")
class CompletionVAE(Seeded, _Completion):
    """Completes an image in many ways: a conditional VAE with a prior network.

    This is the model of [Sohn, Lee and Yan, 2015](https://papers.nips.cc/paper/5775) for structured
    outputs. x are the observed pixels of an image and y the missing pixels:

    ```
    z ~ p(z | x) = N(prior(x, guess)),    y ~ p(y | x, z) = Bernoulli(generation(x, z))
    ```

    `guess` is the baseline's prediction of y. `fit(images)` minimizes, averaged over the batch,

    ```
    -E_q[log p(y | x, z)] + KL(q(z | x, y) || p(z | x)),    q(z | x, y) = N(recognition(x, y))
    ```

    with one sample of z. This is an upper bound on the negative conditional log-likelihood
    -log p(y | x), which `conditional_nll` estimates.

    Args:
        baseline: A trained `CompletionBaseline`. This model uses its image shape, quadrants and hidden
            units. The baseline is not trained further.
        latent_dim: Integer > 0. The size of z.
        seed: Integer or `None`. The seed for the sampling of z. With `None`, a random seed.
        **kwargs: Base model keyword arguments, such as `name`.

    Call arguments:
        inputs: Images of shape `(batch, *image_shape)`, with values in [0, 1]. Their missing pixels may
            have any values.

    Returns:
        The images, with the missing pixels replaced by their means, for z at the mean of p(z | x).
    """

    def __init__(self, baseline, latent_dim=50, *, seed=None, **kwargs):
        if not isinstance(baseline, CompletionBaseline):
            raise ValueError(
                f"Argument `baseline` must be a `CompletionBaseline`. Received: baseline={baseline}"
            )
        names = ("loss", "reconstruction", "kl")
        super().__init__(baseline.image_shape, baseline.quadrants, baseline.hidden_units, names, **kwargs)
        self.latent_dim = arguments.integer("latent_dim", latent_dim, "a positive integer", least=1)
        self._seed(seed)
        self.baseline = baseline
        self.baseline.network.trainable = False
        pixels, gaussian = [self._observed.size, self._missing.size], [self.latent_dim, self.latent_dim]
        self.prior = self._network(pixels, gaussian, "prior")
        self.recognition = self._network(pixels, gaussian, "recognition")
        self.generation = self._network([pixels[0], self.latent_dim], [pixels[1]], "generation")
        self.build((None, *self.image_shape))

    def _prior(self, observed, training=False):
        """Returns the mean and log-variance of p(z | x)."""
        guess = tf.nn.sigmoid(self.baseline.network(observed, training=False))
        return self.prior([observed, guess], training=training)

    def _sample(self, mean, log_variance, seed=None):
        seed = self.seed_generator if seed is None else seed
        noise = keras.random.normal(tf.shape(mean), dtype=mean.dtype, seed=seed)
        return mean + tf.exp(0.5 * log_variance) * noise

    def _objective(self, observed, missing, training):
        prior_mean, prior_log_variance = self._prior(observed, training)
        mean, log_variance = self.recognition([observed, missing], training=training)
        logits = self.generation([observed, self._sample(mean, log_variance)], training=training)
        reconstruction = _cross_entropy(missing, logits)
        log_ratio = log_variance - prior_log_variance
        distance = tf.square(mean - prior_mean) * tf.exp(-prior_log_variance)
        kl = 0.5 * tf.reduce_sum(tf.exp(log_ratio) + distance - 1.0 - log_ratio, axis=-1)
        return {"loss": reconstruction + kl, "reconstruction": reconstruction, "kl": kl}

    def call(self, inputs, training=False):
        observed, _ = self._parts(inputs)
        mean, _ = self._prior(observed, training)
        return self._whole(observed, tf.nn.sigmoid(self.generation([observed, mean], training=training)))

    def complete(self, images, samples=1, seed=None):
        """Returns the images, with the missing pixels replaced by their means, for samples of p(z | x).

        Args:
            images: Float tensor of shape `(batch, *image_shape)`, with values in [0, 1]. The missing pixels
                may have any values.
            samples: Integer > 0. The number of completions of each image.
            seed: Integer or `None`. With an integer, every call draws the same samples. With `None`, the
                model's seed generator draws the next samples.

        Returns:
            A tensor of shape `(samples, batch, *image_shape)`.
        """
        samples = arguments.integer("samples", samples, "a positive integer", least=1)
        observed, _ = self._parts(images)
        observed = tf.tile(observed, (samples, 1))
        z = self._sample(*self._prior(observed), seed)
        completed = self._whole(observed, tf.nn.sigmoid(self.generation([observed, z], training=False)))
        return tf.reshape(completed, (samples, -1, *self.image_shape))

    def conditional_nll(self, images, samples=100, method="importance"):
        """Returns an estimate of the negative conditional log-likelihood -log p(y | x) of each image.

        The estimate is `-log 1/S sum_s w_s` over S samples z_s. The weight w_s is

        - with `method="importance"`: p(y | x, z_s) p(z_s | x) / q(z_s | x, y), for z_s ~ q(z | x, y).
        - with `method="monte_carlo"`: p(y | x, z_s), for z_s ~ p(z | x), which does not depend on y.

        The expected value of either estimate is an upper bound, which more samples tighten. The bound of
        "importance" is tighter if q is near the true posterior.

        Args:
            images: Float tensor of shape `(batch, *image_shape)`, with values in [0, 1].
            samples: Integer > 0. The number of samples S.
            method: `"importance"` or `"monte_carlo"`.

        Returns:
            A tensor of shape `(batch,)`, in nats.
        """
        samples = arguments.integer("samples", samples, "a positive integer", least=1)
        arguments.one_of("method", method, ("importance", "monte_carlo"))
        observed, missing = self._parts(images)
        missing = arguments.unit_range(missing)
        log_weights = self._log_weights(observed, missing, samples, method == "importance")
        return math.log(samples) - tf.reduce_logsumexp(log_weights, axis=0)

    @tf.function(reduce_retracing=True)
    def _log_weights(self, observed, missing, samples, importance):
        """Returns the logarithms of the sample weights, of shape `(samples, batch)`."""
        prior = self._prior(observed)
        posterior = self.recognition([observed, missing], training=False) if importance else prior

        def log_weight(_):
            z = self._sample(*posterior)
            logits = self.generation([observed, z], training=False)
            weight = -_cross_entropy(missing, logits)
            return weight + _log_normal(z, *prior) - _log_normal(z, *posterior) if importance else weight

        return tf.map_fn(log_weight, tf.range(samples), fn_output_signature=tf.float32)

    def get_config(self):
        config = {
            "baseline": self.baseline.get_config(),
            "latent_dim": self.latent_dim,
            "seed": self.seed,
        }
        return {**super().get_config(), **config}

    @classmethod
    def from_config(cls, config):
        return cls(**{**config, "baseline": CompletionBaseline.from_config(config["baseline"])})
