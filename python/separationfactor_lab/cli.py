"""The command `separationfactor`.

The arguments of the commands are declared here. What a command does is imported when it runs, so that help
and tab completion import neither TensorFlow nor NumPy.
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
    """Fused top-k masking: its benchmark, and the reference conditional VAE that uses it."""


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
@_option("--epochs", "How many times to go through the training images.", type=click.IntRange(1))
@_option("--batch-size", "Images in a training step.", type=click.IntRange(1))
@_option("--learning-rate", "Adam's.", type=click.FloatRange(0, min_open=True))
@_option("--seed", "Seeds weights, order and sampling: the same seed gives the same run.", type=SEED)
@_option("--separation", "The factor of the selected class.", type=float)
@_option("--suppression", "The factor of the other classes.", type=float)
@_option("--k", "How many classes are selected.", type=click.IntRange(0))
@_option("--trainable-factors", "Whether both factors are trained.", is_flag=True)
@_option(
    "--combine",
    "Decode the sum of z and the class code, or both side by side.",
    type=click.Choice(["add", "concat"]),
)
@_option(
    "--condition",
    "The class vector in training: the label, or the classifier's output.",
    type=click.Choice(["label", "predicted"]),
)
@_option("--hard", "Whether the classifier's output becomes one-hot.", is_flag=True)
@_option("--stop-gradient", "Whether the decoder leaves the classifier alone.", is_flag=True)
@_option("--beta", "The weight of the KL divergence.", type=click.FloatRange(0))
@_option(
    "--posterior",
    "A Gaussian q(z|x,y), or one with an inverse autoregressive flow on top.",
    type=click.Choice(["gaussian", "iaf"]),
)
@_option(
    "--decoder",
    "Pixels independent given z and the class, or also predicted from those before them.",
    type=click.Choice(["convolutional", "pixelcnn"]),
)
@_option(
    "--implementation",
    "The layer's implementation.",
    type=click.Choice(IMPLEMENTATIONS),
)
@_option(
    "--strategy",
    "Divide each batch among this machine's devices, or among the workers that TF_CONFIG lists, each of "
    "which runs this command; the first, or the chief, writes the files.",
    type=click.Choice(STRATEGIES),
)
@_option(
    "--devices",
    "How many devices: GPUs or, without any, parts of the CPU.  [default: all GPUs, or 2]",
    type=click.IntRange(1),
)
@click.option("--output", required=True, type=PathType(), help="The run's folder.", show_default=False)
@click.option(
    "--resume",
    is_flag=True,
    help="Continue the run that is in the folder, with its options; more --epochs make it longer.",
)
@click.pass_context
@reports_errors
def train(context, output, resume, **options):
    """Trains a conditional VAE and draws what it learned."""
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
        return  # the chief tells of it

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
@click.option("--label", default=0, help="The class to draw.", type=click.IntRange(0))
@click.option("--to", help="Draw the way from the class to this one instead.", type=click.IntRange(0))
@click.option(
    "--output",
    type=PathType(dir_okay=False),
    callback=_picture,
    help="The picture  [default: in RUN, by its labels]",
)
@reports_errors
def traverse(run, label, to, output):
    """Draws a class of RUN along every latent dimension, or on the way to another class."""
    figures, files, runs = load(
        "separationfactor_lab.figures", "separationfactor_lab.files", "separationfactor_lab.runs"
    )
    run = runs.Run(run)
    model = run.model()
    for name, value in (("--label", label), ("--to", to)):
        if value is not None and value >= model.num_classes:
            raise click.BadParameter(
                f"{value} is not a class of the run's, which has {model.num_classes}", param_hint=name
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
    help="A folder for TensorFlow, a file of TFLite's built-in ops, or a folder of ONNX files.",
    show_default=False,
)
@click.option("--output", type=PathType(), help="What is written  [default: in RUN, by its format]")
@reports_errors
def export_run(run, format, output):
    """Writes the model of RUN for runtimes that do not have this package.

    The functions are classify(images), encode(images, labels), decode(z, labels), reconstruct(images) and
    swap(images, labels): signatures of a SavedModel or a TFLite file, and a file each for ONNX.
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
    "--images", default=2000, help="Test images for what takes long, at most.", type=click.IntRange(100)
)
@click.option(
    "--samples", default=100, help="Samples of the importance-weighted bound.", type=click.IntRange(1)
)
@click.option("--seed", default=0, help="Seeds the choice of images and the probes.", type=SEED)
@reports_errors
def evaluate(run, images, samples, seed):
    """Measures the model of RUN, and writes RUN/metrics.json."""
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
@click.option("--json", "as_json", is_flag=True, help="As JSON, for programs.")
@reports_errors
def info(as_json):
    """Tells how the package was built and what it runs on."""
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
    """Makes images whose factors are known, for train and evaluate."""


def _makes_images(command):
    """Adds the options that all data sets have, and writes the arrays that the command returns."""

    @factors.command(command.__name__, help=command.__doc__)
    @click.option("--train", default=8000, help="How many training images.", type=click.IntRange(1))
    @click.option("--test", default=2000, help="How many test images.", type=click.IntRange(1))
    @click.option("--seed", default=0, help="Seeds what is drawn at random.", type=SEED)
    @click.option(
        "--output", required=True, type=PathType(dir_okay=False), help="The .npz file.", show_default=False
    )
    @reports_errors
    @functools.wraps(command)
    def wrapped(output, **options):
        import numpy as np

        (files,) = load("separationfactor_lab.files")
        arrays = command(**options)
        # A file, as NumPy adds a suffix to a path that has another.
        with files.written_at_once(output) as temporary, open(temporary, "wb") as file:
            np.savez_compressed(file, **arrays)
        say(f"wrote {output}")

    return wrapped


@_makes_images
@click.option("--source", default="digits", help="The digits, as train's --dataset takes them.")
def digits(source, **options):
    """Digits turned, scaled, shifted, sheared and made bolder by known amounts."""
    data, synthetic_images = load("separationfactor_lab.data", "separationfactor_lab.synthetic_images")
    console = rich.get_console()
    track = functools.partial(rich.progress.track, description="moving digits", console=console)
    return synthetic_images.moved_digits(data.load(source), **options, track=track)


@_makes_images
@click.option("--size", default=28, help="Pixels a side.", type=click.IntRange(8))
def sprites(**options):
    """Squares, ellipses and hearts of known scale, orientation and place."""
    (synthetic_images,) = load("separationfactor_lab.synthetic_images")
    return synthetic_images.sprites(**options)


@main.group()
def study():
    """Measures what the layers do, over many settings and seeds."""


class _StudyCommand(click.Command):
    """A study's command, whose help lists the study's settings."""

    def format_epilog(self, ctx, formatter):
        """Writes the settings."""
        with formatter.section("Settings"):
            formatter.write_dl([(name, "") for name in _study(self.name).settings])


def _study(name):
    (studies,) = load("separationfactor_lab.studies")
    return next(study for study in studies.STUDIES if study.name == name)


def _study_command(name, summary):
    """Returns a study's command; all have the same options."""

    @click.command(name, cls=_StudyCommand, help=summary, short_help=summary)
    @click.option(
        "--output",
        required=True,
        type=PathType(),
        help="The study's folder. A study that is there goes on.",
        show_default=False,
    )
    @click.option("--data", "source", default="digits", help="The data, as train's --dataset takes it.")
    @click.option("--quick", is_flag=True, help="Few settings, seeds and epochs, to see it work.")
    @click.option("--seeds", type=click.IntRange(1), help="How many seeds  [default: 5, or 2 if quick]")
    @click.option("--jobs", type=click.IntRange(1), help="Trials at a time  [default: the cores]")
    @click.option("--only", multiple=True, metavar="SETTING", help="Run this setting; may be repeated.")
    @reports_errors
    def command(output, source, quick, seeds, jobs, only):
        (studies,) = load("separationfactor_lab.studies")
        study = _study(name)
        try:
            results = studies.run(
                study, output, source=source, quick=quick, seeds=seeds, jobs=jobs, only=only
            )
        except KeyboardInterrupt:
            raise click.ClickException("interrupted; the same command goes on with what is missing") from None
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
@click.option("--quick", is_flag=True, help="Three cases only, in under two minutes.")
@click.option("--device", default="cpu", type=click.Choice(DEVICES), help="What computes.")
@click.option("--only", default="", metavar="TEXT", help="Only cases whose names hold this, as '1000, 25'.")
@click.option(
    "--output", default="benchmark", type=PathType(file_okay=False), help="Where tables and plots go."
)
@reports_errors
def benchmark(quick, device, only, output):
    """Times the op beside plain TensorFlow, NumPy and, where installed, PyTorch and JAX."""
    (benchmark,) = load("separationfactor_lab.benchmark")
    results = benchmark.run(output, quick, device, only)["results"]
    console = rich.get_console()
    for table in benchmark.tables(results):
        console.print(table)
    say(f"wrote {output}/results.json, results.csv, forward.png and gradient.png")


if __name__ == "__main__":
    main()
