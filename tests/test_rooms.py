"""The rooms of common/: each imports only what stands before it, at its head, so that it can be read by itself."""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

COMMON = Path(__file__).resolve().parents[1] / "common"
# From the ground up. A new file of common/ takes a place in this order.
ORDER = (
    "__init__ terminal ranks basics problems spelling maths procedural gym rows hub files verifier solutions templates "
    "tasks vocabulary packing passes text checkpoint policy critic sharding loading batch hf vllm metrics rollout "
    "evaluate curves health lock arguments plan identity tracker records signals run"
).split()
# Where a function may import a room, because that needs an optional package that is slow to import.
LATE = {("rollout", "make_sampler", "vllm")}


class Arrow(NamedTuple):
    """`room` imports `other`, in a function or at its head (None)."""

    room: str
    other: str
    function: str | None

    def __str__(self) -> str:
        return f"{self.room} imports {self.other}" + (f" in {self.function}" if self.function else "")


def rooms_of(node: ast.Import | ast.ImportFrom, names: set[str]) -> set[str]:
    """Which of the rooms an import statement reaches; what is no room is a name in common/__init__.py."""
    if isinstance(node, ast.Import):
        paths = [alias.name for alias in node.names]
    else:
        base = ".".join(filter(None, ["common" if node.level else "", node.module]))
        paths = [f"{base}.{alias.name}" for alias in node.names]
    parts = [path.split(".") for path in paths]
    return {path[1] if len(path) > 1 and path[1] in names else "__init__" for path in parts if path[0] == "common"}


def arrows(sources: dict[str, str]) -> list[Arrow]:
    """All imports among rooms, also those in functions and those for type checkers alone."""

    def walk(room: str, node: ast.AST, function: str | None) -> Iterator[Arrow]:
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (Arrow(room, other, function) for other in sorted(rooms_of(node, set(sources))))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = node.name
        for child in ast.iter_child_nodes(node):
            yield from walk(room, child, function)

    return [arrow for room, text in sources.items() for arrow in walk(room, ast.parse(text), None)]


def circle(found: list[Arrow]) -> list[str]:
    """The rooms of one circle, each importing the next, or nothing."""
    imports: dict[str, set[str]] = {}
    for arrow in found:
        imports.setdefault(arrow.room, set()).add(arrow.other)
    done: set[str] = set()

    def visit(room: str, path: list[str]) -> list[str]:
        if room in path:
            return path[path.index(room) :]
        if room in done:
            return []
        for other in sorted(imports.get(room, ())):
            if ring := visit(other, [*path, room]):
                return ring
        done.add(room)
        return []

    return next(filter(None, (visit(room, []) for room in sorted(imports))), [])


def upwards(found: list[Arrow]) -> list[Arrow]:
    """Imports of what does not stand before the room in the order."""
    return [arrow for arrow in found if ORDER.index(arrow.other) >= ORDER.index(arrow.room)]


def late(found: list[Arrow]) -> list[Arrow]:
    """Imports in functions but for those of optional packages' rooms."""
    return [arrow for arrow in found if arrow.function and (arrow.room, arrow.function, arrow.other) not in LATE]


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    return {path.stem: path.read_text() for path in sorted(COMMON.glob("*.py"))}


def test_every_room_has_its_place(sources: dict[str, str]) -> None:
    """And every place its room."""
    assert len(set(ORDER)) == len(ORDER)
    assert sources.keys() == set(ORDER)


def test_no_circle(sources: dict[str, str]) -> None:
    ring = circle(arrows(sources))
    assert not ring, " -> ".join([*ring, ring[0]])


def test_no_arrow_upwards(sources: dict[str, str]) -> None:
    """Imports under `if TYPE_CHECKING:` count: a name that is needed in a signature is a dependency."""
    found = upwards(arrows(sources))
    assert not found, "; ".join(map(str, found))


def test_no_import_in_a_function(sources: dict[str, str]) -> None:
    found = late(arrows(sources))
    assert not found, "; ".join(map(str, found))


# --- That it would be seen --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        "from common.tasks import load_task",
        "from common import InputError, tasks",
        "import common.tasks",
        "import common.tasks as t",
        "from . import tasks",
        "from .tasks import load_task",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from common.tasks import load_task",
        "try:\n    from common.tasks import load_task\nexcept ImportError:\n    pass",
        "def f():\n    from common.tasks import load_task",
        "class A:\n    async def f(self):\n        from common import tasks",
    ],
)
def test_a_circle_is_seen_however_it_is_written(line: str, sources: dict[str, str]) -> None:
    """Of hub, which tasks imports."""
    found = arrows(sources | {"hub": f"{line}\n{sources['hub']}"})
    only = [arrow for arrow in found if {arrow.room, arrow.other} <= {"hub", "tasks"}]
    assert sorted(circle(only)) == ["hub", "tasks"]
    assert ("hub", "tasks") in {arrow[:2] for arrow in upwards(found)}
    assert bool([arrow for arrow in late(found) if arrow.room == "hub"]) == ("def f" in line)


def test_a_long_circle_is_seen() -> None:
    texts = {
        "ranks": "import common.run",
        "maths": "from common import ranks",
        "run": "from common.maths import compare",
    }
    assert sorted(circle(arrows(texts))) == ["maths", "ranks", "run"]
    assert circle(arrows(texts | {"run": "from common import InputError"})) == []


def test_a_name_of_the_package_is_no_room(sources: dict[str, str]) -> None:
    assert rooms_of(ast.parse("from common import InputError, ranks").body[0], set(sources)) == {"__init__", "ranks"}
    assert rooms_of(ast.parse("import commonplace, json").body[0], set(sources)) == set()
