"""Lessons: the record made again, the text's numbers, the code that is shown, exercises, pages and notebooks."""

import json
import math
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from algos import clip_cov, kl_cov
from benchmarks.exercise import EXERCISES
from benchmarks.gallery import lessons as pages
from benchmarks.gallery import site
from benchmarks.lessons import notebook, record, source
from benchmarks.lessons.source import SECTIONS, Block, Lesson
from common import InputError
from common.batch import Response, Sample
from common.problems import Problem
from common.verifier import Verdict

NAMES = [path.stem for path in source.paths()]
every_lesson = pytest.mark.parametrize("lesson", NAMES, indirect=True)


@pytest.fixture
def lesson(request) -> Lesson:
    """One lesson with its numbers."""
    return next(lesson for lesson in source.load_all() if lesson.name == request.param)


def samples() -> list[Sample]:
    """The record's responses as if they had just been drawn."""
    policy, made = record.fresh_policy(), []
    for group in json.loads(record.PATH.read_text())["groups"]:
        problem = Problem(group["prompt"], "", "", "countdown")
        for one in group["responses"]:
            response = Response(one["ids"], np.zeros(len(one["ids"])), False)
            verdict = Verdict(one["reward"], "", None)
            made.append(Sample(problem, policy.encode(group["prompt"]), response, one["text"], verdict))
    return made


def assert_near(found: object, kept: object, where: str = "") -> None:
    """The same words, and numbers that differ by no more than rounding and another processor's arithmetic."""
    if isinstance(kept, dict):
        assert found.keys() == kept.keys(), where
        for key in kept:
            assert_near(found[key], kept[key], f"{where}.{key}")
    elif isinstance(kept, list):
        assert len(found) == len(kept), where
        for i, pair in enumerate(zip(found, kept, strict=True)):
            assert_near(*pair, f"{where}[{i}]")
    elif isinstance(kept, float):
        assert found == pytest.approx(kept, rel=2e-3, abs=5e-6), where
    else:
        assert found == kept, where


# --- The record -------------------------------------------------------------------------------------------------------


def test_record_made_again() -> None:
    """All that is computed from the kept responses, the seven updates included."""
    kept = json.loads(record.PATH.read_text())
    found = record.measure(samples())
    assert_near(found, {key: kept[key] for key in found})
    assert "benchmarks.lessons --record" in kept["provenance"]["command"]


def test_counted_first_words_fit_the_distribution() -> None:
    """Within four standard errors of the probabilities that the model gives them."""
    kept = json.loads(record.PATH.read_text())
    counts = {word: sum(count.values()) for word, count in kept["first_words"].items()}
    state = kept["states"][2]
    assert state["prompt"] == kept["groups"][record.OFTEN]["prompt"] and sum(counts.values()) == record.MORE
    for word, p in zip(state["words"], state["p"], strict=True):
        assert abs(counts[word] / record.MORE - p) < 4 * math.sqrt(p * (1 - p) / record.MORE)


def test_batch_of_the_record() -> None:
    kept, batch = record.load()
    assert batch["mask"].shape == (64, max(map(len, batch["tokens"]))) and batch["mask"].sum() == 932
    assert batch["rewards"].view(8, 8).sum(1).tolist() == [2, 5, 4, 0, 1, 7, 0, 0]
    last = kept["groups"][-1]["responses"][-1]
    assert batch["later_entropy"][-1, : len(last["ids"])].tolist() == last["later_entropy"]
    assert not batch["old_logprobs"][~batch["mask"]].any()


# --- Text -------------------------------------------------------------------------------------------------------------


def test_there_are_ten_in_order() -> None:
    assert [name[:2] for name in NAMES] == [f"{n:02}" for n in range(1, 11)]
    assert [lesson.name for lesson in source.load_all()] == NAMES  # runs every cell, which checks the arithmetic
    assert all(tuple(lesson.sections) == SECTIONS and lesson.summary for lesson in source.load_all())


def test_a_cell_that_fails_is_named(tmp_path: Path) -> None:
    """As where a file's loss is no longer the one that is taught."""
    text = (source.HERE / "08-kl-cov.md").read_text()
    path = tmp_path / "08-kl-cov.md"
    path.write_text(text.replace("push = ratio * A - kl", "push = ratio * A + kl"))
    with pytest.raises(
        ValueError, match=r"lessons/08-kl-cov.md: AssertionError in a cell at 'assert .*push\[mask\]\)'"
    ):
        source.run(source.read(path))


@every_lesson
def test_a_lesson_has_every_part(lesson: Lesson) -> None:
    """An idea of one screen, arithmetic and code beside cells that check them, an exercise with its check."""
    kinds = {name: [block.kind for block in blocks] for name, blocks in lesson.sections.items()}
    words = " ".join(block.text for block in lesson.sections["Idea"] if block.kind == "text")
    assert 120 <= len(re.sub(r"\$\$.*?\$\$", "", words, flags=re.DOTALL).split()) <= 260
    assert "python" in kinds["On a real batch"] and {"source", "python"} <= {*kinds["In the code"]}
    assert "assert" in "".join(cell.text for cell in lesson.cells)
    assert kinds["Exercise"].count("shell") == 1 and kinds["Question"] == ["text"]
    assert set().union(*kinds.values()) <= {"text", "python", "source", "shell", "figure"}


@every_lesson
def test_text_types_no_number_of_the_batch(lesson: Lesson) -> None:
    """Beside the batch, a decimal is filled in; constants of the idea may be typed."""
    for block in lesson.sections["On a real batch"]:
        if block.kind == "text":
            typed = re.sub(r"\{\{.*?\}\}|\{%.*?%\}|\$.*?\$|\(lesson:\d\d\)|pass@\d+", "", block.text, flags=re.DOTALL)
            assert not re.search(r"\d\.\d|\d{2}", typed), typed


@every_lesson
def test_exercises_exist_and_can_be_checked(lesson: Lesson) -> None:
    (block,) = [block for block in lesson.sections["Exercise"] if block.kind == "shell"]
    asked = pages.COMMAND.findall(block.text)
    checked = re.findall(r"--check exercises/(\w+)\.py", block.text)
    assert asked and all(region in EXERCISES[name] for name, region in asked)
    assert checked == [name for name, _ in asked]


def test_numbers_as_text() -> None:
    assert source.decimals(-0.03449) == "\u22120.034" and source.decimals(-0.0001) == "0.000"
    assert source.decimals(2.5, 0) == "2" and source.decimals(0.25, 2, True) == "+0.25"
    assert source.decimals(-0.0, 2, True) == "0.00" and source.decimals(10, 1) == "10.0"


def test_arithmetic_of_some_lessons_by_hand() -> None:
    """The numbers that a reader sees, once more from the formulas."""
    one, three, five, eight, ten = (source.load_all()[i].numbers for i in (0, 2, 4, 7, 9))
    first = one["record"]["groups"][0]["responses"][5]
    assert one["total"][5].item() == pytest.approx(sum(first["logprob"]))
    assert three["a"]["grpo"] == pytest.approx((0.75 / math.sqrt(1.5 / 7), -0.25 / math.sqrt(1.5 / 7)))
    assert sum(up + down for _, up, down in five["counts"]) == five["signal"]
    top = eight["top"][0]
    assert float(top["push"]) == pytest.approx(math.exp(float(top["moved"])) * float(top["A"]) + 1)
    assert eight["quota"] == int(kl_cov.Args.kl_cov_ratio * eight["N"])
    assert eight["clip_quota"] == int(clip_cov.Args.clip_cov_ratio * eight["N"])
    assert ten["alpha"] == pytest.approx(1.0 * (ten["H"] - 0.25))


# --- Code that is shown -----------------------------------------------------------------------------------------------


def test_lines_are_the_files_own() -> None:
    shown = source.lines("grpo", "centred = rewards\n...\nscaled[rewards.amax(1)\nbound = mask")
    text = (source.ROOT / "algos" / "grpo.py").read_text().splitlines()
    numbers = [n for n, _ in shown]
    assert all(line == (text[n - 1] if n else source.GAP) for n, line in shown)
    assert numbers[:4] == list(range(numbers[0], numbers[0] + 4)) and numbers[4] == 0 and len(numbers) == 6
    with pytest.raises(ValueError, match=r"algos/grpo.py has no line 'bound = other' below line 0"):
        source.lines("grpo", "bound = other")
    with pytest.raises(ValueError, match="has no line"):  # the order counts
        source.lines("grpo", "bound = mask\ncentred = rewards")


def test_a_lesson_without_a_section_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "11-more.md"
    path.write_text("# More\nOne.\n## Idea\nNone.\n")
    with pytest.raises(ValueError, match=r"11-more\.md has the sections Idea instead of Idea, On a real batch"):
        source.read(path)


def test_a_name_that_no_cell_leaves_is_an_error() -> None:
    with pytest.raises(Exception, match="'nowhere' is undefined"):
        Lesson("01-x", "", "", {}).filled("{{ nowhere }}")


# --- Pages ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def html() -> dict[str, str]:
    """Page -> what stands between its head and its foot."""
    made = pages.pages()
    shared = {"root": "../", "current": "lessons", "built": set(made)}
    texts = {name: site.render(page.template, page=name, **shared, **page.context) for name, page in made.items()}
    return {name: text[text.index("<main") : text.index("</main>")] for name, text in texts.items()}


def test_pages_lead_from_one_to_the_next(html: dict[str, str]) -> None:
    assert [*html] == ["lessons/index.html", *(f"lessons/{name}.html" for name in NAMES)]
    assert re.findall(r'<li><a href="(.+?)"', html["lessons/index.html"]) == [f"{name}.html" for name in NAMES]
    for i, name in enumerate(NAMES):
        found = re.findall(r'href="([^"]+)" rel="(\w+)"', html[f"lessons/{name}.html"])
        before, after = NAMES[i - 1 : i] if i else [], NAMES[i + 1 : i + 2]
        assert found == [(f"{n}.html", "prev") for n in before] + [(f"{n}.html", "next") for n in after]


@every_lesson
def test_page_of_a_lesson(html: dict[str, str], lesson: Lesson) -> None:
    """Answer folded, formulas as MathML, nothing left of Jinja, Markdown or LaTeX; links to lines that are shown."""
    page = html[f"lessons/{lesson.name}.html"]
    (answer,) = re.findall(r'<details class="answer">(.*?)</details>\n<nav', page, re.DOTALL)
    assert len(re.sub("<.*?>", "", answer).split()) > 30
    assert all(part in page for part in ("<math", '<pre class="command"', "<table>", 'class="listing code lines"'))
    written = re.sub(r"<(pre|code|desc)\b.*?</\1>", "", page, flags=re.DOTALL)
    assert not re.search(r"\{\{|\{%|\$|\*\*|\]\(|\\[a-z]{2}|tensor\(|\bnan\b|\|---", written)
    for name, line in re.findall(r'href="\.\./source/(\w+)\.html#L(\d+)"', page):
        assert int(line) <= len((source.ROOT / "algos" / f"{name}.py").read_text().splitlines())
    for name in re.findall(r'href="\.\./algorithms/(\w+)\.html"', page):
        assert (source.ROOT / "algos" / f"{name}.py").exists()


def test_missing_record_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none.json is missing; make it with: python -m benchmarks.lessons --record"):
        record.load(tmp_path / "none.json")


# --- Notebooks --------------------------------------------------------------------------------------------------------


@every_lesson
def test_notebook_runs_in_a_plain_namespace(lesson: Lesson, monkeypatch, tmp_path: Path) -> None:
    """Every code cell, in order and from the notebook's own folder, as Jupyter would; but no script is started."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    started = []
    monkeypatch.setattr("subprocess.run", lambda command, **how: started.append(command) or SimpleNamespace(stdout=""))
    root = Path(*[".."] * (len(tmp_path.resolve().parts) - 1)) / source.ROOT.relative_to("/")
    names: dict = {"__name__": "__main__"}
    for kind, text in notebook.cells(lesson, source.load_all(), str(root)):
        if kind == "code":
            exec(compile(text.replace("range(8)", "range(1)"), lesson.name, "exec"), names)  # one update is enough
        else:
            assert not re.search(r"\{\{|\{%|\(algo:|\(lesson:", text)
    assert Path(names["ROOT"]) == source.ROOT
    for command in started:
        assert (source.ROOT / command[1]).exists()


def test_notebooks_are_valid(tmp_path: Path) -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat (tests/requirements.txt)")
    out = tmp_path / "new"
    written = notebook.write(source.load_all(), out)
    assert [path.name for path in written] == [f"{name}.ipynb" for name in NAMES]
    made = nbformat.read(written[0], as_version=4)
    assert [cell.cell_type for cell in made.cells[:3]] == ["markdown", "code", "markdown"]
    first = written[0].read_text()
    notebook.write(source.load_all(), out)
    assert written[0].read_text() == first  # nothing random in it


def test_notebooks_without_nbformat(monkeypatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "nbformat", None)
    with pytest.raises(InputError, match="--notebooks needs nbformat; pip install nbformat"):
        notebook.write(source.load_all(), tmp_path)


def test_blocks_of_a_section() -> None:
    text = "One.\n\n```python run\nx = 1\n```\n```source grpo\nratio\n```\n\nTwo.\n"
    assert source.blocks(text) == [
        Block("text", "One.\n\n"),
        Block("python", "x = 1\n", "run"),
        Block("source", "ratio\n", "grpo"),
        Block("text", "\nTwo.\n"),
    ]
