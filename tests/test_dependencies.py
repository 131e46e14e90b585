"""Imports and includes go one way, as CONTRIBUTING.md says, and form no cycle."""

import re
import xml.etree.ElementTree

import pytest

import dependencies

# The folders that each folder of cc/ may include.
MAY_INCLUDE = {
    "core": set(),
    "xla": {"core"},
    "tensorflow": {"core", "xla"},
    "pybind": {"core"},
    "benchmark": {"core"},
}
# The headers of other projects that each folder of cc/ may include, besides the standard library and CUDA.
FOREIGN = {
    "core": r"$.",
    "benchmark": r"benchmark/",
    "xla": r"xla/ffi/api/",
    "pybind": r"pybind11/",
    "tensorflow": r"(tensorflow|absl|xla|unsupported/Eigen)/",
}


def test_the_graphs_are_found():
    imports, includes = dependencies.imports(), dependencies.includes()
    assert "separationfactor.library" in imports["separationfactor.ops"]
    assert "separationfactor" not in imports["separationfactor.ops"]  # Its `import` names a submodule.
    assert "separationfactor.models.conditional_vae" in imports["separationfactor.models"]
    assert "separationfactor_lab.cli" in imports["separationfactor.cli"]
    assert "core/separate.h" in includes["core/separate.cc"]
    assert dependencies.rooms(includes).keys() == MAY_INCLUDE.keys()


@pytest.mark.parametrize("graph", [dependencies.imports, dependencies.includes])
def test_there_is_no_cycle(graph):
    assert dependencies.cycle(graph()) is None


def test_a_cycle_is_found():
    assert dependencies.cycle({"a": {"b"}, "b": {"c", "d"}, "c": set(), "d": {"b"}}) == ["b", "d", "b"]
    assert dependencies.cycle({"a": {"b", "c"}, "b": {"c"}, "c": {"elsewhere"}}) is None


def test_the_library_does_not_import_the_laboratory():
    backwards = [
        (module, each)
        for module, imported in dependencies.imports().items()
        if module.split(".")[0] == "separationfactor"
        for each in imported
        if each.split(".")[0] == "separationfactor_lab"
    ]
    # The command's former place, which the library does not import.
    assert backwards == [("separationfactor.cli", "separationfactor_lab.cli")]
    assert not any("separationfactor.cli" in imported for imported in dependencies.imports().values())


def test_the_folders_of_cc_include_what_they_may():
    includes = dependencies.includes()
    for room, others in dependencies.rooms(includes).items():
        assert others <= MAY_INCLUDE[room], room
    for file, names in includes.items():
        room = file.partition("/")[0]
        for name in names - includes.keys():
            standard = "/" not in name or name.startswith(("sys/", "cuda/", "cub/"))
            assert standard or re.match(FOREIGN[room], name), (file, name)


def test_a_reduced_graph_keeps_what_no_longer_path_implies():
    graph = {"a": {"b", "c"}, "b": {"c"}, "c": set()}
    assert dependencies.reduced(graph) == {"a": {"b"}, "b": {"c"}, "c": set()}


def test_the_picture_shows_every_module():
    texts = {element.text for element in xml.etree.ElementTree.fromstring(dependencies.draw()).iter()}
    modules = {name.replace("separationfactor_lab", "_lab") for name in dependencies.imports()}
    assert modules | MAY_INCLUDE.keys() <= texts
