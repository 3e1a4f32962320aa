"""Measurements whose results are committed, and tools for one's own runs, as one package.

measurements/ holds what the numbers of the READMEs were made with, tools/ what a user runs on runs of his own. Both are
on this package's search path, so that a command and an import name the module alone: `python -m benchmarks.diff`,
`from benchmarks.plot import band`. A name therefore stands in one of the two folders only.
"""

from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT, RESULTS = HERE.parent, HERE / "results"
__path__ += [str(HERE / "measurements"), str(HERE / "tools")]
