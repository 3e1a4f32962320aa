"""Show in colour what an algorithm changes in its parent.

python -m benchmarks.diff kl_cov                 # against the parent that its head names
python -m benchmarks.diff kl_cov grpo            # against another file
python -m benchmarks.diff                        # how far each file is from its parent
"""

import csv
import difflib
import sys

from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table

from tests import sync


def unified(base: str, name: str, context: int = 3) -> str:
    """What `diff -u` says, without the head docstrings: they are prose, and differ throughout."""
    old, new = (sync.HEAD.sub("", sync.read(n)).splitlines(keepends=True) for n in (base, name))
    return "".join(difflib.unified_diff(old, new, f"algos/{base}.py", f"algos/{name}.py", n=context))


def table() -> Table:
    """The ledger, fresh."""
    header, *rows = csv.reader(sync.ledger().splitlines())
    shown = Table(*(title.replace("_", " ") for title in header))
    for row in rows:
        shown.add_row(*row)
    return shown


if __name__ == "__main__":
    console, names = Console(markup=False, emoji=False), sys.argv[1:]
    if unknown := [name for name in names if name not in sync.algorithms()] or names[2:]:
        known = ", ".join(sync.algorithms())
        raise SystemExit(f"error: {', '.join(unknown)} is no algorithm; name one, or two to compare, of {known}")
    if not names:
        console.print(table())
    else:
        name, base = names[0], names[1] if len(names) == 2 else sync.parent(names[0]) or names[0]
        console.print(sync.own_parts(sync.read(name))["head"].splitlines()[0].removeprefix('"""'), style="bold")
        lines, hunks = sync.distance(base, name)
        console.print(f"{base} -> {name}: {lines} lines of code in {hunks} places\n", style="dim")
        console.print(Syntax(unified(base, name), "diff", background_color="default", word_wrap=True))
