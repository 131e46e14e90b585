"""Metrics of conditional generative models and of their codes, on NumPy arrays.

Common arguments:

- `codes`: the representation of the images, of shape `(images, dimensions)`.
- `factors`: the known factors of variation of the images, of shape `(images, factors)`. Each column holds the
  values of one factor.
- `labels`: the classes, integers of shape `(images,)`.

Metrics that train a predictor train it on a random half of the images and test it on the other half. `seed`
determines the halves. If a value of a factor occurs in only one half, for example because only one image has
it, then it cannot be both trained on and tested. `sap` and `explicitness` leave out the images with such
values. They leave out a factor if fewer than two of its values remain.

Every function raises `ValueError` if its arguments do not match each other. It raises the subclass
`UndefinedMetricError` if the arguments match but the metric is undefined for them, for example for a single
image, a single class, or codes with NaN. All returned numbers are finite.

**A class as a factor.** MIG, SAP and DCI measure whether *one* dimension encodes a factor. A one-hot code of
ten classes spreads the class over ten dimensions, and each dimension carries little information about it. If
the class is a single factor, all three metrics are therefore close to 0, although the code is perfect. Two
other uses are meaningful. With `one_vs_rest(labels)` as factors, each class is a separate binary factor ("is
it a 3?"), which one dimension can encode. Or the class block of the code can be collapsed to its argmax, a
single dimension whose value is the class.
"""

from separationfactor_lab.metrics.arrays import UndefinedMetricError
from separationfactor_lab.metrics.arrays import _halves as _halves  # for the tests
from separationfactor_lab.metrics.classes import (
    expected_calibration_error,
    knn_accuracy,
    leakage,
    one_vs_rest,
    silhouette,
)
from separationfactor_lab.metrics.disentanglement import (
    DCI,
    beta_vae_score,
    dci,
    explicitness,
    factor_vae_score,
    irs,
    mig,
    modularity,
    mutual_information,
    sap,
)
from separationfactor_lab.metrics.disentanglement import _concentration as _concentration
from separationfactor_lab.metrics.likelihood import (
    active_units,
    bernoulli_log_likelihood,
    gaussian_kl,
    importance_weighted_nll,
    prior_bayes_accuracy,
)

__all__ = [
    "DCI",
    "UndefinedMetricError",
    "active_units",
    "bernoulli_log_likelihood",
    "beta_vae_score",
    "dci",
    "expected_calibration_error",
    "explicitness",
    "factor_vae_score",
    "gaussian_kl",
    "importance_weighted_nll",
    "irs",
    "knn_accuracy",
    "leakage",
    "mig",
    "modularity",
    "mutual_information",
    "one_vs_rest",
    "prior_bayes_accuracy",
    "sap",
    "silhouette",
]
