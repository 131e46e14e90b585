"""The CUDA build without a card: what configures, what loads, and which kernels TensorFlow then knows."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import cuda_evidence
import pytest
import tensorflow as tf
from tensorflow.python.framework import kernels

from separationfactor import implementations, library

ROOT = Path(__file__).parents[1]
# The ops, and the arguments that each reads from host memory.
OPS = {"Separate": ["k"], "SeparateWithoutGradient": ["scalars"], "ScaleSelected": [], "SumSelected": []}

needs_cuda = pytest.mark.skipif(
    library.why_not_cuda is not None, reason=f"there are no kernels for a GPU: {library.why_not_cuda}"
)
needs_cmake = pytest.mark.skipif(shutil.which("cmake") is None, reason="cmake is not installed")


def configure(folder, cuda, *options, **environment):
    """Configures the core alone. Returns CMake's result and the contents of `_build.json`."""
    result = subprocess.run(
        ["cmake", "-S", ROOT, "-B", folder, f"-DSEPARATIONFACTOR_CUDA={cuda}", *options],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    build = folder / "_build.json"
    return result, json.loads(build.read_text()) if build.exists() else None


@needs_cmake
def test_off_builds_without_cuda(tmp_path):
    result, build = configure(tmp_path, "off")
    assert result.returncode == 0, result.stderr
    assert build["cuda"] is None
    assert build["why_not_cuda"] == "SEPARATIONFACTOR_CUDA was off"


@needs_cmake
def test_auto_without_a_toolkit_builds_without_cuda_and_says_why(tmp_path):
    result, build = configure(tmp_path, "auto", CUDACXX="no-such-nvcc")
    assert result.returncode == 0, result.stderr
    assert build["cuda"] is None
    assert "CUDACXX was no-such-nvcc, which was not found" in build["why_not_cuda"]
    assert f"No CUDA: {build['why_not_cuda']}" in result.stdout


@needs_cmake
def test_on_without_a_toolkit_is_a_clear_error(tmp_path):
    result, build = configure(tmp_path, "on", CUDACXX="no-such-nvcc")
    assert result.returncode != 0
    assert build is None
    message = " ".join(result.stderr.split())
    assert "SEPARATIONFACTOR_CUDA=on, but CUDACXX was no-such-nvcc, which was not found" in message
    assert "SEPARATIONFACTOR_CUDA=auto builds for the CPU alone" in message


@needs_cmake
@pytest.mark.parametrize("driver", [True, False])
def test_auto_builds_kernels_where_a_driver_is_loaded(tmp_path, driver):
    version = tmp_path / "version"
    if driver:
        version.touch()
    result, build = configure(tmp_path / "build", "auto", f"-DNVIDIA_DRIVER={version}")
    assert result.returncode == 0, result.stderr
    assert ("no NVIDIA driver was found" in (build["why_not_cuda"] or "")) != driver


def toolkit(folder, version):
    """Returns an nvcc that can only print its version."""
    nvcc = folder / "nvcc"
    nvcc.write_text(f"#!/bin/sh\n[ $1 = --version ] && echo 'Cuda compilation tools, V{version}' || exit 1\n")
    nvcc.chmod(0o755)
    return str(nvcc)


@needs_cmake
def test_an_old_toolkit_does_not_fit(tmp_path):
    nvcc = toolkit(tmp_path, "11.8.89")
    result, build = configure(tmp_path / "build", "auto", CUDACXX=nvcc)
    assert result.returncode == 0, result.stderr
    assert build["cuda"] is None
    assert "CUDA 12 or newer is needed" in build["why_not_cuda"]
    assert "11.8.89" in build["why_not_cuda"]


@needs_cmake
def test_a_toolkit_that_cannot_compile_does_not_fail_the_build(tmp_path):
    nvcc = toolkit(tmp_path, "12.4.1")
    result, build = configure(tmp_path / "build", "auto", CUDACXX=nvcc)
    assert result.returncode == 0, result.stderr
    assert build["cuda"] is None
    assert "could compile nothing" in build["why_not_cuda"]


def test_build_info_tells_of_cuda():
    info = implementations.build_info()
    if library.why_not_cuda is None:
        assert info["why_not_cuda"] is None
        assert int(info["cuda"]["version"].split(".")[0]) >= 12
        codes = [architecture.split("_")[0] for architecture in info["cuda"]["architectures"]]
        assert set(codes) == {"sm", "compute"}, "code for cards, and PTX for those to come"
    else:
        assert info["cuda"] is None
        assert info["why_not_cuda"] == library.why_not_cuda


def test_a_library_that_does_not_load_leaves_the_cpu_be(tmp_path, monkeypatch):
    (tmp_path / "_build.json").write_text(
        json.dumps({"cuda": {"version": "13.0", "architectures": ["sm_90"]}, "why_not_cuda": None})
    )
    (tmp_path / "_ops_cuda.so").write_bytes(b"no library")
    monkeypatch.setattr(library, "_FOLDER", tmp_path)
    monkeypatch.setattr(library, "ops", object())
    assert "its library does not load" in library._load_cuda()
    (tmp_path / "_ops_cuda.so").unlink()
    assert "its library does not load" in library._load_cuda()


@needs_cuda
@pytest.mark.parametrize(("op", "in_host_memory"), OPS.items())
def test_kernels_are_registered_for_a_gpu(op, in_host_memory):
    """The library also loads without a driver: a run of this test without a GPU shows it."""
    registered = [
        kernel
        for kernel in kernels.get_registered_kernels_for_op(f"SeparationFactor>{op}").kernel
        if kernel.device_type == "GPU"
    ]
    dtypes = {
        tf.as_dtype(dtype).name
        for kernel in registered
        for constraint in kernel.constraint
        if constraint.name == "T"
        for dtype in constraint.allowed_values.list.type
    }
    assert dtypes == {"float32", "float64", "bfloat16", "float16"}
    for kernel in registered:
        assert list(kernel.host_memory_arg) == in_host_memory


LIBRARY = Path(library.__file__).parent / "_ops_cuda.so"


def dynamic(option):
    return subprocess.run(
        ["readelf", "--wide", option, LIBRARY], capture_output=True, text=True, check=True
    ).stdout


@needs_cuda
@pytest.mark.skipif(shutil.which("readelf") is None, reason="readelf is not installed")
def test_the_library_brings_its_own_cuda_runtime_and_shows_it_to_nobody():
    needed = [line for line in dynamic("--dynamic").splitlines() if "NEEDED" in line]
    assert needed
    assert not [line for line in needed if "libcuda" in line]
    symbols = [line.split() for line in dynamic("--dyn-syms").splitlines() if line.split()[3:4] == ["FUNC"]]
    assert symbols
    assert not [symbol[-1] for symbol in symbols if symbol[6] != "UND" and symbol[-1].startswith("cuda")]


@needs_cuda
@pytest.mark.skipif(cuda_evidence.find_tool("cuobjdump") is None, reason="there is no cuobjdump")
def test_no_kernel_of_the_library_has_a_frame_on_any_architecture():
    command = [cuda_evidence.find_tool("cuobjdump"), "-res-usage", LIBRARY]
    usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    architectures = re.findall(r"^arch = (sm_\d+)", usage, re.MULTILINE)
    assert set(architectures) >= {
        name for name in implementations.build_info()["cuda"]["architectures"] if "sm_" in name
    }
    frames = re.findall(r"Function (\w+):\s*REG:\d+ STACK:(\d+)", usage)
    assert len(frames) > 30
    assert [cuda_evidence.name_of(symbol) for symbol, size in frames if size != "0"] == []


ARCHITECTURE = "90"
needs_nvcc = pytest.mark.skipif(cuda_evidence.find_nvcc() is None, reason="there is no nvcc")


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """The kernels compiled for one architecture: the folder, and what `cuda_evidence` finds in it."""
    folder = tmp_path_factory.mktemp("evidence")
    return folder, *cuda_evidence.examine(ARCHITECTURE, folder)


@needs_nvcc
def test_no_kernel_spills_or_has_a_frame(compiled):
    _, kernels, _ = compiled
    assert len(kernels) > 30
    assert all(kernel.registers > 0 for kernel in kernels.values())
    assert [kernel.name for kernel in kernels.values() if kernel.uses_local_memory] == []


@needs_nvcc
def test_rows_are_read_and_written_16_bytes_at_a_time(compiled):
    _, kernels, _ = compiled
    if not any(kernel.widths for kernel in kernels.values()):
        pytest.skip("there is no nvdisasm")
    for kernel in kernels.values():
        if kernel.name.startswith(("SeparateByWarp", "WriteDecided", "Scale")):
            assert kernel.widths["global load"][128] > 0, kernel.name
            assert kernel.widths["global store"][128] > 0, kernel.name


@needs_nvcc
def test_every_launch_fits_a_multiprocessor(compiled):
    _, kernels, launches = compiled
    assert {kernel.name.split("<")[0] for kernel in kernels.values()} == {
        kernels[launch["kernel"]].name.split("<")[0] for launch in launches
    }
    for launch in launches:
        assert launch["blocks_a_multiprocessor"] > 0, launch


@needs_nvcc
@pytest.mark.parametrize("name", ["cuda_benchmark", "cuda_limits"])
def test_what_a_card_is_timed_with_compiles_and_tells_whether_there_is_one(compiled, name):
    folder, _, _ = compiled
    program = folder / name
    source = ROOT / f"cc/benchmark/{name}.cu"
    options = ["-std=c++17", "-O3", f"-arch=sm_{ARCHITECTURE}", f"-I{ROOT / 'cc'}"]
    subprocess.run(
        [cuda_evidence.find_nvcc(), *options, "-o", program, source, folder / "separate_cuda.o"], check=True
    )
    if tf.config.list_physical_devices("GPU"):
        pytest.skip("there is a card: run it")
    result = subprocess.run([program], capture_output=True, text=True, check=False)
    assert result.returncode == 77
    assert result.stderr.startswith("no CUDA device: ")


@needs_nvcc
def test_what_a_card_would_be_tested_with_compiles(tmp_path):
    """It links with all of the core, which CMake builds."""
    source = ROOT / "tests/cuda/cuda_test.cc"
    includes = [f"-I{ROOT / folder}" for folder in ("tests/cuda/on_card", "tests", "cc")]
    command = [cuda_evidence.find_nvcc(), "-std=c++17", *includes, "-c", "-o", tmp_path / "test.o", source]
    subprocess.run(command, check=True)


def test_a_spill_is_seen():
    """In what ptxas says of a kernel that was planted, and in a disassembly."""
    report = """
ptxas info    : Compiling entry function '_Z5Spillv' for 'sm_90'
ptxas info    : Function properties for _Z5Spillv
    8 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 64 registers, used 1 barriers, 8 bytes cumulative stack size, 512 bytes smem
ptxas info    : Compiling entry function '_Z5Cleanv' for 'sm_90'
ptxas info    : Function properties for _Z5Cleanv
    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
ptxas info    : Used 20 registers, used 0 barriers
"""
    found = cuda_evidence.parse_ptxas(report)
    spill, clean = found["_Z5Spillv"], found["_Z5Cleanv"]
    assert (spill.registers, spill.shared_bytes) == (64, 512)
    assert (spill.frame_bytes, spill.spill_stores, spill.spill_loads) == (8, 4, 8)
    assert spill.uses_local_memory
    assert not clean.uses_local_memory

    disassembly = """
	.section	.text._Z5Cleanv,"ax",@progbits
        /*0090*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*00a0*/                   LDG.E.U8.CONSTANT R4, desc[UR4][R2.64] ;
        /*00b0*/              @!P0 STG.E [R2.64], R4 ;
        /*00c0*/                   LDS.U16 R4, [R2] ;
	.section	.text._Z5Spillv,"ax",@progbits
        /*0090*/                   STL.64 [R1], R2 ;
"""
    widths = cuda_evidence.parse_sass(disassembly)
    assert widths["_Z5Cleanv"] == {
        "global load": {128: 1, 8: 1},
        "global store": {32: 1},
        "shared load": {16: 1},
    }
    clean.widths = widths["_Z5Spillv"]
    assert clean.widths == {"local store": {64: 1}}
    assert clean.uses_local_memory
