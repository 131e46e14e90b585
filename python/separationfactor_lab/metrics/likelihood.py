"""Likelihoods, bounds on them, and the use of the latent space."""

from __future__ import annotations

import numpy as np
from scipy import integrate, special, stats

from separationfactor_lab.metrics.arrays import _codes


def bernoulli_log_likelihood(images: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Returns log p(x | z) for each image, of shape `(images,)`, in nats.

    log p(x | z) is the sum over pixels of x log p + (1 - x) log(1 - p).

    Args:
        images: x, with values in [0, 1], of shape `(images, ...)`.
        logits: log(p / (1 - p)), of the same shape.

    Raises:
        ValueError: If the shapes differ.
    """
    images, logits = np.asarray(images, np.float64), np.asarray(logits, np.float64)
    if images.shape != logits.shape:
        raise ValueError(
            f"images and logits must have the same shape. Received: {images.shape}, {logits.shape}"
        )
    # Because log(1 - p) = -log(1 + exp(logit)).
    pixels = images * logits - np.logaddexp(0, logits)
    return pixels.reshape(len(pixels), -1).sum(axis=1)


def gaussian_kl(mean: np.ndarray, log_variance: np.ndarray) -> np.ndarray:
    """Returns KL(N(mean, exp(log_variance)) || N(0, 1)) for each image and dimension, in nats.

    Summed over dimensions, it is the KL term of the ELBO, E_q[log p(x | z)] - KL ([Kingma and Welling,
    2014](https://arxiv.org/abs/1312.6114), appendix B).
    """
    mean, log_variance = np.asarray(mean, np.float64), np.asarray(log_variance, np.float64)
    return 0.5 * (np.exp(log_variance) + mean**2 - 1 - log_variance)


def importance_weighted_nll(log_weights: np.ndarray) -> float:
    """Returns the importance-weighted upper bound on -log p(x), averaged over the images, in nats.

    The bound is -log(1/k sum of w), where w = p(x, z) / q(z | x) and k samples z are drawn from q(z | x). For
    k = 1 it is the negative ELBO. As k grows, it decreases towards -log p(x) ([Burda, Grosse and
    Salakhutdinov, 2016](https://arxiv.org/abs/1509.00519), equation 8).

    Args:
        log_weights: log w, of shape `(samples, images)`.

    Raises:
        ValueError: If `log_weights` has another rank, or no samples or images.
    """
    log_weights = np.asarray(log_weights, np.float64)
    if log_weights.ndim != 2 or 0 in log_weights.shape:
        raise ValueError(f"log_weights must have shape (samples, images). Received: {log_weights.shape}")
    return float(np.mean(np.log(len(log_weights)) - special.logsumexp(log_weights, axis=0)))


def active_units(means: np.ndarray, threshold: float = 0.01) -> int:
    """Returns the number of active dimensions of z: those whose posterior mean varies among the images.

    A dimension is active if the variance of E_q[z] over the images exceeds the threshold ([Burda, Grosse and
    Salakhutdinov, 2016](https://arxiv.org/abs/1509.00519), section 5.2).

    Args:
        means: The means of q(z | x), of shape `(images, dimensions)`.
        threshold: The variance above which a dimension is active. The paper uses 0.01.
    """
    return int((_codes(means).var(axis=0) > threshold).sum())


def prior_bayes_accuracy(separation: float, classes: int) -> float:
    """Returns the accuracy of the Bayes-optimal classifier that predicts y from z + a e_y.

    Here z ~ N(0, I) and a is the separation. The prior is a mixture of unit Gaussians with centres a e_y, so
    the optimal prediction is the index of the largest entry. It is correct if the entry of the true class,
    N(a, 1), exceeds all others, which are N(0, 1). The accuracy is the integral of phi(t - a) Phi(t)^(classes
    - 1) over t.
    """
    return integrate.quad(
        lambda t: stats.norm.pdf(t - separation) * stats.norm.cdf(t) ** (classes - 1),
        separation - 12,
        separation + 12,
    )[0]
