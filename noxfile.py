"""Builds and tests with every supported version of TensorFlow and Python.

`nox -s 'tests(2.16-py3.10)'` runs one combination. `nox -k 2.16` runs all Python versions of one TensorFlow.
Python versions that are not installed are skipped. Arguments after `--` are passed to pytest.
"""

import nox

# The Python versions for which each TensorFlow has wheels.
WHEELS = {
    "2.16": ("3.10", "3.11", "3.12"),
    "2.17": ("3.10", "3.11", "3.12"),
    "2.18": ("3.10", "3.11", "3.12"),
    "2.19": ("3.10", "3.11", "3.12"),
    "2.20": ("3.10", "3.11", "3.12", "3.13"),
    "2.21": ("3.10", "3.11", "3.12", "3.13"),
}

nox.options.error_on_missing_interpreters = False


@nox.session
@nox.parametrize(
    ("python", "tensorflow"),
    [
        nox.param(python, tensorflow, id=f"{tensorflow}-py{python}")
        for tensorflow, pythons in WHEELS.items()
        for python in pythons
    ],
)
def tests(session, tensorflow):
    """Builds for one version of TensorFlow and runs the tests."""
    session.install(f"tensorflow-cpu=={tensorflow}.*")
    session.install(".[test]")
    session.run("python", "-m", "pytest", *session.posargs)
