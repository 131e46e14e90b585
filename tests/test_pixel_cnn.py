"""The PixelCNN: its causality against finite differences, and that drawing agrees with predicting."""

import json

import numpy as np
import pytest
import tensorflow as tf

from separationfactor.models.pixel_cnn import PixelCNN

FEATURES = 3


def make(channels=1, filters=8):
    pixel_cnn = PixelCNN(channels, filters)
    pixel_cnn.build((None, None, None, channels), (None, None, None, FEATURES))
    return pixel_cnn


def depends(function, inputs):
    """Whether output pixel j of a function of images changes with input pixel i, by finite differences."""
    _, height, width, channels = inputs.shape
    pixels = height * width
    moved = np.repeat(inputs, pixels * channels, axis=0)
    for index in range(pixels * channels):
        moved[index].reshape(-1)[index] += 0.7
    change = np.abs(function(moved) - function(inputs)).reshape(pixels, channels, pixels, -1)
    return change.max((1, 3)) > 1e-4  # what is less is rounding


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(6, 7), (12, 11), (1, 5), (5, 1)])
def test_a_pixel_depends_on_those_before_it_alone(shape, channels):
    rng = np.random.default_rng(0)
    features = tf.constant(rng.normal(size=(1, *shape, FEATURES)), tf.float32)
    images = rng.random((1, *shape, channels)).astype("float32")

    def found_by(pixel_cnn):
        def logits(images):
            return pixel_cnn(images, tf.repeat(features, len(images), axis=0)).numpy()

        return depends(logits, images)

    # In one network some dependencies are too weak to be found.
    found = np.any([found_by(make(channels, filters=16)) for _ in range(4)], axis=0)
    row, column = np.divmod(np.arange(shape[0] * shape[1]), shape[1])
    up = row - row[:, None]  # [input, output]
    across = np.abs(column - column[:, None])
    before = np.arange(row.size)[:, None] < np.arange(row.size)
    # The first layer sees two rows up and two columns across, but not its own pixel; the others one, with it.
    seen = before & (up <= 4) & (across <= 4)
    assert not (found & ~before).any()
    assert not (found & ~seen).any()
    # In its own row, a pixel sees the near pixels to its left.
    assert found[(up == 0) & before & (across <= 4)].all()


def test_each_pixel_depends_on_its_own_features():
    pixel_cnn, rng = make(), np.random.default_rng(0)
    features = rng.normal(size=(1, 4, 5, FEATURES)).astype("float32")

    def logits(features):
        return pixel_cnn(tf.zeros((len(features), 4, 5, 1)), features).numpy()

    np.testing.assert_array_equal(depends(logits, features), np.eye(20, dtype=bool))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_drawing_agrees_with_predicting(channels, jit_compile):
    pixel_cnn, rng = make(channels), np.random.default_rng(0)
    features = rng.normal(size=(3, 9, 7, FEATURES)).astype("float32")
    noise = rng.random((3, 9, 7, channels)).astype("float32")
    draw = tf.function(pixel_cnn.draw, jit_compile=jit_compile)
    images, means = (each.numpy() for each in draw(features, noise))
    np.testing.assert_array_equal(images, (noise < means).astype("float32"))
    np.testing.assert_allclose(means, tf.sigmoid(pixel_cnn(images, features)), rtol=1e-5, atol=1e-6)
    assert 0.1 < images.mean() < 0.9


def test_drawn_images_have_the_models_distribution():
    """The share of each of the sixteen images of 2 x 2 pixels is its probability."""
    pixel_cnn = make()
    count = 20_000
    rng = np.random.default_rng(0)
    features = np.tile(rng.normal(size=(1, 2, 2, FEATURES)), (count, 1, 1, 1)).astype("float32")
    images, means = pixel_cnn.draw(features, rng.random((count, 2, 2, 1)).astype("float32"))
    number = np.reshape(images, (count, 4)).astype(int) @ [8, 4, 2, 1]
    every = (np.arange(16)[:, None] // [8, 4, 2, 1] % 2).reshape(16, 2, 2, 1).astype("float32")
    log_p = -tf.nn.sigmoid_cross_entropy_with_logits(every, pixel_cnn(every, features[:16]))
    probability = np.exp(np.sum(log_p, axis=(1, 2, 3)))
    np.testing.assert_allclose(probability.sum(), 1, rtol=1e-5)
    np.testing.assert_allclose(np.bincount(number, minlength=16) / count, probability, atol=0.015)
    # The means given what was drawn are drawn images with less noise.
    np.testing.assert_allclose(np.mean(means, axis=0), np.mean(images, axis=0), atol=0.015)
    assert np.var(means) < np.var(images)


def test_config_round_trip():
    config = PixelCNN(3, 9, name="some").get_config()
    assert config == json.loads(json.dumps(config))
    assert PixelCNN.from_config(config).get_config() == config


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"channels": 0}, "`channels` must be a positive integer"), ({"filters": "8"}, "`filters` must be")],
)
def test_argument_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        PixelCNN(**arguments)
