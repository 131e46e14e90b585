"""Measures of conditional generative models and of their codes, on NumPy arrays.

Throughout, `codes` are the representation of images, of shape `(images, dimensions)`; `factors` are what the
images are known to show, of shape `(images, factors)`, one column of numbers a factor; `labels` are integers
of shape `(images,)`. What is learned for a score is learned on one random half of the images and tested on
the other, drawn by `seed`. Functions raise `ValueError` for arguments that do not fit one another, and its
subclass `UndefinedMetricError` for arrays that fit, but of which the metric has no value: of a single image,
of a single class or of codes with NaN. Every other result is a finite number.

A value of a factor that one half lacks, such as that of a single image, cannot be both learned and tested.
`sap` and `explicitness` leave out its images, and a factor with fewer than two other values.

**A class as a factor.** MIG, SAP and DCI ask that *one* dimension hold a factor. A one-hot code of ten
classes spreads the class over ten dimensions, each of which tells little of it, so for the class as a single
factor all three are near 0 although the code is perfect. They are meaningful in two other ways: on
`one_vs_rest(labels)`, where "is it a 3?" is a factor of its own, which one dimension can hold; and with the
class block collapsed to its argmax, a single dimension with the class as its value.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import integrate, special, stats
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import mutual_info_score, recall_score, roc_auc_score, silhouette_score
from sklearn.model_selection import GridSearchCV, KFold, train_test_split
from sklearn.neighbors import KNeighborsClassifier
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from separationfactor import arguments


class UndefinedMetricError(ValueError):
    """A metric has no value for these arrays; the message says why."""


# The likelihood


def bernoulli_log_likelihood(images: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Returns log p(x | z) = sum over pixels of x log p + (1 - x) log(1 - p), of shape `(images,)`, in nats.

    Args:
        images: x, in [0, 1], of shape `(images, ...)`.
        logits: log(p / (1 - p)), of the same shape.
    """
    images, logits = np.asarray(images, np.float64), np.asarray(logits, np.float64)
    if images.shape != logits.shape:
        raise ValueError(f"images and logits must have one shape. Received: {images.shape}, {logits.shape}")
    # log(1 - p) is -log(1 + exp(logit)).
    pixels = images * logits - np.logaddexp(0, logits)
    return pixels.reshape(len(pixels), -1).sum(axis=1)


def gaussian_kl(mean: np.ndarray, log_variance: np.ndarray) -> np.ndarray:
    """Returns KL(N(mean, exp(log_variance)) || N(0, 1)) of each image and dimension, in nats.

    The sum over dimensions is the second term of the ELBO, log p(x | z) - KL in the mean over z ~ q
    ([Kingma and Welling, 2014](https://arxiv.org/abs/1312.6114), appendix B).
    """
    mean, log_variance = np.asarray(mean, np.float64), np.asarray(log_variance, np.float64)
    return 0.5 * (np.exp(log_variance) + mean**2 - 1 - log_variance)


def importance_weighted_nll(log_weights: np.ndarray) -> float:
    """Returns the upper bound -log(1/k sum of w) on -log p(x), averaged over the images, in nats.

    With w = p(x, z) / q(z | x) of k samples of z ~ q(z | x). k = 1 is the negative ELBO; the bound falls with
    k, to -log p(x) ([Burda, Grosse and Salakhutdinov, 2016](https://arxiv.org/abs/1509.00519), equation 8).

    Args:
        log_weights: log w, of shape `(samples, images)`.
    """
    log_weights = np.asarray(log_weights, np.float64)
    if log_weights.ndim != 2 or 0 in log_weights.shape:
        raise ValueError(f"log_weights must have shape (samples, images). Received: {log_weights.shape}")
    return float(np.mean(np.log(len(log_weights)) - special.logsumexp(log_weights, axis=0)))


def active_units(means: np.ndarray, threshold: float = 0.01) -> int:
    """Returns how many dimensions of z are used: Var over images of E_q[z] exceeds the threshold.

    ([Burda, Grosse and Salakhutdinov, 2016](https://arxiv.org/abs/1509.00519), section 5.2.)

    Args:
        means: The means of q(z | x), of shape `(images, dimensions)`.
        threshold: Their 0.01.
    """
    return int((_codes(means).var(axis=0) > threshold).sum())


def prior_bayes_accuracy(separation: float, classes: int) -> float:
    """Returns how often the best guess of y from z + a e_y is right, for z ~ N(0, I) and a the separation.

    The prior is a mixture of unit Gaussians at corners, so the best guess is the greatest entry. It is right
    when the class's own entry, N(a, 1), exceeds all others, N(0, 1): the integral of
    phi(t - a) Phi(t)^(classes - 1).
    """
    return integrate.quad(
        lambda t: stats.norm.pdf(t - separation) * stats.norm.cdf(t) ** (classes - 1),
        separation - 12,
        separation + 12,
    )[0]


# The class


def expected_calibration_error(probabilities: np.ndarray, labels: np.ndarray, bins: int = 15) -> float:
    """Returns the mean distance between a classifier's confidence and its accuracy.

    The images are put in bins of equal width by confidence, the greatest probability. ECE is the sum over
    bins of (share of the images) * |accuracy - mean confidence|
    ([Guo, Pleiss, Sun and Weinberger, 2017](https://arxiv.org/abs/1706.04599), equation 3).

    Args:
        probabilities: Of shape `(images, classes)`.
        labels: The true classes.
        bins: How many.
    """
    probabilities = _finite_matrix("probabilities", probabilities, "classes")
    labels = _labels(labels, len(probabilities))
    arguments.integer("bins", bins, "a positive integer", least=1)
    confidence = probabilities.max(axis=1)
    is_right = probabilities.argmax(axis=1) == labels
    # Bin m holds confidences in ((m - 1) / bins, m / bins].
    number = np.clip(np.ceil(confidence * bins).astype(int) - 1, 0, bins - 1)
    gaps = np.bincount(number, is_right - confidence, bins)
    return float(np.abs(gaps).sum() / len(labels))


def leakage(codes: np.ndarray, labels: np.ndarray, probe: str = "linear", seed: int = 0) -> float:
    """Returns how well a probe finds the class in the codes: its accuracy on the half it was not trained on.

    A style z that is independent of the class leaves it at the share of the largest class, which of a single
    class is 1.

    Args:
        codes: Usually the means of q(z | x, y).
        labels: The classes.
        probe: "linear" is logistic regression ([Alain and Bengio, 2016](https://arxiv.org/abs/1610.01644)),
            "mlp" a network with a hidden layer of 64 units. Both see standardized codes.
        seed: Of the halves, and of the network's weights.

    Raises:
        UndefinedMetricError: If there is a single image.
    """
    codes = _codes(codes)
    probes = {
        "linear": LogisticRegression(max_iter=1000),
        "mlp": MLPClassifier(
            (64,), early_stopping=True, n_iter_no_change=20, max_iter=500, random_state=seed
        ),
    }
    if probe not in probes:
        raise ValueError(f"probe must be one of {tuple(probes)}. Received: {probe!r}")
    train, test, labels_train, labels_test = _halves(codes, _labels(labels, len(codes)), seed)
    if probe == "mlp":
        # To stop early, it holds out images of every class. So each class needs two, and a share of them.
        _, first, counts = np.unique(labels_train, return_index=True, return_counts=True)
        again = np.append(np.arange(len(train)), first[counts == 1])
        train, labels_train = train[again], labels_train[again]
        probes[probe].validation_fraction = max(0.1, len(counts) / len(train))
    model = make_pipeline(StandardScaler(), _classifier(probes[probe], labels_train))
    return float(model.fit(train, labels_train).score(test, labels_test))


def silhouette(codes: np.ndarray, labels: np.ndarray) -> float:
    """Returns how apart the classes' clusters are: the mean of (b - a) / max(a, b), in [-1, 1].

    a is an image's mean distance to its own class, b to the nearest other class. An image that is alone in
    its class counts 0 ([Rousseeuw, 1987](https://doi.org/10.1016/0377-0427(87)90125-7)).

    Raises:
        UndefinedMetricError: If there is a single class.
    """
    codes = _codes(codes)
    labels = _labels(labels, len(codes))
    classes = len(np.unique(labels))
    if classes == 1:
        raise UndefinedMetricError("silhouette needs at least two classes. Received: 1")
    # scikit-learn refuses the case in which every image is alone.
    return float(silhouette_score(codes, labels)) if classes < len(labels) else 0.0


def knn_accuracy(codes: np.ndarray, labels: np.ndarray, neighbours: int = 10, seed: int = 0) -> float:
    """Returns how often the most frequent class among an image's nearest neighbours is its own.

    The neighbours are sought in one half of the images, for the other. If that half has fewer images than
    `neighbours`, all of them are neighbours.

    Raises:
        UndefinedMetricError: If there is a single image.
    """
    codes = _codes(codes)
    arguments.integer("neighbours", neighbours, "a positive integer", least=1)
    train, test, labels_train, labels_test = _halves(codes, _labels(labels, len(codes)), seed)
    model = KNeighborsClassifier(min(neighbours, len(train)))
    return float(model.fit(train, labels_train).score(test, labels_test))


def one_vs_rest(labels: np.ndarray) -> np.ndarray:
    """Returns each class that occurs as a factor of its own, 1 for its images and 0 for others."""
    labels = np.asarray(labels)
    return (labels[:, np.newaxis] == np.unique(labels)).astype(np.int64)


# Disentanglement


def mig(codes: np.ndarray, factors: np.ndarray, bins: int = 20) -> float:
    """Returns the mutual information gap, in [0, 1].

    The mean over factors v of (I(c_1; v) - I(c_2; v)) / H(v), where c_1 and c_2 are the two dimensions that
    tell most of v ([Chen, Li, Grosse and Duvenaud, 2018](https://arxiv.org/abs/1802.04942), equation 6). An
    identity code has 1; a constant code 0, and so has one in which two dimensions hold the same factor.

    Args:
        codes: The representation.
        factors: The factors.
        bins: Dimensions and factors with more values than this are cut into as many bins of equal width.

    Raises:
        UndefinedMetricError: If a factor is constant.
    """
    codes = _codes(codes)
    factors = _varying_factors(factors, len(codes))
    information = mutual_information(codes, factors, bins)
    entropies = np.array([mutual_info_score(v, v) for v in _discrete(factors, bins).T])
    return float(np.mean(_gap(information) / entropies))


def mutual_information(codes: np.ndarray, factors: np.ndarray, bins: int = 20) -> np.ndarray:
    """Returns I(c; v) in nats, of shape `(dimensions, factors)`, both cut into bins as `mig` does.

    A constant dimension or factor has 0.
    """
    codes = _codes(codes)
    codes, factors = _discrete(codes, bins), _discrete(_factors(factors, len(codes)), bins)
    return np.array([[mutual_info_score(c, v) for v in factors.T] for c in codes.T])


def sap(codes: np.ndarray, factors: np.ndarray, continuous=False, seed: int = 0) -> float:
    """Returns the separated attribute predictability, in [0, 1].

    The mean over factors of the gap between the two dimensions that alone predict the factor best. A
    dimension's score is, for a continuous factor, R^2 of linear regression, and for a discrete one, the
    balanced accuracy of thresholds on that one dimension
    ([Kumar, Sattigeri and Balakrishnan, 2018](https://arxiv.org/abs/1711.00848), section 3). The thresholds
    are those of a decision tree with as many leaves as the factor has values. An identity code of discrete
    factors has 1 less the share that guessing gets, 1 / values; a constant code 0; a factor in two dimensions
    counts 0.

    Args:
        codes: The representation.
        factors: The factors.
        continuous: Whether the factors are, for all or for each.
        seed: Of the halves.

    Raises:
        UndefinedMetricError: If a factor is constant, or no factor can be tested.
    """
    codes = _codes(codes)
    factors = _varying_factors(factors, len(codes))
    standardized, ranks = StandardScaler().fit_transform(codes), _ranks(codes)
    gaps = []
    for is_continuous, factor in _with_kind(factors, continuous):
        if is_continuous:
            # Shifted and scaled first, for the squares of tiny numbers are 0.
            factor = StandardScaler().fit_transform(factor[:, np.newaxis])
            # A standardized dimension has variance 1, or 0 if it is constant.
            gaps.append(_gap(np.mean(standardized * factor, axis=0) ** 2))
            continue
        halves = _halves_of_shared(ranks, np.unique(factor, return_inverse=True)[1], seed)
        if halves is None:
            continue
        train, test, factor_train, factor_test = halves
        tree = DecisionTreeClassifier(
            max_leaf_nodes=len(np.unique(factor_train)), class_weight="balanced", random_state=seed
        )
        guesses = [tree.fit(train[:, [i]], factor_train).predict(test[:, [i]]) for i in range(codes.shape[1])]
        # The mean of the values' recalls is the balanced accuracy.
        gaps.append(_gap(np.array([recall_score(factor_test, guess, average="macro") for guess in guesses])))
    return _mean_of_testable("sap", gaps)


# The depths of `dci`'s trees, of which the first of the best serves, and the least images in a leaf.
_DEPTHS, _LEAF = (2, 3, 4, 6, None), 5


@dataclasses.dataclass(frozen=True)
class DCI:
    """Disentanglement, completeness and informativeness, each in [0, 1]; see `dci`."""

    disentanglement: float
    completeness: float
    informativeness: float


def dci(codes: np.ndarray, factors: np.ndarray, continuous=False, trees: int = 20, seed: int = 0) -> DCI:
    """Returns disentanglement, completeness and informativeness.

    A random forest predicts each factor from all dimensions; R is the matrix of their importances, of shape
    `(dimensions, factors)`. The trees' depth is the one at which a single tree predicts best in
    cross-validation on the training half: the splits of deeper trees fit noise, and lend it importance.
    *Disentanglement* is the mean over dimensions, weighted by their share of R, of
    1 - H(R_i / sum R_i), to the base of the number of factors: does a dimension serve one factor?
    *Completeness* is the mean over factors of 1 - H(R_j / sum R_j), to the base of the number of dimensions:
    does a factor use one dimension? *Informativeness* is here 1 - the error of the forests on the other half
    of the images: their accuracy for discrete factors, R^2, at least 0, for continuous ones
    ([Eastwood and Williams, 2018](https://openreview.net/forum?id=By-7dz-AZ), section 2). An identity code
    has 1, 1, 1; a constant code 0, 0 and what guessing gets; one with every factor in two dimensions is
    disentangled but not complete.

    Args:
        codes: The representation.
        factors: The factors.
        continuous: Whether the factors are, for all or for each.
        trees: How many, in a forest.
        seed: Of the halves and the forests.

    Raises:
        UndefinedMetricError: If a factor is constant, or there are fewer than four images.
    """
    codes = _codes(codes)
    factors = _varying_factors(factors, len(codes))
    arguments.integer("trees", trees, "a positive integer", least=1)
    if len(codes) < 4:
        raise UndefinedMetricError(f"dci needs at least four images. Received: {len(codes)}")
    ranks = _ranks(codes)
    importances, informativeness = [], []
    for is_continuous, factor in _with_kind(factors, continuous):
        if is_continuous:
            factor = StandardScaler().fit_transform(factor[:, np.newaxis])[:, 0]
        else:
            factor = np.unique(factor, return_inverse=True)[1]
        train, test, factor_train, factor_test = _halves(ranks, factor, seed)
        # Every split may choose among all dimensions: importance is then not lent to those that tell nothing.
        forest = (RandomForestRegressor if is_continuous else RandomForestClassifier)(
            trees,
            max_features=None,
            min_samples_leaf=_LEAF,
            max_depth=_depth(train, factor_train, is_continuous, seed),
            random_state=seed,
        )
        forest.fit(train, factor_train)
        importances.append(forest.feature_importances_)
        informativeness.append(max(0.0, forest.score(test, factor_test)))
    matrix = np.array(importances).T
    return DCI(_concentration(matrix), _concentration(matrix.T), float(np.mean(informativeness)))


def _depth(codes: np.ndarray, factor: np.ndarray, is_continuous: bool, seed: int) -> int | None:
    """Returns the depth at which a decision tree predicts a factor best in cross-validation."""
    # A search with forests would take seven times as long, and finds no better depths.
    tree = (DecisionTreeRegressor if is_continuous else DecisionTreeClassifier)(
        min_samples_leaf=_LEAF, random_state=seed
    )
    # Plain folds take values of any number of images, and the error is defined for a fold of one image.
    scoring = "neg_mean_squared_error" if is_continuous else "accuracy"
    folds = KFold(min(3, len(codes)))
    search = GridSearchCV(tree, {"max_depth": _DEPTHS}, cv=folds, scoring=scoring, refit=False)
    return search.fit(codes, factor).best_params_["max_depth"]


def modularity(codes: np.ndarray, factors: np.ndarray, bins: int = 20) -> float:
    """Returns whether each dimension tells of one factor only, in [0, 1].

    The mean over dimensions of 1 - sum over the other factors of I(c; v)^2 / (max_v I(c; v)^2 (factors - 1))
    ([Ridgeway and Mozer, 2018](https://arxiv.org/abs/1802.05312), section 3). An identity code has 1, also if
    its dimensions come twice. A dimension that tells of no factor counts 0, as in disentanglement_lib.

    Args:
        codes: The representation.
        factors: At least two factors.
        bins: As for `mig`.

    Raises:
        UndefinedMetricError: If a factor is constant, or there is a single one.
    """
    codes = _codes(codes)
    information = mutual_information(codes, _varying_factors(factors, len(codes), least=2), bins)
    # In nats: more than what rounding leaves of none, less than what a million images have by chance.
    informative = information.max(axis=1) > 1e-13
    squared = information**2
    greatest = squared.max(axis=1)
    others = (squared.sum(axis=1) - greatest) / (squared.shape[1] - 1)
    scores = np.where(informative, 1 - others / np.where(informative, greatest, 1), 0)
    return float(scores.mean())


def explicitness(codes: np.ndarray, factors: np.ndarray, bins: int = 20, seed: int = 0) -> float:
    """Returns whether a linear classifier finds the factors' values in the codes: 1 if so, about 0.5 if not.

    The area under the ROC curve of one value against the rest by logistic regression, averaged over the
    values of each factor and over the factors ([Ridgeway and Mozer, 2018](https://arxiv.org/abs/1802.05312),
    section 3). A constant code has 0.5.

    Args:
        codes: The representation.
        factors: The factors.
        bins: Factors with more values are cut into as many bins.
        seed: Of the halves.

    Raises:
        UndefinedMetricError: If a factor is constant, or no factor can be tested.
    """
    codes = _codes(codes)
    scores = []
    for factor in _discrete(_varying_factors(factors, len(codes)), bins).T:
        halves = _halves_of_shared(codes, factor, seed)
        if halves is None:
            continue
        train, test, factor_train, factor_test = halves
        model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(train, factor_train)
        guesses = model.predict_proba(test)
        areas = [
            roc_auc_score(factor_test == value, guess)
            for value, guess in zip(model.classes_, guesses.T, strict=True)
        ]
        scores.append(np.mean(areas))
    return _mean_of_testable("explicitness", scores)


def factor_vae_score(
    codes: np.ndarray,
    factors: np.ndarray,
    bins: int = 20,
    votes: int = 800,
    batch: int = 64,
    seed: int = 0,
) -> float:
    """Returns how often the dimension that varies least tells which factor was held fixed.

    Of a batch of images that share the value of one factor, the dimension with the least variance, relative
    to its variance over all images, is a vote for that factor. Half of the votes decide which factor each
    dimension stands for; the score is how often that is right for the others
    ([Kim and Mnih, 2018](https://arxiv.org/abs/1802.05983), section 4). An identity code has 1, also if its
    dimensions come twice; guessing has 1 / factors; a code that is constant has no votes, and 0.

    Args:
        codes: The representation.
        factors: At least two factors. The images that share a value are sought among those given, so that
            the other factors vary as they do among them.
        bins: Factors with more values than this are cut into as many bins.
        votes: How many, half to learn and half to test.
        batch: Images in a vote, drawn with replacement.
        seed: Of the batches.

    Raises:
        UndefinedMetricError: If a factor is constant, or there is a single one.
    """
    codes = _codes(codes)
    groups = _groups(_varying_factors(factors, len(codes), least=2), bins)
    arguments.integer("votes", votes, "an integer of at least 2", least=2)
    arguments.integer("batch", batch, "a positive integer", least=1)
    codes = codes[:, _varies(codes)]
    if codes.shape[1] == 0:
        return 0.0
    codes = (codes - codes.min(axis=0)) / np.ptp(codes, axis=0)
    variances = codes.var(axis=0)
    generator = np.random.default_rng(seed)
    table = np.zeros((2, codes.shape[1], len(groups)), int)
    for vote in range(votes):
        factor = generator.integers(len(groups))
        group = groups[factor][generator.integers(len(groups[factor]))]
        drawn = codes[generator.choice(group, batch)]
        table[vote % 2, np.argmin(_deviations(drawn).var(axis=0) / variances), factor] += 1
    learned, tested = table
    meaning = learned.argmax(axis=1)
    return float(tested[np.arange(len(meaning)), meaning].sum() / tested.sum())


def beta_vae_score(
    codes: np.ndarray,
    factors: np.ndarray,
    bins: int = 20,
    points: int = 1000,
    batch: int = 64,
    seed: int = 0,
) -> float:
    """Returns how well a linear classifier tells which factor pairs of images share.

    A point is the mean of |c - c'| over pairs of images that share the value of one factor. Logistic
    regression on half of the points predicts, for the others, which factor it is
    ([Higgins et al., 2017](https://openreview.net/forum?id=Sy2fzU9gl), section 3). An identity code has 1;
    a constant code 1 / factors.

    Args:
        codes: The representation.
        factors: At least two factors, as for `factor_vae_score`.
        bins: Factors with more values than this are cut into as many bins.
        points: How many, half to learn and half to test.
        batch: Pairs in a point.
        seed: Of the pairs.

    Raises:
        UndefinedMetricError: If a factor is constant, or there is a single one.
    """
    codes = StandardScaler().fit_transform(_codes(codes))
    groups = _groups(_varying_factors(factors, len(codes), least=2), bins)
    least = 2 * len(groups)
    arguments.integer("points", points, f"an integer of at least {least}, two for each factor", least=least)
    arguments.integer("batch", batch, "a positive integer", least=1)
    generator = np.random.default_rng(seed)
    differences, fixed = np.zeros((points, codes.shape[1])), np.arange(points) % len(groups)
    for point, factor in enumerate(fixed):
        sizes = np.array([len(group) for group in groups[factor]])
        chosen = generator.integers(len(sizes), size=batch)
        # The images in the order of their groups: a pair is two places in one group.
        starts = np.cumsum(sizes) - sizes
        places = (starts[chosen] + generator.random((2, batch)) * sizes[chosen]).astype(int)
        first, second = codes[np.concatenate(groups[factor])[places]]
        differences[point] = np.abs(first - second).mean(axis=0)
    train, test, fixed_train, fixed_test = _halves(differences, fixed, seed)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return float(model.fit(train, fixed_train).score(test, fixed_test))


def irs(codes: np.ndarray, factors: np.ndarray, bins: int = 20, quantile: float = 0.99) -> float:
    """Returns the interventional robustness score, in [0, 1].

    For each dimension and factor: hold the factor at a value; how far, at most, is the dimension moved from
    its mean by all else? That, averaged over the factor's values, over the dimension's greatest deviation at
    all, taken from 1, is its robustness, at least 0; each dimension has its best factor's, and the score is
    the mean, weighted by the dimensions' greatest deviations ([Suter, Miladinovic, Schölkopf and Bauer,
    2019](https://arxiv.org/abs/1811.00007), section 4). A constant code has 0.

    An identity code of factors with at most `bins` values has 1 at every quantile, also if its dimensions
    come twice. A factor with more values is held in a bin, in which it moves itself by half a bin's width: an
    identity code of factors that are spread evenly then has about 1 - 1 / bins.

    Args:
        codes: The representation.
        factors: The factors; those with more values than `bins` are cut into as many bins.
        bins: See `factors`.
        quantile: Of the deviations, which stands for their maximum: 1 is the paper's, 0.99 is robust.

    Raises:
        UndefinedMetricError: If a factor is constant.
    """
    codes = _codes(codes)
    groups = _groups(_varying_factors(factors, len(codes)), bins)
    if not 0 <= quantile <= 1:
        raise ValueError(f"Argument `quantile` must be in the range [0, 1]. Received: quantile={quantile}")
    codes = codes[:, _varies(codes)]
    if codes.shape[1] == 0:
        return 0.0
    greatest = np.abs(_deviations(codes)).max(axis=0)
    moved = np.array(
        [
            np.mean(
                [np.quantile(np.abs(_deviations(codes[group])), quantile, axis=0) for group in values],
                axis=0,
            )
            for values in groups
        ]
    )
    # Where the mean of a value's images is far from that of all, its images may deviate from it by more than
    # the greatest deviation at all.
    robustness = np.maximum(1 - moved / greatest, 0).max(axis=0)
    return float(np.average(robustness, weights=greatest))


# What they share


def _codes(codes: np.ndarray) -> np.ndarray:
    return _finite_matrix("codes", codes, "dimensions")


def _finite_matrix(name: str, values: np.ndarray, columns: str) -> np.ndarray:
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or 0 in values.shape:
        raise ValueError(f"{name} must have shape (images, {columns}). Received: {values.shape}")
    if not np.isfinite(values).all():
        raise UndefinedMetricError(f"{name} must be finite. Received: NaN or infinities among them")
    return values


def _factors(factors: np.ndarray, count: int) -> np.ndarray:
    factors = np.asarray(factors, np.float64)
    if factors.ndim != 2 or len(factors) != count:
        raise ValueError(f"factors must have shape ({count}, factors). Received: {factors.shape}")
    if not np.isfinite(factors).all():
        raise ValueError("factors must be finite. Received: NaN or infinities among them")
    return factors


def _varying_factors(factors: np.ndarray, count: int, least: int = 1) -> np.ndarray:
    """Returns the factors, of which there must be `least`, none of them constant."""
    factors = _factors(factors, count)
    if factors.shape[1] < least:
        raise UndefinedMetricError(
            f"factors must have shape ({count}, factors), with at least {least} of them. "
            f"Received: {factors.shape}"
        )
    constant = np.flatnonzero(np.ptp(factors, axis=0) == 0)
    if constant.size:
        raise UndefinedMetricError(
            f"factors must take two values or more each. Received a constant one in column {constant[0]}"
        )
    return factors


def _labels(labels: np.ndarray, count: int) -> np.ndarray:
    labels = np.asarray(labels)
    if labels.shape != (count,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"labels must be one integer for each of {count} images. "
            f"Received: {labels.dtype} of shape {labels.shape}"
        )
    return labels


def _halves(codes: np.ndarray, targets: np.ndarray, seed: int) -> list[np.ndarray]:
    """Returns the training half and the test half of the codes, then of the targets."""
    if len(targets) < 2:
        raise UndefinedMetricError("halves need at least two images. Received: 1")
    strata = None
    if np.issubdtype(targets.dtype, np.integer):
        # Each half has its share of every value. Values of one image are shared out as if they were one
        # value, and a single such value as if it were the most frequent one.
        _, strata, counts = np.unique(targets, return_inverse=True, return_counts=True)
        alone = counts[strata] == 1
        strata[alone] = -1 if alone.sum() > 1 else counts.argmax()
    return train_test_split(codes, targets, test_size=0.5, random_state=seed, stratify=strata)


def _halves_of_shared(codes: np.ndarray, values: np.ndarray, seed: int) -> list[np.ndarray] | None:
    """Returns the halves without the values that one of them lacks, or `None` if fewer than two are left."""
    train, test, values_train, values_test = _halves(codes, values, seed)
    shared = np.intersect1d(values_train, values_test)
    if len(shared) < 2:
        return None
    in_train, in_test = np.isin(values_train, shared), np.isin(values_test, shared)
    return [train[in_train], test[in_test], values_train[in_train], values_test[in_test]]


def _mean_of_testable(name: str, scores: list[float]) -> float:
    if not scores:
        raise UndefinedMetricError(
            f"{name} needs a factor with at least two values in both halves of the images. Received none"
        )
    return float(np.mean(scores))


def _classifier(classifier, labels: np.ndarray):
    """Returns the classifier, or if the labels it is to learn are all the same, one that guesses that."""
    return classifier if len(np.unique(labels)) > 1 else DummyClassifier()


def _varies(codes: np.ndarray) -> np.ndarray:
    """Returns, for each dimension, whether its numbers differ by more than rounding."""
    return np.ptp(codes, axis=0) > 8 * np.finfo(np.float64).eps * np.abs(codes).max(axis=0)


def _deviations(codes: np.ndarray) -> np.ndarray:
    """Returns the codes less their mean, exactly 0 where they are equal, whose mean may be rounded."""
    codes = codes - codes[0]
    return codes - codes.mean(axis=0)


def _ranks(codes: np.ndarray) -> np.ndarray:
    """Returns each dimension's numbers as ranks, which trees take for the same, whatever their scale.

    Trees of scikit-learn compute in float32, and take numbers for equal that differ by less than 1e-7.
    """
    ranks = [np.unique(column, return_inverse=True)[1] for column in codes.T]
    return np.where(_varies(codes), np.column_stack(ranks), 0)


def _discrete(columns: np.ndarray, bins: int) -> np.ndarray:
    """Returns each column as integers: its values by rank, or equal bins if they are more than `bins`."""
    arguments.integer("bins", bins, "an integer of at least 2", least=2)
    result = np.empty(columns.shape, np.int64)
    for j, column in enumerate(columns.T):
        values, ranks = np.unique(column, return_inverse=True)
        if len(values) > bins:
            ranks = np.digitize(column, np.histogram_bin_edges(column, bins)[1:-1])
        result[:, j] = ranks
    return result


def _groups(factors: np.ndarray, bins: int) -> list[list[np.ndarray]]:
    """Returns, for each factor, the indices of the images that share each of its values."""
    return [[np.flatnonzero(v == value) for value in np.unique(v)] for v in _discrete(factors, bins).T]


def _with_kind(factors: np.ndarray, continuous) -> zip:
    """Returns each factor after whether it is continuous."""
    return zip(np.broadcast_to(continuous, factors.shape[1]), factors.T, strict=True)


def _gap(scores: np.ndarray) -> np.ndarray:
    """Returns, for each column, how far its greatest entry is above its second, or above 0 if alone."""
    ordered = np.sort(scores, axis=0)[::-1]
    return ordered[0] - (ordered[1] if len(ordered) > 1 else 0)


def _concentration(matrix: np.ndarray) -> float:
    """Returns the mean over rows, weighted by their sums, of 1 - a row's entropy to the base of its size."""
    total = matrix.sum()
    if total == 0:
        return 0.0
    if matrix.shape[1] == 1:
        return 1.0
    sums = matrix.sum(axis=1)
    used = matrix[sums > 0]
    concentrations = 1 - stats.entropy(used, base=matrix.shape[1], axis=1)
    return float(np.sum(concentrations * sums[sums > 0]) / total)
