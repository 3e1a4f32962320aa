"""Build the gallery: a folder of pages that opens from disk, without network and without JavaScript.

python -m benchmarks.gallery                     # into benchmarks/site
python -m benchmarks.gallery --out /tmp/site
python -m benchmarks.gallery --run runs/x        # with pages of these runs, token by token
python -m benchmarks.gallery --screenshots       # and the README's picture of it; needs playwright and chromium
"""

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import tyro

import benchmarks
from benchmarks.gallery import details, documents, explorer, lessons, site
from benchmarks.gallery.pages import pages as algorithm_pages
from benchmarks.gallery.site import Page
from common.arguments import exit_on_bad_input

SCREENSHOTS = {"gallery-kl_cov.png": ("algorithms/kl_cov.html", 1640)}  # of the README: page, and height in pixels


@dataclass
class Args:
    out: Path = benchmarks.HERE / "site"
    """folder that the pages are written to"""
    results: Path = benchmarks.RESULTS
    """what benchmarks have left"""
    run: tuple[Path, ...] = ()
    """run directories to explore, each with a checkpoint"""
    screenshots: bool = False
    """also photograph the pages of SCREENSHOTS into `results`"""


def build(out: Path, results: Path, runs: Sequence[Path] = ()) -> list[Path]:
    """Write all pages, with one for each of the `runs`; returns their paths."""
    pages = algorithm_pages(results) | documents.pages(results)
    for part, contexts in {"explorer": explorer.pages(results, runs), "details": details.pages(results)}.items():
        pages |= {name: Page(f"{part}.html", part, context) for name, context in contexts.items()}
    pages |= lessons.pages()
    names = [page.context["one"].name for page in pages.values() if page.template == "algorithm.html"]
    return site.write(out, pages, names)


def check_out(out: Path) -> None:
    """Pages of an earlier gallery are deleted: anything else in the folder is a reason to stop."""
    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / "static" / "gallery.js").exists()):
        raise SystemExit(f"error: --out {out} is no gallery, and not empty; name a new folder")


def take_screenshots(out: Path, results: Path) -> None:
    """The pictures of SCREENSHOTS, at a laptop's width in light colours."""
    chromium = shutil.which("chromium")
    if not chromium or not find_spec("playwright"):
        raise SystemExit("error: --screenshots needs playwright (pip install) and chromium (apt-get install)")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        for picture, (page, height) in SCREENSHOTS.items():
            view = browser.new_page(viewport={"width": 1280, "height": height}, color_scheme="light")
            view.goto((out / page).resolve().as_uri())
            view.screenshot(path=results / picture)
            print(f"wrote {results / picture}")
        browser.close()


if __name__ == "__main__":
    args = tyro.cli(Args)
    check_out(args.out)
    started = time.perf_counter()
    try:
        with exit_on_bad_input():
            written = build(args.out, args.results, args.run)
    except ValueError as error:  # an algorithm file whose head cannot be read
        raise SystemExit(f"error: {error}") from error
    count = sum(path.suffix == ".html" for path in written)
    print(f"{count} pages in {time.perf_counter() - started:.1f} s: {args.out / 'index.html'}")
    if args.screenshots:
        take_screenshots(args.out, args.results)
