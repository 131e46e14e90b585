"""Builds the compiled code with CMake, for the TensorFlow that the environment has.

Environment variables:
    SEPARATIONFACTOR_NATIVE  "off" installs without compiled code; "on" (default) builds it
    SEPARATIONFACTOR_CUDA    "on" builds the kernels for a GPU or fails, "off" builds none; "auto" (default)
                             builds them where it finds a CUDA toolkit, of version 12 or newer
    CUDACXX, CUDAHOSTCXX     nvcc, and the C++ compiler that it is to use, as CMake reads them
    CUDAARCHS                what nvcc compiles for, in CMake's notation, in place of the first architecture
                             of each generation; "native" is quick, and serves this machine's cards alone
    CXX, CXXFLAGS            the C++ compiler and its flags, as CMake reads them
    MAX_JOBS                 how many files are compiled at a time
"""

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).resolve().parent
VERSION = "0.1.0"
# What is built for, and what the extras bring, where the environment has no TensorFlow of its own.
DEFAULT_TENSORFLOW = "2.21"
# What a source distribution needs beside the Python files.
SOURCES = [
    "CMakeLists.txt",
    *(str(path.relative_to(ROOT)) for folder in ("cmake", "cc") for path in ROOT.glob(f"{folder}/**/*.*")),
]
NATIVE = os.environ.get("SEPARATIONFACTOR_NATIVE", "on").lower() not in ("off", "0", "false", "no")

CUDA = os.environ.get("SEPARATIONFACTOR_CUDA", "auto").lower()
if CUDA not in ("on", "off", "auto"):
    raise SystemExit(f"separationfactor: SEPARATIONFACTOR_CUDA must be on, off or auto. Received: {CUDA}")

PROBE = """
import json, tensorflow as tf
print(json.dumps({
    "version": tf.__version__,
    "include": tf.sysconfig.get_include(),
    "library": tf.sysconfig.get_lib(),
    "compile": tf.sysconfig.get_compile_flags(),
    "link": tf.sysconfig.get_link_flags(),
}))
"""


@functools.cache
def find_tensorflow():
    """Describes the TensorFlow to build for, or returns None where there is none.

    The user's own comes first. pip's build isolation hides it by way of PYTHONPATH, which `-E` ignores;
    the second look finds what the isolated environment installed for us.
    """
    for options in (["-E"], []):
        probe = subprocess.run(
            [sys.executable, *options, "-c", PROBE],
            capture_output=True,
            text=True,
            cwd="/",  # an import must not find this project's own folders
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"},
        )
        if probe.returncode == 0:
            return json.loads(probe.stdout.splitlines()[-1])
        if "No module named 'tensorflow'" not in probe.stderr:
            raise SystemExit(
                "separationfactor: the TensorFlow of this environment cannot be imported, so nothing "
                f"can be built for it:\n{probe.stderr}"
            )
    return None


def release(version):
    """'2.21.0' -> '2.21': one build serves one minor version, as absl's symbols carry their version."""
    return ".".join(version.split(".")[:2])


def find_compiler():
    """Fails with what is missing and the way round it, before CMake does so at length."""
    candidates = [os.environ["CXX"]] if os.environ.get("CXX") else ["c++", "g++", "clang++"]
    if not any(shutil.which(candidate.split()[0]) for candidate in candidates):
        raise SystemExit(
            "separationfactor: no C++ compiler was found (looked for "
            f"{', '.join(candidates)}). Install one (Debian: apt-get install g++; Fedora: dnf install "
            "gcc-c++; conda: conda install gxx), or set CXX to it. To install without compiled code, on "
            "plain TensorFlow ops:\n\n    SEPARATIONFACTOR_NATIVE=off pip install separationfactor\n"
        )


class CMakeBuild(build_ext):
    """Runs CMake once for all extensions and installs what it built beside the Python files."""

    def run(self):
        find_compiler()
        tensorflow = find_tensorflow()
        if tensorflow is None:
            raise SystemExit(
                "separationfactor: no TensorFlow to build for. Install one first (pip install "
                f"'tensorflow-cpu=={DEFAULT_TENSORFLOW}.*'), or build without --no-build-isolation."
            )
        import pybind11

        # A folder of its own for each Python and TensorFlow, kept between builds: a rebuild compiles
        # what changed.
        build = ROOT / "build" / f"{sys.implementation.cache_tag}-tensorflow-{release(tensorflow['version'])}"
        destination = ROOT / "python" if self.inplace else Path(self.build_lib).resolve()
        options = [flag for flag in tensorflow["compile"] if not flag.startswith(("-I", "--std", "-std"))]
        library = next(flag[3:] for flag in tensorflow["link"] if flag.startswith("-l:"))
        ninja = shutil.which("ninja")
        configure = [
            "-S", str(ROOT), "-B", str(build), "-G", "Ninja" if ninja else "Unix Makefiles",
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
        jobs = os.environ.get("MAX_JOBS") or str(os.cpu_count() or 1)
        # What does not compile is left out where the rest works without it: XLA's headers change with every
        # TensorFlow, and nvcc may not take what it is given.
        attempts = [(CUDA, "ON"), (CUDA, "OFF")]
        if CUDA == "auto":
            attempts += [("failed", "ON"), ("failed", "OFF")]
        for cuda, xla in attempts:
            self.cmake(*configure, f"-DSEPARATIONFACTOR_CUDA={cuda}", f"-DSEPARATIONFACTOR_XLA={xla}")
            try:
                self.cmake("--build", str(build), "--parallel", jobs)
                break
            except SystemExit:
                if (cuda, xla) == attempts[-1]:
                    raise
                self.announce("separationfactor: the build failed; trying with less", level=3)
        self.cmake("--install", str(build), "--prefix", str(destination))

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
                "    SEPARATIONFACTOR_NATIVE=off pip install separationfactor\n"
            ) from None

    def get_outputs(self):
        return []  # CMake's install step places the files

    def get_output_mapping(self):
        return {}


def tensorflow_requirements():
    """The TensorFlow minor version to serve, and what the build needs installed for it."""
    if not NATIVE:
        return DEFAULT_TENSORFLOW, []
    tensorflow = find_tensorflow()
    if tensorflow is None:
        return DEFAULT_TENSORFLOW, [f"tensorflow-cpu=={DEFAULT_TENSORFLOW}.*"]
    return release(tensorflow["version"]), []


TENSORFLOW, BUILD_REQUIREMENTS = tensorflow_requirements()

setup(
    version=VERSION,
    package_dir={"": "python"},
    packages=find_packages("python"),
    py_modules=["separationfactor_command"],
    ext_modules=[Extension("separationfactor_core", [], depends=SOURCES)] if NATIVE else [],
    cmdclass={"build_ext": CMakeBuild},
    # setuptools reports these as build requirements, so an isolated build gets them installed.
    setup_requires=BUILD_REQUIREMENTS,
    extras_require={
        "cpu": [f"tensorflow-cpu=={TENSORFLOW}.*"],
        "gpu": [f"tensorflow[and-cuda]=={TENSORFLOW}.*"],
        # What Keras exports to ONNX with, and what runs it.
        "onnx": ["tf2onnx>=1.16", "onnx", "onnxruntime"],
        # Rivals of `separationfactor benchmark`.
        "benchmark": ["torch", "jax"],
        # The formatters are pinned, as each version formats a little differently.
        # NVIDIA's tools are for the tests of what nvcc makes of the CUDA kernels.
        "test": [
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
