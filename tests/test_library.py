"""How the compiled op is found, chosen and reported, and what happens where it cannot be."""

import json
import os
import re
import subprocess
import sys
import types
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

import separationfactor as sf
from conftest import needs_native
from separationfactor import distribution, implementations, library
from separationfactor_lab import options, studies

ROOT = Path(__file__).parents[1]
VARIABLE = "SEPARATIONFACTOR_IMPLEMENTATION"


@pytest.fixture
def unavailable(monkeypatch):
    """A process in which the library did not load."""
    monkeypatch.delenv(VARIABLE, raising=False)
    monkeypatch.setattr(library, "ops", None)
    monkeypatch.setattr(library, "why_unavailable", "it was built for X and this is Y; to mend it: Z")
    implementations._warn_once.cache_clear()
    yield
    implementations._warn_once.cache_clear()


def install(folder, monkeypatch, build, content=b""):
    """Makes `library` look at a folder in place of the package's."""
    if build is not None:
        (folder / "_build.json").write_text(json.dumps(build))
        (folder / "_ops.so").write_bytes(content)
    monkeypatch.setattr(library, "_FOLDER", folder)


def test_without_compiled_code(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, None)
    ops, why = library._load()
    assert ops is None
    assert "installed without compiled code" in why
    assert "pip install" in why


def test_built_for_another_tensorflow(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, {"tensorflow": "1.15.0"})
    ops, why = library._load()
    assert ops is None
    assert "built for TensorFlow 1.15.0" in why
    assert f"TensorFlow {tf.__version__} is running" in why
    assert "pip install --force-reinstall" in why


@pytest.mark.parametrize("content", [b"", b"no library"])
def test_a_library_that_does_not_load(tmp_path, monkeypatch, content):
    install(tmp_path, monkeypatch, {"tensorflow": tf.__version__}, content)
    ops, why = library._load()
    assert ops is None
    assert f"built for TensorFlow {tf.__version__}, does not load" in why
    assert "pip install --force-reinstall" in why


def test_a_library_that_is_missing(tmp_path, monkeypatch):
    install(tmp_path, monkeypatch, {"tensorflow": tf.__version__})
    (tmp_path / "_ops.so").unlink()
    ops, why = library._load()
    assert ops is None
    assert "does not load" in why


def test_auto_falls_back_with_one_warning(unavailable):
    x = np.array([[1.0, 3.0, 2.0]], np.float32)
    with pytest.warns(RuntimeWarning, match="built for X and this is Y; to mend it: Z"):
        y = sf.separate(x)
    np.testing.assert_array_equal(y, [[0, 3, 0]])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sf.separate(x)
        sf.KSparse(1)(x)


def test_native_is_an_error_where_it_is_not(unavailable):
    for call in (
        lambda: sf.separate([1.0], implementation="native"),
        lambda: sf.KSparse(1, implementation="native"),
    ):
        with pytest.raises(RuntimeError, match="compiled op is not available: it was built for X"):
            call()


def test_asking_for_tf_warns_of_nothing(unavailable, monkeypatch):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sf.separate([1.0], implementation="tf")
        monkeypatch.setenv(VARIABLE, "tf")
        sf.separate([1.0])


def test_build_info_says_what_the_warning_says(unavailable):
    info = sf.build_info()
    assert info["native"] is False
    assert info["why_not_native"] == library.why_unavailable
    assert info["implementation"] == "tf"
    assert info["instruction_set"] is None


@needs_native
def test_build_info(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    info = sf.build_info()
    assert info["version"] == sf.__version__
    assert info["tensorflow"] == tf.__version__
    assert info["built_for_tensorflow"].split(".")[:2] == tf.__version__.split(".")[:2]
    assert info["native"] is True
    assert info["why_not_native"] is None
    assert info["implementation"] == "native"
    assert info["compiler"]
    assert info["instruction_set"] in ("baseline", "avx2", "avx512")
    assert "-march" not in info["flags"]
    assert json.loads(json.dumps(info)) == info


def run(program, **environment):
    """Runs a program in a process of its own."""
    return subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(Path(sf.__file__).parents[1]), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


@needs_native
def test_build_info_tells_the_instruction_set_of_the_op_library():
    """The NumPy module has its own instruction set, and may be missing."""
    core = pytest.importorskip("separationfactor_core")
    name = sf.build_info()["instruction_set"]
    before = core.set_instruction_set("baseline")
    try:
        assert sf.build_info()["instruction_set"] == name
    finally:
        core.set_instruction_set(before)
    program = (
        "import sys; sys.modules['separationfactor_core'] = None; import separationfactor as sf;"
        "print(sf.build_info()['instruction_set'])"
    )
    assert run(program, SEPARATIONFACTOR_INSTRUCTION_SET="baseline").stdout.strip() == "baseline"
    assert run(program).stdout.strip() == name


def test_the_package_can_be_imported_again():
    program = """
import sys
import keras, numpy as np, tensorflow as tf
import separationfactor

for name in [name for name in sys.modules if name.split(".")[0].startswith("separationfactor")]:
    del sys.modules[name]
import separationfactor as sf

x = tf.constant([[1.0, 5.0, 3.0], [2.0, 0.0, 9.0]])
separation = tf.constant(2.0)

@tf.function
def f(x):
    with tf.GradientTape() as tape:
        tape.watch([x, separation])
        y = sf.separate(x, 1, separation, 0.5)
    return tape.gradient(y, [x, separation])

print([gradient.numpy().tolist() for gradient in f(x)])
print(tf.vectorized_map(lambda row: sf.separate(row, 1), x).numpy().tolist())
print(sf.build_info()["native"])
layer = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(sf.KSparse(2)))
print(type(layer) is sf.KSparse, layer(x).numpy().tolist())
"""
    result = run(program)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        "[[[0.5, 2.0, 0.5], [0.5, 0.5, 2.0]], 14.0]",
        "[[0.0, 5.0, 0.0], [0.0, 0.0, 9.0]]",
        str(library.ops is not None),
        "True [[0.0, 5.0, 3.0], [2.0, 0.0, 9.0]]",
    ]


COMMAND = "from separationfactor_lab import main; main()"
LOADED = "lambda: print([name for name in ('tensorflow', 'keras', 'numpy') if name in sys.modules])"
MISSING = {
    "tensorflow": (
        "sys.modules['tensorflow'] = None",
        "needs TensorFlow, which is not installed.*pip install",
    ),
    "keras": ("sys.modules['keras'] = None", "needs Keras 3 .*cannot be imported.*pip install 'keras>=3'"),
    "keras 2": ("import keras; keras.__version__ = '2.15.0'", "needs Keras 3.*Received: Keras 2.15.0"),
}


@pytest.mark.parametrize("missing", MISSING)
def test_what_is_missing_is_said_in_one_line(missing):
    arrange, message = MISSING[missing]
    result = run(f"import sys; {arrange}; import separationfactor")
    assert result.returncode == 1
    assert re.search(f"^ImportError: separationfactor {message}", result.stderr.splitlines()[-1])
    assert "During handling" not in result.stderr
    command = run(f"import sys; {arrange}; sys.argv = ['', 'info']; {COMMAND}")
    assert command.returncode == 1
    assert re.search(f"^separationfactor {message}", command.stderr.splitlines()[-1])
    assert "Traceback" not in command.stderr


@pytest.mark.parametrize(
    ("module", "arguments"),
    [("click", ["--help"]), ("sklearn", ["study", "separation", "--output", "x"])],
)
def test_the_commands_name_the_extra_that_they_need(module, arguments):
    result = run(f"import sys; sys.modules[{module!r}] = None; sys.argv[1:] = {arguments}; {COMMAND}")
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"separationfactor's commands need the extra `lab`, but {module} is not")
    assert "pip install" in line
    assert "[lab]" in line


def test_an_import_error_of_another_kind_is_not_hidden():
    result = run(f"import sys; sys.modules['json'] = None; {COMMAND}")
    assert "Traceback" in result.stderr
    assert "json" in result.stderr.splitlines()[-1]


def test_the_library_needs_nothing_of_the_laboratory():
    """The library imports neither the laboratory nor a module of the extra `lab`."""
    program = (
        "import sys; from separationfactor_lab import _REQUIRED as names; "
        # Keras itself needs Rich.
        "sys.modules.update(dict.fromkeys({*names, 'separationfactor_lab'} - {'rich'}));"
        "import separationfactor as sf; print(sf.separate([1.0, 2.0]).numpy().tolist())"
    )
    result = run(program)
    assert result.stdout == "[0.0, 2.0]\n", result.stderr


def test_the_laboratory_is_an_attribute_of_the_library():
    program = """
import sys
import separationfactor
assert not [name for name in sys.modules if name.startswith("separationfactor_lab")]
from separationfactor import data, metrics
from separationfactor.cli import main
import separationfactor_lab.cli
assert data is separationfactor_lab.data and metrics is separationfactor_lab.metrics
assert main is separationfactor_lab.cli.main
try:
    separationfactor.nothing
except AttributeError as error:
    print(error)
"""
    result = run(program)
    assert result.stdout == "module 'separationfactor' has no attribute 'nothing'\n", result.stderr


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["--version"], ["train", "--help"], ["study", "--help"], ["factors", "sprites", "--help"]],
)
def test_help_imports_no_tensorflow(arguments):
    result = run(f"import atexit, sys; atexit.register({LOADED}); sys.argv[1:] = {arguments}; {COMMAND}")
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines()[-1] == "[]"


def test_completion_imports_no_tensorflow():
    result = run(
        f"import atexit, sys; atexit.register({LOADED}); sys.argv[:] = ['separationfactor']; {COMMAND}",
        _SEPARATIONFACTOR_COMPLETE="bash_complete",
        COMP_WORDS="separationfactor train --strategy mi",
        COMP_CWORD="3",
    )
    assert result.stdout.splitlines() == ["plain,mirrored", "[]"], result.stderr


WITHOUT_PRIVATES = """
import builtins
import numpy as np

true_import = builtins.__import__
refused = set()

def import_public(name, globals=None, locals=None, fromlist=(), level=0):
    importer = (globals or {}).get("__name__", "")
    if importer.startswith("separationfactor") and name.startswith(("tensorflow.python", "keras.src")):
        refused.add(importer)
        raise ImportError(f"{name} has moved")
    return true_import(name, globals, locals, fromlist, level)

builtins.__import__ = import_public
import keras
import tensorflow as tf
import separationfactor as sf

assert refused == {"separationfactor._private"}, refused
x = np.random.default_rng(0).standard_normal((4, 6)).astype(np.float32)
for implementation in IMPLEMENTATIONS:
    y = keras.Sequential([sf.KSparse(3, implementation=implementation)])(x)
    assert np.count_nonzero(y) == 12
print("done")
"""


def test_the_package_is_imported_without_private_modules():
    """test_private.py tests the results without each private name."""
    names = ["native", "tf"] if library.ops is not None else ["tf"]
    result = run(f"IMPLEMENTATIONS = {names}\n{WITHOUT_PRIVATES}")
    assert result.stdout == "done\n", result.stderr


def test_the_commands_start_without_greetings():
    result = run(f"import sys; sys.argv[1:] = ['info', '--json']; {COMMAND}")
    assert json.loads(result.stdout)["version"] == sf.__version__
    assert result.stderr == ""


def test_a_command_whose_stderr_is_closed():
    result = subprocess.run(
        f"exec {sys.executable} -c '{COMMAND}' info --json 2>&-",
        shell=True,
        env={**os.environ, "PYTHONPATH": str(Path(sf.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0
    assert json.loads(result.stdout)["version"] == sf.__version__


def test_what_tensorflow_says_beside_its_greeting_is_not_held_back():
    program = """
import os, sys
from separationfactor_lab import startup

with startup._without_greeting():
    os.write(2, b"I0000 00:00:17 port.cc:153] oneDNN operations are on.\\nE0000 00:00:17 a.cc:1] an error\\n")
    print("text", file=sys.stderr)
"""
    assert run(program).stderr.splitlines() == ["E0000 00:00:17 a.cc:1] an error", "text"]


def test_the_options_name_what_the_library_has():
    assert options.IMPLEMENTATIONS == implementations.IMPLEMENTATIONS
    assert options.STRATEGIES == distribution.STRATEGIES
    assert list(options.STUDIES) == [study.name for study in studies.STUDIES]


@needs_native
@pytest.mark.parametrize(("value", "meaning"), [("tf", "tf"), ("native", "native"), ("", "native")])
def test_the_environment_says_what_auto_means(monkeypatch, value, meaning):
    monkeypatch.setenv(VARIABLE, value)
    assert implementations.resolve("auto") == meaning
    assert implementations.resolve("tf") == "tf"
    assert implementations.resolve("native") == "native"


def test_a_wrong_environment(monkeypatch):
    monkeypatch.setenv(VARIABLE, "cuda")
    with pytest.raises(ValueError, match=f"`{VARIABLE}` must be one of 'auto', 'native', 'tf'.*'cuda'"):
        sf.separate([1.0])


@needs_native
def test_another_process_without_the_library(tmp_path):
    """A new process imports a package whose library was built for another TensorFlow."""
    package = tmp_path / "separationfactor"
    package.mkdir()
    source = Path(sf.__file__).parent
    for file in source.rglob("*.py"):
        copy = package / file.relative_to(source)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(file.read_bytes())
    (package / "_build.json").write_text('{"tensorflow": "2.3.0"}')
    program = (
        "import separationfactor as sf, keras, numpy as np;"
        "model = keras.Sequential([keras.layers.Dense(4), sf.KSparse(2), keras.layers.Dense(1)]);"
        "model.compile('sgd', 'mse'); model.fit(np.ones((4, 3)), np.ones((4, 1)), verbose=0);"
        "print(sf.build_info()['why_not_native'])"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    environment.pop(VARIABLE, None)
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "built for TensorFlow 2.3.0" in result.stdout
    assert result.stderr.count("RuntimeWarning: separationfactor uses plain TensorFlow ops") == 1


# The build


def build_wheel(folder, *options, **environment):
    """Builds a wheel as `pip install .` does, in pip's build isolation unless an option says otherwise."""
    return subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", *options, "--wheel-dir", str(folder), str(ROOT)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_missing_compiler_is_explained(tmp_path):
    result = build_wheel(tmp_path, CXX="no-such-compiler")
    assert result.returncode != 0
    output = result.stdout + result.stderr
    assert "no C++ compiler was found (looked for no-such-compiler)" in output
    assert "SEPARATIONFACTOR_NATIVE=off pip install" in output
    assert "Traceback" not in output


def test_the_package_can_be_built_without_compiled_code(tmp_path):
    # Setuptools, which it needs, is among the tests' requirements.
    options = ["--no-build-isolation"]
    result = build_wheel(tmp_path, *options, SEPARATIONFACTOR_NATIVE="off", CXX="no-such-compiler")
    assert result.returncode == 0, result.stderr
    (wheel,) = tmp_path.glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "separationfactor/layers.py" in names
    assert "separationfactor/models/conditional_vae.py" in names
    assert not any(name.endswith((".so", "_build.json")) for name in names)
    assert wheel.name.endswith("-py3-none-any.whl")


def test_every_public_name_is_documented():
    public = [getattr(sf, name) for name in sf.__all__]
    for thing in [*public, sf.models.ConditionalVAE]:
        if isinstance(thing, types.ModuleType):
            continue
        assert thing.__doc__
        for name, member in vars(thing).items() if isinstance(thing, type) else ():
            # What Keras defines is documented there.
            inherited = any(hasattr(base, name) for base in thing.__mro__[1:])
            if not name.startswith("_") and callable(member) and not inherited:
                assert member.__doc__, f"{thing.__name__}.{name}"
