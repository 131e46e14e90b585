"""What all studies share: named settings, each measured with several seeds, resumed, tabulated and drawn.

A `Study` says what is measured; `run` measures it, in processes of its own, and leaves a folder with
`study.json` (what was run, on what), a folder for each setting and seed with its `measured.json`,
`results.csv` with a row for each of them, `summary.csv` and `table.md` with means and standard deviations,
the study's conclusion in `conclusion.txt`, and its pictures.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import json
import math
import multiprocessing
import os
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import keras
import rich
import tensorflow as tf
import threadpoolctl
from matplotlib.figure import Figure
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from separationfactor_lab import data, files, runs
from separationfactor_lab.errors import LabError
from separationfactor_lab.startup import quiet_start
from separationfactor_lab.terminal import plain, say

QUICK_NOTE = "This was a quick run, whose figures mean nothing."


class StudyError(LabError, ValueError):
    """A study cannot be run as asked; the message says why."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """One setting with one seed: what a study's `measure` is given.

    Attributes:
        setting: The setting's name.
        options: Its options, as the study lists them.
        seed: The seed. Those of Python, NumPy and Keras are set to it already.
        dataset: The data.
        folder: A folder that only this trial writes to, and `draw` may read from.
        shared: The folder that the study's `prepare` has written to.
        quick: Whether few epochs will do, as nobody will believe the numbers.
    """

    setting: str
    options: Mapping[str, Any]
    seed: int
    dataset: data.Dataset
    folder: Path
    shared: Path
    quick: bool


@dataclasses.dataclass(frozen=True)
class Results:
    """What a study has measured: what its `draw` is given.

    Attributes:
        rows: A dict for each trial: `setting`, `seed`, the setting's options, what was measured, `seconds`.
        dataset: The data.
        folder: The study's folder.
        quick: Whether this is a quick run.
    """

    rows: Sequence[Mapping[str, Any]]
    dataset: data.Dataset
    folder: Path
    quick: bool

    def settings(self) -> list[str]:
        """Returns the names of the settings that were measured, in the study's order."""
        return list(dict.fromkeys(row["setting"] for row in self.rows))

    def values(self, setting: str, column: str) -> list[Any]:
        """Returns a column of a setting, by seed; seeds that have no such value are left out."""
        return [
            row[column]
            for row in self.rows
            if row["setting"] == setting and row.get(column) not in (None, "")
        ]

    def mean(self, setting: str, column: str) -> float:
        """Returns the mean of a column over the setting's seeds; NaN where there is none."""
        values = self.values(setting, column)
        return statistics.fmean(values) if values else float("nan")

    def deviation(self, setting: str, column: str) -> float:
        """Returns the sample standard deviation of a column over the setting's seeds; 0 of a single one."""
        values = self.values(setting, column)
        return statistics.stdev(values) if len(values) > 1 else 0.0

    def trial_folder(self, setting: str, seed: int) -> Path:
        """Returns the folder that a trial was given."""
        return _trial_folder(self.folder, setting, seed)


@dataclasses.dataclass(frozen=True)
class Study:
    """Named settings, and how one of them is measured.

    All its functions are a module's own, as processes find them by name.

    Attributes:
        name: What the command line calls it.
        summary: What it asks, in a sentence.
        settings: The options of each setting, by the setting's name: lower-case letters, digits, `.=+-`. The
            options must be what JSON holds.
        quick_settings: The names of the settings of a quick run.
        measure: Takes a `Trial` and returns its numbers by name, `None` for one that is undefined; the name
            `undefined`, if there, holds a dict of the reasons. Numbers that are not finite become `None`.
            Runs in a process of its own.
        draw: Takes the `Results` and returns figures by the name of their file, without a suffix.
        columns: What is measured and shown in the table, each with its format, such as ".1f".
        prepare: Takes the data, a folder, and whether the run is quick; leaves in the folder what all trials
            share. Runs before them, and not again once it has ended.
        conclude: Takes the `Results` and returns what they say, in words.
        dataset: What `separationfactor_lab.data.load` takes, where nothing else is given.
    """

    name: str
    summary: str
    settings: Mapping[str, Mapping[str, Any]]
    quick_settings: Sequence[str]
    measure: Callable[[Trial], Mapping[str, Any]]
    draw: Callable[[Results], Mapping[str, Figure]]
    columns: Mapping[str, str]
    prepare: Callable[[data.Dataset, Path, bool], None] | None = None
    conclude: Callable[[Results], str] | None = None
    dataset: str = "digits"

    def __post_init__(self):
        for name in self.settings:
            if not re.fullmatch(r"[a-z0-9.=+-]+", name):
                raise ValueError(f"a setting's name becomes a folder's. Received: {name!r}")
        unknown = set(self.quick_settings) - set(self.settings)
        if unknown:
            raise ValueError(f"quick_settings must be settings. Received: {sorted(unknown)}")


def cores() -> int:
    """Returns how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def run(
    study: Study,
    output: str | Path,
    *,
    source: str | None = None,
    quick: bool = False,
    seeds: int | None = None,
    jobs: int | None = None,
    only: Sequence[str] = (),
) -> Results:
    """Measures every setting with every seed that was not measured yet, and writes and draws the results.

    Args:
        study: The study.
        output: Its folder: new, or with an earlier part of the same study on the same data, which goes on.
        source: The data, as `separationfactor_lab.data.load` takes it. With `None`, the study's own.
        quick: Whether to run the quick settings only, each for a few epochs.
        seeds: How many seeds, from 0 on. With `None` 5, or 2 of a quick run.
        jobs: How many trials run at a time. With `None`, as many as there are cores; they share the cores.
        only: Names of the settings to run. With none, all.

    Returns:
        All that is in the folder, from this call and earlier ones.

    Raises:
        StudyError: If a setting is unknown, or the folder holds something else.
        separationfactor_lab.data.DatasetError: If the data are missing or malformed.
    """
    output = Path(output)
    seeds = seeds or (2 if quick else 5)
    jobs = jobs or cores()
    unknown = [name for name in only if name not in study.settings]
    if unknown:
        raise StudyError(
            f"{study.name} has no setting {', '.join(unknown)}. It has: {', '.join(study.settings)}"
        )
    names = only or (study.quick_settings if quick else list(study.settings))
    dataset = data.load(source or study.dataset)
    _start(study, output, dataset, quick)

    trials = [(name, seed) for seed in range(seeds) for name in names]
    missing = [trial for trial in trials if not _measured(study, output, *trial)]
    if missing:
        _measure(study, output, dataset, quick, missing, len(trials), min(jobs, len(missing)))
    results = Results(_rows(study, output), dataset, output, quick)
    _write(study, results)
    return results


def _start(study: Study, output: Path, dataset: data.Dataset, quick: bool) -> None:
    """Makes the study's folder, or finds that what is there is the same study."""
    path = output / "study.json"
    identity = {"study": study.name, "quick": quick, "fingerprint": dataset.fingerprint}
    if path.exists():
        found = _read_json(path, *identity)
        for name, value in identity.items():
            if found[name] != value:
                raise StudyError(
                    f"{output}: holds a study with {name}={found[name]}, and can only go on with that. "
                    f"Choose another folder. Received: {name}={value}"
                )
        return
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise StudyError(f"{output}: expected a new or empty folder, or this study's to continue")
    files.make_folder(output)
    _write_json(path, {**identity, "source": dataset.name, "environment": runs.environment()})


def _write_json(path: Path, content: Any) -> None:
    with files.written_at_once(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


def _read_json(path: Path, *names: str) -> dict[str, Any]:
    """Returns a file's content, which holds the given names."""
    try:
        content = json.loads(path.read_text())
        return {name: content[name] for name in names}
    except (ValueError, KeyError, TypeError) as error:
        raise StudyError(
            f"{path}: expected JSON with {', '.join(names)}; it cannot be read: {error}"
        ) from error


def _trial_folder(output: Path, setting: str, seed: int) -> Path:
    return output / setting / f"seed-{seed}"


def _measured(study: Study, output: Path, setting: str, seed: int) -> dict[str, Any] | None:
    """Returns the row of a trial, or `None` if it has not ended."""
    path = _trial_folder(output, setting, seed) / "measured.json"
    if not path.exists():
        return None
    content = _read_json(path, "options", "measured", "seconds")
    options = dict(study.settings[setting])
    if content["options"] != options:
        raise StudyError(
            f"{path}: was measured with the options {content['options']}, and {setting} now means {options}. "
            "Remove it, or choose another folder"
        )
    # Why a number is undefined stays in this file.
    measured = {name: value for name, value in content["measured"].items() if name != "undefined"}
    return {"setting": setting, "seed": seed, **options, **measured, "seconds": content["seconds"]}


def _rows(study: Study, output: Path) -> list[dict[str, Any]]:
    rows = []
    for name in study.settings:
        seeds = sorted(
            int(path.parent.name.removeprefix("seed-"))
            for path in (output / name).glob("seed-*/measured.json")
        )
        rows += [_measured(study, output, name, seed) for seed in seeds]
    return rows


# The processes. TensorFlow's threads are set when it starts and it does not survive a fork, so each process
# is a fresh one, which loads the data once.

_worker: dict[str, Any] = {}


def _start_worker(study: Study, source: str, output: Path, quick: bool, threads: int) -> None:
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()
    tf.get_logger().setLevel("ERROR")
    _worker["limit"] = threadpoolctl.threadpool_limits(threads)
    _worker.update(study=study, dataset=data.load(source), output=output, quick=quick)


def _prepare() -> None:
    shared = _worker["output"] / "shared"
    shared.mkdir(exist_ok=True)
    keras.utils.set_random_seed(0)
    _worker["study"].prepare(_worker["dataset"], shared, _worker["quick"])
    _write_json(shared / "prepared.json", {})


def _measure_trial(setting: str, seed: int) -> dict[str, Any]:
    study, output = _worker["study"], _worker["output"]
    folder = _trial_folder(output, setting, seed)
    folder.mkdir(parents=True, exist_ok=True)
    options = study.settings[setting]
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    start = time.perf_counter()
    measured = study.measure(
        Trial(setting, options, seed, _worker["dataset"], folder, output / "shared", _worker["quick"])
    )
    # NumPy's scalars are not JSON's, nor are NaN and the infinities.
    measured = {name: getattr(value, "item", lambda value=value: value)() for name, value in measured.items()}
    measured = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in measured.items()
    }
    content = {
        "options": dict(options),
        "measured": measured,
        "seconds": round(time.perf_counter() - start, 2),
    }
    _write_json(folder / "measured.json", content)
    return content


@contextlib.contextmanager
def _workers(
    study: Study, source: str, output: Path, quick: bool, jobs: int
) -> Iterator[ProcessPoolExecutor]:
    # What TensorFlow logs in a process would tear the progress bar.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    pool = ProcessPoolExecutor(
        jobs,
        multiprocessing.get_context("spawn"),
        *quiet_start(_start_worker, study, source, output, quick, max(1, cores() // jobs)),
    )
    try:
        yield pool
    finally:
        # After an error, what has begun is let end, and kept; what has not, never does.
        pool.shutdown(cancel_futures=True)


def _measure(
    study: Study,
    output: Path,
    dataset: data.Dataset,
    quick: bool,
    missing: Sequence[tuple[str, int]],
    total: int,
    jobs: int,
) -> None:
    """Measures the trials in processes, with a line for each that ends."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=rich.get_console()) as progress:
        task = progress.add_task(study.name, total=total, completed=total - len(missing))
        with _workers(study, dataset.name, output, quick, jobs) as pool:
            if study.prepare is not None and not (output / "shared" / "prepared.json").exists():
                progress.update(task, description=f"{study.name}: preparing")
                pool.submit(_prepare).result()
                progress.update(task, description=study.name)
            submitted = {pool.submit(_measure_trial, *trial): trial for trial in missing}
            for future in as_completed(submitted):
                setting, seed = submitted[future]
                try:
                    content = future.result()
                except OSError:  # it names the file, and what is in the way
                    raise
                except Exception as error:
                    raise RuntimeError(f"{study.name}: {setting}, seed {seed} failed") from error
                numbers = ", ".join(
                    f"{name} {_shown(content['measured'].get(name), form)}"
                    for name, form in study.columns.items()
                )
                say(f"{setting}, seed {seed}: {numbers} ({content['seconds']:.0f} s)")
                progress.advance(task)


# The results.


def _shown(value: Any, form: str) -> str:
    return "" if value is None else format(value, form)


def _summary(study: Study, results: Results) -> list[dict[str, Any]]:
    """Returns, for each setting, its number of seeds, and mean and deviation of all that is a number."""
    rows = []
    for setting in results.settings():
        mine = [row for row in results.rows if row["setting"] == setting]
        row: dict[str, Any] = {"setting": setting, **study.settings[setting], "seeds": len(mine)}
        names = dict.fromkeys(name for one in mine for name in one)
        for name in names:
            values = results.values(setting, name)
            if name in row or name == "seed" or not values or not isinstance(values[0], (int, float)):
                continue
            row[name] = results.mean(setting, name)
            row[f"{name}_deviation"] = results.deviation(setting, name)
        rows.append(row)
    return rows


def _write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    names = list(dict.fromkeys(name for row in rows for name in row))
    with files.written_at_once(path) as temporary, open(temporary, "w", newline="") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(rows)


def _cells(study: Study, results: Results) -> list[list[str]]:
    """Returns the table: a row for each setting, with mean and standard deviation of the columns.

    Where some seeds have no value, it says how many have.
    """
    cells = []
    for setting in results.settings():
        shown = []
        seeds = len([row for row in results.rows if row["setting"] == setting])
        for name, form in study.columns.items():
            values = results.values(setting, name)
            text = _shown(results.mean(setting, name), form) if values else ""
            if len(values) > 1:
                text += f" ± {_shown(results.deviation(setting, name), form)}"
            if 0 < len(values) < seeds:
                text += f" (of {len(values)})"
            shown.append(text)
        cells.append([setting, *shown, str(seeds)])
    return cells


def _heads(study: Study) -> list[str]:
    return ["setting", *(name.replace("_", " ") for name in study.columns), "seeds"]


def _write(study: Study, results: Results) -> None:
    _write_csv(results.folder / "results.csv", results.rows)
    _write_csv(results.folder / "summary.csv", _summary(study, results))
    heads = _heads(study)
    lines = [heads, ["---"] * len(heads), *_cells(study, results)]
    note = f"{QUICK_NOTE}\n\n" if results.quick else ""
    with files.written_at_once(results.folder / "table.md") as temporary:
        temporary.write_text(note + "".join(f"| {' | '.join(line)} |\n" for line in lines))
    if study.conclude is not None:
        with files.written_at_once(results.folder / "conclusion.txt") as temporary:
            temporary.write_text(f"{note}{study.conclude(results)}\n")
    for name, figure in study.draw(results).items():
        files.save_figure(figure, results.folder / f"{name}.png")


def table(study: Study, results: Results) -> Table:
    """Returns mean and standard deviation of the study's columns over the seeds, as a table to print."""
    title = f"{study.name} on {results.dataset.name}"
    note = QUICK_NOTE if results.quick else None
    shown = Table(*_heads(study), title=plain(title, "table.title"), caption=note)
    for row in _cells(study, results):
        shown.add_row(*map(plain, row))
    return shown
