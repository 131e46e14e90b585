"""The versions of TensorFlow and Python that are supported: `nox` builds for each and runs the tests.

`nox -s 'tests(2.16-py3.10)'` runs one of them and `nox -k 2.16` all of one TensorFlow; Pythons that the
machine lacks are skipped. What follows `--` goes to pytest.
"""

import nox

# Which Pythons each TensorFlow has wheels for.
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
    """Builds for a TensorFlow and runs the tests."""
    session.install(f"tensorflow-cpu=={tensorflow}.*")
    session.install(".[test]")
    session.run("python", "-m", "pytest", *session.posargs)
