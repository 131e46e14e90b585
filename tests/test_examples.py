"""The examples run: notebooks, with an epoch where they have many, and the README. Links lead somewhere."""

import json
import re
from pathlib import Path

import keras
import matplotlib
import numpy as np
import pytest

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
DOCUMENTS = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")]


def cells(notebook):
    return [cell for cell in json.loads(notebook.read_text())["cells"] if cell["cell_type"] == "code"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook, monkeypatch):
    """The notebook's cells are plain Python, so they need no kernel."""
    monkeypatch.setenv("SEPARATIONFACTOR_EXAMPLE_EPOCHS", "1")
    matplotlib.use("agg")
    names = {"__name__": "__main__"}
    for number, cell in enumerate(cells(notebook)):
        exec(compile("".join(cell["source"]), f"{notebook.name}, code cell {number}", "exec"), names)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_keeps_its_pictures(notebook):
    outputs = [output for cell in cells(notebook) for output in cell["outputs"]]
    assert not [output for output in outputs if output["output_type"] == "error"]
    assert len([output for output in outputs if "image/png" in output.get("data", {})]) >= 5


def test_there_is_a_notebook():
    assert NOTEBOOKS


def test_the_readme_runs_as_written(monkeypatch, tmp_path):
    """But for the download: the digits are noise."""
    (program,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    images = np.random.default_rng(0).integers(0, 256, (64, 28, 28), np.uint8)
    part = (images, np.zeros(64, np.uint8))
    monkeypatch.setattr(keras.datasets.mnist, "load_data", lambda: (part, part))
    monkeypatch.chdir(tmp_path)
    exec(compile(program, "README.md", "exec"), {"__name__": "__main__"})
    model = keras.saving.load_model("k-sparse.keras")
    assert model.layers[1].k == 25


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(document):
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        if not target.startswith("https://"):
            assert (document.parent / target).exists(), target
