"""The names and defaults of the commands' options.

This module imports neither TensorFlow nor NumPy, so that help is fast.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from separationfactor_lab.errors import LabError

# The library defines these too. They are repeated here because the library imports TensorFlow. Tests compare
# both.
IMPLEMENTATIONS = ("auto", "native", "tf")
STRATEGIES = ("none", "mirrored", "multiworker")

DATASETS = ("digits", "mnist", "fashion-mnist")
DEVICES = ("cpu", "gpu")
EXPORT_FORMATS = ("saved-model", "tflite", "onnx")
# The studies, each with its question.
STUDIES = {
    "separation": "How the separation layer affects a conditional VAE's likelihood and control of the class.",
    "k-sparse": "How useful the features of k-sparse autoencoders are to a linear classifier.",
    "completion": "How well models predict the rest of a digit from one, two or three of its quadrants.",
    "expressive": "How an inverse autoregressive flow and a PixelCNN decoder affect the reference model.",
}


class RunError(LabError, ValueError):
    """A run folder or an option of a run is invalid. The message names it and what was expected."""


@dataclasses.dataclass(frozen=True)
class Options:
    """The options that a run is started with.

    Attributes:
        dataset: As for `separationfactor_lab.data.load`.
        epochs: The number of passes over the training images.
        batch_size: Images per training step.
        learning_rate: The learning rate of Adam.
        seed: Seeds the weights, the order of the images and the sampling of z.
        separation, suppression, k, trainable_factors, combine, condition, hard, stop_gradient, beta,
            posterior, decoder, implementation: As for `ConditionalVAE`.
        strategy, devices: As for `separationfactor.distribution.make`. Each batch is split among the devices
            or the workers.
    """

    dataset: str = "digits"
    epochs: int = 100
    batch_size: int = 100
    learning_rate: float = 1e-3
    seed: int = 0
    separation: float = 10.0
    suppression: float = 0.25
    k: int = 1
    trainable_factors: bool = False
    combine: str = "add"
    condition: str = "label"
    hard: bool = False
    stop_gradient: bool = False
    beta: float = 1.0
    posterior: str = "gaussian"
    decoder: str = "convolutional"
    implementation: str = "auto"
    strategy: str = "none"
    devices: int | None = None

    def __post_init__(self):
        if self.dataset not in DATASETS:
            # An absolute path, because a run may be continued from another working directory.
            object.__setattr__(self, "dataset", str(Path(self.dataset).absolute()))
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise RunError(f"{name} must be a positive integer. Received: {getattr(self, name)}")
        if not 0 < self.learning_rate < float("inf"):
            raise RunError(f"learning_rate must be positive and finite. Received: {self.learning_rate}")
        if not 0 <= self.seed < 2**32:
            raise RunError(f"seed must be an integer in [0, 2^32). Received: {self.seed}")
