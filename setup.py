"""Builds the compiled code with CMake, for the TensorFlow of the environment.

Environment variables:
    SEPARATIONFACTOR_NATIVE      "on" (default) builds the compiled code; "off" installs without it
    SEPARATIONFACTOR_TENSORFLOW  the version of TensorFlow to build for, such as 2.18; default: the version
                                 that `find_tensorflow` finds
    SEPARATIONFACTOR_CUDA        "auto" (default) builds the GPU kernels if there are an NVIDIA driver (or
                                 CUDACXX is set) and a CUDA toolkit of version 12 or newer; "on" builds them
                                 or fails; "off" does not build them
    CUDACXX, CUDAHOSTCXX         nvcc and its host compiler, as read by CMake
    CUDAARCHS                    the architectures that nvcc compiles for, in CMake's notation; default: the
                                 first architecture of each generation; "native" compiles faster, for the
                                 GPUs of this machine only
    CXX, CXXFLAGS                the C++ compiler and its flags, as read by CMake
    MAX_JOBS                     the number of files that are compiled in parallel
"""

import argparse
import functools
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
# The requirements of the commands, the studies and the benchmark.
LAB = [
    "click>=8.1",
    "matplotlib>=3.7",
    "rich>=13",
    "scikit-learn>=1.3",
    "scipy",
    "tensorboard>=2.16",
    "threadpoolctl",
]
# This module is the single source of the version.
VERSION = re.search(
    r'^__version__ = "(.+)"$', (ROOT / "python/separationfactor/_version.py").read_text(), re.M
)[1]
# The version to build for, and to install with the extras, if the environment has no TensorFlow.
DEFAULT_TENSORFLOW = "2.21"
# The files of a source distribution in addition to the Python files.
SOURCES = [
    "CMakeLists.txt",
    *(str(path.relative_to(ROOT)) for folder in ("cmake", "cc") for path in ROOT.glob(f"{folder}/**/*.*")),
]
NATIVE = os.environ.get("SEPARATIONFACTOR_NATIVE", "on").lower() not in ("off", "0", "false", "no")

CUDA = (os.environ.get("SEPARATIONFACTOR_CUDA") or "auto").lower()
if CUDA not in ("on", "off", "auto"):
    raise SystemExit(f"separationfactor: SEPARATIONFACTOR_CUDA must be on, off or auto. Received: {CUDA}")


def release(version):
    """'2.21.0' -> '2.21': a build serves one minor version, because absl's symbols contain its version."""
    return ".".join(version.split(".")[:2])


NAMED = os.environ.get("SEPARATIONFACTOR_TENSORFLOW") or None
if NAMED is not None:
    if not re.fullmatch(r"\d+\.\d+(\.\d+)?", NAMED):
        raise SystemExit(
            "separationfactor: SEPARATIONFACTOR_TENSORFLOW must be a version of TensorFlow, such as "
            f"{DEFAULT_TENSORFLOW}. Received: {NAMED}"
        )
    NAMED = release(NAMED)

# The variables that CMake reads when it first configures a folder, and keeps in the folder's cache.
CACHED_VARIABLES = (
    "CXX",
    "CXXFLAGS",
    "LDFLAGS",
    "CUDACXX",
    "CUDAHOSTCXX",
    "CUDAARCHS",
    "CUDAFLAGS",
    "CUDA_HOME",
    "CUDA_PATH",
    "CMAKE_BUILD_TYPE",
    "CMAKE_CUDA_COMPILER_LAUNCHER",
    "CMAKE_CXX_COMPILER_LAUNCHER",
    "CMAKE_TOOLCHAIN_FILE",
)
# The compilers that CMake searches for if no variable names one.
COMPILERS = ("c++", "g++", "clang++")
NVCC = ("nvcc", "/usr/local/cuda/bin/nvcc")

PROBE = """
import json, os, sys, tensorflow as tf
print(json.dumps({
    "python": sys.implementation.cache_tag,
    "folder": os.path.dirname(tf.__file__),
    "version": tf.__version__,
    "include": tf.sysconfig.get_include(),
    "library": tf.sysconfig.get_lib(),
    "compile": tf.sysconfig.get_compile_flags(),
    "link": tf.sysconfig.get_link_flags(),
}))
"""


def say(message):
    """Prints a message to the user on stderr, because some front ends parse stdout."""
    print(f"separationfactor: {message}", file=sys.stderr, flush=True)


def probe(command):
    """Returns the output of `PROBE` in a Python interpreter, or None if it has no TensorFlow."""
    try:
        done = subprocess.run(
            [*command, "-c", PROBE],
            capture_output=True,
            text=True,
            cwd="/",  # so that imports do not find this project's folders
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
    except OSError:  # the interpreter does not exist
        return None
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    # A broken TensorFlow is no error if the user named a version, because another environment may have it.
    if NAMED or "No module named 'tensorflow'" in done.stderr:
        return None
    raise SystemExit(
        f"separationfactor: the TensorFlow that {command[0]} has cannot be imported, so nothing can be built "
        f"for it:\n{done.stderr}\nTo build for another version, set SEPARATIONFACTOR_TENSORFLOW, for example "
        f"to {DEFAULT_TENSORFLOW}."
    )


def front_end():
    """Returns the command line and the environment of the process that runs this build, from /proc."""
    parent = Path("/proc", str(os.getppid()))
    try:
        arguments, variables = (
            [os.fsdecode(word) for word in (parent / name).read_bytes().split(b"\0")[:-1]]
            for name in ("cmdline", "environ")
        )
    except OSError:  # the process has ended, or belongs to another user
        return [], {}
    return arguments, dict(variable.split("=", 1) for variable in variables if "=" in variable)


def uv_target(uv, arguments, variables):
    """Returns the Python that uv installs for, or None if uv does not report it.

    uv hides the user's environment: VIRTUAL_ENV is the environment of the build. Only uv's command line and
    uv's own environment variables identify the target. `uv python find` interprets them as uv does.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("-p", "--python", default=variables.get("UV_PYTHON"))
    parser.add_argument("--project")
    parser.add_argument("--system", action="store_true")
    try:
        given = parser.parse_known_args(arguments[1:])[0]
    except argparse.ArgumentError:
        return None
    find = [uv, "python", "find", *(["--system"] if given.system else [])]
    find += ["--project", given.project] if given.project else []
    find += [given.python] if given.python else []
    folder = Path("/proc", str(os.getppid()), "cwd")
    found = subprocess.run(find, capture_output=True, text=True, cwd=folder, env=variables)
    return found.stdout.strip() or None


def environments():
    """Yields a description of each environment to search for TensorFlow, and the command of its Python."""
    # pip's build isolation hides the user's TensorFlow through PYTHONPATH, which `-E` ignores.
    yield "the environment of this Python", [sys.executable, "-E"]
    yield "what the build was given", [sys.executable]
    arguments, variables = front_end()
    uv = os.environ.get("UV")
    if uv and arguments and Path(arguments[0]).name == Path(uv).name:
        if python := uv_target(uv, arguments, variables):
            yield "the environment that uv installs into", [python, "-E"]
        return
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        if folder := os.environ.get(variable):
            yield variable, [str(Path(folder, "bin", "python")), "-E"]
    if arguments[1:3] == ["-m", "build"]:
        # The front end's Python was found in PATH, or is a path relative to its working directory.
        called = Path("/proc", str(os.getppid()), "cwd", arguments[0])
        python = str(called) if os.sep in arguments[0] else shutil.which(arguments[0])
        yield "the environment that runs the build", [python or arguments[0], "-E"]


@functools.cache
def find_tensorflow():
    """Describes the TensorFlow to build for, or returns None if there is none.

    It is the first one found, or the first of the version that SEPARATIONFACTOR_TENSORFLOW names. The search
    order is: the environment of the Python that runs the build; the packages that an isolated build has
    installed; and, if the front end builds in a separate environment, the environment that it builds for.
    """
    for environment, command in environments():
        found = probe(command)
        if found is None:
            continue
        described = f"TensorFlow {found['version']} in {found['folder']} ({environment})"
        if found["python"] != sys.implementation.cache_tag:
            say(
                f"does not build for {described}, whose Python is {found['python']}: this build is for "
                f"{sys.implementation.cache_tag}"
            )
        elif NAMED in (None, release(found["version"])):
            say(f"builds for {described}{', as SEPARATIONFACTOR_TENSORFLOW says' if NAMED else ''}")
            return found
    return None


def without_native():
    """Returns the command that installs without compiled code."""
    # pip and build remove the folder to which they fetched or unpacked the sources.
    fetched = any(
        part.startswith(("pip-req-build-", "pip-install-", "build-via-sdist-")) for part in ROOT.parts
    )
    return f"SEPARATIONFACTOR_NATIVE=off pip install {'SOURCE' if fetched else shlex.quote(str(ROOT))}"


def first(names):
    """Returns the path of the first of these commands that exists, or None."""
    return next(filter(None, map(shutil.which, names)), None)


def find_compiler():
    """Fails with a short message and a workaround if there is no C++ compiler.

    CMake would fail later, with a long message.
    """
    named = os.environ.get("CXX")
    # CXX is a path, which may contain spaces, or a command with arguments.
    candidates = [named, named.split()[0]] if named and named.strip() else COMPILERS
    if first(candidates) is None:
        raise SystemExit(
            f"separationfactor: no C++ compiler was found (looked for {named or ', '.join(candidates)}). "
            "Install one (Debian: apt-get install g++; Fedora: dnf install gcc-c++; conda: conda install "
            "gxx), or set CXX to it. To install without compiled code, on plain TensorFlow ops:\n\n"
            f"    {without_native()}\n"
        )


def jobs():
    """Returns the number of files to compile in parallel."""
    given = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
    if not re.fullmatch("[1-9][0-9]*", given):
        raise SystemExit(f"separationfactor: MAX_JOBS must be a positive integer. Received: {given}")
    return given


def prepare(build, generator):
    """Creates the build's folder, and empties it if it was configured under other circumstances.

    CMake keeps its findings in the folder's cache. The paths of ninja, CMake and pybind11 are not among the
    circumstances: they change with every isolated build, and setup.py passes them explicitly.
    """
    circumstances = {
        "source": str(ROOT),
        "generator": generator,
        "variables": {name: os.environ[name] for name in CACHED_VARIABLES if os.environ.get(name)},
        "compilers": [os.path.realpath(path) for path in map(first, (COMPILERS, NVCC)) if path],
    }
    record = build / "circumstances.json"
    try:
        if json.loads(record.read_text()) == circumstances:
            return
    except (OSError, ValueError):  # there is no build, or an older one without a record
        pass
    if build.exists():
        say(f"recompiles everything: {build} was configured with other sources, variables or compilers")
        shutil.rmtree(build)
    build.mkdir(parents=True)
    record.write_text(json.dumps(circumstances, indent=2) + "\n")


class CMakeBuild(build_ext):
    """Runs CMake once for all extensions, and installs the results beside the Python files."""

    def run(self):
        if sys.platform != "linux":
            self.linux_only(sys.platform)
        find_compiler()
        parallel = jobs()
        tensorflow = find_tensorflow()
        if tensorflow is None:
            raise SystemExit(
                f"separationfactor: no TensorFlow{f' {NAMED}' if NAMED else ''} to build for was found. "
                f"Install it first (pip install 'tensorflow-cpu=={NAMED or DEFAULT_TENSORFLOW}.*'), or build "
                "without --no-build-isolation."
            )
        import pybind11

        # Each pair of Python and TensorFlow has a separate folder. It is kept, so a rebuild compiles only
        # what changed.
        build = ROOT / "build" / f"{sys.implementation.cache_tag}-tensorflow-{release(tensorflow['version'])}"
        destination = ROOT / "python" if self.inplace else Path(self.build_lib).resolve()
        options = [flag for flag in tensorflow["compile"] if not flag.startswith(("-I", "--std", "-std"))]
        library = next((flag[3:] for flag in tensorflow["link"] if flag.startswith("-l:")), None)
        if library is None:
            self.linux_only(f"a TensorFlow with the link flags {' '.join(tensorflow['link'])}")
        ninja = shutil.which("ninja")
        generator = "Ninja" if ninja else "Unix Makefiles"
        prepare(build, generator)
        configure = [
            "-S", str(ROOT), "-B", str(build), "-G", generator,
            f"-DTENSORFLOW_VERSION={tensorflow['version']}",
            f"-DTENSORFLOW_INCLUDE_DIR={tensorflow['include']}",
            f"-DTENSORFLOW_LIBRARY={Path(tensorflow['library']) / library}",
            f"-DTENSORFLOW_COMPILE_OPTIONS={';'.join(options)}",
            "-DSEPARATIONFACTOR_PYTHON=ON",
            "-DSEPARATIONFACTOR_TESTS=OFF",
            f"-DPython_EXECUTABLE={sys.executable}",
            f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
        ]  # fmt: skip
        if ninja:
            # The path of ninja changes with every isolated build, but the cache keeps the last one.
            configure.append(f"-DCMAKE_MAKE_PROGRAM={ninja}")
        # Optional parts are left out if they do not compile: XLA's headers change with every TensorFlow, and
        # nvcc may reject its input.
        attempts = [(CUDA, "ON"), (CUDA, "OFF")]
        if CUDA == "auto":
            attempts += [("failed", "ON"), ("failed", "OFF")]
        for cuda, xla in attempts:
            self.cmake(*configure, f"-DSEPARATIONFACTOR_CUDA={cuda}", f"-DSEPARATIONFACTOR_XLA={xla}")
            try:
                self.cmake("--build", str(build), "--parallel", parallel)
                break
            except SystemExit:
                if (cuda, xla) == attempts[-1]:
                    raise
                self.announce(
                    "separationfactor: the build failed; retrying without an optional part", level=3
                )
        # Remove the libraries of an earlier build, because this build may have left out some of them.
        for product in (destination / "separationfactor").glob("_*.so"):
            product.unlink()
        self.cmake("--install", str(build), "--prefix", str(destination))

    def linux_only(self, received):
        raise SystemExit(
            "separationfactor: the compiled code is for Linux only. To install without it, on plain "
            f"TensorFlow ops: {without_native()}. Received: {received}"
        )

    def cmake(self, *arguments):
        command = [shutil.which("cmake") or "cmake", *arguments]
        self.announce(" ".join(command), level=2)
        try:
            subprocess.run(command, check=True)
        except FileNotFoundError:
            raise SystemExit(
                "separationfactor: CMake was not found. To install it: pip install cmake"
            ) from None
        except subprocess.CalledProcessError as error:
            raise SystemExit(
                f"separationfactor: the build failed (exit status {error.returncode}). The compiler's "
                "messages are above. To install without compiled code, on plain TensorFlow ops:\n\n"
                f"    {without_native()}\n"
            ) from None

    def get_outputs(self):
        return []  # CMake installs the files

    def get_output_mapping(self):
        return {}


def tensorflow_requirements():
    """Returns the minor version of TensorFlow to build for, and the build requirements for it."""
    version = NAMED or DEFAULT_TENSORFLOW
    # On other systems the build fails with a message, so it need not install TensorFlow first.
    if not NATIVE or sys.platform != "linux":
        return version, []
    tensorflow = find_tensorflow()
    if tensorflow is None:
        why = "SEPARATIONFACTOR_TENSORFLOW names it" if NAMED else "no environment with TensorFlow was found"
        say(f"builds for TensorFlow {version}, which an isolated build installs: {why}")
        return version, [f"tensorflow-cpu=={version}.*"]
    return release(tensorflow["version"]), []


TENSORFLOW, BUILD_REQUIREMENTS = tensorflow_requirements()

setup(
    version=VERSION,
    package_dir={"": "python"},
    packages=find_packages("python"),
    package_data={"separationfactor": ["py.typed"]},
    ext_modules=[Extension("separationfactor_core", [], depends=SOURCES)] if NATIVE else [],
    cmdclass={"build_ext": CMakeBuild},
    # setuptools reports these as build requirements, so that isolated builds install them.
    setup_requires=BUILD_REQUIREMENTS,
    extras_require={
        "lab": LAB,
        "cpu": [f"tensorflow-cpu=={TENSORFLOW}.*"],
        "gpu": [f"tensorflow[and-cuda]=={TENSORFLOW}.*"],
        # For the export to ONNX, and to run the exported files.
        "onnx": ["tf2onnx>=1.16", "onnx", "onnxruntime"],
        # The frameworks that `separationfactor benchmark` compares with.
        "benchmark": ["torch", "jax"],
        # The formatters are pinned because their output differs between versions. NVIDIA's tools are for
        # tests of the code that nvcc generates for the CUDA kernels.
        "test": [
            *LAB,
            "setuptools>=77",
            "pytest>=8",
            "pytest-xdist",
            "hypothesis>=6.100",
            "ruff==0.17.6",
            "clang-format==23.1.5",
            "nvidia-cuda-cuobjdump; platform_machine in 'x86_64 aarch64'",
            "nvidia-cuda-nvdisasm; platform_machine in 'x86_64 aarch64'",
        ],
    },
)
