"""Build the gallery: a folder of pages that opens from disk, without network and without JavaScript.

python -m benchmarks.gallery                     # into benchmarks/site
python -m benchmarks.gallery --out /tmp/site
"""

import importlib
import importlib.util
import time
from dataclasses import dataclass
from pathlib import Path

import tyro

from benchmarks.gallery import site
from benchmarks.gallery.pages import pages as algorithm_pages
from benchmarks.gallery.site import Page

PIECES = ("explorer", "details")  # modules with `pages(results) -> {page: context}` and a template of their name


@dataclass
class Args:
    out: Path = site.ROOT / "benchmarks" / "site"
    """folder that the pages are written to"""
    results: Path = site.ROOT / "benchmarks" / "results"
    """what benchmarks have left"""


def all_pages(results: Path) -> dict[str, Page]:
    pages = algorithm_pages(results)
    for piece in PIECES:
        if importlib.util.find_spec(f"benchmarks.gallery.{piece}"):
            module = importlib.import_module(f"benchmarks.gallery.{piece}")
            pages |= {name: Page(f"{piece}.html", piece, context) for name, context in module.pages(results).items()}
    return pages


def build(out: Path, results: Path) -> list[Path]:
    pages = all_pages(results)
    names = [page.context["one"].name for page in pages.values() if page.template == "algorithm.html"]
    return site.write(out, pages, names)


if __name__ == "__main__":
    args = tyro.cli(Args)
    started = time.perf_counter()
    written = build(args.out, args.results)
    print(f"{len(written)} pages in {time.perf_counter() - started:.1f} s: {args.out / 'index.html'}")
