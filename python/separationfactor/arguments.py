"""Argument checks with error messages in the style of Keras.

Each check returns the value or raises `ValueError`. `checked` checks the values of a tensor, at run time.
"""

import math
import operator

import tensorflow as tf


def integer(name, value, expected, least=None):
    """Returns `value` as a Python int. A bool is not accepted."""
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
    """Returns `value`, an image's height, width and channels, as a tuple."""
    expected = "three positive integers"
    shape = tuple(integer("image_shape", size, expected, least=1) for size in value)
    if len(shape) != 3:
        raise ValueError(f"Argument `image_shape` must be {expected}. Received: image_shape={value}")
    return shape


def images(value, shape):
    """Returns a batch of images of the given shape as a float32 tensor."""
    value = tf.convert_to_tensor(value)
    if not value.shape[1:].is_compatible_with(shape) or value.shape.rank != 4:
        raise ValueError(
            f"Images must have shape (batch, {', '.join(map(str, shape))}). Received: shape={value.shape}"
        )
    if not value.dtype.is_floating:
        raise ValueError(f"Images must be floats in [0, 1]. Received: dtype={value.dtype.name}")
    return tf.cast(value, tf.float32)


def unit_range(images):
    """Returns the images after checking that their values are in [0, 1]."""
    return checked(
        images,
        tf.reduce_all((images >= 0) & (images <= 1)),
        "Images must be floats in [0, 1]",
        tf.reduce_min(images),
        tf.reduce_max(images),
    )


def checked(value, is_right, expected, least, greatest):
    """Returns a float tensor after checking a condition on its input.

    Args:
        value: The tensor to return.
        is_right: A boolean scalar, the condition.
        expected: The first sentence of the error message.
        least: A scalar, the least input value, for the error message.
        greatest: A scalar, the greatest input value, for the error message.

    Raises:
        tf.errors.InvalidArgumentError: If `is_right` is false. XLA cannot raise this error: a function that
            it compiles returns NaN instead.
    """
    check = tf.debugging.Assert(is_right, [f"{expected}. Received: numbers in [", least, greatest, "]"])
    with tf.control_dependencies([check] if check is not None else []):
        value = tf.identity(value)
    return tf.where(is_right, value, tf.constant(math.nan, value.dtype))
