"""Images whose factors are known, made here: digits that are moved, and sprites that are drawn.

Both give what `data.load` reads from an .npz file: the arrays of Keras' mnist.npz, and with
them `factors_train` and `factors_test`, of shape `(images, factors)`, and `factor_names`. The label is the
class, and a discrete factor; the others are continuous. All are drawn independently of one another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from scipy import ndimage

from separationfactor_lab.data import Dataset

# Digits: what a digit is moved by is drawn uniformly from these.
DIGIT_FACTORS = {
    "angle": (-30.0, 30.0),  # degrees, counterclockwise
    "scale": (0.7, 1.1),
    "shift_x": (-3.0, 3.0),  # pixels, to the right
    "shift_y": (-3.0, 3.0),  # pixels, downwards
    "shear": (-0.4, 0.4),  # pixels to the right, for a pixel upwards
    "thickness": (-0.4, 1.2),  # pixels added on each side of a stroke
}

# Sprites: their labels are indices of SHAPES, and the other factors take these values, as in dSprites.
SHAPES = ("square", "ellipse", "heart")
SPRITE_FACTORS = {
    "scale": np.linspace(0.5, 1, 6),
    "orientation": np.linspace(0, 2 * np.pi, 40, endpoint=False),  # radians, counterclockwise
    "x": np.linspace(0, 1, 32),  # from left to right
    "y": np.linspace(0, 1, 32),  # from top to bottom
}

_FINER = 4  # points a pixel and axis


def moved_digits(
    dataset: Dataset,
    train: int = 8000,
    test: int = 2000,
    seed: int = 0,
    track: Callable[[Iterable], Iterable] = lambda images: images,
) -> dict[str, np.ndarray]:
    """Returns digits of a data set, each scaled, sheared, turned, shifted and made bolder by known amounts.

    The factors are `DIGIT_FACTORS`. Images of less than 28 pixels a side are first enlarged to 20 and framed
    to 28, as MNIST's digits are. See `move`.

    Args:
        dataset: The source. Training images come from its training part, test images from its test part.
        train: How many training images.
        test: How many test images.
        seed: Of the choice of images and of the factors.
        track: Is given the images' numbers and returns them; to show progress.
    """
    generator = np.random.default_rng(seed)
    low, high = np.transpose(list(DIGIT_FACTORS.values()))
    arrays = {"factor_names": np.array(list(DIGIT_FACTORS))}
    distances: dict[tuple[str, int], np.ndarray] = {}
    plan = []
    for part, count in (("train", train), ("test", test)):
        labels = getattr(dataset, f"y_{part}")
        chosen = generator.integers(len(labels), size=count)
        factors = generator.uniform(low, high, size=(count, len(low))).astype(np.float32)
        arrays |= {f"y_{part}": labels[chosen], f"factors_{part}": factors}
        plan += [(part, index, values) for index, values in zip(chosen, factors, strict=True)]
    images = []
    for number in track(range(len(plan))):
        part, index, values = plan[number]
        if (part, index) not in distances:
            distances[part, index] = _distance(_framed(getattr(dataset, f"x_{part}")[index, ..., 0]))
        images.append(_moved(distances[part, index], *values))
    images = np.round(255 * np.array(images)).astype(np.uint8)
    return {"x_train": images[:train], "x_test": images[train:], **arrays}


def move(image: np.ndarray, angle=0.0, scale=1.0, shift_x=0.0, shift_y=0.0, shear=0.0, thickness=0.0):
    """Returns a digit scaled, sheared, turned about the centre, shifted and made bolder, in this order.

    A digit is taken as the region of more than half of the ink, and drawn anew by the distance of every pixel
    to the region's edge, so that thickness is in pixels of the result. Under shear, which changes distances
    with their direction, it is so only roughly.

    Args:
        image: In [0, 1], of shape `(height, width)`.
        angle: In degrees, counterclockwise.
        scale: How many times larger.
        shift_x: In pixels, to the right.
        shift_y: In pixels, downwards.
        shear: How many pixels to the right, for a pixel upwards.
        thickness: How many pixels are added on each side of a stroke, or taken away where negative.

    Returns:
        An image of the same shape, in [0, 1].
    """
    return _moved(_distance(np.asarray(image)), angle, scale, shift_x, shift_y, shear, thickness)


def _framed(image: np.ndarray) -> np.ndarray:
    """Returns an image of at least 28 pixels a side."""
    if max(image.shape) >= 28:
        return image
    large = np.clip(
        ndimage.zoom(image, 20 / max(image.shape), order=3, grid_mode=True, mode="grid-constant"), 0, 1
    )
    rows, columns = (28 - size for size in large.shape)
    return np.pad(large, [(rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)])


def _distance(image: np.ndarray) -> np.ndarray:
    """Returns how many pixels each point of a finer grid is within the digit; outside, it is negative."""
    fine = ndimage.zoom(image, _FINER, order=1, grid_mode=True, mode="grid-constant") > 0.5
    # The edge is half a step before the first point beyond it.
    inside, outside = (ndimage.distance_transform_edt(region) for region in (fine, ~fine))
    return (np.maximum(inside - 0.5, 0) - np.maximum(outside - 0.5, 0)) / _FINER


def _moved(distance, angle, scale, shift_x, shift_y, shear, thickness) -> np.ndarray:
    turn = np.deg2rad(angle)
    # Of (x, y) with y downwards: counterclockwise on the page, and to the right as it goes up.
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    forward = rotation @ np.array([[1, -shear], [0, 1]]) * scale
    height, width = (size // _FINER for size in distance.shape)
    y, x = np.mgrid[:height, :width] + 0.5
    target = np.stack([x - width / 2 - shift_x, y - height / 2 - shift_y])
    source = np.tensordot(np.linalg.inv(forward), target, axes=1)
    columns, rows = source[0] + width / 2, source[1] + height / 2
    places = np.stack([rows, columns]) * _FINER - 0.5
    sampled = ndimage.map_coordinates(distance, places, order=1, mode="nearest")
    # A pixel's ink falls from 1 to 0 while the edge crosses it.
    return np.clip(sampled * scale + thickness + 0.5, 0, 1)


def sprites(train: int = 8000, test: int = 2000, size: int = 28, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns white shapes on black, in the manner of [dSprites](https://github.com/deepmind/dsprites-dataset).

    The label is the shape; the factors are `SPRITE_FACTORS`, each image a random one of their 737,280
    combinations. A square turned by a quarter and an ellipse turned by a half look as before, so orientation
    cannot be told in full from the image.

    Args:
        train: How many training images.
        test: How many test images.
        size: Pixels a side.
        seed: Of the choice.
    """
    generator = np.random.default_rng(seed)
    arrays = {"factor_names": np.array(list(SPRITE_FACTORS))}
    for part, count in (("train", train), ("test", test)):
        labels = generator.integers(len(SHAPES), size=count)
        factors = np.stack(
            [generator.choice(values, count) for values in SPRITE_FACTORS.values()], axis=1
        ).astype(np.float32)
        images = np.round(255 * draw_sprites(labels, *factors.T, size=size)).astype(np.uint8)
        arrays |= {f"x_{part}": images, f"y_{part}": labels, f"factors_{part}": factors}
    return arrays


def draw_sprites(shape, scale, orientation, x, y, size: int = 28) -> np.ndarray:
    """Returns sprites of shape `(images, size, size)`, with values in [0, 1].

    Args:
        shape: Indices of `SHAPES`.
        scale: 1 is a radius of a sixth of the image.
        orientation: Radians, counterclockwise.
        x: The centre, from 0 at the left to 1 at the right; all of the sprite is within the image.
        y: The centre, from 0 at the top to 1 at the bottom.
        size: Pixels a side.
    """
    shape, scale, orientation, x, y = np.broadcast_arrays(*np.atleast_1d(shape, scale, orientation, x, y))
    margin = 0.21 * size
    points = (np.arange(size * _FINER) + 0.5) / _FINER
    images = np.empty((len(shape), size, size), np.float32)
    for i in range(len(shape)):
        right = points - margin - x[i] * (size - 2 * margin)
        up = margin + y[i] * (size - 2 * margin) - points[:, np.newaxis]
        radius = scale[i] * size / 6
        cosine, sine = np.cos(orientation[i]) / radius, np.sin(orientation[i]) / radius
        inside = _INSIDE[SHAPES[shape[i]]](right * cosine + up * sine, up * cosine - right * sine)
        images[i] = inside.reshape(size, _FINER, size, _FINER).mean(axis=(1, 3))
    return images


# Whether points (u, v), v upwards, are within a shape of radius about 1.
_INSIDE = {
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) < 0.8,
    "ellipse": lambda u, v: u**2 + (v / 0.5) ** 2 < 1,
    "heart": lambda u, v: (u**2 + v**2 - 0.64) ** 3 < 0.8 * u**2 * v**3,
}
