"""Checks of arguments, in Keras' wording: each returns the value, or raises `ValueError`."""

import math
import operator


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
