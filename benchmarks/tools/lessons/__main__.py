"""Ten lessons for a student, in order: pages of the gallery, and notebooks from the same text.

    python -m benchmarks.lessons                       # which there are
    python -m benchmarks.gallery                       # the pages, under lessons/
    python -m benchmarks.lessons --notebooks notebooks # a Jupyter notebook of each
    python -m benchmarks.lessons --record              # samples their batch anew, into results/lessons.json

A lesson is one Markdown file in benchmarks/tools/lessons: an idea, arithmetic on one batch of the embedded model, the
lines of code that do it, an exercise, a question. Its numbers are computed from the record when a page is made.
"""

import os
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import tyro

from benchmarks.explore import as_text
from benchmarks.lessons import notebook, record, source
from benchmarks.measure import environment
from common.arguments import exit_on_bad_input


@dataclass
class Args:
    notebooks: Path | None = None
    """folder for a notebook of each lesson"""
    record: bool = False
    """make results/lessons.json anew"""


def main(args: Args) -> None:
    if args.record:
        made = environment("lessons", args)
        kept = {key: made[key] for key in ("command", "date", "python", "packages", "cpu")}
        record.PATH.write_text(as_text(record.make() | {"provenance": kept}))
        print(f"wrote {record.PATH}")
    if args.notebooks:
        written = notebook.write(source.load_all(), args.notebooks)
        print(f"wrote {len(written)} notebooks: {written[0]} and others")
    if not args.record and not args.notebooks:
        for lesson in map(source.read, source.paths()):
            print(f"{lesson.number}  {lesson.title}. {lesson.summary}")
        print("python -m benchmarks.lessons --notebooks FOLDER; as pages: python -m benchmarks.gallery")


if __name__ == "__main__":
    with exit_on_bad_input():
        main(tyro.cli(Args, description=__doc__))
