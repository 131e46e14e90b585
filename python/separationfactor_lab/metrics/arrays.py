"""Argument checks that several metrics share, and the split into a training half and a test half."""

from __future__ import annotations

import numpy as np
from sklearn.model_selection import train_test_split


class UndefinedMetricError(ValueError):
    """The metric is undefined for these arrays. The message gives the reason."""


def _codes(codes: np.ndarray) -> np.ndarray:
    return _finite_matrix("codes", codes, "dimensions")


def _finite_matrix(name: str, values: np.ndarray, columns: str) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"{name} must have shape (images, {columns}). Received: {values.shape}")
    if not np.isfinite(values).all():
        raise UndefinedMetricError(f"{name} must be finite. Received: NaN or infinite values")
    return values


def _labels(labels: np.ndarray, count: int) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels must be one integer for each of the {count} images. "
            f"Received: dtype {labels.dtype}, shape {labels.shape}"
        )
    return labels


def _halves(codes: np.ndarray, targets: np.ndarray, seed: int) -> list[np.ndarray]:
    """Returns the training and test halves of the codes, then those of the targets."""
    if len(targets) < 2:
        raise UndefinedMetricError("the split into two halves needs at least two images. Received: 1")
    strata = None
    if np.issubdtype(targets.dtype, np.integer):
        # The split is stratified: each half gets half of the images of every value. Values that occur once
        # are pooled into one stratum. If there is only one such value, it joins the stratum of the most
        # frequent value.
        _, strata, counts = np.unique(targets, return_inverse=True, return_counts=True)
        alone = counts[strata] == 1
        strata[alone] = -1 if alone.sum() > 1 else counts.argmax()
    return train_test_split(codes, targets, test_size=0.5, random_state=seed, stratify=strata)
