"""A conditional variational autoencoder that conditions on the class through the separation layer."""

import functools
import math

import keras
import tensorflow as tf

from separationfactor import arguments
from separationfactor.distribution import place_in_batch
from separationfactor.layers import SeparationFactor
from separationfactor.models.image_layers import Conv2D, Conv2DTranspose, MaxPooling2D
from separationfactor.models.image_model import ImageModel, Seeded
from separationfactor.models.inverse_autoregressive_flow import InverseAutoregressiveFlow
from separationfactor.models.pixel_cnn import PixelCNN

# The number of features per pixel that the decoder gives to a PixelCNN.
_PIXEL_FEATURES = 32


def _with_labels_checked(method):
    """Returns a Keras method that first checks labels given as arrays, because XLA drops assertions."""

    @functools.wraps(method)
    def wrapped(self, x=None, y=None, *args, **kwargs):
        validation_data = kwargs.get("validation_data")
        validation_labels = validation_data[1] if isinstance(validation_data, (tuple, list)) else None
        for labels in (y, validation_labels):
            if labels is not None:
                self._one_hot(labels)
        return method(self, x, y, *args, **kwargs)

    return wrapped


@keras.saving.register_keras_serializable(package="separationfactor")
class ConditionalVAE(Seeded, ImageModel):
    """A conditional VAE that passes the class vector through a separation layer and adds it to the latent.

    The generative model, for K classes and images `x`, is

    ```
    y ~ Cat(1/K),    z ~ N(0, I),    x ~ Bernoulli(decoder(z + S(y)))
    ```

    where `S` is `SeparationFactor` on the class vector. With `combine="add"` this is a VAE whose
    prior is a mixture of K Gaussians at the corners `separation_factor * e_y`. `fit(images, labels)`
    minimizes, averaged over the batch,

    ```
    -E_q[log p(x | z + S(y))] + beta * KL(q(z | x, y) || N(0, I)) - log q(y | x)
    ```

    with one sample of `q(z | x, y) = N(mean, exp(log_variance))` per image. The terms are summed over
    pixels and latent dimensions. `q(y | x)` is the classifier. With `beta=1`, the first two terms are
    the negative of a lower bound on `log p(x | y)`
    ([Kingma and Welling, 2014](https://arxiv.org/abs/1312.6114);
    [Sohn, Lee and Yan, 2015](https://papers.nips.cc/paper/5775)). Grey pixels enter the Bernoulli
    likelihood unchanged, as means of black and white pixels.

    The metrics `reconstruction` and `kl` are the first two terms without `beta`, and `negative_elbo` is
    their sum. They always use the label for y, even if training uses the classifier's output. So
    `negative_elbo` is an upper bound on `-log p(x | y)` for every model. `negative_elbo` plus
    `-log p(y) = log K` nats is an upper bound on `-log p(x, y)`, and so on `-log p(x)`. The metric `loss`
    is the minimized quantity. With `condition="predicted"`, `loss` is not a bound, because the decoder
    receives, at no cost, the classifier's output for the image that it reconstructs.

    Example:
    >>> model = ConditionalVAE((8, 8, 1), num_classes=3)
    >>> model.compile(keras.optimizers.Adam(1e-3))
    >>> images, labels = np.random.rand(32, 8, 8, 1), np.random.randint(0, 3, 32)
    >>> history = model.fit(images, labels, verbose=0)
    >>> sorted(history.history)
    ['classifier_accuracy', 'classifier_loss', 'kl', 'loss', 'negative_elbo', 'reconstruction']
    >>> model.generate([0, 1, 2]).shape
    TensorShape([3, 8, 8, 1])

    Args:
        image_shape: Tuple of three integers: the height, width and channels of an image.
        num_classes: Integer > 1. The number of classes, K.
        latent_dim: Integer > 0. The size of z. With `combine="add"` it must be at least `num_classes`,
            because S(y) is added to the first `num_classes` dimensions. Defaults to `num_classes`.
        separation_factor, suppression_factor, k, trainable_factors, implementation: The arguments
            of the `SeparationFactor` layer. To select one class, use `k=1`.
        combine: `"add"` decodes `z + S(y)`. `"concat"` decodes the concatenation of z and S(y).
        condition: The class vector in the loss. `"label"` uses the one-hot label, `"predicted"` the
            classifier's output. Methods with optional labels use the labels if they are given, else the
            classifier's output.
        hard: Boolean. If `True`, the classifier's output is made one-hot before use. Otherwise the
            softmax is used. The gradient is always that of the softmax (straight-through).
        stop_gradient: Boolean. If `True`, the decoder's gradient stops at the class vector, so only the
            classifier's own likelihood trains the classifier.
        beta: Float >= 0. The weight of the KL divergence
            ([Higgins et al., 2017](https://openreview.net/forum?id=Sy2fzU9gl)).
        posterior: `"gaussian"`, or `"iaf"` for an inverse autoregressive flow on top of the Gaussian
            (`InverseAutoregressiveFlow`). The KL divergence of `"iaf"` is estimated from the one
            sample, as log q(z | x, y) - log p(z).
        decoder: `"convolutional"` or `"pixelcnn"`. With `"convolutional"`, pixels are independent given z
            and y. With `"pixelcnn"`, a small PixelCNN on top (`PixelCNN`) predicts each pixel from the
            pixels before it as well. Those pixels are drawn black or white, with the grey pixels as means.
            So the bound is on the same quantity as with independent pixels: the mean of log p over such
            drawn images.
        seed: Integer or `None`. The seed for the sampling of z. With `None`, a random seed. To repeat a
            training run bit for bit on the CPU, also call `keras.utils.set_random_seed` and
            `tf.config.experimental.enable_op_determinism`.
        **kwargs: Base model keyword arguments, such as `name` and `dtype`.

    Call arguments:
        inputs: Images of shape `(batch, *image_shape)`, with values in [0, 1].

    Returns:
        The reconstructions of the images, from the mean of z and the predicted class.

    Raises:
        ValueError: If an argument is not valid, or images, labels or z have the wrong shape or dtype.
        tf.errors.InvalidArgumentError: If images are not in [0, 1], or labels are not in
            [0, `num_classes`). XLA cannot raise this error: a function that it compiles returns NaN
            instead. For example, the loss is NaN if a `tf.data.Dataset` holds wrong labels. Labels given
            as an array are checked before.
    """

    def __init__(
        self,
        image_shape=(28, 28, 1),
        num_classes=10,
        *,
        latent_dim=None,
        separation_factor=10.0,
        suppression_factor=0.25,
        k=1,
        trainable_factors=False,
        combine="add",
        condition="label",
        hard=False,
        stop_gradient=False,
        beta=1.0,
        posterior="gaussian",
        decoder="convolutional",
        implementation="auto",
        seed=None,
        **kwargs,
    ):
        names = (
            "loss",
            "negative_elbo",
            "reconstruction",
            "kl",
            "classifier_loss",
            "classifier_accuracy",
        )
        super().__init__(image_shape, [keras.metrics.Mean(name=name) for name in names], **kwargs)
        self.num_classes = arguments.integer("num_classes", num_classes, "an integer > 1", least=2)
        self.combine = arguments.one_of("combine", combine, ("add", "concat"))
        self.condition = arguments.one_of("condition", condition, ("label", "predicted"))
        self.hard = bool(hard)
        self.stop_gradient = bool(stop_gradient)
        self.beta = arguments.finite("beta", beta)
        if self.beta < 0:
            raise ValueError(f"Argument `beta` must not be negative. Received: beta={beta}")
        self.posterior = arguments.one_of("posterior", posterior, ("gaussian", "iaf"))
        # The attribute `decoder` is the network.
        self.decoder_type = arguments.one_of("decoder", decoder, ("convolutional", "pixelcnn"))
        if latent_dim is None:
            latent_dim = self.num_classes
        self.latent_dim = arguments.integer("latent_dim", latent_dim, "a positive integer", least=1)
        if self.combine == "add" and self.latent_dim < self.num_classes:
            raise ValueError(
                "Argument `latent_dim` must be at least `num_classes` with combine='add'. "
                f"Received: latent_dim={latent_dim}, num_classes={num_classes}"
            )
        self._seed(seed)

        self.separation = SeparationFactor(
            separation_factor,
            suppression_factor,
            k=k,
            trainable_factors=trainable_factors,
            implementation=implementation,
            name="separation",
            dtype=self.dtype_policy,
        )
        self.separation.build((None, self.num_classes))
        with_flow, with_pixel_cnn = self.posterior == "iaf", self.decoder_type == "pixelcnn"
        z, pixels = (self.latent_dim,), self.image_shape
        classes = (self.num_classes,)
        latent = (self.latent_dim + (self.num_classes if self.combine == "concat" else 0),)
        self.classifier, _ = self._checked("make_classifier", [pixels], [classes])
        self.encoder, (_, _, *context) = self._checked(
            "make_encoder", [pixels, classes], [z, z, (None,)] if with_flow else [z, z]
        )
        self.decoder, (features,) = self._checked(
            "make_decoder", [latent], [(*pixels[:2], None) if with_pixel_cnn else pixels]
        )
        self.flow = self._make_flow(*context) if with_flow else None
        self.pixel_cnn = self._make_pixel_cnn(features) if with_pixel_cnn else None

        self.build((None, *self.image_shape))

    def _checked(self, method, inputs, outputs):
        """Calls a method that makes a network, and returns the network and the shapes of its outputs.

        Args:
            method: The name of the method, which a subclass may override.
            inputs: The input shapes that the network must accept, without the batch axis.
            outputs: The output shapes that the network must return, without the batch axis.

        Raises:
            ValueError: If the network accepts or returns other shapes.
        """
        network = getattr(self, method)()
        expected = f"`{method}` must return a `keras.Model`"
        if not isinstance(network, keras.Model):
            raise ValueError(f"{expected}. Received: {network} (of type {type(network)})")
        tensors = [keras.Input(shape) for shape in inputs]
        try:  # The call also builds layers that are not built yet.
            found = network(tensors if len(tensors) > 1 else tensors[0], training=False)
        except Exception as error:
            raise ValueError(
                f"{expected} that accepts inputs of the shapes {inputs}, without the batch axis, and the "
                f"argument `training`. Received: {network}, which fails: {error}"
            ) from error
        found = [tuple(output.shape[1:]) for output in tf.nest.flatten(found)]
        if len(found) != len(outputs) or not all(
            tf.TensorShape(one).is_compatible_with(other) for one, other in zip(found, outputs, strict=True)
        ):
            raise ValueError(
                f"{expected} whose outputs, without the batch axis, have the shapes {outputs}. "
                f"Received: {found}"
            )
        return network, found

    @staticmethod
    def _run(network, inputs, training=False):
        """Returns a network's outputs in float32, as a tensor or a list."""
        return tf.nest.map_structure(
            lambda output: tf.cast(output, tf.float32), network(inputs, training=training)
        )

    # The networks. The encoder halves the height and width of an image twice.

    def make_classifier(self):
        """Returns the network of q(y | x). A subclass may override this method.

        Returns:
            A `keras.Model` from images to logits of shape `(batch, num_classes)`.
        """
        images = keras.Input(self.image_shape)
        features = images
        # The statistics are those of the global batch. `synchronized` is set only for several replicas,
        # because Keras rounds less without it.
        replicated = tf.distribute.get_strategy().num_replicas_in_sync > 1
        for filters in (32, 64):
            features = Conv2D(filters, 3, padding="same", use_bias=False)(features)
            features = keras.layers.BatchNormalization(momentum=0.9, synchronized=replicated)(features)
            features = keras.layers.ReLU()(features)
            features = MaxPooling2D(padding="same")(features)
        features = keras.layers.Flatten()(features)
        features = keras.layers.Dense(128, activation="relu")(features)
        logits = keras.layers.Dense(self.num_classes, dtype="float32")(features)
        return keras.Model(images, logits, name="classifier")

    def make_encoder(self):
        """Returns the network of q(z | x, y). A subclass may override this method.

        Returns:
            A `keras.Model`. Its input is a list of images and class vectors of shape `(batch, num_classes)`.
            Its output is a list of the mean and the log-variance of z, of shape `(batch, latent_dim)`. With
            `posterior="iaf"`, the list also has a vector of any size, the context of the flow.
        """
        images = keras.Input(self.image_shape)
        class_vector = keras.Input((self.num_classes,))
        features = images
        for filters in (32, 64):
            features = Conv2D(filters, 3, strides=2, padding="same", activation="relu")(features)
        features = keras.layers.Flatten()(features)
        features = keras.layers.Concatenate()([features, class_vector])
        features = keras.layers.Dense(128, activation="relu")(features)
        mean = keras.layers.Dense(self.latent_dim, name="mean", dtype="float32")(features)
        log_variance = keras.layers.Dense(self.latent_dim, name="log_variance", dtype="float32")(features)
        outputs = [mean, log_variance]
        if self.posterior == "iaf":
            outputs.append(keras.layers.Activation("linear", name="context", dtype="float32")(features))
        return keras.Model([images, class_vector], outputs, name="encoder")

    def _make_flow(self, context_shape):
        flow = InverseAutoregressiveFlow(name="flow", dtype="float32")
        flow.build((None, self.latent_dim), (None, *context_shape))
        return flow

    def make_decoder(self):
        """Returns the network of p(x | z, y). A subclass may override this method.

        Returns:
            A `keras.Model`. Its input is z + S(y) or, with `combine="concat"`, the concatenation of z and
            S(y). Its output is logits of shape `(batch, *image_shape)` or, with `decoder="pixelcnn"`,
            features of each pixel, of shape `(batch, height, width, features)`.
        """
        height, width, channels = self.image_shape
        small = (math.ceil(height / 4), math.ceil(width / 4), 64)
        size = self.latent_dim + (self.num_classes if self.combine == "concat" else 0)
        latent = keras.Input((size,))
        features = keras.layers.Dense(math.prod(small), activation="relu")(latent)
        features = keras.layers.Reshape(small)(features)
        for filters in (64, 32):
            features = Conv2DTranspose(filters, 3, strides=2, padding="same", activation="relu")(features)
        surplus = ((0, 4 * small[0] - height), (0, 4 * small[1] - width))
        features = keras.layers.Cropping2D(surplus)(features)
        outputs = channels if self.decoder_type == "convolutional" else _PIXEL_FEATURES
        logits = Conv2D(outputs, 3, padding="same", dtype="float32")(features)
        return keras.Model(latent, logits, name="decoder")

    def _make_pixel_cnn(self, features_shape):
        pixel_cnn = PixelCNN(self.image_shape[-1], name="pixel_cnn", dtype="float32")
        pixel_cnn.build((None, *self.image_shape), (None, *features_shape))
        return pixel_cnn

    # The model.

    fit = _with_labels_checked(ImageModel.fit)
    evaluate = _with_labels_checked(ImageModel.evaluate)
    train_on_batch = _with_labels_checked(ImageModel.train_on_batch)
    test_on_batch = _with_labels_checked(ImageModel.test_on_batch)

    def _class_vector(self, logits):
        """Returns the class vector for the classifier's logits: a softmax or, if `hard`, a one-hot vector."""
        soft = tf.nn.softmax(logits)
        if not self.hard:
            return soft
        hard = tf.one_hot(tf.argmax(soft, axis=-1), self.num_classes, dtype=soft.dtype)
        # The term in parentheses is zero but has the gradient of the softmax.
        return hard + (soft - tf.stop_gradient(soft))

    def _one_hot(self, labels):
        """Returns labels as one-hot vectors after checking that they are in [0, num_classes)."""
        labels = self._labels(labels)
        return arguments.checked(
            tf.one_hot(labels, self.num_classes),
            tf.reduce_all((labels >= 0) & (labels < self.num_classes)),
            f"`labels` must be integers in [0, {self.num_classes}), the model's number of classes",
            tf.reduce_min(labels),
            tf.reduce_max(labels),
        )

    @staticmethod
    def _labels(labels):
        """Returns labels as a vector of integers."""
        labels = tf.convert_to_tensor(labels)
        if not labels.dtype.is_integer:
            raise ValueError(f"`labels` must be integers. Received: dtype={labels.dtype.name}")
        if labels.shape.rank == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        if labels.shape.rank != 1:
            raise ValueError(f"`labels` must be a vector of integers. Received: shape={labels.shape}")
        return tf.cast(labels, tf.int64)

    def _images(self, images):
        return arguments.unit_range(arguments.images(images, self.image_shape))

    def _z(self, z):
        """Returns a batch of z as a float32 tensor."""
        z = tf.convert_to_tensor(z)
        if not z.shape.is_compatible_with((None, self.latent_dim)):
            raise ValueError(f"`z` must have shape (batch, {self.latent_dim}). Received: shape={z.shape}")
        return tf.cast(z, tf.float32)

    def _noise(self, batch):
        """Draws the noise for a batch: for z, and for the pixels or `None` if there is no PixelCNN.

        The noise of an example depends on its place in the global batch.
        """
        start, rows = place_in_batch(batch)

        def draw(distribution, shape):
            noise = distribution((rows, *shape), dtype="float32", seed=self.seed_generator)
            return noise[start : start + batch]

        of_z = draw(keras.random.normal, (self.latent_dim,))
        return of_z, None if self.pixel_cnn is None else draw(keras.random.uniform, self.image_shape)

    def _sample(self, noise, mean, log_variance, context=None):
        """Returns a sample z of q(z | x, y), made from noise of N(0, I), and log q(z | x, y) - log p(z)."""
        z = mean + tf.exp(0.5 * log_variance) * noise
        log_determinant = 0.0
        if self.flow is not None:
            z, log_determinant = self.flow(z, context)
        # The normalizing constants of q and of the prior are the same.
        squares = tf.square(z) - tf.square(noise) - log_variance
        return z, 0.5 * tf.reduce_sum(squares, axis=-1) - log_determinant

    @staticmethod
    def _cross_entropy(images, logits):
        pixels = tf.nn.sigmoid_cross_entropy_with_logits(labels=images, logits=logits)
        return tf.reduce_sum(pixels, axis=(1, 2, 3))

    @staticmethod
    def _gaussian_kl(mean, log_variance):
        return 0.5 * tf.reduce_sum(tf.exp(log_variance) + tf.square(mean) - 1.0 - log_variance, axis=-1)

    def _moments(self, mean, log_variance, context=None):
        """Returns the mean and log-variance of q(z | x, y), given the outputs of the encoder."""
        if self.flow is None:
            return mean, log_variance
        # Estimated from draws that are the same for every image and every call.
        noise = keras.random.normal((32, self.latent_dim), dtype="float32", seed=0)
        noise = tf.concat([noise, -noise], axis=0)
        z = mean[:, tf.newaxis] + tf.exp(0.5 * log_variance)[:, tf.newaxis] * noise
        z, _ = self.flow(z, context[:, tf.newaxis])
        return tf.reduce_mean(z, axis=1), tf.math.log(tf.math.reduce_variance(z, axis=1))

    def _latent(self, z, class_code):
        """Returns the input of the decoder, the sum or the concatenation of z and S(y)."""
        class_code = tf.cast(class_code, z.dtype)
        if self.combine == "concat":
            return tf.concat([z, class_code], axis=-1)
        return z + tf.pad(class_code, [[0, 0], [0, self.latent_dim - self.num_classes]])

    def _image_logits(self, images, z, class_code, noise, training):
        """Returns the logits of the pixels. A PixelCNN receives images drawn black and white with `noise`."""
        outputs = self._run(self.decoder, self._latent(z, class_code), training)
        if self.pixel_cnn is None:
            return outputs
        return self.pixel_cnn(tf.cast(noise < images, tf.float32), outputs)

    def _decode(self, z, class_code, noise=None):
        """Returns mean images. A PixelCNN draws pixels with `noise`. With `None`, all share one noise."""
        outputs = self._run(self.decoder, self._latent(z, class_code))
        if self.pixel_cnn is None:
            return tf.nn.sigmoid(outputs)
        if noise is None:
            noise = keras.random.uniform((1, *self.image_shape), dtype="float32", seed=0)
        _, means = self.pixel_cnn.draw(outputs, noise)
        return means

    def _pixel_noise(self, images, seed):
        """Returns the noise with which a PixelCNN draws images, different for each image."""
        if self.pixel_cnn is None:
            return None
        shape = (images, *self.image_shape)
        if seed is None:
            return keras.random.uniform(shape, dtype="float32", seed=self.seed_generator)
        return tf.random.stateless_uniform(shape, seed=(seed, 1))  # `generate` draws z from (seed, 0).

    def _negative_elbo(self, images, class_vector, noise, training):
        """Returns the two terms of the negative ELBO for each example, given its class vector."""
        of_z, of_pixels = noise
        moments = self._run(self.encoder, [images, class_vector], training)
        z, log_ratio = self._sample(of_z, *moments)
        logits = self._image_logits(images, z, self.separation(class_vector), of_pixels, training)
        kl = log_ratio if self.flow is not None else self._gaussian_kl(*moments)
        return self._cross_entropy(images, logits), kl

    def _terms(self, data, training):
        images, labels, sample_weight = keras.utils.unpack_x_y_sample_weight(data)
        if labels is None or sample_weight is not None:
            raise ValueError(
                "ConditionalVAE must be trained and evaluated on images and labels, without sample weights. "
                f"Received: labels={labels}, sample_weight={sample_weight}"
            )
        images, one_hot = self._images(images), self._one_hot(labels)
        noise = self._noise(tf.shape(images)[0])
        if self.condition == "predicted":
            # Before the terms of the loss, because a network keeps the penalties of its last call.
            at_label = self._negative_elbo(images, one_hot, noise, training=False)
        class_logits = self._run(self.classifier, images, training)
        class_vector = one_hot if self.condition == "label" else self._class_vector(class_logits)
        if self.stop_gradient:
            class_vector = tf.stop_gradient(class_vector)
        reconstruction, kl = self._negative_elbo(images, class_vector, noise, training)
        classifier_loss = tf.nn.softmax_cross_entropy_with_logits(labels=one_hot, logits=class_logits)
        # A sum of a stack, because TensorFlow's graph optimizer may reorder a chain of additions.
        loss = tf.reduce_sum(tf.stack([reconstruction, self.beta * kl, classifier_loss]), axis=0)
        if self.condition == "predicted":
            reconstruction, kl = at_label
        is_right = tf.equal(tf.argmax(class_logits, axis=-1), tf.argmax(one_hot, axis=-1))
        return {
            "loss": loss,
            "negative_elbo": reconstruction + kl,
            "reconstruction": reconstruction,
            "kl": kl,
            "classifier_loss": classifier_loss,
            "classifier_accuracy": tf.cast(is_right, tf.float32),
        }

    def call(self, inputs, training=False):
        return self.reconstruct(inputs)

    # Inference with a trained model.

    def classify(self, images):
        """Returns the classifier's probabilities, of shape `(batch, num_classes)`.

        Args:
            images: Float tensor of shape `(batch, *image_shape)`, with values in [0, 1].
        """
        return tf.nn.softmax(self._run(self.classifier, self._images(images)))

    def encode(self, images, labels=None):
        """Returns the mean and the logarithm of the variance of q(z | x, y).

        With `posterior="iaf"` they are estimated from 64 draws, which are the same in every call.

        Args:
            images: Float tensor of shape `(batch, *image_shape)`, with values in [0, 1].
            labels: Integer tensor of shape `(batch,)`, the classes of the images. With `None`, the
                classifier's output is used.

        Returns:
            Two tensors of shape `(batch, latent_dim)`.
        """
        images = self._images(images)
        return self._moments(*self._run(self.encoder, [images, self._class_vector_of(images, labels)]))

    def _class_vector_of(self, images, labels):
        if labels is not None:
            return self._one_hot(labels)
        return self._class_vector(self._run(self.classifier, images))

    def represent(self, images, labels=None):
        """Returns the decoder's input for images: the mean of z, with S(y) added or concatenated.

        Args:
            images: Float tensor of shape `(batch, *image_shape)`, with values in [0, 1].
            labels: Integer tensor of shape `(batch,)`, the classes of the images. With `None`, the
                classifier's output is used.

        Returns:
            A tensor of shape `(batch, latent_dim)`, or `(batch, latent_dim + num_classes)` with
            `combine="concat"`.
        """
        images = self._images(images)
        class_vector = self._class_vector_of(images, labels)
        mean, _ = self._moments(*self._run(self.encoder, [images, class_vector]))
        return self._latent(mean, self.separation(class_vector))

    def log_weights(self, images, labels):
        """Returns log p(x, z | y) - log q(z | x, y) of a sample z of q(z | x, y) for each image, in nats.

        The mean of the log weight is the negative of the metric `negative_elbo`, a lower bound on
        log p(x | y). The logarithm of the mean weight of many samples is a tighter bound
        ([Burda, Grosse and Salakhutdinov, 2016](https://arxiv.org/abs/1509.00519)). With
        `decoder="pixelcnn"`, x is a black and white drawing of the image, the same in every call.

        Args:
            images: Float tensor of shape `(batch, *image_shape)`, with values in [0, 1].
            labels: Integer tensor of shape `(batch,)`, the classes y of the images.

        Returns:
            A tensor of shape `(batch,)`.
        """
        images, class_vector = self._images(images), self._one_hot(labels)
        of_z, of_pixels = self._noise(tf.shape(images)[0])
        z, log_ratio = self._sample(of_z, *self._run(self.encoder, [images, class_vector]))
        if self.pixel_cnn is not None:
            # All weights of an image must refer to the density of one and the same black and white drawing.
            images = self._black_and_white(images)
        logits = self._image_logits(images, z, self.separation(class_vector), of_pixels, training=False)
        return -self._cross_entropy(images, logits) - log_ratio

    @staticmethod
    @tf.function(reduce_retracing=True)
    def _black_and_white(images):
        """Draws black and white images with the grey images as means. Equal images give equal drawings."""
        fingerprints = tf.raw_ops.Fingerprint(data=images, method="farmhash64")  # 8 bytes per image
        noise = tf.map_fn(
            lambda seed: tf.random.stateless_uniform(tf.shape(images)[1:], seed),
            tf.bitcast(tf.reshape(fingerprints, (-1, 2, 4)), tf.int32),
            fn_output_signature=images.dtype,
        )
        return tf.cast(noise < images, images.dtype)

    def decode(self, z, labels, seed=None):
        """Returns the mean images of p(x | z, y).

        With `decoder="pixelcnn"`, pixels are drawn one by one. The mean of a pixel is its mean given the
        pixels drawn before it.

        Args:
            z: Tensor of numbers, of shape `(batch, latent_dim)`.
            labels: Integer tensor of shape `(batch,)`.
            seed: Integer or `None`, for `decoder="pixelcnn"`. With an integer, each image is drawn with its
                own noise. With `None`, all images are drawn with the same noise, so they differ only by z
                and y. In both cases the noise is the same in every call.

        Returns:
            A tensor of shape `(batch, *image_shape)`, with values in [0, 1].
        """
        z = self._z(z)
        noise = None if seed is None else self._pixel_noise(tf.shape(z)[0], seed)
        return self._decode(z, self.separation(self._one_hot(labels)), noise)

    def reconstruct(self, images, labels=None):
        """Returns the reconstructions of images: encoded to the mean of z, then decoded.

        Args:
            images: Float tensor of shape `(batch, *image_shape)`, with values in [0, 1].
            labels: Integer tensor of shape `(batch,)`, the classes of the images. With `None`, the
                classifier's output is used.

        Returns:
            A tensor of the shape of the images.
        """
        images = self._images(images)
        class_vector = self._class_vector_of(images, labels)
        mean, _ = self._moments(*self._run(self.encoder, [images, class_vector]))
        return self._decode(mean, self.separation(class_vector))

    def generate(self, labels, seed=None):
        """Returns new images of given classes, decoded from z ~ N(0, I).

        Args:
            labels: Integer tensor of shape `(batch,)`.
            seed: Integer or `None`. With an integer, every call returns the same images. With `None`,
                the model's seed generator draws the next images.

        Returns:
            A tensor of shape `(batch, *image_shape)`, with values in [0, 1].
        """
        one_hot = self._one_hot(labels)
        shape = (tf.shape(one_hot)[0], self.latent_dim)
        z = keras.random.normal(shape, dtype="float32", seed=self.seed_generator if seed is None else seed)
        noise = self._pixel_noise(shape[0], seed)
        return self._decode(z, self.separation(one_hot), noise)

    def swap(self, images, labels, source_labels=None, seed=None):
        """Returns the images redrawn as other classes: z is kept and the class is changed.

        Args:
            images: Float tensor of shape `(batch, *image_shape)`, with values in [0, 1].
            labels: Integer tensor of shape `(batch,)`, the new classes of the images.
            source_labels: Integer tensor of shape `(batch,)`, the original classes of the images, used
                to encode them. With `None`, the classifier's output is used.
            seed: Integer or `None`, as for `decode`.

        Returns:
            A tensor of the shape of the images.
        """
        mean, _ = self.encode(images, source_labels)
        return self.decode(mean, labels, seed)

    def traverse(self, labels, values=(-3.0, -1.5, 0.0, 1.5, 3.0), z=None):
        """Returns images for different values of each latent dimension, one dimension at a time.

        The class is kept.

        Args:
            labels: Integer tensor of shape `(batch,)`, the class of each row of images.
            values: Sequence of floats, the values that each dimension of z takes.
            z: Tensor of numbers, of shape `(batch, latent_dim)`, the point where the traversals cross. With
                `None`, the mean of the prior, 0.

        Returns:
            A tensor of shape `(batch, latent_dim, len(values), *image_shape)`.
        """
        labels = self._labels(labels)
        values = tf.convert_to_tensor(values, tf.float32)
        if values.shape.rank != 1:
            raise ValueError(f"`values` must be a sequence of floats. Received: shape={values.shape}")
        z = tf.zeros((tf.shape(labels)[0], self.latent_dim)) if z is None else self._z(z)
        batch, steps = tf.shape(labels)[0], tf.size(values)
        grid = tf.broadcast_to(
            z[:, tf.newaxis, tf.newaxis, :], (batch, self.latent_dim, steps, self.latent_dim)
        )
        is_moved = tf.eye(self.latent_dim, dtype=tf.bool)[tf.newaxis, :, tf.newaxis, :]
        grid = tf.where(is_moved, values[tf.newaxis, tf.newaxis, :, tf.newaxis], grid)
        images = self.decode(
            tf.reshape(grid, (-1, self.latent_dim)), tf.repeat(labels, self.latent_dim * steps)
        )
        return tf.reshape(images, (batch, self.latent_dim, steps, *self.image_shape))

    def morph(self, labels, to_labels, steps=9, z=None):
        """Returns images along the straight line from one class code S(y) to another, with z kept.

        Args:
            labels: Integer tensor of shape `(batch,)`, the start classes.
            to_labels: Integer tensor of shape `(batch,)`, the end classes.
            steps: Integer > 1. The number of images on the line, including both ends.
            z: Tensor of numbers, of shape `(batch, latent_dim)`. With `None`, the mean of the prior, 0.

        Returns:
            A tensor of shape `(batch, steps, *image_shape)`.
        """
        steps = arguments.integer("steps", steps, "an integer > 1", least=2)
        start, end = self.separation(self._one_hot(labels)), self.separation(self._one_hot(to_labels))
        batch = tf.shape(start)[0]
        z = tf.zeros((batch, self.latent_dim)) if z is None else self._z(z)
        fraction = tf.cast(tf.linspace(0.0, 1.0, steps), start.dtype)[tf.newaxis, :, tf.newaxis]
        codes = start[:, tf.newaxis] * (1 - fraction) + end[:, tf.newaxis] * fraction
        images = self._decode(tf.repeat(z, steps, axis=0), tf.reshape(codes, (-1, self.num_classes)))
        return tf.reshape(images, (batch, steps, *self.image_shape))

    def get_config(self):
        layer = self.separation.get_config()
        config = {
            "image_shape": list(self.image_shape),
            "num_classes": self.num_classes,
            "latent_dim": self.latent_dim,
            "combine": self.combine,
            "condition": self.condition,
            "hard": self.hard,
            "stop_gradient": self.stop_gradient,
            "beta": self.beta,
            "posterior": self.posterior,
            "decoder": self.decoder_type,
            "seed": self.seed,
        }
        shared = (
            "separation_factor",
            "suppression_factor",
            "k",
            "trainable_factors",
            "implementation",
        )
        return {**super().get_config(), **config, **{name: layer[name] for name in shared}}
