"""Matplotlib figures of a trained `ConditionalVAE` and of its training."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from separationfactor.models import ConditionalVAE

# The panels of `training_curves`: a title, and columns of a run's history.csv.
_CURVES = (
    ("negative ELBO (nats per image)", ["negative_elbo"]),
    ("its terms (nats per image)", ["reconstruction", "kl"]),
    ("classifier accuracy", ["classifier_accuracy"]),
)
CURVES = tuple(f"{part}{name}" for _, names in _CURVES for name in names for part in ("", "val_"))


# The directions in which `label_points` looks for a place.
_DIRECTIONS = ((1, 0.7), (-1, 0.7), (1, -0.7), (-1, -0.7), (0, 1), (0, -1))


def _grid(
    images: np.ndarray, rows: Sequence, columns: Sequence, title: str, axis_titles: tuple[str, str] = ("", "")
) -> Figure:
    """Tiles images of shape (rows, columns, height, width, 1 or 3), with labels for rows and columns."""
    images = np.asarray(images)
    n_rows, n_columns, height, width = images.shape[:4]
    # Neighbouring images are one white pixel apart. Large values are drawn dark, like ink on paper.
    tiles = np.zeros((n_rows, height + 1, n_columns, width + 1, images.shape[4]))
    tiles[:, :height, :, :width] = np.moveaxis(images, 1, 2)
    tiles = tiles.reshape(n_rows * (height + 1), n_columns * (width + 1), -1)[:-1, :-1]

    scale = 0.55
    figure = Figure(figsize=(scale * n_columns + 0.8, scale * n_rows * height / width + 0.8))
    axes = figure.add_subplot()
    axes.imshow(1 - tiles if tiles.shape[-1] == 3 else tiles[..., 0], cmap="gray_r", vmin=0, vmax=1)
    axes.set_xticks(np.arange(n_columns) * (width + 1) + (width - 1) / 2, columns, fontsize=9)
    axes.set_yticks(np.arange(n_rows) * (height + 1) + (height - 1) / 2, rows, fontsize=9)
    axes.set_xlabel(axis_titles[0])
    axes.set_ylabel(axis_titles[1])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=10)
    return figure


def show_rows(axes: Axes, images: np.ndarray, rows: Sequence[str], title: str) -> None:
    """Shows images of shape (rows, columns, height, width, 1) without gaps, with labels for rows."""
    n_rows, _, height = images.shape[:3]
    ink = images[..., 0].swapaxes(1, 2).reshape(n_rows * height, -1)
    axes.imshow(ink, cmap="gray_r", vmin=0, vmax=1)
    axes.set_yticks(np.arange(n_rows) * height + height / 2, rows, fontsize=8)
    axes.set_xticks([])
    axes.set_title(title, fontsize=10)


def label_points(axes: Axes, points: Mapping[str, tuple[float, float]], *, fontsize: float = 6) -> None:
    """Writes a name beside each point, where it overlaps no other name and no point.

    Call it last: it needs the final limits of the axes. A thin line leads from a point to a distant name.

    Args:
        axes: The axes, with the points drawn.
        points: The points by name, in the axes' data coordinates.
        fontsize: The names' size.
    """
    figure = axes.figure
    figure.draw_without_rendering()  # Places the axes.
    scale = figure.dpi / 72
    places = {name: axes.transData.transform(point) for name, point in points.items()}
    names = []
    for name, place in places.items():
        # Closer to its own point than to the others.
        around = {other: scale * (4 if other == name else 9) for other in points}
        taken = names + [Bbox.from_extents(*(places[n] - r), *(places[n] + r)) for n, r in around.items()]
        text = axes.annotate(name, points[name], (0, 0), textcoords="offset points", fontsize=fontsize)
        text.set_in_layout(False)
        size = text.get_window_extent().size * (1.05, 1)  # A saved figure's text may be wider.
        # The nearest free place, to the right or the left first.
        for distance, direction in itertools.product(range(5, 80, 2), _DIRECTIONS):
            offset = distance * np.array(direction)
            low = place + offset * scale - size * (1 - np.sign(direction)) / 2
            box = Bbox.from_extents(*low, *(low + size))
            inside = axes.bbox.contains(*box.min) and axes.bbox.contains(*box.max)
            if inside and not box.count_overlaps(taken):
                break
        names.append(box)
        text.set(
            position=offset,
            horizontalalignment={1: "left", 0: "center", -1: "right"}[np.sign(direction[0])],
            verticalalignment="bottom" if direction[1] > 0 else "top",
        )
        if distance > 9:
            line = {"arrowstyle": "-", "lw": 0.4, "color": "gray", "shrinkA": 0, "shrinkB": 0}
            axes.annotate(
                "", points[name], offset, textcoords="offset points", arrowprops=line
            ).set_in_layout(False)


def training_curves(history: Mapping[str, Sequence[float]]) -> Figure:
    """Draws the negative ELBO, its two terms and the classifier's accuracy by epoch.

    Args:
        history: The values by epoch of each column of a run's history.csv.
    """
    epochs = history["epoch"]
    figure = Figure(figsize=(11, 3), layout="constrained")
    panels = figure.subplots(1, 3)
    for axes, (title, names) in zip(panels, _CURVES, strict=True):
        for color, name in enumerate(names):
            for prefix, style, part in (("", "-", "training"), ("val_", "--", "test")):
                label = f"{name}, {part}" if len(names) > 1 else part
                axes.plot(epochs, history[prefix + name], style, color=f"C{color}", label=label)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("epoch")
        axes.legend(fontsize=8)
        axes.grid(alpha=0.3)
    panels[1].set_yscale("log")
    return figure


def one_of_each_class(labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Returns the index of the first example of every class that has examples."""
    found = [np.flatnonzero(labels == label) for label in range(num_classes)]
    return np.array([indices[0] for indices in found if indices.size])


def reconstructions(model: ConditionalVAE, images: np.ndarray, labels: np.ndarray) -> Figure:
    """Draws images above their reconstructions."""
    redrawn = model.reconstruct(images, labels)
    return _grid(np.stack([images, redrawn]), ["image", "redrawn"], labels, "Reconstructions")


def samples(model: ConditionalVAE, columns: int = 10, seed: int = 0) -> Figure:
    """Draws generated images, with one row per class."""
    labels = np.repeat(np.arange(model.num_classes), columns)
    images = np.reshape(model.generate(labels, seed=seed), (model.num_classes, columns, *model.image_shape))
    titles = ("", "class")
    return _grid(images, range(model.num_classes), [""] * columns, "Samples by class", titles)


def class_swap(model: ConditionalVAE, images: np.ndarray, labels: np.ndarray) -> Figure:
    """Draws each image beside its decodings as every class: z is kept and the class is changed."""
    count, classes = len(images), model.num_classes
    redrawn = model.swap(
        np.repeat(images, classes, axis=0),
        np.tile(np.arange(classes), count),
        np.repeat(labels, classes),
    )
    redrawn = np.reshape(redrawn, (count, classes, *model.image_shape))
    grid = np.concatenate([images[:, np.newaxis], redrawn], axis=1)
    names = ["image", *range(classes)]
    return _grid(grid, labels, names, "Class swap", ("redrawn as", "class of the image"))


def traversals(
    model: ConditionalVAE, label: int, values: Sequence[float] = (-3, -2, -1, 0, 1, 2, 3)
) -> Figure:
    """Draws one class while each dimension of z varies in turn and the others stay at the prior's mean."""
    images = model.traverse([label], values)[0]
    names = [f"z{dimension}" for dimension in range(model.latent_dim)]
    columns = [f"{value:g}" for value in values]
    return _grid(images, names, columns, f"Latent traversals of class {label}")


def morphs(model: ConditionalVAE, pairs: Sequence[tuple[int, int]], steps: int = 11) -> Figure:
    """Draws linear interpolations between the codes of two classes, with one row per pair of classes."""
    start, end = np.transpose(pairs)
    images = model.morph(start, end, steps)
    names = [f"{a} to {b}" for a, b in pairs]
    return _grid(images, names, [""] * steps, "Interpolations between classes, at the prior's mean of z")
