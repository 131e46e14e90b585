"""What setup.py builds for, from which sources and variables, and what it advises; nothing is compiled."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
UV = shutil.which("uv") or shutil.which("uv", path=os.path.dirname(sys.executable))

needs_cmake = pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")

# Runs setup.py with a stand-in for setuptools, which needs no network. Prints what setuptools would get and,
# with "build", runs the extension's build.
RUN_SETUP = """
import json, os, runpy, sys, types

given = {}
setuptools = types.ModuleType("setuptools")
setuptools.setup = lambda **options: given.update(options)
setuptools.Extension = lambda name, sources, depends: name
setuptools.find_packages = lambda folder: []
build_ext = types.ModuleType("setuptools.command.build_ext")
build_ext.build_ext = type("build_ext", (), {"inplace": False, "build_lib": "build/lib"})
build_ext.build_ext.announce = lambda self, message, level: print(message)
pybind11 = types.ModuleType("pybind11")
pybind11.get_cmake_dir = lambda: os.environ.get("PYBIND11", "pybind11")
sys.modules.update({
    "setuptools": setuptools,
    "setuptools.command": types.ModuleType("setuptools.command"),
    "setuptools.command.build_ext": build_ext,
    "pybind11": pybind11,
})
sys.platform = os.environ.get("PLATFORM", sys.platform)
runpy.run_path("setup.py")
if "build" in sys.argv:
    given["cmdclass"]["build_ext"]().run()
print(json.dumps({"requires": given["setup_requires"], "cpu": given["extras_require"]["cpu"]}))
"""

TENSORFLOW = """
__version__ = "{version}.0"
class sysconfig:
    get_include = staticmethod(lambda: "/none")
    get_lib = staticmethod(lambda: "/none")
    get_compile_flags = staticmethod(lambda: [])
    get_link_flags = staticmethod(lambda: {link})
"""
LINK = ["-l:libtensorflow_framework.so.2"]


def make_environment(folder, tensorflow=None, link=LINK):
    """Makes a virtual environment, with a stand-in for a TensorFlow, and returns its Python."""
    command = [sys.executable, "-m", "venv", "--without-pip", str(folder)]
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": ""})
    if tensorflow:
        (site,) = folder.glob("lib/python*/site-packages")
        (site / "tensorflow").mkdir()
        (site / "tensorflow" / "__init__.py").write_text(TENSORFLOW.format(version=tensorflow, link=link))
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def environments(tmp_path_factory):
    """Returns Python interpreters by the version of their TensorFlow."""
    folder = tmp_path_factory.mktemp("environments")
    return {version: make_environment(folder / version, version) for version in ("2.18", "2.20")} | {
        None: make_environment(folder / "none")
    }


def variables(**given):
    """Returns an environment in which only the given variables count for a build."""
    ours = re.compile("SEPARATIONFACTOR_|CXX|CUDA|UV|MAX_JOBS|VIRTUAL_ENV|CONDA_PREFIX|PYTHONPATH|LDFLAGS")
    kept = {name: value for name, value in os.environ.items() if not ours.match(name)}
    return {**kept, **{name: str(value) for name, value in given.items()}}


def run_setup(python, *arguments, folder=ROOT, **given):
    return subprocess.run(
        [str(python), "-c", RUN_SETUP, *arguments],
        cwd=folder,
        env=variables(**given),
        capture_output=True,
        text=True,
        check=False,
    )


def requirements(result):
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout.splitlines()[-1])


def built_for(version):
    return {"requires": [], "cpu": [f"tensorflow-cpu=={version}.*"]}


def installed_for(version):
    return {"requires": [f"tensorflow-cpu=={version}.*"], "cpu": [f"tensorflow-cpu=={version}.*"]}


# What is built for


def test_the_environment_of_this_python_comes_first(environments):
    result = run_setup(environments["2.20"], VIRTUAL_ENV=environments["2.18"].parents[1])
    assert requirements(result) == built_for("2.20")
    (line,) = result.stderr.splitlines()
    assert line.startswith("separationfactor: builds for TensorFlow 2.20.0 in ")
    assert line.endswith("(the environment of this Python)")


@pytest.mark.parametrize("variable", ["VIRTUAL_ENV", "CONDA_PREFIX"])
def test_the_active_environment_comes_next(environments, variable):
    result = run_setup(environments[None], **{variable: environments["2.20"].parents[1]})
    assert requirements(result) == built_for("2.20")
    (line,) = result.stderr.splitlines()
    assert "builds for TensorFlow 2.20.0 in " in line
    assert line.endswith(f"({variable})")


def test_where_there_is_none_the_build_brings_the_default(environments, tmp_path):
    result = run_setup(environments[None], VIRTUAL_ENV=tmp_path / "no such folder")
    assert requirements(result) == installed_for("2.21")
    (line,) = result.stderr.splitlines()
    assert "builds for TensorFlow 2.21, which an isolated build installs: no environment" in line


def test_a_named_version_is_found_or_brought(environments):
    named = {"SEPARATIONFACTOR_TENSORFLOW": "2.18.1"}
    result = run_setup(environments["2.20"], **named)
    assert requirements(result) == installed_for("2.18")
    (line,) = result.stderr.splitlines()
    assert line.endswith("SEPARATIONFACTOR_TENSORFLOW names it")
    result = run_setup(environments["2.20"], VIRTUAL_ENV=environments["2.18"].parents[1], **named)
    assert requirements(result) == built_for("2.18")
    assert "builds for TensorFlow 2.18.0" in result.stderr
    # An isolated build finds its own TensorFlow before the user's.
    given = next(environments["2.18"].parents[1].glob("lib/python*/site-packages"))
    assert requirements(run_setup(environments["2.20"], PYTHONPATH=given, **named)) == built_for("2.18")
    # The extras say the same without compiled code.
    result = run_setup(environments["2.20"], SEPARATIONFACTOR_NATIVE="off", **named)
    assert requirements(result) == built_for("2.18")


def test_a_named_version_that_is_not_there_is_not_replaced_by_another(environments):
    result = run_setup(environments["2.20"], "build", SEPARATIONFACTOR_TENSORFLOW="2.18")
    assert result.returncode == 1
    assert "no TensorFlow 2.18 to build for" in result.stderr
    assert "pip install 'tensorflow-cpu==2.18.*'" in result.stderr


@pytest.mark.parametrize("value", ["2", "2.x", "latest", "==2.18"])
def test_what_names_no_version(environments, value):
    result = run_setup(environments["2.20"], SEPARATIONFACTOR_TENSORFLOW=value)
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "SEPARATIONFACTOR_TENSORFLOW must be a version of TensorFlow" in line
    assert line.endswith(f"Received: {value}")


def test_an_active_environment_of_another_python_is_not_built_for(environments, tmp_path):
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    found = {"python": "cpython-39", "version": "2.18.0", "folder": "/its/tensorflow"}
    python.write_text(f"#!/bin/sh\necho '{json.dumps(found)}'\n")
    python.chmod(0o755)
    result = run_setup(environments[None], VIRTUAL_ENV=tmp_path)
    assert requirements(result) == installed_for("2.21")
    first, second = result.stderr.splitlines()
    assert "does not build for TensorFlow 2.18.0 in /its/tensorflow (VIRTUAL_ENV), whose Python is" in first
    assert first.endswith(f"cpython-39: this build is for {sys.implementation.cache_tag}")
    assert "builds for TensorFlow 2.21" in second


def test_a_tensorflow_that_cannot_be_imported(environments, tmp_path):
    python = make_environment(tmp_path, "2.20")
    (path,) = tmp_path.glob("lib/python*/site-packages/tensorflow/__init__.py")
    path.write_text("import no_such_module")
    result = run_setup(environments[None], VIRTUAL_ENV=tmp_path)
    assert result.returncode == 1
    assert f"the TensorFlow that {python} has cannot be imported" in result.stderr
    assert "No module named 'no_such_module'" in result.stderr
    result = run_setup(environments[None], VIRTUAL_ENV=tmp_path, SEPARATIONFACTOR_TENSORFLOW="2.18")
    assert requirements(result) == installed_for("2.18")


# Front ends that build in an environment of their own

RUN_FRONT_END = """
import os, subprocess, sys
build, setup = os.environ["BUILD_PYTHON"], os.environ["RUN_SETUP"]
# uv puts the build's environment in place of the user's.
environment = {**os.environ, "VIRTUAL_ENV": os.path.dirname(os.path.dirname(build))}
sys.exit(subprocess.run([build, "-c", setup], env=environment).returncode)
"""


@pytest.mark.parametrize(
    ("arguments", "given", "asked"),
    [
        (["pip", "install", "--python", "{user}", "."], {}, "{user}"),
        (["pip", "install", "--python={user}", "."], {}, "{user}"),
        (["pip", "install", ".", "-p", "{user}"], {}, "{user}"),
        (["pip", "install", "."], {"UV_PYTHON": "{user}"}, "{user}"),
        (["sync", "--project", "elsewhere"], {}, "--project elsewhere"),
        (["pip", "install", "--system", "."], {}, "--system"),
        (["pip", "install", "."], {"VIRTUAL_ENV": "activated"}, "in activated"),
    ],
)
def test_uv_is_asked_for_its_target(environments, tmp_path, arguments, given, asked):
    user = str(environments["2.20"])
    uv = tmp_path / "uv"
    uv.write_text(f'#!/bin/sh\necho "$@ in $VIRTUAL_ENV" > {tmp_path}/asked\necho {user}\n')
    uv.chmod(0o755)
    result = subprocess.run(
        ["uv", "-c", RUN_FRONT_END, *(argument.format(user=user) for argument in arguments)],
        executable=sys.executable,
        cwd=ROOT,
        env=variables(
            UV=uv,
            BUILD_PYTHON=environments[None],
            RUN_SETUP=RUN_SETUP,
            **{name: value.format(user=user) for name, value in given.items()},
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert requirements(result) == built_for("2.20")
    assert "(the environment that uv installs into)" in result.stderr
    question = (tmp_path / "asked").read_text()
    assert question.startswith("python find")
    assert asked.format(user=user) in question


BACKEND = """
import contextlib, os

def get_requires_for_build_wheel(settings=None):
    os.chdir({root!r})
    with open({report!r}, "w") as report, contextlib.redirect_stdout(report):
        exec({setup!r}, {{}})
    raise SystemExit("that is all")
"""


@pytest.mark.skipif(UV is None, reason="uv is not installed")
def test_uv_itself(environments, tmp_path):
    (tmp_path / "pyproject.toml").write_text(
        "[build-system]\nrequires = []\nbuild-backend = 'backend'\nbackend-path = ['.']\n"
        "[project]\nname = 'project'\ndynamic = ['version']\n"
    )
    report = tmp_path / "report"
    backend = BACKEND.format(root=str(ROOT), report=str(report), setup=RUN_SETUP)
    (tmp_path / "backend.py").write_text(backend)
    command = [UV, "pip", "install", "--offline", "--no-deps", "--cache-dir", tmp_path / "cache", tmp_path]
    for options, given in (
        (["--python", environments["2.20"]], {}),
        ([], {"VIRTUAL_ENV": environments["2.20"].parents[1]}),
    ):
        subprocess.run([*command, *options], env=variables(**given), capture_output=True, check=False)
        assert json.loads(report.read_text().splitlines()[-1]) == built_for("2.20")
        report.unlink()


def test_build_builds_for_the_environment_that_runs_it(environments, tmp_path):
    (tmp_path / "build.py").write_text(f"import os\nos.environ['PYTHONPATH'] = ''\n{RUN_FRONT_END}")
    result = subprocess.run(
        [environments["2.20"], "-m", "build"],
        cwd=tmp_path,
        env=variables(
            BUILD_PYTHON=environments[None], RUN_SETUP=f"import os; os.chdir({str(ROOT)!r}){RUN_SETUP}"
        ),
        capture_output=True,
        text=True,
        check=False,
    )
    assert requirements(result) == built_for("2.20")
    assert "(the environment that runs the build)" in result.stderr


# What is kept between builds


@pytest.fixture
def checkout(tmp_path):
    """A copy of the sources, in a folder with a space, and a CMake that configures and builds nothing."""
    sources = tmp_path / "with space" / "sources"
    sources.mkdir(parents=True)
    for name in ("setup.py", "CMakeLists.txt"):
        shutil.copy(ROOT / name, sources)
    for name in ("cmake", "cc"):
        shutil.copytree(ROOT / name, sources / name)
    # setup.py reads the version there.
    package = sources / "python" / "separationfactor"
    package.mkdir(parents=True)
    shutil.copy(ROOT / "python" / "separationfactor" / "_version.py", package)
    tools = tmp_path / "tools"
    tools.mkdir()
    cmake = tools / "cmake"
    cmake.write_text(
        f'#!/bin/sh\ncase "$1" in --build|--install) exit 0;; esac\nexec {shutil.which("cmake")} "$@"\n'
    )
    cmake.chmod(0o755)
    pybind11 = tmp_path / "pybind11"
    pybind11.mkdir()
    (pybind11 / "pybind11Config.cmake").write_text(
        "function(pybind11_add_module name)\n  add_library(${name} MODULE ${ARGN})\nendfunction()\n"
    )
    return sources


def configure(checkout, python, **given):
    """Configures as setup.py does, and returns what CMake keeps."""
    tools = checkout.parents[1] / "tools"
    result = run_setup(
        python,
        "build",
        folder=checkout,
        SEPARATIONFACTOR_CUDA="off",
        **{"PYBIND11": checkout.parents[1] / "pybind11", **given},
        PATH=f"{tools}:{os.environ['PATH']}",
    )
    assert result.returncode == 0, result.stderr
    (cache,) = (checkout / "build").glob("*/CMakeCache.txt")
    return dict(re.findall(r"^(\w+):\w+=(.*)$", cache.read_text(), re.MULTILINE))


@needs_cmake
def test_a_build_goes_by_the_variables_of_its_own_time(checkout, environments, tmp_path):
    python = environments["2.20"]
    assert configure(checkout, python, CXXFLAGS="-DFIRST")["CMAKE_CXX_FLAGS"] == "-DFIRST"
    (folder,) = (checkout / "build").glob("*tensorflow*")
    compiled = folder / "compiled.o"

    # CMake's cache is kept, although the paths of an isolated build's tools change each time.
    compiled.write_text("")
    (tmp_path / "pybind11").rename(tmp_path / "overlay")
    cache = configure(checkout, python, CXXFLAGS="-DFIRST", PYBIND11=tmp_path / "overlay")
    assert cache["pybind11_DIR"] == str(tmp_path / "overlay")
    assert compiled.exists()

    (tmp_path / "overlay").rename(tmp_path / "pybind11")
    assert configure(checkout, python, CXXFLAGS="-DSECOND")["CMAKE_CXX_FLAGS"] == "-DSECOND"
    assert not compiled.exists()
    compiler = tmp_path / "a compiler"
    compiler.write_text('#!/bin/sh\nexec c++ "$@"\n')
    compiler.chmod(0o755)
    cache = configure(checkout, python, CXX=compiler)
    assert cache["CMAKE_CXX_COMPILER"] == str(compiler)
    assert cache["CMAKE_CXX_FLAGS"] == ""


@needs_cmake
def test_a_moved_checkout_builds(checkout, environments, tmp_path):
    python = environments["2.20"]
    configure(checkout, python)
    moved = tmp_path / "elsewhere" / "moved"
    shutil.copytree(checkout, moved)
    assert configure(moved, python)["CMAKE_HOME_DIRECTORY"] == str(moved)


# In JSON, whose quotes a flag may have too.
@needs_cmake
def test_the_build_writes_down_flags_with_quotes(checkout, environments):
    configure(checkout, environments["2.20"], CXXFLAGS=r'-DA="a b" -DB=\"c\"')
    (path,) = (checkout / "build").glob("*/_build.json")
    assert json.loads(path.read_text())["flags"].startswith(r'-DA="a b" -DB=\"c\" ')


def test_what_an_earlier_build_installed_is_removed(checkout, environments, tmp_path):
    (tmp_path / "tools" / "cmake").write_text("#!/bin/sh\n")
    installed = checkout / "build" / "lib" / "separationfactor"
    installed.mkdir(parents=True)
    (installed / "_ops_cuda.so").write_text("")
    (installed / "layers.py").write_text("")
    result = run_setup(
        environments["2.20"],
        "build",
        folder=checkout,
        PATH=f"{tmp_path / 'tools'}:{os.environ['PATH']}",
    )
    assert result.returncode == 0, result.stderr
    assert [path.name for path in installed.iterdir()] == ["layers.py"]


# What cannot be built, and what is advised


def test_other_systems_are_told_in_one_line(environments, tmp_path):
    result = run_setup(environments["2.20"], "build", PLATFORM="darwin")
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith("separationfactor: the compiled code is for Linux only")
    assert result.stderr.endswith("Received: darwin\n")
    assert "Traceback" not in result.stderr
    # A TensorFlow that is linked with as on macOS.
    python = make_environment(tmp_path, "2.20", ["-L/none", "-ltensorflow_framework.2"])
    result = run_setup(python, "build")
    assert result.returncode == 1
    last = result.stderr.splitlines()[-1]
    assert "for Linux only" in last
    assert last.endswith("-L/none -ltensorflow_framework.2")


def test_the_advice_names_these_sources(checkout, environments):
    result = run_setup(environments["2.20"], "build", folder=checkout, CXX="no-such-compiler -m64")
    assert result.returncode == 1
    assert "no C++ compiler was found (looked for no-such-compiler -m64)" in result.stderr
    assert f"SEPARATIONFACTOR_NATIVE=off pip install '{checkout}'" in result.stderr
    # A folder that pip removes afterwards is no source.
    fetched = checkout.rename(checkout.with_name("pip-req-build-1a2b"))
    result = run_setup(environments["2.20"], "build", folder=fetched, CXX="no-such-compiler")
    assert "SEPARATIONFACTOR_NATIVE=off pip install SOURCE" in result.stderr


@pytest.mark.parametrize("value", ["0", "-1", "all", "1.5"])
def test_max_jobs_is_a_number(environments, value):
    result = run_setup(environments["2.20"], "build", MAX_JOBS=value)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].endswith(f"MAX_JOBS must be a positive integer. Received: {value}")


def test_a_source_distribution_can_run_its_own_tests(tmp_path):
    """It holds every file of the repository, but for what serves the repository alone."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("this is no repository")
    checkout = tmp_path / "checkout"
    for name in listed.stdout.splitlines():
        copy = checkout / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, copy)
    result = subprocess.run(
        [sys.executable, "setup.py", "-q", "sdist", "--dist-dir", tmp_path],
        cwd=checkout,
        env={**os.environ, "SEPARATIONFACTOR_NATIVE": "off"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    missing = set(listed.stdout.splitlines()) - names
    assert {name for name in missing if not name.startswith((".github/", ".gitignore"))} == set()
