"""The gallery in headless Chromium: from disk, on a laptop and a phone, light and dark, by keyboard, on paper."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.methods import FAMILIES
from tests import sync

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright (tests/requirements.txt)")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(not CHROMIUM, reason="needs Debian's chromium (apt-get install chromium)")

SIZES = {"phone": {"width": 360, "height": 740}, "laptop": {"width": 1280, "height": 800}}
TEXT = ("ink", "muted", "accent", "good", "bad", "warn")
SYNTAX = ("keyword", "string", "name", "number", "ink", "muted")


@pytest.fixture(scope="module")
def browser() -> Iterator["sync_api.Browser"]:
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


def open_page(browser, complaints: list[str], size: str = "laptop", **options) -> "sync_api.Page":
    """A page that notes what goes wrong, and every request that leaves the disk."""
    page = browser.new_context(viewport=SIZES[size], **options).new_page()
    page.on(
        "console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else None
    )
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url}"))
    page.on(
        "request", lambda r: None if r.url.startswith(("file:", "data:")) else complaints.append(f"leaves: {r.url}")
    )
    return page


@pytest.mark.parametrize(("size", "script"), [("laptop", True), ("phone", False)])
def test_every_page_loads_and_fits(browser, gallery: Path, size: str, script: bool) -> None:
    """From file://, with and without JavaScript: no message, no failed request, no sideways scrolling of the page."""
    complaints: list[str] = []
    page = open_page(browser, complaints, size, java_script_enabled=script)
    pages = sorted(gallery.rglob("*.html"))
    assert len(pages) > 40
    for path in pages:
        page.goto(path.as_uri())
        name = path.relative_to(gallery)
        assert page.locator("h1").count() == 1, name
        width = page.evaluate("document.documentElement.scrollWidth")  # answers without JavaScript in the page too
        assert width <= SIZES[size]["width"], f"{name} is {width} wide"
    assert not complaints
    page.context.close()


def test_no_page_is_wider_than_a_phone(browser, gallery: Path) -> None:
    """One of each kind, all folds open."""
    page = open_page(browser, [], "phone")
    kinds = {path.parent.name: path for path in sorted(gallery.glob("*/*.html"))} | {
        path.name: path for path in gallery.glob("*.html")
    }
    kinds["dapo"] = gallery / "algorithms" / "dapo.html"  # the widest equations
    for path in kinds.values():
        page.goto(path.as_uri())
        page.evaluate("document.querySelectorAll('details').forEach(fold => { fold.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth") == 360, path.name
    page.context.close()


def luminance(color: str) -> float:
    """Relative luminance by WCAG of "rgb(1, 2, 3)"."""
    channels = [int(c) / 255 for c in re.findall(r"\d+", color)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(share * c for share, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_by_hand() -> None:
    assert contrast("rgb(0, 0, 0)", "rgb(255, 255, 255)") == pytest.approx(21)
    assert contrast("rgb(119, 119, 119)", "rgb(255, 255, 255)") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_contrast(browser, gallery: Path, scheme: str) -> None:
    """4.5 to 1 for every colour of text on every ground that it stands on."""
    page = open_page(browser, [], color_scheme=scheme)
    page.goto((gallery / "index.html").as_uri())
    grounds = ("paper", "panel", "code", "del", "ins")
    names = sorted({*TEXT, *SYNTAX, *grounds})
    resolve = """names => Object.fromEntries(names.map(name => {
        const probe = document.body.appendChild(document.createElement("i"));
        probe.style.color = `var(--${name})`;
        return [name, getComputedStyle(probe).color];
    }))"""
    colors = page.evaluate(resolve, names)
    pairs = [(text, ground) for text in TEXT for ground in ("paper", "panel", "code")]
    pairs += [(text, ground) for text in SYNTAX for ground in ("paper", "del", "ins")]
    weak = {pair: round(contrast(colors[pair[0]], colors[pair[1]]), 2) for pair in pairs}
    assert not {pair: value for pair, value in weak.items() if value < 4.5}
    assert (luminance(colors["paper"]) > 0.5) == (scheme == "light")
    page.goto((gallery / "map.html").as_uri())
    darkest = page.locator(".matrix .s8").first.evaluate("""cell => {
        const context = document.createElement("canvas").getContext("2d");
        context.fillStyle = getComputedStyle(cell).backgroundColor;
        context.fillRect(0, 0, 1, 1);
        return `rgb(${context.getImageData(0, 0, 1, 1).data.slice(0, 3).join()})`;
    }""")
    assert contrast(darkest, colors["ink"]) >= 4.5 and darkest != colors["paper"]
    page.context.close()


def test_keyboard(browser, gallery: Path) -> None:
    """Tab comes to the skip link first and then to links; n and p go from change to change."""
    page = open_page(browser, [])
    page.goto((gallery / "algorithms" / "kl_cov.html").as_uri())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "content"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main') !== null && document.activeElement.tagName") == "A"
    seen = []
    for key in "nnp":
        page.keyboard.press(key)
        seen.append(
            page.evaluate("[...document.querySelectorAll('.diff > .code .hunk')].indexOf(document.activeElement)")
        )
    assert seen == [0, 1, 0]
    page.context.close()


def test_buttons(browser, gallery: Path) -> None:
    page = open_page(browser, [], color_scheme="light")
    page.goto(f"{gallery.as_uri()}/compare.html#dapo-kl_cov")
    folds = page.locator(".diff details.fold[open]")
    assert folds.count() == 0
    page.get_by_role("button", name="Show unchanged lines").click()
    assert folds.count() == page.locator(".diff details.fold").count() > 0
    ground = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(ground)
    theme = page.get_by_role("button", name="Theme")
    theme.click()
    theme.click()
    dark = page.evaluate(ground)
    assert luminance(dark) < 0.1 < luminance(light)
    page.goto((gallery / "map.html").as_uri())
    assert page.evaluate(ground) == dark  # kept from page to page
    page.context.close()


def test_any_two_files_are_compared_on_demand(browser, gallery: Path) -> None:
    """What a page made here shows of a pair that has one; both files whole, whichever are chosen."""
    complaints: list[str] = []
    page = open_page(browser, complaints)
    texts = "nodes => nodes.map(node => node.textContent)"
    shown = []
    for place in ("algorithms/kl_cov.html#diff", "compare.html#dapo-kl_cov"):
        page.goto(f"{gallery.as_uri()}/{place}")
        shown.append([page.locator(f".diff > .code {at}").evaluate_all(texts) for at in ("td.del", "td.ins", ".label")])
    assert shown[0] == shown[1]
    page.locator("#choice select").first.select_option("opo")
    page.wait_for_url("**/compare.html#opo-kl_cov")
    for side, name in (("old", "opo"), ("new", "kl_cov")):
        code = page.locator(f".diff .code td.{side}:not(.none)").evaluate_all(texts)
        assert sorted(code) == sorted(sync.read(name).splitlines())
    page.get_by_role("button", name="Swap").click()
    page.wait_for_url("**/compare.html#kl_cov-opo")
    assert page.locator("#count").text_content().startswith(f"{sync.distance('opo', 'kl_cov')[0]} lines of code")
    for key, at in (("n", 0), ("n", 1), ("p", 0)):  # one step a key, however often files have been chosen
        page.keyboard.press(key)
        assert page.evaluate("[...document.querySelectorAll('.hunk')].indexOf(document.activeElement)") == at
    page.goto(f"{gallery.as_uri()}/algorithms/kl_cov.html")
    page.locator(".diff a.fold").first.click()
    page.wait_for_url("**/compare.html#dapo-kl_cov")
    assert not complaints
    page.context.close()


def test_every_pair_of_files_is_compared_right(browser, gallery: Path) -> None:
    """Of all pairs: both files whole and in order, and what is shown as unchanged is equal."""
    page = open_page(browser, [])
    page.goto((gallery / "compare.html").as_uri())
    wrong = page.evaluate("""() => {
        const wrong = [], names = Object.keys(files);
        for (const one of names) for (const other of names) {
            const [old, fresh] = [one, other].map(name => files[name].lines.slice(files[name].head));
            const rows = rowsOf(old, fresh);
            const [left, right] = [0, 1].map(side => rows.map(row => row[side]).filter(at => at >= 0));
            const whole = left.every((at, k) => at === k) && right.every((at, k) => at === k)
                && left.length === old.length && right.length === fresh.length;
            const same = rows.every(([i, j, changed]) => changed || old[i] === fresh[j]);
            if (!whole || !same || rows.some(row => row[2]) === (one === other)) wrong.push([one, other]);
        }
        return wrong;
    }""")
    assert wrong == []
    page.context.close()


# --- The overview and the map -----------------------------------------------------------------------------------------

SHOWN = "nodes => nodes.filter(node => node.offsetParent).map(node => node.dataset.name)"


def test_filter_and_sort(browser, gallery: Path) -> None:
    """By keyboard, without loading again; the address holds the choice, and opens it."""
    complaints: list[str] = []
    page = open_page(browser, complaints)
    page.goto((gallery / "index.html").as_uri())
    cards = page.locator(".cards > li")
    everything = cards.evaluate_all(SHOWN)
    assert len(everything) == len(sync.algorithms()) == int(page.locator("#count").text_content())
    page.get_by_label("Search").focus()
    page.keyboard.type("covariance")
    found = cards.evaluate_all(SHOWN)
    assert {"clip_cov", "kl_cov", "cw_grpo"} <= set(found) and len(found) < 10
    assert str(len(found)) == page.locator("#count").text_content() and page.url.endswith("#q=covariance")
    page.keyboard.press("Tab")
    page.keyboard.type("penalty")  # in the list of families
    assert cards.evaluate_all(SHOWN) == ["kl_cov", "sent"]
    assert page.locator("main h2:visible").all_text_contents()[0] == "Found, by family"
    page.get_by_label("Search").fill("")
    assert page.locator("section.family h2:visible").all_text_contents() == ["Penalty"]
    assert len(cards.evaluate_all(SHOWN)) == 7 and page.url.endswith("#family=penalty")
    page.get_by_role("button", name="Clear").press("Enter")
    page.wait_for_function("location.hash === ''")
    assert cards.evaluate_all(SHOWN) == everything

    for key, upwards in (("lines", True), ("date", True), ("entropy", False), ("pass@1", False), ("pass@32", False)):
        page.get_by_label("Order").select_option(key)
        attribute = f"data-{key.replace('@', '-')}"
        values = cards.evaluate_all(f"nodes => nodes.map(node => node.getAttribute('{attribute}') || '')")
        known = [float(value) for value in values if value]
        assert known == sorted(known, reverse=not upwards) and len(values) == len(everything)
        assert len(known) > 5 and not any(values[len(known) :])  # without a value: last
    page.get_by_label("Order").select_option("name")
    assert cards.evaluate_all(SHOWN) == sorted(everything)
    page.get_by_label("Lever").select_option("critic")
    assert cards.evaluate_all(SHOWN) == ["vapo"] and page.url.endswith("#lever=critic&sort=name")
    again = page.context.new_page()
    again.goto(page.url)
    assert again.locator(".cards > li").evaluate_all(SHOWN) == ["vapo"]
    again.goto(f"{gallery.as_uri()}/index.html#clip")  # an anchor is no choice
    again.reload()
    assert len(again.locator(".cards > li").evaluate_all(SHOWN)) == len(everything)
    assert not complaints
    page.context.close()


def test_without_javascript_all_methods_are_shown(browser, gallery: Path) -> None:
    page = open_page(browser, [], java_script_enabled=False)
    page.goto((gallery / "index.html").as_uri())
    assert page.locator(".cards > li:visible").count() == len(sync.algorithms())
    assert page.locator("section.family h2:visible").count() == len(FAMILIES)
    assert not page.get_by_label("Search").is_visible() and not page.locator("#found").is_visible()
    page.context.close()


def test_the_map_by_keyboard(browser, gallery: Path) -> None:
    """The table of distances is one stop of the Tab key, and arrows go over its diagonal; its heads stay in sight."""
    page = open_page(browser, [])
    page.goto((gallery / "map.html").as_uri())
    stop = page.locator(".matrix td a[tabindex='0']")
    assert stop.count() == 1
    stop.focus()
    cell = "document.activeElement.closest('tr').rowIndex + ' ' + document.activeElement.closest('td').cellIndex"
    seen = [page.evaluate(cell)]
    for key in ("ArrowDown", "ArrowLeft", "ArrowLeft", "ArrowRight", "ArrowUp", "ArrowUp"):
        page.keyboard.press(key)
        seen.append(page.evaluate(cell))
    # Row 2 and column 1 are the first file's. It has no cell with itself, and nor has the second: both are leapt over.
    assert seen == ["2 2", "4 2", "4 1", "4 1", "4 2", "2 2", "2 2"]
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"algorithms/dr_grpo\.html#diff"))
    page.goto((gallery / "map.html").as_uri())
    box = page.locator(".sticky:has(.matrix)")
    box.evaluate("box => { box.scrollIntoView(); box.scrollTo(300, 300); }")
    edge, head = box.bounding_box(), page.locator(".matrix thead th").nth(30).bounding_box()
    name = page.locator(".matrix tbody tr:not(.group) th").nth(30).bounding_box()
    assert abs(head["y"] - edge["y"]) < 3 and abs(name["x"] - edge["x"]) < 3
    page.context.close()


def test_a_line_is_linked(browser, gallery: Path) -> None:
    """A line number of a diff leads to that line of the whole file, marked."""
    page = open_page(browser, [])
    page.goto((gallery / "algorithms" / "kl_cov.html").as_uri())
    link = page.locator(".diff > .code tr:has(td.ins) td.n:has(+ .new) a").last
    number = link.text_content()
    link.click()
    assert page.url.endswith(f"source/kl_cov.html#L{number}")
    line = page.locator(f"#L{number}")
    assert line.bounding_box()["y"] < SIZES["laptop"]["height"]
    other = page.locator("#L1")
    ground = "node => getComputedStyle(node).backgroundColor"
    assert line.evaluate(ground) != other.evaluate(ground)
    page.context.close()


def test_prints_to_pdf(browser, gallery: Path) -> None:
    """On paper a page is light, without buttons and navigation, and nothing is cut off at the side."""
    page = open_page(browser, [], color_scheme="dark")
    page.goto((gallery / "algorithms" / "kl_cov.html").as_uri())
    page.emulate_media(media="print")
    assert luminance(page.evaluate("getComputedStyle(document.body).backgroundColor")) > 0.9
    assert not page.get_by_role("button", name="Theme").is_visible()
    printed = page.pdf(format="A4")
    assert printed.startswith(b"%PDF") and 3 <= len(re.findall(rb"/Type /Page\b", printed)) <= 20
    page.context.close()
