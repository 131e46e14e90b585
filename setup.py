"""Builds the compiled code with CMake, for the TensorFlow that the environment has.

Environment variables:
    SEPARATIONFACTOR_NATIVE      "off" installs without compiled code; "on" (default) builds it
    SEPARATIONFACTOR_TENSORFLOW  the version of TensorFlow to build for, such as 2.18; without it, the one
                                 that `find_tensorflow` finds
    SEPARATIONFACTOR_CUDA        "on" builds the kernels for a GPU or fails; "off" builds none; "auto"
                                 (default) builds them if there are an NVIDIA driver, or CUDACXX, and a CUDA
                                 toolkit of version 12 or newer
    CUDACXX, CUDAHOSTCXX         nvcc, and the C++ compiler that it is to use, as CMake reads them
    CUDAARCHS                    what nvcc compiles for, in CMake's notation, in place of the first
                                 architecture of each generation; "native" is quick, and serves this
                                 machine's cards alone
    CXX, CXXFLAGS                the C++ compiler and its flags, as CMake reads them
    MAX_JOBS                     how many files are compiled at a time
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
# What the commands, the studies and the benchmark need.
LAB = [
    "click>=8.1",
    "matplotlib>=3.7",
    "rich>=13",
    "scikit-learn>=1.3",
    "scipy",
    "tensorboard>=2.16",
    "threadpoolctl",
]
# The package says its version once.
VERSION = re.search(
    r'^__version__ = "(.+)"$', (ROOT / "python/separationfactor/__init__.py").read_text(), re.M
)[1]
# What is built for, and what the extras bring, where the environment has no TensorFlow of its own.
DEFAULT_TENSORFLOW = "2.21"
# What a source distribution needs beside the Python files.
SOURCES = [
    "CMakeLists.txt",
    *(str(path.relative_to(ROOT)) for folder in ("cmake", "cc") for path in ROOT.glob(f"{folder}/**/*.*")),
]
NATIVE = os.environ.get("SEPARATIONFACTOR_NATIVE", "on").lower() not in ("off", "0", "false", "no")

CUDA = (os.environ.get("SEPARATIONFACTOR_CUDA") or "auto").lower()
if CUDA not in ("on", "off", "auto"):
    raise SystemExit(f"separationfactor: SEPARATIONFACTOR_CUDA must be on, off or auto. Received: {CUDA}")


def release(version):
    """'2.21.0' -> '2.21': one build serves one minor version, as absl's symbols carry their version."""
    return ".".join(version.split(".")[:2])


NAMED = os.environ.get("SEPARATIONFACTOR_TENSORFLOW") or None
if NAMED is not None:
    if not re.fullmatch(r"\d+\.\d+(\.\d+)?", NAMED):
        raise SystemExit(
            "separationfactor: SEPARATIONFACTOR_TENSORFLOW must be a version of TensorFlow, such as "
            f"{DEFAULT_TENSORFLOW}. Received: {NAMED}"
        )
    NAMED = release(NAMED)

# What CMake reads when it configures a folder for the first time, and keeps in the folder's cache.
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
# What it looks for where no variable names a compiler.
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
    """Tells the user something, on stderr: some front ends read stdout."""
    print(f"separationfactor: {message}", file=sys.stderr, flush=True)


def probe(command):
    """Returns what `PROBE` prints of the TensorFlow of an interpreter, or None where it has none."""
    try:
        done = subprocess.run(
            [*command, "-c", PROBE],
            capture_output=True,
            text=True,
            cwd="/",  # an import must not find this project's own folders
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
    except OSError:  # no such interpreter
        return None
    if done.returncode == 0:
        return json.loads(done.stdout.splitlines()[-1])
    # One that is broken does not matter where a version is named, which another environment may have.
    if NAMED or "No module named 'tensorflow'" in done.stderr:
        return None
    raise SystemExit(
        f"separationfactor: the TensorFlow that {command[0]} has cannot be imported, so nothing can be built "
        f"for it:\n{done.stderr}\nSEPARATIONFACTOR_TENSORFLOW={DEFAULT_TENSORFLOW} builds for another."
    )


def front_end():
    """Returns the command line and the variables of the process that runs this build, by what /proc says."""
    parent = Path("/proc", str(os.getppid()))
    try:
        arguments, variables = (
            [os.fsdecode(word) for word in (parent / name).read_bytes().split(b"\0")[:-1]]
            for name in ("cmdline", "environ")
        )
    except OSError:  # the process is gone, or is not ours to look into
        return [], {}
    return arguments, dict(variable.split("=", 1) for variable in variables if "=" in variable)


def uv_target(uv, arguments, variables):
    """Returns the Python that uv installs for, or None where uv cannot tell.

    uv hides the user's environment: VIRTUAL_ENV is the build's own, and only uv's command line and its own
    variables tell of the other. `uv python find` reads these as uv itself does.
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
    """Yields what the environments are in which to look for TensorFlow, and how to call their Python."""
    # pip's build isolation hides the user's TensorFlow by way of PYTHONPATH, which `-E` ignores.
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
        # It was found in PATH, or is a path from the folder where it was called.
        called = Path("/proc", str(os.getppid()), "cwd", arguments[0])
        python = str(called) if os.sep in arguments[0] else shutil.which(arguments[0])
        yield "the environment that runs the build", [python or arguments[0], "-E"]


@functools.cache
def find_tensorflow():
    """Describes the TensorFlow to build for, or returns None where there is none.

    The first that is found counts, or the first of the version that SEPARATIONFACTOR_TENSORFLOW names: of the
    environment whose Python builds, of what an isolated build has installed for us, and, where the front end
    builds in an environment of its own, of the one that it builds for.
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
    # What pip or build has fetched or unpacked lies in a folder that it removes.
    fetched = any(
        part.startswith(("pip-req-build-", "pip-install-", "build-via-sdist-")) for part in ROOT.parts
    )
    return f"SEPARATIONFACTOR_NATIVE=off pip install {'SOURCE' if fetched else shlex.quote(str(ROOT))}"


def first(names):
    """Returns the path of the first of several commands that there is, or None."""
    return next(filter(None, map(shutil.which, names)), None)


def find_compiler():
    """Fails with what is missing and the way round it, before CMake does so at length."""
    named = os.environ.get("CXX")
    # CXX is a path, perhaps with spaces in it, or a command with arguments.
    candidates = [named, named.split()[0]] if named and named.strip() else COMPILERS
    if first(candidates) is None:
        raise SystemExit(
            f"separationfactor: no C++ compiler was found (looked for {named or ', '.join(candidates)}). "
            "Install one (Debian: apt-get install g++; Fedora: dnf install gcc-c++; conda: conda install "
            "gxx), or set CXX to it. To install without compiled code, on plain TensorFlow ops:\n\n"
            f"    {without_native()}\n"
        )


def jobs():
    """Returns how many files to compile at a time."""
    given = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
    if not re.fullmatch("[1-9][0-9]*", given):
        raise SystemExit(f"separationfactor: MAX_JOBS must be a positive integer. Received: {given}")
    return given


def prepare(build, generator):
    """Makes the build's folder, empty where what is in it was configured in other circumstances.

    CMake keeps what it once found in the folder's cache. The paths of ninja, CMake and pybind11 are not among
    the circumstances: an isolated build has others every time, and setup.py passes them.
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
    except (OSError, ValueError):  # no build, or an earlier one that kept no such record
        pass
    if build.exists():
        say(f"compiles everything anew: {build} was configured from other sources, variables or compilers")
        shutil.rmtree(build)
    build.mkdir(parents=True)
    record.write_text(json.dumps(circumstances, indent=2) + "\n")


class CMakeBuild(build_ext):
    """Runs CMake once for all extensions and installs what it built beside the Python files."""

    def run(self):
        if sys.platform != "linux":
            self.linux_only(sys.platform)
        find_compiler()
        parallel = jobs()
        tensorflow = find_tensorflow()
        if tensorflow is None:
            raise SystemExit(
                f"separationfactor: no TensorFlow{f' {NAMED}' if NAMED else ''} to build for. Install one "
                f"first (pip install 'tensorflow-cpu=={NAMED or DEFAULT_TENSORFLOW}.*'), or build without "
                "--no-build-isolation."
            )
        import pybind11

        # A folder of its own for each Python and TensorFlow, kept between builds: a rebuild compiles
        # what changed.
        build = ROOT / "build" / f"{sys.implementation.cache_tag}-tensorflow-{release(tensorflow['version'])}"
        destination = ROOT / "python" if self.inplace else Path(self.build_lib).resolve()
        options = [flag for flag in tensorflow["compile"] if not flag.startswith(("-I", "--std", "-std"))]
        library = next((flag[3:] for flag in tensorflow["link"] if flag.startswith("-l:")), None)
        if library is None:
            self.linux_only(f"a TensorFlow that is linked with {' '.join(tensorflow['link'])}")
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
            # Build isolation brings another ninja each time; the cache remembers the last.
            configure.append(f"-DCMAKE_MAKE_PROGRAM={ninja}")
        # What does not compile is left out where the rest works without it: XLA's headers change with every
        # TensorFlow, and nvcc may not take what it is given.
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
                self.announce("separationfactor: the build failed; trying with less", level=3)
        # What an earlier build installed, and this one may have left out.
        for product in (destination / "separationfactor").glob("_*.so"):
            product.unlink()
        self.cmake("--install", str(build), "--prefix", str(destination))

    def linux_only(self, received):
        raise SystemExit(
            "separationfactor: the compiled code is for Linux only; to install without it, on plain "
            f"TensorFlow ops: {without_native()}. Received: {received}"
        )

    def cmake(self, *arguments):
        command = [shutil.which("cmake") or "cmake", *arguments]
        self.announce(" ".join(command), level=2)
        try:
            subprocess.run(command, check=True)
        except FileNotFoundError:
            raise SystemExit("separationfactor: CMake was not found: pip install cmake") from None
        except subprocess.CalledProcessError as error:
            raise SystemExit(
                f"separationfactor: the build failed (exit status {error.returncode}); the compiler's "
                "messages stand above. To install without compiled code, on plain TensorFlow ops:\n\n"
                f"    {without_native()}\n"
            ) from None

    def get_outputs(self):
        return []  # CMake's install step places the files

    def get_output_mapping(self):
        return {}


def tensorflow_requirements():
    """The TensorFlow minor version to serve, and what the build needs installed for it."""
    version = NAMED or DEFAULT_TENSORFLOW
    # What would be built for it elsewhere says so itself, before a TensorFlow is fetched.
    if not NATIVE or sys.platform != "linux":
        return version, []
    tensorflow = find_tensorflow()
    if tensorflow is None:
        why = "SEPARATIONFACTOR_TENSORFLOW names it" if NAMED else "no environment was found to have one"
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
    # setuptools reports these as build requirements, so an isolated build gets them installed.
    setup_requires=BUILD_REQUIREMENTS,
    extras_require={
        "lab": LAB,
        "cpu": [f"tensorflow-cpu=={TENSORFLOW}.*"],
        "gpu": [f"tensorflow[and-cuda]=={TENSORFLOW}.*"],
        # What Keras exports to ONNX with, and what runs it.
        "onnx": ["tf2onnx>=1.16", "onnx", "onnxruntime"],
        # Rivals of `separationfactor benchmark`.
        "benchmark": ["torch", "jax"],
        # The formatters are pinned, as each version formats a little differently.
        # NVIDIA's tools are for the tests of what nvcc makes of the CUDA kernels.
        "test": [
            *LAB,
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
