"""Generates images with known factors: transformed digits, and drawn sprites.

The results have the layout that `data.load` reads from an .npz file: the arrays of Keras' mnist.npz,
`factors_train` and `factors_test` of shape `(images, factors)`, and `factor_names`. The label is the class,
which is a discrete factor. The other factors are continuous. All factors are drawn independently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from scipy import ndimage

from separationfactor_lab.data import Dataset

# The ranges of the factors of digits, which are drawn uniformly.
DIGIT_FACTORS = {
    "angle": (-30.0, 30.0),  # degrees, counterclockwise
    "scale": (0.7, 1.1),
    "shift_x": (-3.0, 3.0),  # pixels, to the right
    "shift_y": (-3.0, 3.0),  # pixels, downwards
    "shear": (-0.4, 0.4),  # pixels to the right per pixel upwards
    "thickness": (-0.4, 1.2),  # pixels added to each side of a stroke
}

# The values of the factors of sprites, as in dSprites. The labels are indices of SHAPES.
SHAPES = ("square", "ellipse", "heart")
SPRITE_FACTORS = {
    "scale": np.linspace(0.5, 1, 6),
    "orientation": np.linspace(0, 2 * np.pi, 40, endpoint=False),  # radians, counterclockwise
    "x": np.linspace(0, 1, 32),  # from left to right
    "y": np.linspace(0, 1, 32),  # from top to bottom
}

_FINER = 4  # grid points per pixel and axis


def moved_digits(
    dataset: Dataset,
    train: int = 8000,
    test: int = 2000,
    seed: int = 0,
    track: Callable[[Iterable], Iterable] = lambda images: images,
) -> dict[str, np.ndarray]:
    """Returns digits of a data set that are scaled, sheared, rotated, shifted and thickened by known amounts.

    The factors are `DIGIT_FACTORS`; see `move`. Images with sides of fewer than 28 pixels are first enlarged
    to 20 pixels and padded to 28, as in MNIST.

    Args:
        dataset: The source. Training images come from its training part, test images from its test part.
        train: The number of training images.
        test: The number of test images.
        seed: Seeds the choice of images and the factors.
        track: Takes and returns an iterable of image numbers, to show progress.
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
    """Returns a digit that is scaled, sheared, rotated about the centre, shifted and thickened, in order.

    The digit is the region with more than half of the full ink. It is redrawn from the distance of every
    pixel to the edge of the region, so thickness is in pixels of the result. With shear, which changes
    distances depending on their direction, thickness is only approximate.

    Args:
        image: Array of shape `(height, width)`, with values in [0, 1].
        angle: In degrees, counterclockwise.
        scale: The factor of enlargement.
        shift_x: In pixels, to the right.
        shift_y: In pixels, downwards.
        shear: In pixels to the right per pixel upwards.
        thickness: The pixels added to each side of a stroke, or removed if negative.

    Returns:
        An image of the same shape, with values in [0, 1].
    """
    return _moved(_distance(np.asarray(image)), angle, scale, shift_x, shift_y, shear, thickness)


def _framed(image: np.ndarray) -> np.ndarray:
    """Returns an image of at least 28 pixels per side."""
    if max(image.shape) >= 28:
        return image
    large = np.clip(
        ndimage.zoom(image, 20 / max(image.shape), order=3, grid_mode=True, mode="grid-constant"), 0, 1
    )
    rows, columns = (28 - size for size in large.shape)
    return np.pad(large, [(rows // 2, rows - rows // 2), (columns // 2, columns - columns // 2)])


def _distance(image: np.ndarray) -> np.ndarray:
    """Returns the signed distance to the edge of the digit in pixels, positive inside, on a finer grid."""
    fine = ndimage.zoom(image, _FINER, order=1, grid_mode=True, mode="grid-constant") > 0.5
    # The edge is half a grid step before the nearest point on its other side.
    inside, outside = (ndimage.distance_transform_edt(region) for region in (fine, ~fine))
    return (np.maximum(inside - 0.5, 0) - np.maximum(outside - 0.5, 0)) / _FINER


def _moved(distance, angle, scale, shift_x, shift_y, shear, thickness) -> np.ndarray:
    turn = np.deg2rad(angle)
    # For (x, y) with y downwards: rotation is counterclockwise on the page, and shear moves upper pixels to
    # the right.
    rotation = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    forward = rotation @ np.array([[1, -shear], [0, 1]]) * scale
    height, width = (size // _FINER for size in distance.shape)
    y, x = np.mgrid[:height, :width] + 0.5
    target = np.stack([x - width / 2 - shift_x, y - height / 2 - shift_y])
    source = np.tensordot(np.linalg.inv(forward), target, axes=1)
    columns, rows = source[0] + width / 2, source[1] + height / 2
    places = np.stack([rows, columns]) * _FINER - 0.5
    sampled = ndimage.map_coordinates(distance, places, order=1, mode="nearest")
    # The ink of a pixel decreases from 1 to 0 as the edge crosses it.
    return np.clip(sampled * scale + thickness + 0.5, 0, 1)


def sprites(train: int = 8000, test: int = 2000, size: int = 28, seed: int = 0) -> dict[str, np.ndarray]:
    """Returns white shapes on black, like [dSprites](https://github.com/deepmind/dsprites-dataset).

    The label is the shape. The factors are `SPRITE_FACTORS`. Each image is a random one of the 737,280
    combinations. A square rotated by 90 degrees and an ellipse rotated by 180 degrees look unchanged, so the
    image does not fully determine the orientation.

    Args:
        train: The number of training images.
        test: The number of test images.
        size: The side of an image in pixels.
        seed: Seeds the choice of shapes and factors.
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
        orientation: In radians, counterclockwise.
        x: The centre, from 0 at the left to 1 at the right. The whole sprite is inside the image.
        y: The centre, from 0 at the top to 1 at the bottom.
        size: The side of an image in pixels.
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


# Whether points (u, v), with v upwards, are inside a shape of radius about 1.
_INSIDE = {
    "square": lambda u, v: np.maximum(np.abs(u), np.abs(v)) < 0.8,
    "ellipse": lambda u, v: u**2 + (v / 0.5) ** 2 < 1,
    "heart": lambda u, v: (u**2 + v**2 - 0.64) ** 3 < 0.8 * u**2 * v**3,
}
