"""The command that reinstalls the package, from the source that pip or uv recorded."""

import json
import shlex

import pytest

from separationfactor import installation, library


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Returns a function that says how the package was installed."""

    class Distribution:
        def read_text(self, name):
            return self.texts.get(name)

    def say(origin, installer="pip\n"):
        found = Distribution()
        found.texts = {"direct_url.json": json.dumps(origin), "INSTALLER": installer} if origin else {}
        monkeypatch.setattr(installation.importlib.metadata, "distributions", lambda name: [found])

    return say


def test_from_a_folder(installed, tmp_path):
    folder = tmp_path / "it's a [folder]"
    folder.mkdir()
    installed({"url": folder.as_uri(), "dir_info": {}})
    assert shlex.split(installation.command()) == ["pip", "install", str(folder)]
    assert shlex.split(installation.command(extra="[onnx]")) == ["pip", "install", f"{folder}[onnx]"]
    installed({"url": folder.as_uri(), "dir_info": {"editable": True}}, "uv")
    command = ["uv", "pip", "install", "--no-deps", "--editable", str(folder)]
    assert shlex.split(installation.command("--no-deps ")) == command


@pytest.mark.parametrize(
    ("origin", "source"),
    [
        (
            {"url": "https://host/sf.git", "vcs_info": {"vcs": "git", "requested_revision": "main"}},
            "separationfactor[onnx] @ git+https://host/sf.git@main",
        ),
        (
            {"url": "https://host/sf.git", "vcs_info": {"vcs": "git"}, "subdirectory": "a/b"},
            "separationfactor[onnx] @ git+https://host/sf.git#subdirectory=a/b",
        ),
        (
            {"url": "https://host/sf-0.1.0.tar.gz", "archive_info": {}},
            "separationfactor[onnx] @ https://host/sf-0.1.0.tar.gz",
        ),
    ],
)
def test_from_an_address(installed, origin, source):
    installed(origin)
    assert shlex.split(installation.command(extra="[onnx]")) == ["pip", "install", source]


@pytest.mark.parametrize(
    "origin",
    [
        None,
        {"url": "file:///no/such/folder", "dir_info": {}},
        {"url": "https://host/separationfactor-0.1.0-cp311-cp311-linux_x86_64.whl", "archive_info": {}},
    ],
)
def test_where_the_sources_are_not_known(installed, origin):
    installed(origin)
    assert installation.command() == "pip install . (in the source folder)"
    assert installation.command(extra="[onnx]") == "pip install '.[onnx]' (in the source folder)"


def test_the_compiled_op_says_how_to_get_it(installed, tmp_path, monkeypatch):
    installed({"url": tmp_path.as_uri(), "dir_info": {}})
    monkeypatch.setattr(library, "_FOLDER", tmp_path)
    command = f"pip install --force-reinstall --no-deps --no-cache-dir {tmp_path}"
    for build in (None, {"tensorflow": "1.15.0"}, {"tensorflow": library.tf.__version__}):
        library._read_build.cache_clear()
        if build:
            (tmp_path / "_build.json").write_text(json.dumps(build))
            (tmp_path / "_ops.so").write_text("")
        assert library._load()[1].endswith(command)
