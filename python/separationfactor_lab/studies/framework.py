"""The framework of the studies: settings measured with several seeds, resumable, with tables and pictures.

A `Study` defines the measurements. `run` performs them in separate processes and writes a folder with these
files:

- `study.json`: the study, its data and the environment.
- a folder for each setting and seed, with its `measured.json`.
- `results.csv`: a row for each setting and seed.
- `summary.csv` and `table.md`: means and standard deviations.
- `conclusion.txt`: the study's conclusion, if it has one.
- the study's pictures.
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
from concurrent.futures.process import BrokenProcessPool
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

QUICK_NOTE = "This was a quick run. Its numbers are not meaningful."


class StudyError(LabError, ValueError):
    """A study cannot be run as requested. The message gives the reason."""


@dataclasses.dataclass(frozen=True)
class Trial:
    """One setting with one seed: the argument of a study's `measure`.

    Attributes:
        setting: The name of the setting.
        options: The options of the setting.
        seed: The seed. Python, NumPy and Keras are already seeded with it.
        dataset: The data.
        folder: A folder that only this trial writes to. `draw` may read it.
        shared: The folder that the study's `prepare` wrote to.
        quick: Whether to use few epochs, because the numbers are not meaningful anyway.
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
    """The measurements of a study: the argument of its `draw`.

    Attributes:
        rows: A dict for each trial, with `setting`, `seed`, the setting's options, the measurements and
            `seconds`.
        dataset: The data.
        folder: The study's folder.
        quick: Whether this is a quick run.
    """

    rows: Sequence[Mapping[str, Any]]
    dataset: data.Dataset
    folder: Path
    quick: bool

    def settings(self) -> list[str]:
        """Returns the names of the measured settings, in the study's order."""
        return list(dict.fromkeys(row["setting"] for row in self.rows))

    def values(self, setting: str, column: str) -> list[Any]:
        """Returns a column of a setting, ordered by seed. Seeds without a value are left out."""
        return [
            row[column]
            for row in self.rows
            if row["setting"] == setting and row.get(column) not in (None, "")
        ]

    def mean(self, setting: str, column: str) -> float:
        """Returns the mean of a column over the setting's seeds, or NaN if there are no values."""
        values = self.values(setting, column)
        return statistics.fmean(values) if values else float("nan")

    def deviation(self, setting: str, column: str) -> float:
        """Returns the sample standard deviation of a column over the setting's seeds.

        It is 0 if there are fewer than two values.
        """
        values = self.values(setting, column)
        return statistics.stdev(values) if len(values) > 1 else 0.0

    def trial_folder(self, setting: str, seed: int) -> Path:
        """Returns the folder of a trial."""
        return _trial_folder(self.folder, setting, seed)


@dataclasses.dataclass(frozen=True)
class Study:
    """Named settings and a function that measures one of them.

    All functions must be module-level, because other processes import them by name.

    Attributes:
        name: The name on the command line.
        summary: The study's question, in one sentence.
        settings: The options of each setting by the setting's name. Names consist of lower-case letters,
            digits and `.=+-`. Options must be representable in JSON.
        quick_settings: The names of the settings of a quick run.
        measure: Takes a `Trial` and returns its measurements by name. An undefined measurement is `None`. The
            optional entry `undefined` is a dict of the reasons by name. Numbers that are not finite become
            `None`. Runs in a separate process.
        draw: Takes the `Results` and returns figures by file name without suffix.
        columns: The measurements in the table, each with its format, such as ".1f".
        prepare: Takes the data, a folder, and whether the run is quick. Writes files that all trials share
            into the folder. Runs once, before the trials.
        conclude: Takes the `Results` and returns the conclusion as text.
        dataset: The default data set, as for `separationfactor_lab.data.load`.
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
                raise ValueError(
                    "a setting's name becomes a folder's name, so it must consist of a-z, 0-9 and .=+-. "
                    f"Received: {name!r}"
                )
        unknown = set(self.quick_settings) - set(self.settings)
        if unknown:
            raise ValueError(f"quick_settings must be settings of the study. Received: {sorted(unknown)}")


def cores() -> int:
    """Returns the number of cores that this process may use."""
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
    """Measures every setting with every seed that is not measured yet, then writes and draws the results.

    Args:
        study: The study.
        output: The study's folder. It must be new or empty, or contain an earlier part of the same study on
            the same data, which is continued.
        source: The data, as for `separationfactor_lab.data.load`. `None` means the study's default.
        quick: Whether to run only the quick settings, with few epochs.
        seeds: The number of seeds, from 0 on. `None` means 5, or 2 for a quick run.
        jobs: The number of concurrent trials, which share the cores. `None` means the number of cores.
        only: The names of the settings to run. If empty, all settings are run.

    Returns:
        All results in the folder, from this call and earlier ones.

    Raises:
        StudyError: If a setting is unknown, or the folder contains something else.
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
    """Creates the study's folder, or checks that it contains the same study."""
    path = output / "study.json"
    identity = {"study": study.name, "quick": quick, "fingerprint": dataset.fingerprint}
    if path.exists():
        found = _read_json(path, *identity)
        for name, value in identity.items():
            if found[name] != value:
                raise StudyError(
                    f"{output}: holds a study with {name}={found[name]}, which must stay the same. "
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
    """Returns the given entries of a JSON file."""
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
    """Returns the row of a trial, or `None` if the trial is not finished."""
    path = _trial_folder(output, setting, seed) / "measured.json"
    if not path.exists():
        return None
    content = _read_json(path, "options", "measured", "seconds")
    options = dict(study.settings[setting])
    if content["options"] != options:
        raise StudyError(
            f"{path}: was measured with the options {content['options']}, but {setting} now has the options "
            f"{options}. Remove it or choose another folder"
        )
    # The reasons for undefined numbers stay in measured.json.
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


# The worker processes. TensorFlow's number of threads is fixed when it starts, and TensorFlow does not
# survive a fork. Each worker is therefore a spawned process, which loads the data once.

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
    # JSON supports neither NumPy scalars, nor NaN and the infinities.
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
    # Log lines of TensorFlow in a worker would break the progress bar.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    pool = ProcessPoolExecutor(
        jobs,
        multiprocessing.get_context("spawn"),
        *quiet_start(_start_worker, study, source, output, quick, max(1, cores() // jobs)),
    )
    try:
        yield pool
    finally:
        # After an error, running trials finish and are kept. Pending trials are cancelled.
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
    """Measures the trials in worker processes, and prints a line for each finished trial."""
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
                except (OSError, LabError):  # the error names the file and the reason
                    raise
                except BrokenProcessPool:
                    raise StudyError(
                        f"{output}: a worker process was killed, perhaps because memory ran out; fewer "
                        "--jobs need less. The same command continues with what is missing"
                    ) from None
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
    """Returns, for each setting, the number of seeds, and the mean and deviation of each numeric column."""
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
    """Returns the table: a row for each setting, with the mean and standard deviation of the columns.

    If some seeds have no value, the cell shows the number of seeds that have one.
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
    """Returns a table to print: the mean and standard deviation of the study's columns over the seeds."""
    title = f"{study.name} on {results.dataset.name}"
    note = QUICK_NOTE if results.quick else None
    shown = Table(*_heads(study), title=plain(title, "table.title"), caption=note)
    for row in _cells(study, results):
        shown.add_row(*map(plain, row))
    return shown
