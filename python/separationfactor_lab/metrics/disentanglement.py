"""Metrics of disentanglement: how the dimensions of a code correspond to known factors of variation."""

from __future__ import annotations

import dataclasses

import numpy as np
from scipy import stats
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import mutual_info_score, recall_score, roc_auc_score
from sklearn.model_selection import GridSearchCV, KFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.tree import DecisionTreeClassifier, DecisionTreeRegressor

from separationfactor import arguments
from separationfactor_lab.metrics.arrays import UndefinedMetricError, _codes, _halves


def mig(codes: np.ndarray, factors: np.ndarray, bins: int = 20) -> float:
    """Returns the mutual information gap (MIG), in [0, 1].

    MIG is the mean over factors v of (I(c_1; v) - I(c_2; v)) / H(v), where c_1 and c_2 are the two dimensions
    with the highest mutual information with v ([Chen, Li, Grosse and Duvenaud,
    2018](https://arxiv.org/abs/1802.04942), equation 6). An identity code scores 1. A constant code scores 0.
    A code that encodes every factor twice also scores 0.

    Args:
        codes: The representation.
        factors: The factors.
        bins: A dimension or factor with more distinct values than this is discretized into this many bins of
            equal width.

    Raises:
        UndefinedMetricError: If a factor is constant.
    """
    codes = _codes(codes)
    factors = _varying_factors(factors, len(codes))
    information = mutual_information(codes, factors, bins)
    entropies = np.array([mutual_info_score(v, v) for v in _discrete(factors, bins).T])
    return float(np.mean(_gap(information) / entropies))


def mutual_information(codes: np.ndarray, factors: np.ndarray, bins: int = 20) -> np.ndarray:
    """Returns I(c; v) in nats for each dimension and factor, of shape `(dimensions, factors)`.

    Both are discretized as in `mig`. A constant dimension or factor has 0.
    """
    codes = _codes(codes)
    codes, factors = _discrete(codes, bins), _discrete(_factors(factors, len(codes)), bins)
    return np.array([[mutual_info_score(c, v) for v in factors.T] for c in codes.T])


def sap(codes: np.ndarray, factors: np.ndarray, continuous=False, seed: int = 0) -> float:
    """Returns the separated attribute predictability (SAP), in [0, 1].

    SAP is the mean over factors of the difference between the scores of the two best dimensions ([Kumar,
    Sattigeri and Balakrishnan, 2018](https://arxiv.org/abs/1711.00848), section 3). The score of a dimension
    measures how well it alone predicts the factor. For a continuous factor it is R^2 of linear regression.
    For a discrete factor it is the balanced accuracy of a decision tree with as many leaves as the factor has
    values.

    An identity code of discrete factors scores 1 minus the accuracy of guessing, 1 / values. A constant code
    scores 0. A factor that two dimensions encode equally well counts as 0.

    Args:
        codes: The representation.
        factors: The factors.
        continuous: Whether the factors are continuous: one bool for all, or one for each.
        seed: Seeds the split into halves.

    Raises:
        UndefinedMetricError: If a factor is constant, or no factor can be tested.
    """
    codes = _codes(codes)
    factors = _varying_factors(factors, len(codes))
    standardized, ranks = StandardScaler().fit_transform(codes), _ranks(codes)
    gaps = []
    for is_continuous, factor in _with_kind(factors, continuous):
        if is_continuous:
            # Standardized first, because the squares of very small numbers underflow to 0.
            factor = StandardScaler().fit_transform(factor[:, np.newaxis])
            # A standardized dimension has variance 1, or 0 if it is constant, so this is R^2.
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
        # Balanced accuracy is the mean recall over the values.
        gaps.append(_gap(np.array([recall_score(factor_test, guess, average="macro") for guess in guesses])))
    return _mean_of_testable("sap", gaps)


# The candidate depths of the trees of `dci`, of which the first with the best score is used, and the minimum
# number of images in a leaf.
_DEPTHS, _LEAF = (2, 3, 4, 6, None), 5


@dataclasses.dataclass(frozen=True)
class DCI:
    """Disentanglement, completeness and informativeness, each in [0, 1]. See `dci`."""

    disentanglement: float
    completeness: float
    informativeness: float


def dci(codes: np.ndarray, factors: np.ndarray, continuous=False, trees: int = 20, seed: int = 0) -> DCI:
    """Returns disentanglement, completeness and informativeness (DCI).

    A random forest predicts each factor from all dimensions. R is the matrix of feature importances, of shape
    `(dimensions, factors)`. The depth of the trees is the depth at which a single tree predicts best in
    cross-validation on the training half. Deeper trees fit noise, and their splits add importance to
    irrelevant dimensions.

    - *Disentanglement* measures whether a dimension encodes only one factor. It is the mean over dimensions,
      weighted by their share of R, of 1 - H(R_i / sum R_i), with the number of factors as the base of the
      logarithm.
    - *Completeness* measures whether a factor is encoded by only one dimension. It is the mean over factors
      of 1 - H(R_j / sum R_j), with the number of dimensions as the base of the logarithm.
    - *Informativeness* is the score of the forests on the test half. It is the accuracy for discrete factors
      and R^2, clipped at 0, for continuous factors.

    The definitions follow [Eastwood and Williams, 2018](https://openreview.net/forum?id=By-7dz-AZ), section
    2. An identity code scores 1, 1 and 1. A constant code scores 0, 0 and the accuracy of guessing. A code
    that encodes every factor in two dimensions is disentangled but not complete.

    Args:
        codes: The representation.
        factors: The factors.
        continuous: Whether the factors are continuous: one bool for all, or one for each.
        trees: The number of trees in a forest.
        seed: Seeds the split into halves and the forests.

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
        # Every split considers all dimensions. Otherwise uninformative dimensions would get importance.
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
    # A search with forests takes seven times as long and finds no better depths.
    tree = (DecisionTreeRegressor if is_continuous else DecisionTreeClassifier)(
        min_samples_leaf=_LEAF, random_state=seed
    )
    # Unstratified folds work however often a value occurs, and the mean squared error is defined for a fold
    # of one image, unlike R^2.
    scoring = "neg_mean_squared_error" if is_continuous else "accuracy"
    folds = KFold(min(3, len(codes)))
    search = GridSearchCV(tree, {"max_depth": _DEPTHS}, cv=folds, scoring=scoring, refit=False)
    return search.fit(codes, factor).best_params_["max_depth"]


def modularity(codes: np.ndarray, factors: np.ndarray, bins: int = 20) -> float:
    """Returns the modularity of the code, in [0, 1]: whether each dimension depends on only one factor.

    It is the mean over dimensions c of 1 - sum over the other factors of I(c; v)^2 / (max_v I(c; v)^2
    (factors - 1)) ([Ridgeway and Mozer, 2018](https://arxiv.org/abs/1802.05312), section 3). An identity code
    scores 1, even if every dimension is duplicated. A dimension that depends on no factor counts as 0, as in
    disentanglement_lib.

    Args:
        codes: The representation.
        factors: At least two factors.
        bins: As in `mig`.

    Raises:
        UndefinedMetricError: If a factor is constant, or there is only one factor.
    """
    codes = _codes(codes)
    information = mutual_information(codes, _varying_factors(factors, len(codes), least=2), bins)
    # The threshold, in nats, is above rounding errors of zero information and below the chance information
    # among a million images.
    informative = information.max(axis=1) > 1e-13
    squared = information**2
    greatest = squared.max(axis=1)
    others = (squared.sum(axis=1) - greatest) / (squared.shape[1] - 1)
    scores = np.where(informative, 1 - others / np.where(informative, greatest, 1), 0)
    return float(scores.mean())


def explicitness(codes: np.ndarray, factors: np.ndarray, bins: int = 20, seed: int = 0) -> float:
    """Returns how well a linear classifier predicts the values of the factors.

    For each value of a factor, the score is the area under the ROC curve of logistic regression for this
    value against the rest. It is averaged over the values of each factor and then over the factors ([Ridgeway
    and Mozer, 2018](https://arxiv.org/abs/1802.05312), section 3). It is 1 at best and about 0.5 by chance. A
    constant code scores 0.5.

    Args:
        codes: The representation.
        factors: The factors.
        bins: A factor with more distinct values than this is discretized into this many bins of equal width.
        seed: Seeds the split into halves.

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
    """Returns the FactorVAE score: how often the least varying dimension identifies the fixed factor.

    Each vote draws a batch of images that share the value of one factor. The dimension with the lowest
    variance in the batch, relative to its variance over all images, votes for that factor. One half of the
    votes decides which factor each dimension represents. The score is the accuracy of that mapping on the
    other half ([Kim and Mnih, 2018](https://arxiv.org/abs/1802.05983), section 4). An identity code scores 1,
    even if every dimension is duplicated. Guessing scores 1 / factors. A constant code casts no votes and
    scores 0.

    Args:
        codes: The representation.
        factors: At least two factors. Batches are drawn from the given images, so the other factors vary as
            they do among these images.
        bins: A factor with more distinct values than this is discretized into this many bins of equal width.
        votes: The number of votes: half for training, half for testing.
        batch: The number of images in a batch, drawn with replacement.
        seed: Seeds the batches.

    Raises:
        UndefinedMetricError: If a factor is constant, or there is only one factor.
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
    """Returns the beta-VAE score: how well a linear classifier predicts which factor pairs of images share.

    Each point is the mean of |c - c'| over pairs of images that share the value of one factor. Logistic
    regression is trained on half of the points to predict which factor is shared. The score is its accuracy
    on the other half ([Higgins et al., 2017](https://openreview.net/forum?id=Sy2fzU9gl), section 3). An
    identity code scores 1. A constant code scores 1 / factors.

    Args:
        codes: The representation.
        factors: At least two factors, as in `factor_vae_score`.
        bins: A factor with more distinct values than this is discretized into this many bins of equal width.
        points: The number of points: half for training, half for testing.
        batch: The number of pairs in a point.
        seed: Seeds the pairs.

    Raises:
        UndefinedMetricError: If a factor is constant, or there is only one factor.
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
        # The images are ordered by group. A pair is two positions in the same group.
        starts = np.cumsum(sizes) - sizes
        places = (starts[chosen] + generator.random((2, batch)) * sizes[chosen]).astype(int)
        first, second = codes[np.concatenate(groups[factor])[places]]
        differences[point] = np.abs(first - second).mean(axis=0)
    train, test, fixed_train, fixed_test = _halves(differences, fixed, seed)
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return float(model.fit(train, fixed_train).score(test, fixed_test))


def irs(codes: np.ndarray, factors: np.ndarray, bins: int = 20, quantile: float = 0.99) -> float:
    """Returns the interventional robustness score (IRS), in [0, 1].

    The robustness of a dimension to a factor measures how little the dimension varies while the factor is
    held fixed. For each value of the factor, the deviation is the maximum distance of the dimension from its
    mean over the images with that value. The robustness is 1 - (mean deviation over the values) / (maximum
    deviation over all images), clipped at 0. The robustness of a dimension is that of its best factor. The
    score is the mean over dimensions, weighted by their maximum deviations over all images ([Suter,
    Miladinovic, Schölkopf and Bauer, 2019](https://arxiv.org/abs/1811.00007), section 4).

    A constant code scores 0. An identity code of factors with at most `bins` values scores 1 at every
    quantile, even if every dimension is duplicated. A factor with more values is held fixed only within a
    bin, where it still deviates by up to half a bin width. An identity code of evenly distributed factors
    with more values then scores about 1 - 1 / bins.

    Args:
        codes: The representation.
        factors: The factors. A factor with more distinct values than `bins` is discretized into this many
            bins.
        bins: See `factors`.
        quantile: The quantile of the deviations that replaces their maximum. The paper uses 1; 0.99 is robust
            to outliers.

    Raises:
        ValueError: If `quantile` is not in [0, 1].
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
    # The images of one value may deviate from their own mean by more than any image deviates from the overall
    # mean, hence the clipping.
    robustness = np.maximum(1 - moved / greatest, 0).max(axis=0)
    return float(np.average(robustness, weights=greatest))


def _factors(factors: np.ndarray, count: int) -> np.ndarray:
    factors = np.asarray(factors, np.float64)
    if factors.ndim != 2 or len(factors) != count:
        raise ValueError(f"factors must have shape ({count}, factors). Received: {factors.shape}")
    if not np.isfinite(factors).all():
        raise ValueError("factors must be finite. Received: NaN or infinite values")
    return factors


def _varying_factors(factors: np.ndarray, count: int, least: int = 1) -> np.ndarray:
    """Returns the factors, after checking that there are at least `least` and that none is constant."""
    factors = _factors(factors, count)
    if factors.shape[1] < least:
        raise UndefinedMetricError(
            f"factors must have shape ({count}, factors), with at least {least} factors. "
            f"Received: {factors.shape}"
        )
    constant = np.flatnonzero(np.ptp(factors, axis=0) == 0)
    if constant.size:
        raise UndefinedMetricError(
            f"each factor must have at least two values. Received: a constant factor in column {constant[0]}"
        )
    return factors


def _halves_of_shared(codes: np.ndarray, values: np.ndarray, seed: int) -> list[np.ndarray] | None:
    """Returns the halves, restricted to the values that occur in both of them.

    Returns `None` if fewer than two such values exist.
    """
    train, test, values_train, values_test = _halves(codes, values, seed)
    shared = np.intersect1d(values_train, values_test)
    if len(shared) < 2:
        return None
    in_train, in_test = np.isin(values_train, shared), np.isin(values_test, shared)
    return [train[in_train], test[in_test], values_train[in_train], values_test[in_test]]


def _mean_of_testable(name: str, scores: list[float]) -> float:
    if not scores:
        raise UndefinedMetricError(
            f"{name} needs a factor with at least two values in both halves of the images. "
            "Received: no such factor"
        )
    return float(np.mean(scores))


def _varies(codes: np.ndarray) -> np.ndarray:
    """Returns, for each dimension, whether its values differ by more than rounding errors."""
    return np.ptp(codes, axis=0) > 8 * np.finfo(np.float64).eps * np.abs(codes).max(axis=0)


def _deviations(codes: np.ndarray) -> np.ndarray:
    """Returns the codes minus their mean, exactly 0 for a dimension whose values are all equal.

    The first image is subtracted beforehand because the mean of equal values may be rounded.
    """
    codes = codes - codes[0]
    return codes - codes.mean(axis=0)


def _ranks(codes: np.ndarray) -> np.ndarray:
    """Returns the rank of each value within its dimension.

    Decision trees give the same result for ranks as for values. Ranks are needed because scikit-learn's trees
    compute in float32 and treat values that differ by less than 1e-7 as equal.
    """
    ranks = [np.unique(column, return_inverse=True)[1] for column in codes.T]
    return np.where(_varies(codes), np.column_stack(ranks), 0)


def _discrete(columns: np.ndarray, bins: int) -> np.ndarray:
    """Returns each column as integers.

    They are the ranks of the column's values or, if it has more than `bins` values, the numbers of
    equal-width bins.
    """
    arguments.integer("bins", bins, "an integer of at least 2", least=2)
    result = np.empty(columns.shape, np.int64)
    for j, column in enumerate(columns.T):
        values, ranks = np.unique(column, return_inverse=True)
        if len(values) > bins:
            ranks = np.digitize(column, np.histogram_bin_edges(column, bins)[1:-1])
        result[:, j] = ranks
    return result


def _groups(factors: np.ndarray, bins: int) -> list[list[np.ndarray]]:
    """Returns, for each factor and each of its values, the indices of the images with that value."""
    return [[np.flatnonzero(v == value) for value in np.unique(v)] for v in _discrete(factors, bins).T]


def _with_kind(factors: np.ndarray, continuous) -> zip:
    """Returns pairs of (whether the factor is continuous, the factor)."""
    return zip(np.broadcast_to(continuous, factors.shape[1]), factors.T, strict=True)


def _gap(scores: np.ndarray) -> np.ndarray:
    """Returns the largest entry of each column minus its second largest, or minus 0 if there is one row."""
    ordered = np.sort(scores, axis=0)[::-1]
    return ordered[0] - (ordered[1] if len(ordered) > 1 else 0)


def _concentration(matrix: np.ndarray) -> float:
    """Returns the mean of 1 - entropy over the rows, weighted by their sums.

    The base of the logarithm is the number of columns.
    """
    total = matrix.sum()
    if total == 0:
        return 0.0
    if matrix.shape[1] == 1:
        return 1.0
    sums = matrix.sum(axis=1)
    used = matrix[sums > 0]
    concentrations = 1 - stats.entropy(used, base=matrix.shape[1], axis=1)
    return float(np.sum(concentrations * sums[sums > 0]) / total)
