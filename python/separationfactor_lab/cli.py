"""The command `separationfactor`.

This module declares the commands and their arguments. A command imports its implementation when it runs, so
that help and tab completion import neither TensorFlow nor NumPy.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import shlex

import click
import rich
import rich.progress
from click.core import ParameterSource
from rich.table import Table

from separationfactor_lab.options import (
    DEVICES,
    EXPORT_FORMATS,
    IMPLEMENTATIONS,
    STRATEGIES,
    STUDIES,
    Options,
)
from separationfactor_lab.startup import load
from separationfactor_lab.terminal import SEED, PathType, plain, reports_errors, say

_CONTEXT = {"help_option_names": ["-h", "--help"], "show_default": True}


@click.group(context_settings=_CONTEXT)
@click.version_option(package_name="separationfactor")
def main():
    """Fused top-k masking: the benchmark, and the reference conditional VAE."""


def _default(name):
    return next(field.default for field in dataclasses.fields(Options) if field.name == name)


def _option(flag, help, **kwargs):
    name = flag.removeprefix("--").replace("-", "_")
    return click.option(flag, help=help, default=_default(name), **kwargs)


def _run_folder():
    return click.argument("run", type=PathType())


@main.command()
@_option(
    "--dataset",
    "digits, mnist, fashion-mnist, an .npz file in the layout of Keras' mnist.npz, or a folder with MNIST's "
    "idx files.",
)
@_option("--epochs", "Passes over the training images.", type=click.IntRange(1))
@_option("--batch-size", "Images per training step.", type=click.IntRange(1))
@_option("--learning-rate", "Learning rate of Adam.", type=click.FloatRange(0, min_open=True))
@_option("--seed", "Seeds weights, image order and sampling. The same seed gives the same run.", type=SEED)
@_option("--separation", "Factor of the selected classes.", type=float)
@_option("--suppression", "Factor of the other classes.", type=float)
@_option("--k", "Number of selected classes.", type=click.IntRange(0))
@_option("--trainable-factors", "Train both factors.", is_flag=True)
@_option(
    "--combine",
    "Input of the decoder: the sum or the concatenation of z and the class code.",
    type=click.Choice(["add", "concat"]),
)
@_option(
    "--condition",
    "Class vector in training: the label or the classifier's output.",
    type=click.Choice(["label", "predicted"]),
)
@_option("--hard", "Make the classifier's output one-hot.", is_flag=True)
@_option("--stop-gradient", "Stop the decoder's gradient before the classifier.", is_flag=True)
@_option("--beta", "Weight of the KL divergence.", type=click.FloatRange(0))
@_option(
    "--posterior",
    "q(z|x,y): a Gaussian, or a Gaussian followed by an inverse autoregressive flow.",
    type=click.Choice(["gaussian", "iaf"]),
)
@_option(
    "--decoder",
    "p(x|z,y): independent pixels, or pixels that also depend on the preceding pixels.",
    type=click.Choice(["convolutional", "pixelcnn"]),
)
@_option(
    "--implementation",
    "Implementation of the separation layer.",
    type=click.Choice(IMPLEMENTATIONS),
)
@_option(
    "--strategy",
    "mirrored splits each batch among this machine's devices. multiworker splits it among the workers that "
    "TF_CONFIG lists: run this command on each of them. The chief, or the first worker, writes the files.",
    type=click.Choice(STRATEGIES),
)
@_option(
    "--devices",
    "Number of devices for mirrored: GPUs or, without any, logical CPU devices.  [default: all GPUs, or 2]",
    type=click.IntRange(1),
)
@click.option("--output", required=True, type=PathType(), help="The run's folder.", show_default=False)
@click.option(
    "--resume",
    is_flag=True,
    help="Continue the run in the folder with its options. A larger --epochs extends it.",
)
@click.pass_context
@reports_errors
def train(context, output, resume, **options):
    """Trains a conditional VAE and draws its results."""
    given = {
        name: value
        for name, value in options.items()
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE
    }
    console = rich.get_console()
    runs, distribution = load("separationfactor_lab.runs", "separationfactor.distribution")
    try:
        run = runs.train(output, resume=resume, verbose=1 if console.is_terminal else 2, **given)
    except KeyboardInterrupt:
        if not runs.Run(output).exists():
            raise
        advice = f"--resume --output {shlex.quote(str(output))} continues the run"
        raise click.ClickException(f"interrupted; {advice}") from None
    except distribution.StrategyError as error:
        raise click.ClickException(str(error)) from error
    if run is None:
        return  # the chief reports the results

    last = {name: values[-1] for name, values in run.history().items()}
    title = plain(f"{output} after {last['epoch']} epochs", "table.title")
    table = Table("", "training", "test", title=title)
    for name in (name for name in last if f"val_{name}" in last):
        table.add_row(name.replace("_", " "), f"{last[name]:.4g}", f"{last[f'val_{name}']:.4g}")
    console.print(table)
    for path in sorted(run.folder.glob("*.png")):
        say(f"drew {path}")


def _picture(context, parameter, path):
    if path is None:
        return None
    (files,) = load("separationfactor_lab.files")
    try:
        return files.check_suffix(path)
    except ValueError as error:
        raise click.BadParameter(str(error)) from error


@main.command()
@_run_folder()
@click.option("--label", default=0, help="Class to draw.", type=click.IntRange(0))
@click.option("--to", help="Draw the path from --label to this class instead.", type=click.IntRange(0))
@click.option(
    "--output",
    type=PathType(dir_okay=False),
    callback=_picture,
    help="Picture file.  [default: in RUN, named after the labels]",
)
@reports_errors
def traverse(run, label, to, output):
    """Draws a class of RUN along every latent dimension, or the path to another class."""
    figures, files, runs = load(
        "separationfactor_lab.figures", "separationfactor_lab.files", "separationfactor_lab.runs"
    )
    run = runs.Run(run)
    model = run.model()
    for name, value in (("--label", label), ("--to", to)):
        if value is not None and value >= model.num_classes:
            raise click.BadParameter(
                f"must be less than {model.num_classes}, the number of classes of the run. Received: {value}",
                param_hint=name,
            )
    if to is None:
        figure, name = figures.traversals(model, label), f"traversals-{label}.png"
    else:
        figure, name = figures.morphs(model, [(label, to)]), f"morph-{label}-{to}.png"
    path = output or run.folder / name
    files.save_figure(figure, path)
    say(f"drew {path}")


@main.command("export")
@_run_folder()
@click.option(
    "--format",
    required=True,
    type=click.Choice(EXPORT_FORMATS),
    help="saved-model: a folder for TensorFlow. tflite: a file with TFLite's built-in ops. onnx: a folder of "
    "ONNX files.",
    show_default=False,
)
@click.option(
    "--output", type=PathType(), help="Output file or folder.  [default: in RUN, named after the format]"
)
@reports_errors
def export_run(run, format, output):
    """Exports the model of RUN for runtimes without this package.

    The exported functions are classify(images), encode(images, labels), decode(z, labels),
    reconstruct(images) and swap(images, labels). In a SavedModel or a TFLite file, each function is a
    signature. In ONNX, each function is a file.
    """
    export, runs = load("separationfactor_lab.export", "separationfactor_lab.runs")
    run = runs.Run(run)
    model = run.model()
    path = output or run.folder / ("model.tflite" if format == "tflite" else format)
    with rich.get_console().status(plain(f"converting the model of {run}")):
        export.export(model, path, format)
    say(f"wrote {path}")


@main.command()
@_run_folder()
@click.option(
    "--images",
    default=2000,
    help="Maximum number of test images for the slow metrics.",
    type=click.IntRange(100),
)
@click.option(
    "--samples", default=100, help="Samples of z for the importance-weighted bound.", type=click.IntRange(1)
)
@click.option("--seed", default=0, help="Seeds the choice of images, sampling and the probes.", type=SEED)
@reports_errors
def evaluate(run, images, samples, seed):
    """Measures the model of RUN and writes RUN/metrics.json."""
    evaluation, runs = load("separationfactor_lab.evaluation", "separationfactor_lab.runs")
    console = rich.get_console()
    with console.status("") as status:
        result = evaluation.evaluate(
            runs.Run(run), images=images, samples=samples, seed=seed, advance=status.update
        )
    table = Table("metric", "test", title=plain(run, "table.title"))
    undefined = result.pop("undefined", {})
    for name, value in result.items():
        table.add_row(name.replace("_", " "), "undefined" if value is None else f"{value:.4g}")
    console.print(table)
    for name, reason in undefined.items():
        say(f"{name.replace('_', ' ')} is undefined: {reason}")
    say(f"wrote {run / 'metrics.json'}")


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@reports_errors
def info(as_json):
    """Prints how the package was built and what it runs on."""
    (library,) = load("separationfactor")
    described = library.build_info()
    if as_json:
        click.echo(json.dumps(described, indent=2))
        return
    table = Table(show_header=False)
    for name, value in described.items():
        table.add_row(name.replace("_", " "), plain(value))
    rich.get_console().print(table)


@main.group()
def factors():
    """Generates images with known factors, for train and evaluate."""


def _makes_images(command):
    """Adds the options that all generators share, and writes the arrays that the command returns."""

    @factors.command(command.__name__, help=command.__doc__)
    @click.option("--train", default=8000, help="Number of training images.", type=click.IntRange(1))
    @click.option("--test", default=2000, help="Number of test images.", type=click.IntRange(1))
    @click.option("--seed", default=0, help="Seeds all random choices.", type=SEED)
    @click.option(
        "--output", required=True, type=PathType(dir_okay=False), help="Output .npz file.", show_default=False
    )
    @reports_errors
    @functools.wraps(command)
    def wrapped(output, **options):
        import numpy as np

        (files,) = load("separationfactor_lab.files")
        arrays = command(**options)
        # Pass an open file: NumPy would append .npz to a path with another suffix.
        with files.written_at_once(output) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)
        say(f"wrote {output}")

    return wrapped


@_makes_images
@click.option("--source", default="digits", help="Source of the digits, as in --dataset of train.")
def digits(source, **options):
    """Digits that are rotated, scaled, shifted, sheared and thickened by known amounts."""
    data, synthetic_images = load("separationfactor_lab.data", "separationfactor_lab.synthetic_images")
    console = rich.get_console()
    track = functools.partial(rich.progress.track, description="transforming digits", console=console)
    return synthetic_images.moved_digits(data.load(source), **options, track=track)


@_makes_images
@click.option("--size", default=28, help="Side of an image in pixels.", type=click.IntRange(8))
def sprites(**options):
    """Squares, ellipses and hearts of known scale, orientation and position."""
    (synthetic_images,) = load("separationfactor_lab.synthetic_images")
    return synthetic_images.sprites(**options)


@main.group()
def study():
    """Measures the effect of the layers over many settings and seeds."""


class _StudyCommand(click.Command):
    """The command of a study. Its help lists the study's settings."""

    def format_epilog(self, ctx, formatter):
        """Writes the list of settings."""
        with formatter.section("Settings"):
            formatter.write_dl([(name, "") for name in _study(self.name).settings])


def _study(name):
    (studies,) = load("separationfactor_lab.studies")
    return next(study for study in studies.STUDIES if study.name == name)


def _study_command(name, summary):
    """Returns the command of a study. All studies have the same options."""

    @click.command(name, cls=_StudyCommand, help=summary, short_help=summary)
    @click.option(
        "--output",
        required=True,
        type=PathType(),
        help="Folder of the study. An unfinished study in it is continued.",
        show_default=False,
    )
    @click.option("--data", "source", help="Data set, as in --dataset of train.  [default: digits]")
    @click.option("--quick", is_flag=True, help="Run few settings, seeds and epochs, as a smoke test.")
    @click.option("--seeds", type=click.IntRange(1), help="Number of seeds.  [default: 5, or 2 with --quick]")
    @click.option(
        "--jobs", type=click.IntRange(1), help="Number of concurrent trials.  [default: the number of cores]"
    )
    @click.option("--only", multiple=True, metavar="SETTING", help="Run only this setting. May be repeated.")
    @reports_errors
    def command(output, source, quick, seeds, jobs, only):
        (studies,) = load("separationfactor_lab.studies")
        study = _study(name)
        try:
            results = studies.run(
                study, output, source=source, quick=quick, seeds=seeds, jobs=jobs, only=only
            )
        except KeyboardInterrupt:
            raise click.ClickException("interrupted; the same command continues the study") from None
        rich.get_console().print(studies.table(study, results))
        if study.conclude is not None:
            say(study.conclude(results))
        for path in sorted(output.glob("*.png")):
            say(f"drew {path}")
        if quick:
            say(studies.QUICK_NOTE)

    return command


for _name, _summary in STUDIES.items():
    study.add_command(_study_command(_name, _summary))


@main.command()
@click.option(
    "--quick", is_flag=True, help="Measure only few cases: three in under two minutes, with --training two."
)
@click.option("--device", default="cpu", type=click.Choice(DEVICES), help="Device to measure.")
@click.option(
    "--only",
    default="",
    metavar="TEXT",
    help="Measure only cases whose names contain TEXT, such as '1000, 25'.",
)
@click.option(
    "--output", default="benchmark", type=PathType(file_okay=False), help="Folder for tables and plots."
)
@click.option(
    "--training",
    is_flag=True,
    help="Time training steps of sparse autoencoders instead, beside Keras' and PyTorch's.",
)
@click.option(
    "--threads", type=click.IntRange(1), help="With --training: threads and cores.  [default: all cores]"
)
@click.option("--memory", is_flag=True, help="With --training: measure the peak memory of a step too.")
@click.option(
    "--json",
    "json_path",
    type=PathType(dir_okay=False),
    help="With --training: file for the results.  [default: training.json in --output]",
)
@reports_errors
def benchmark(quick, device, only, output, training, threads, memory, json_path):
    """Times the op beside plain TensorFlow, NumPy and, if installed, PyTorch and JAX."""
    console = rich.get_console()
    if training:
        if device != "cpu":
            raise click.UsageError(
                "--training needs --device cpu: the sparse layers have no kernels for GPUs"
            )
        (benchmark,) = load("separationfactor_lab.benchmark.training")
        path = json_path or output / "training.json"
        figures = benchmark.run(path, quick, only, threads, memory)
        for table in benchmark.tables(figures):
            console.print(table)
        say(f"wrote {path}")
        return
    for name, value in (("--threads", threads), ("--memory", memory), ("--json", json_path)):
        if value:
            raise click.UsageError(f"{name} needs --training")
    (benchmark,) = load("separationfactor_lab.benchmark")
    results = benchmark.run(output, quick, device, only)["results"]
    for table in benchmark.tables(results):
        console.print(table)
    say(f"wrote {output}/results.json, results.csv, forward.png and gradient.png")


if __name__ == "__main__":
    main()
