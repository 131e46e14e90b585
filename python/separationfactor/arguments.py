"""Checks of arguments, in Keras' wording: each returns the value, or raises `ValueError`.

What only the values of a tensor tell is checked where these are known, by `checked`.
"""

import math
import operator

import tensorflow as tf


def integer(name, value, expected, least=None):
    """Returns `value` as a Python int; a bool is no integer here."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or (least is not None and number < least):
        raise ValueError(f"Argument `{name}` must be {expected}. Received: {name}={value}")
    return number


def count(name, value):
    return integer(name, value, "a non-negative integer", least=0)


def finite(name, value):
    try:
        number = math.nan if isinstance(value, str) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"Argument `{name}` must be a finite number. Received: {name}={value}")
    return number


def one_of(name, value, allowed):
    if value not in allowed:
        raise ValueError(f"Argument `{name}` must be one of {allowed}. Received: {name}={value}")
    return value


def fraction(name, value):
    number = finite(name, value)
    if not 0 <= number < 1:
        raise ValueError(f"Argument `{name}` must be in the range [0, 1). Received: {name}={value}")
    return number


def image_shape(value):
    """Returns `value`, the height, width and channels of an image, as a tuple."""
    expected = "three positive integers"
    shape = tuple(integer("image_shape", size, expected, least=1) for size in value)
    if len(shape) != 3:
        raise ValueError(f"Argument `image_shape` must be {expected}. Received: image_shape={value}")
    return shape


def images(value, shape):
    """Returns a batch of images of a shape as a float32 tensor."""
    value = tf.convert_to_tensor(value)
    if not value.shape[1:].is_compatible_with(shape) or value.shape.rank != 4:
        raise ValueError(
            f"Images must have shape (batch, {', '.join(map(str, shape))}). Received: shape={value.shape}"
        )
    if not value.dtype.is_floating:
        raise ValueError(f"Images must be floats in [0, 1]. Received: dtype={value.dtype.name}")
    return tf.cast(value, tf.float32)


def unit_range(images):
    """Returns images, once their values are known to be in [0, 1]."""
    return checked(
        images,
        tf.reduce_all((images >= 0) & (images <= 1)),
        "Images must be floats in [0, 1]",
        tf.reduce_min(images),
        tf.reduce_max(images),
    )


def checked(value, is_right, expected, least, greatest):
    """Returns a float tensor if `is_right`, a boolean scalar, holds for what it was made from.

    Args:
        value: The tensor.
        is_right: What must be true.
        expected: What the error says was expected.
        least: A scalar, the least number that came.
        greatest: A scalar, the greatest number that came.

    Raises:
        tf.errors.InvalidArgumentError: If `is_right` does not hold. XLA has no such errors: what it compiles
            returns NaN instead.
    """
    check = tf.debugging.Assert(is_right, [f"{expected}. Received: numbers in [", least, greatest, "]"])
    with tf.control_dependencies([check] if check is not None else []):
        value = tf.identity(value)
    return tf.where(is_right, value, tf.constant(math.nan, value.dtype))
