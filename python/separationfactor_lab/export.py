"""Exports the reference model to formats for runtimes without this package."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

import keras
import tensorflow as tf

from separationfactor import arguments, installation
from separationfactor.models import ConditionalVAE
from separationfactor.portability import portable
from separationfactor_lab.errors import LabError
from separationfactor_lab.files import written_at_once
from separationfactor_lab.options import EXPORT_FORMATS


class ExportError(LabError, RuntimeError):
    """A model cannot be exported. The message names the missing package or the obstacle."""


def export(model: ConditionalVAE, path: str | Path, format: str) -> None:
    """Exports a conditional VAE to a format that runs without this package.

    The exported functions have the names and results of the model's methods. The shape of images is
    `(batch, *image_shape)`, that of labels `(batch,)` and that of z `(batch, latent_dim)`. Labels are int32.
    Everything else is float32:

    | function | inputs | outputs |
    |---|---|---|
    | classify | images | probabilities |
    | encode | images, labels | mean, log_variance |
    | decode | z, labels | images |
    | reconstruct | images | reconstructions |
    | swap | images, labels | swapped |

    To generate images, call `decode` with z ~ N(0, I).

    Args:
        model: The model.
        path: The output, written in one step: a folder for "saved-model" and "onnx", which must not exist, or
            a file for "tflite".
        format: "saved-model" for a TensorFlow SavedModel with a signature for each function; "tflite" for a
            file with the same signatures that uses only TFLite's built-in ops; "onnx" for a folder with a
            file FUNCTION.onnx for each function.

    Raises:
        ValueError: If `format` is not one of these.
        ExportError: If `path` is an existing folder, or exists and `format` is not "tflite", or the packages
            that the format needs are not installed.
    """
    arguments.one_of("format", format, EXPORT_FORMATS)
    path = Path(path)
    if path.is_dir() or (path.exists() and format != "tflite"):
        raise ExportError(f"{path}: exists already. Remove it, or choose another path")
    write = {"saved-model": _write_saved_model, "tflite": _write_tflite, "onnx": _write_onnx}[format]
    with written_at_once(path) as temporary:
        write(portable(model), temporary)


def _functions(model: ConditionalVAE) -> dict[str, tuple[Callable, list[tf.TensorSpec]]]:
    """Returns the exported functions by name, with their input signatures."""
    images = tf.TensorSpec((None, *model.image_shape), tf.float32, "images")
    labels = tf.TensorSpec((None,), tf.int32, "labels")
    z = tf.TensorSpec((None, model.latent_dim), tf.float32, "z")

    def encode(images, labels):
        mean, log_variance = model.encode(images, labels)
        return {"mean": mean, "log_variance": log_variance}

    return {
        "classify": (lambda images: {"probabilities": model.classify(images)}, [images]),
        "encode": (encode, [images, labels]),
        "decode": (lambda z, labels: {"images": model.decode(z, labels)}, [z, labels]),
        "reconstruct": (lambda images: {"reconstructions": model.reconstruct(images)}, [images]),
        "swap": (lambda images, labels: {"swapped": model.swap(images, labels)}, [images, labels]),
    }


def _write_saved_model(model, path):
    archive = keras.export.ExportArchive()
    archive.track(model)
    for name, (function, takes) in _functions(model).items():
        archive.add_endpoint(name, function, input_signature=takes)
    archive.write_out(str(path), verbose=False)


def _write_tflite(model, path):
    with tempfile.TemporaryDirectory() as folder:
        _write_saved_model(model, folder)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=list(_functions(model)))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
        path.write_bytes(converter.convert())


def _write_onnx(model, path):
    try:
        import tf2onnx
    except ImportError as error:
        raise ExportError(
            f"ONNX needs packages that are not installed ({error}). To install them: "
            f"{installation.command(extra='[onnx]')}"
        ) from error
    path.mkdir()
    for name, (function, takes) in _functions(model).items():
        tf2onnx.convert.from_function(
            tf.function(function), input_signature=takes, output_path=str(path / f"{name}.onnx")
        )
