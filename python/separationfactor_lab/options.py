"""What the commands take: names and defaults. Imports neither TensorFlow nor NumPy, so that help is quick."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from separationfactor_lab.errors import LabError

# What the library has too, and says again here as it imports TensorFlow: tests compare both.
IMPLEMENTATIONS = ("auto", "native", "tf")
STRATEGIES = ("none", "mirrored", "multiworker")

DATASETS = ("digits", "mnist", "fashion-mnist")
DEVICES = ("cpu", "gpu")
EXPORT_FORMATS = ("saved-model", "tflite", "onnx")
# The studies, each with what it asks.
STUDIES = {
    "separation": (
        "What the separation layer does to a conditional VAE's likelihood and its command of the class."
    ),
    "k-sparse": "What the features of k-sparse autoencoders are worth to a linear classifier.",
    "completion": "How well the rest of a digit is predicted from one, two or three of its quadrants.",
    "expressive": "What an inverse autoregressive flow and a PixelCNN decoder do to the reference model.",
}


class RunError(LabError, ValueError):
    """A run folder is not as expected; the message names it and what was expected."""


@dataclasses.dataclass(frozen=True)
class Options:
    """What a run is started with.

    Attributes:
        dataset: What `separationfactor_lab.data.load` takes.
        epochs: How many times the training part is gone through.
        batch_size: Images in a training step.
        learning_rate: Adam's.
        seed: Seeds the weights, the order of the images and the sampling of z.
        separation, suppression, k, trainable_factors, combine, condition, hard, stop_gradient, beta,
            posterior, decoder, implementation: As `ConditionalVAE` takes them.
        strategy, devices: As `separationfactor.distribution.make` takes them. A batch is divided among the
            devices, or the workers.
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
            # A run may be continued from another working directory.
            object.__setattr__(self, "dataset", str(Path(self.dataset).absolute()))
        for name in ("epochs", "batch_size"):
            if getattr(self, name) < 1:
                raise RunError(f"{name} must be a positive integer. Received: {getattr(self, name)}")
        if not 0 < self.learning_rate < float("inf"):
            raise RunError(f"learning_rate must be positive and finite. Received: {self.learning_rate}")
        if not 0 <= self.seed < 2**32:
            raise RunError(f"seed must be an integer in [0, 2^32). Received: {self.seed}")
