"""Keras callbacks for the layers."""

import keras

from separationfactor import _private, arguments
from separationfactor.layers import KSparse


class KSchedule(keras.callbacks.Callback):
    """Changes the `k` of a `KSparse` layer linearly during training, then keeps it constant.

    If `k` is small from the start, a few units win every row and the others never learn. With a
    large `k` at first, every unit can learn. The
    [k-sparse autoencoder](https://arxiv.org/abs/1312.5663) lowers `k` from 100 to 15 over the
    first half of its epochs and keeps 15 for the second half.

    `k` is set at the start of each epoch and depends only on the epoch number. So training that
    is resumed with `fit(initial_epoch=...)` uses the same values of `k`. No graph is retraced.
    The value is added to the epoch's logs, and so to the history, as `"k"`. If the model has
    several `KSparse` layers, the key is `"k_"` followed by the layer's name.

    Example:
    >>> model = keras.Sequential([keras.layers.Dense(200), KSparse(15), keras.layers.Dense(8)])
    >>> model.compile("adam", "mse")
    >>> x = np.ones((4, 8))
    >>> schedule = KSchedule(start=100, end=15, epochs=2)
    >>> history = model.fit(x, x, epochs=4, callbacks=[schedule], verbose=0)
    >>> history.history["k"]
    [100, 58, 15, 15]

    Args:
        start: Integer >= 0. The `k` of the first epoch.
        end: Integer >= 0. The `k` of epoch `epochs`, counted from 0, and of all later epochs.
        epochs: Integer > 0. The number of epochs over which `k` changes.
        layer: A `KSparse` layer or its name. The layer may be anywhere in the model. With
            `None`, the model's only `KSparse` layer. Defaults to `None`.
    """

    def __init__(self, start, end, epochs, layer=None):
        super().__init__()
        self.start = arguments.count("start", start)
        self.end = arguments.count("end", end)
        self.epochs = arguments.integer("epochs", epochs, "a positive integer", least=1)
        if not (layer is None or isinstance(layer, (str, KSparse))):
            raise ValueError(
                f"Argument `layer` must be a `KSparse` layer, its name, or `None`. Received: layer={layer}"
            )
        self.layer = layer
        self._layer = None
        self._log_name = None

    def k_at(self, epoch):
        """Returns the `k` of an epoch, counted from 0."""
        done = min(epoch, self.epochs)
        return self.start + round((self.end - self.start) * done / self.epochs)

    def on_train_begin(self, logs=None):
        candidates = [layer for layer in _private.all_layers(self.model) if isinstance(layer, KSparse)]
        found = [
            layer
            for layer in candidates
            if self.layer is None or self.layer is layer or self.layer == layer.name
        ]
        if len(found) != 1:
            wanted = getattr(self.layer, "name", self.layer)
            raise ValueError(
                "Argument `layer` of KSchedule must identify exactly one `KSparse` layer of model "
                f"'{self.model.name}', whose `KSparse` layers are "
                f"{[layer.name for layer in candidates]}. Received: layer={wanted}"
            )
        self._layer = found[0]
        self._log_name = "k" if len(candidates) == 1 else f"k_{self._layer.name}"

    def on_epoch_begin(self, epoch, logs=None):
        self._layer.k = self.k_at(epoch)

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs[self._log_name] = self._layer.k
