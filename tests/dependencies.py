"""The imports of the Python modules and the includes of the C++ files, as graphs and as a picture.

`make dependencies` draws docs/dependencies.svg. Imports within functions count. An import of a name that a
package's `__init__` defines is an import of the `__init__`. An import of a submodule is not, although Python
runs the `__init__` for it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Mapping, Set
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "dependencies.svg"
Graph = dict[str, set[str]]


def imports() -> Graph:
    """Returns the modules of the library and the laboratory that each of their modules imports."""
    folder = ROOT / "python"
    paths = {}
    for path in sorted(folder.glob("separationfactor*/**/*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        paths[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    graph = {}
    for module, path in paths.items():
        graph[module] = set(_imported(ast.parse(path.read_text()), set(paths))) - {module}
    return graph


def _imported(tree: ast.AST, modules: Set[str]) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom) and node.module in modules:
            for alias in node.names:
                submodule = f"{node.module}.{alias.name}"
                yield submodule if submodule in modules else node.module


def includes() -> Graph:
    """Returns the files of cc/ that each of them includes. Headers from elsewhere keep their name."""
    graph = {}
    for path in sorted((ROOT / "cc").rglob("*")):
        if path.suffix in (".h", ".cc", ".cu"):
            names = re.findall(r'^\s*#\s*include\s*["<]([^">]+)[">]', path.read_text(), re.M)
            graph[str(path.relative_to(ROOT / "cc"))] = set(names)
    return graph


def cycle(graph: Mapping[str, Set[str]]) -> list[str] | None:
    """Returns the nodes of a cycle, the first of them again at the end, or None if there is no cycle."""
    done: set[str] = set()

    def search(node: str, path: list[str]) -> list[str] | None:
        if node in path:
            return [*path[path.index(node) :], node]
        if node in done:
            return None
        for each in sorted(graph.get(node, ())):
            if found := search(each, [*path, node]):
                return found
        done.add(node)
        return None

    return next(filter(None, (search(node, []) for node in graph)), None)


def reduced(graph: Mapping[str, Set[str]]) -> Graph:
    """Returns a graph without cycles less the edges that a longer path implies."""
    reach: Graph = {}

    def reachable(node: str) -> set[str]:
        if node not in reach:
            reach[node] = set().union(*({each} | reachable(each) for each in graph.get(node, ())))
        return reach[node]

    return {
        node: {each for each in edges if not any(each in reachable(other) for other in edges - {each})}
        for node, edges in graph.items()
    }


def rooms(graph: Mapping[str, Set[str]]) -> Graph:
    """Returns the graph between the folders of cc/."""
    found: Graph = {}
    for file, names in graph.items():
        room = file.partition("/")[0]
        others = {name.partition("/")[0] for name in names if name in graph}
        found.setdefault(room, set()).update(others - {room})
    return found


def _boxes(graph: Graph, top: int, title: str) -> tuple[list[str], int]:
    """Returns the elements of a picture in which every arrow points down, and the y below it."""
    level: dict[str, int] = {}

    def depth(node: str) -> int:
        if node not in level:
            level[node] = 1 + max(map(depth, graph[node]), default=-1)
        return level[node]

    rows: dict[int, list[str]] = {}
    for node in sorted(graph):
        rows.setdefault(max(map(depth, graph)) - depth(node), []).append(node)
    places: dict[str, tuple[float, int]] = {}
    boxes = [f'<text x="{WIDTH / 2}" y="{top}" font-size="15">{title}</text>']
    y = top

    def above(node: str) -> float:
        users = [places[user][0] for user, edges in graph.items() if node in edges and user in places]
        return sum(users) / len(users) if users else WIDTH / 2

    for _, nodes in sorted(rows.items()):
        nodes.sort(key=above)  # Fewer arrows cross.
        for first in range(0, len(nodes), 6):
            y += 58 if first == 0 else 26
            part = nodes[first : first + 6]
            for index, node in enumerate(part):
                x = WIDTH * (index + 0.5) / len(part)
                places[node] = x, y
                color = "#dcebf7" if "_lab" in node else "#e6f2dc"
                half = 3.2 * len(node) + 6
                boxes.append(
                    f'<rect x="{x - half:.0f}" y="{y - 10}" width="{2 * half:.0f}" height="20" rx="4" '
                    f'fill="{color}" stroke="#666"/><text x="{x:.0f}" y="{y + 4}">{node}</text>'
                )
    arrows = []
    for node, edges in sorted(graph.items()):
        for each in sorted(edges):
            (x1, y1), (x2, y2) = places[node], places[each]
            y1, y2 = y1 + 10, y2 - 12
            arrows.append(
                f'<path d="M{x1:.0f},{y1} C{x1:.0f},{(y1 + y2) / 2} {x2:.0f},{(y1 + y2) / 2} {x2:.0f},{y2}"/>'
            )
    head = '<g class="arrows" fill="none" stroke="#999" stroke-width="0.8">'
    return [head, *arrows, "</g>", *boxes], y


WIDTH = 1500


def draw() -> str:
    """Returns the picture, an SVG."""
    python, below = _boxes(
        {
            node.replace("separationfactor_lab", "_lab"): {
                each.replace("separationfactor_lab", "_lab") for each in edges
            }
            for node, edges in reduced(imports()).items()
        },
        24,
        "Imports of the Python modules (_lab: separationfactor_lab), less those that a longer path implies",
    )
    cc, below = _boxes(reduced(rooms(includes())), below + 60, "Includes between the folders of cc/")
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {below + 30}" '
            'font-family="sans-serif" font-size="11" text-anchor="middle">',
            '<defs><marker id="head" markerWidth="6" markerHeight="6" refX="5" refY="3" orient="auto">'
            '<path d="M0,0 L6,3 L0,6 z" fill="#999"/></marker>'
            "<style>.arrows path { marker-end: url(#head) }</style></defs>",
            '<rect width="100%" height="100%" fill="white"/>',
            *python,
            *cc,
            "</svg>\n",
        ]
    )


if __name__ == "__main__":
    PICTURE.write_text(draw())
    print(PICTURE)
