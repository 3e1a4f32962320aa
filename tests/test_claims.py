"""benchmarks.claims on made-up runs: any part of them makes a page, its words follow from the numbers by rule."""

import dataclasses
import json
import math
import re
from pathlib import Path

import pytest

from benchmarks import claims, figures, judging, sentences
from benchmarks.claims import Args
from benchmarks.collapse import ARMS, EVERY, ON_POLICY, REGIMES, active_columns, encode
from benchmarks.judging import Judged
from benchmarks.methods import METHODS, Claim
from benchmarks.readings import STOPPED, Effect, Variances, load
from tests.test_readings import record


def keep(rows: Path, arm: str, seeds: int = 3, regime: str = "off-policy", **training) -> None:
    """Runs of an arm, active; those of clip_cov end with one more of four samples right, and a bit more entropy."""
    for seed in range(1, seeds + 1):
        right = [[2, 1], [3, 2], [4 if arm == "clip_cov" else 3, 1]]
        columns = (
            dict.fromkeys(active_columns(EVERY[arm][0]), 0.5)
            | {
                "entropy": 0.2 + 0.001 * seed * (arm == "clip_cov"),
                "length": 14.0,
                "policy_entropy": 0.25,
            }
            | training
        )
        one = record(right, arm, seed, **columns) | {"torch": "2.0", "group": regime, "steps": 100}
        for evaluation in one["evaluations"]:
            evaluation["entropy"] = 0.3
        (rows / regime).mkdir(parents=True, exist_ok=True)
        (rows / regime / f"{arm.replace(', ', '-').replace(' ', '-')}-s{seed}.json").write_text(json.dumps(one))


def made(tmp_path: Path, page: str = "CLAIMS.md") -> str:
    claims.main(Args(rows=tmp_path / "rows", out=tmp_path / "out"))
    return (tmp_path / "out" / page).read_text()


def test_without_runs_there_is_a_page_that_says_so(tmp_path: Path) -> None:
    text = made(tmp_path)
    assert text.count("No run") == 3 and "reproduced |" not in text
    assert "off-policy, not run: grpo; grpo, clip-higher" in text
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"CLAIMS.md", "READINGS.md"}
    assert made(tmp_path, "READINGS.md").count("No run is kept yet.") == 3


def test_any_part_of_the_runs_makes_a_page(tmp_path: Path) -> None:
    """One seed of some, three of others, and a method whose base is missing."""
    keep(tmp_path / "rows", "grpo", 1)
    keep(tmp_path / "rows", "grpo, mixed groups")
    keep(tmp_path / "rows", "clip_cov", **{"algo/selected_ratio": 0.02, "algo/selected_negative_ratio": 0.9})
    keep(tmp_path / "rows", "clip_cov, random selection")
    keep(tmp_path / "rows", "forking_tokens", 1)
    keep(tmp_path / "rows", "opo", 1, "on-policy")
    text = made(tmp_path)
    promised = text.partition("## All promises")[2].partition("## Off-policy")[0]
    assert len(re.findall(r"\n\| o", promised)) == 8 and "| nsr |" not in promised
    assert re.search(r"base: \d+ off-policy, 29 on-policy, of \d+ promises in all", promised)
    assert re.search(
        r"\| opo \| better at equal steps \| pass@1 at step 100, less grpo \| \+0\.000 \| 1 \| one seed", text
    )
    assert re.search(
        r"\| clip_cov \| its tokens.*\+0\.400 \(\+0\.400 to \+0\.400\) \| 3 \| contradicted \| \| \|", text
    )
    assert "| forking_tokens | dapo | 1, base not run |" in text
    assert (
        f"| {STOPPED} | grpo | 1 | -0.000 one seed |" in text or f"| {STOPPED} | grpo | 1 | +0.125 one seed |" in text
    )
    assert "clip_cov (3 of 5)" in text and "grpo (1 of 5)" in text and "forking_tokens (1 of 5)" in text
    names = {f"{regime}-{name}.png" for regime in ("off-policy", "on-policy") for name in (*figures.FIGURES, "first")}
    names |= {f"off-policy-controls-{name}.png" for name in figures.CONTROLLED}  # clip_cov's was run
    names |= {"off-policy-effects.png", "off-policy-ends.png"}  # on-policy there is one arm, and no base
    assert {path.name for path in (tmp_path / "out").glob("*.png")} == names
    shown = text.partition("\n- ")[2].partition("\n\n")[0].split("\n")
    assert 3 <= len(shown) <= 10 and f"6 of the {len(ARMS)} arms" in shown[0]


def test_what_has_no_verdict_is_on_a_page_of_its_own(tmp_path: Path) -> None:
    """clip_cov draws a fifth of its base's responses, ends with 0.125 more pass@1; the base was as good in between."""
    keep(tmp_path / "rows", "grpo, mixed groups", reward=0.5)
    keep(tmp_path / "rows", "clip_cov", reward=0.5, samples=[2 * step for step in range(5, 101, 5)])
    text = made(tmp_path, "READINGS.md")
    other, _, rest = text.partition("## On-policy")[0].partition("### Secondary outcomes")
    found = dict(re.findall(r"\n\| clip_cov \| ([^|]+) \| (\S+) ", other))
    assert found.pop("area under pass@1, mean height") == "+0.031"  # the second half of the steps, 0 to 0.125
    assert found == {
        "after 200 samples": "+0.150",  # the base at step 20, between 3/8 and 5/8
        "after 100 tokens": "+0.125",
        "where reward reaches 0.50": "+0.000",
        "at the best evaluation of each": "+0.000",
    }
    assert re.search(r"\n\| clip_cov \| \S+ ± 0\.000 \| 0\.300 ± 0\.000 \| 14\.000 ± 0\.000 \|", rest)
    claimed = (tmp_path / "out" / "CLAIMS.md").read_text()
    assert "best evaluation of each" not in claimed and "## Tuning" not in claimed


def test_it_is_said_what_arms_lend_each_other(tmp_path: Path) -> None:
    """Four arms of three seeds whose entropies spread alike, and one whose seeds end far apart."""
    for shift, arm in enumerate(("grpo", "dapo", "nsr", "maxrl", "gspo")):
        for seed in (3, 2, 1):  # the last of them keeps what is written for it
            keep(tmp_path / "rows", arm, seed, entropy=0.2 + 0.01 * seed + 1e-4 * seed * shift + seed * (arm == "gspo"))
    page = made(tmp_path)
    assert re.search(r"at equal steps: pass@1 0, pass@32 0, coverage 0, entropy 4\. Too var.*: in entropy gspo\.", page)


def test_a_method_without_its_part_is_a_base_and_not_an_inactive_method(tmp_path: Path) -> None:
    for arm in ("lp_reg", "lp_reg, no penalty"):
        keep(tmp_path / "rows", arm, 1, **{"algo/selected_ratio": 0.0})
    rows = re.findall(r"\n\| (lp_reg[^|]*) \|.*\| ([^|]*) \|(?=\n)", made(tmp_path).partition("### Family: penalty")[2])
    assert rows[:2] == [("lp_reg", "inactive here: selected_ratio 0"), ("lp_reg, no penalty", "lp_reg's base")]


def test_what_does_nothing_at_one_update_is_called_inactive_there_alone(tmp_path: Path) -> None:
    for regime in REGIMES:
        keep(tmp_path / "rows", "kl_cov", 1, regime, **{"algo/selected_ratio": 0.02})
    cells = re.findall(r"\n\| kl_cov \| grpo, mixed groups \|.*\| ([^|]*) \|(?=\n)", made(tmp_path))
    assert cells == ["selected_ratio 0.02", f"inactive here: {METHODS['kl_cov'].inert_at_one_update}"]


def test_words_follow_the_numbers(tmp_path: Path) -> None:
    """clip_cov ends higher by one sample in four of the first problem; its control is where its base is."""
    rows = tmp_path / "rows"
    for arm in ("grpo, mixed groups", "clip_cov", "clip_cov, random selection"):
        keep(rows, arm)
    runs = load(rows)["off-policy"]
    judged = {
        one.found.outcome: one for one in judging.against_bases(runs, "off-policy")["clip_cov", "grpo, mixed groups"]
    }
    assert judged["pass@1"].found.mean == pytest.approx(0.125)
    assert judged["entropy"].found.mean == pytest.approx(0.002)
    same = judging.against_bases(runs, "off-policy")["clip_cov, random selection", "grpo, mixed groups"]
    assert {one.verdict for one in same} == {"no effect"} and not any(one.says_more for one in same)
    [row] = [
        line for line in claims.control_table(runs, judging.against_controls(runs, "off-policy")) if "clip_cov" in line
    ]
    assert row.count("+0.125") == 1


def test_effects_are_said_the_largest_first_and_not_without_end(tmp_path: Path) -> None:
    """Arms of GRPO's family with entropies 0.1, 0.3 and 0.2 above its own, and one that is where it is."""
    for arm, entropy in (("grpo", 0.2), ("dr_grpo", 0.3), ("maxrl", 0.5), ("grpo, rows split", 0.2), ("opo", 0.4)):
        keep(tmp_path / "rows", arm, 2, "on-policy" if arm == "opo" else "off-policy", entropy=entropy)
    runs = load(tmp_path / "rows")["off-policy"]
    [said] = sentences.of_effects(runs)
    assert said == "Beside its base at the end, entropy is higher for `maxrl`, `opo` and `dr_grpo`."
    del runs["maxrl"], runs["opo"], runs["dr_grpo"]
    assert [*sentences.of_effects(runs)] == ["Beside its base at the end, no arm differs after the correction."]
    assert sentences.listed("abcdef") == "`a`, `b`, `c`, `d`, `e` and `f`"
    assert sentences.listed("abcdefgh") == "`a`, `b`, `c`, `d`, `e` and 3 more" and sentences.listed("") == "none"


def test_a_method_that_is_its_control_has_not_shown_its_idea(tmp_path: Path) -> None:
    for arm in ("kl_cov", "kl_cov, random selection", "kl_cov, annealed", "grpo, mixed groups"):
        keep(tmp_path / "rows", arm)
    runs = load(tmp_path / "rows")["off-policy"]
    table = "\n".join(claims.control_table(runs, judging.against_controls(runs, "off-policy")))
    assert re.search(r"kl_cov, random selection .* idea not shown \|", table)
    assert re.search(r"kl_cov, annealed .* no difference shown \|", table)
    [said] = sentences.of_controls(runs)
    assert said == "Of 1 method held against random selection or shuffled weights, 0 are told apart from it: none."


def test_methods_that_are_more_than_their_controls_are_named(tmp_path: Path) -> None:
    for arm in ("clip_v", "clip_v, random selection", "clip_b", "clip_b, random selection"):
        for seed in (3, 2, 1):  # each writes those below it too
            keep(tmp_path / "rows", arm, seed, entropy=0.2 + 0.01 * seed + 0.3 * (arm == "clip_v"))
    [said] = sentences.of_controls(load(tmp_path / "rows")["off-policy"])
    assert said.endswith("weights, 1 is told apart from it: `clip_v` (entropy +0.30).")


def test_seeds_are_due_where_three_do_not_decide(tmp_path: Path) -> None:
    """An inconclusive effect within twice the margin; what is conclusive, far, or has other numbers of seeds is not."""
    rows = tmp_path / "rows"
    for arm, seeds in (("grpo", 5), ("maxrl", 3), ("passk", 3), ("grpo, token mean, clip-higher", 2), ("sapo", 5)):
        keep(rows, arm, seeds)
    for path in (rows / "off-policy" / f"{arm}-s{seed}.json" for arm in ("maxrl", "sapo") for seed in (1, 2, 3)):
        one = json.loads(path.read_text())
        one["training"]["entropy"] = [0.18 + 0.02 * one["seed"]] * 20
        path.write_text(json.dumps(one))
    assert judging.seeds_due(load(rows)["off-policy"], "off-policy") == ["maxrl (entropy)"]
    (rows / "on-policy").mkdir()
    for arm in ("grpo", "opefo"):  # which makes one update: its fair comparison is there
        for seed in (1, 2, 3):
            keep(rows, arm, 1, "on-policy", entropy=0.18 + 0.02 * seed if arm == "opefo" else 0.2)
            path = rows / "on-policy" / f"{arm}-s1.json"
            one = json.loads(path.read_text()) | {"seed": seed}
            path.with_name(f"{arm}-seed{seed}.json").write_text(json.dumps(one))
            path.unlink()
    assert judging.seeds_due(load(rows)["on-policy"], "on-policy") == ["opefo (entropy)"]
    assert "- on-policy, two more seeds are due for: opefo (entropy)." in made(tmp_path)


def test_destroyed_and_ended_runs_are_shown(tmp_path: Path) -> None:
    """heal trains mostly on another task than it is evaluated on, and it is said that it does."""
    for arm in ("grpo", "heal"):
        keep(tmp_path / "rows", arm, 1)
        path = tmp_path / "rows" / "off-policy" / f"{arm}-s1.json"
        one = record([[4, 4], [4, 3], [1, 2]], arm, length=14.0)
        one |= {"torch": "2.1", "steps": 100, "ended": "error: not finite"}
        for evaluation in one["evaluations"]:
            evaluation["entropy"] = 0.3
        path.write_text(json.dumps(one))
    keep(tmp_path / "rows", "nsr", 1)
    text = made(tmp_path)
    assert "| grpo | seed 1: 100 | seed 1, step 100: error: not finite | |" in text
    assert re.search(
        r"\| heal \| seed 1: 100 \| .* not finite \| 12 problems of two numbers for each of three \|", text
    )
    assert (
        "Runs with pass@1 under half of the start's: `grpo` (1 of 1 run, from step 100), `heal` (1 of 1 run, from step "
        "100, trained on 12 problems of two numbers for each of three)."
    ) in text
    assert "2.0, 2.1, WHICH ARE NOT ONE VERSION" in text


def test_a_verdict_on_a_destroyed_policy_says_so(tmp_path: Path) -> None:
    """nsr's policies end with one right answer of eight, and with all their entropy."""
    keep(tmp_path / "rows", "grpo", 2)
    keep(tmp_path / "rows", "nsr", 2)
    before = [one.verdict for one in judging.promises(load(tmp_path / "rows")) if one.found and one.arm == "nsr"]
    for path in (tmp_path / "rows" / "off-policy").glob("nsr*.json"):
        run = json.loads(path.read_text())
        ruined = record([[2, 1], [1, 0], [1, 0]], "nsr", run["seed"])
        path.write_text(json.dumps(run | {"evaluations": ruined["evaluations"], "total": ruined["total"]}))
    after = [one.verdict for one in judging.promises(load(tmp_path / "rows")) if one.found and one.arm == "nsr"]
    assert before and not any(verdict.endswith(judging.DESTROYED) for verdict in before)
    assert after and all(verdict.endswith(judging.DESTROYED) for verdict in after)
    families = judging.against_bases(load(tmp_path / "rows")["off-policy"], "off-policy")
    assert all(one.verdict.endswith(judging.DESTROYED) for one in families["nsr", "grpo"])
    assert not any(one.verdict.endswith(judging.DESTROYED) for one in families[STOPPED, "grpo"])


def test_groups_beside_the_regimes_have_tables_of_their_own(tmp_path: Path) -> None:
    """From GRPO's checkpoint, whose own run is none of the arms, and with a flag changed: nothing is promised there."""
    rows = tmp_path / "rows"
    keep(rows, "grpo", 2)
    keep(rows, "nsr", 2)
    keep(rows, "nsr, clip 0.05", 1, "causes")
    usual = made(tmp_path)
    for arm in ("grpo", "nsr"):
        keep(rows, arm, 2, "from-grpo")
    start = record([[1, 1], [2, 1]], "grpo", 201) | {"setting": "start", "steps": 50}
    start["evaluations"][-1] |= {"pass@1": 0.375, "pass@32": 0.9}
    (rows / "from-grpo" / "grpo-start-s201.json").write_text(json.dumps(start))
    text = made(tmp_path)
    assert "GRPO's checkpoint of step 50 (seed 201), where pass@1 is 0.38 and pass@32 0.90" in text
    table = text.partition("## From GRPO's checkpoint")[2].partition("## When")[0]
    assert re.search(r"\| grpo \| \| 2 \| 0\.500 ± 0\.000 \|.*\| never, never \|", table)
    assert re.search(r"\| nsr \| grpo \| 2 \| 0\.500 ± 0\.000; \+0\.000 \(.*\) no effect \|", table)
    causes = text.partition("## When NSR, Starter and EntroPIC hold")[2].partition("## What")[0]
    assert re.findall(r"\n\| (nsr[^|]*) \| (\d)", causes) == [("nsr", "1"), ("nsr, clip 0.05", "1")]
    assert "- from GRPO's checkpoint: grpo (2 of 3); grpo, token mean (0 of 3)" in text
    assert "nsr, learning rate 3e-5; nsr, positive weight 0.5" in text

    def promised(page: str) -> str:
        return page.partition("## All promises")[2].partition("## Off-policy")[0]

    assert promised(text) == promised(usual)
    assert (
        "From GRPO's checkpoint (pass@1 0.38) `nsr` ends at 0.50 where GRPO goes on to 0.50 (no effect); 0 of 2 runs"
        in text
    )


def test_who_ends_highest_is_said_of_arms_with_as_many_seeds(tmp_path: Path) -> None:
    """clip_cov ends with seven of eight right; forking_tokens would tie it, and has one seed."""
    for arm, seeds in (("grpo", 3), ("clip_cov", 2), ("forking_tokens", 1)):
        keep(tmp_path / "rows", arm, seeds)
    text = made(tmp_path)
    assert "Of 2 arms with 2 seeds or more, the highest mean at the end has `clip_cov` in pass@1 (0.62)" in text
    assert "dynamic sampling draws" not in text and "correlates" not in text  # of three arms it would say little
    keep(tmp_path / "rows", "dapo", 2, samples=[15 * step for step in range(5, 101, 5)])
    assert "; dynamic sampling draws GRPO's samples times 1.5 (`dapo`)." in made(tmp_path)
    for arm, times in (("kl_cov", 30), ("grpo, mixed groups", 20)):
        keep(tmp_path / "rows", arm, 2, samples=[times * step for step in range(5, 101, 5)])
    assert "draws GRPO's samples times 1.5 (`dapo`) to 3.0 (`kl_cov`)." in made(tmp_path)


def test_it_is_said_whether_entropy_goes_with_what_many_samples_find(tmp_path: Path) -> None:
    """Of ten arms one has the most entropy and the lowest pass@32; heal, which trains elsewhere, is not among them."""
    arms = [arm for arm in ARMS if ", " not in arm and arm != "opo"][:9]
    for index, arm in enumerate([*arms, "heal", "sapo"]):
        keep(tmp_path / "rows", arm, 1, entropy=0.1 + 0.01 * index)
        path = tmp_path / "rows" / "off-policy" / f"{arm}-s1.json"
        one = json.loads(path.read_text())
        lost = 10 if arm == "sapo" else 9 - index
        one["flags"]["eval_samples"], one["evaluations"][-1]["right"] = 64, encode([12, 12 - lost])
        path.write_text(json.dumps(one))
    far = "The farthest off is `sapo`, with an entropy of 0.20 and pass@32 of"
    assert re.search(
        rf"Over 10 arms that keep a policy, entropy at the end correlates \+0\.45 with .*{far}", made(tmp_path)
    )


def test_correlations_are_given_at_equal_samples_too(tmp_path: Path) -> None:
    """Arms of more entropy end worse at k = 1, as they draw less; where all have drawn as much they are alike."""
    for index, arm in enumerate([arm for arm in ARMS if ", " not in arm and arm not in ("opo", "heal")][:10]):
        drawn = [(20 - index) * step for step in range(5, 101, 5)]
        keep(tmp_path / "rows", arm, 1, entropy=0.1 + 0.01 * index, samples=drawn)
        path = tmp_path / "rows" / "off-policy" / f"{arm}-s1.json"
        one = json.loads(path.read_text())
        one["flags"]["eval_samples"] = 64
        for evaluation in one["evaluations"]:  # 0.1 for each thousand samples
            evaluation["right"] = encode([round(0.0064 * (20 - index) * evaluation["step"])] * 2)
        path.write_text(json.dumps(one))
    [said] = sentences.of_entropy(load(tmp_path / "rows")["off-policy"])
    assert re.search(r"and -0\.99 with pass@1 \(Spearman\); where each has drawn 1,100 samples, ", said)
    assert "with pass@1, which is not told from 0." in said


def test_the_law_is_said_of_runs_that_are_long_enough(tmp_path: Path) -> None:
    """Of a reward that follows the entropy by the law the forecast is exact, and the reward at that point is not."""
    entropy = [0.3 - 0.01 * window for window in range(20)]
    reward = [2 - 1.4 * math.exp(value) for value in entropy]
    for arm in ("grpo", "dapo"):
        keep(tmp_path / "rows", arm, 1, entropy=entropy, reward=reward)
    assert re.search(r"median of 2 runs\).*told the entropy at the end, by 0\.00\.", made(tmp_path))


def test_the_value_that_is_kept_is_shown(tmp_path: Path) -> None:
    folder = tmp_path / "rows" / "tuning"
    folder.mkdir(parents=True)
    for value, right in ((0.02, [3, 3]), (0.1, [2, 2])):
        one = record([[1, 1], right], "kl_cov", 101) | {"ended": None}
        one["evaluations"][-1] |= {"pass@1": right[0] / 4, "pass@32": 0.9, "coverage": 0.8}
        (folder / f"kl_cov-kl_cov_ratio={value}-s101.json").write_text(json.dumps(one))
    (folder / "nsr-positive_weight=0.1-s101.json").write_text(
        (folder / "kl_cov-kl_cov_ratio=0.1-s101.json").read_text()
    )
    text = made(tmp_path, "READINGS.md")
    assert "| kl_cov | kl_cov_ratio=0.02 | 0.750 | 0.900 | 0.800 | 0.200 | kept |" in text
    assert "| kl_cov | kl_cov_ratio=0.1 | 0.500 | 0.900 | 0.800 | 0.200 | |" in text
    assert "| nsr | positive_weight=0.1 | 0.500 | 0.900 | 0.800 | 0.200 | the other is not run |" in text


def test_readme_shows_the_first_table_of_the_page() -> None:
    """Numbers in the README are those of the last report; where nothing was run, it says so."""
    shown = (claims.ROOT / "README.md").read_text().partition("<!-- claims -->")[2].partition("<!-- /claims -->")[0]
    page = (claims.RESULTS / "CLAIMS.md").read_text().partition("## Off-policy")[2].partition("## On-policy")[0]
    rows = [line for line in shown.splitlines() if line.startswith("| ")]
    assert len(rows) == 2 + len(ON_POLICY)
    for row in rows[1:]:
        assert row in page or "| not run |" in row
    picture = re.search(r"!\[.*\]\((.*)\)", shown)
    assert bool(picture) == ("No run is kept yet" not in page) and (not picture or (claims.ROOT / picture[1]).exists())


def test_what_an_inconclusive_effect_would_take() -> None:
    """Seeds; more problems where a hundred would not do and problems count; nothing where it is decided."""

    def judged(verdict: str, outcome: str, mean: float = 0.0, of_problems: float = 0.0) -> Judged:
        found = Effect(mean, -0.1, 0.12, 0.5, 3, outcome, variances=Variances(3, 1e-4, of_problems))
        return Judged("off-policy", "dapo", "grpo", found, verdict)

    # t(n - 1) sqrt(3e-4 / n) is 0.0215 with five seeds, 0.0182 with six
    assert judging.would_take(judged("inconclusive", "pass@1"), 1) == "6 seeds"
    assert judging.would_take(judged("inconclusive, policy destroyed", "coverage"), 1) == "4 seeds"
    assert judging.would_take(judged("inconclusive", "pass@1", of_problems=1e-3), 1) == "more problems"
    assert judging.would_take(judged("no effect", "pass@1"), 1) == ""
    share = "share of selected tokens with A < 0, less 1/2"  # has no margin
    assert judging.would_take(judged("inconclusive", share, mean=0.0214), 1) == "6 seeds"
    assert judging.would_take(judged("inconclusive", share, mean=0.0214), 20) == "11 seeds"  # t(10) is 4.0
    assert judging.would_take(judged("inconclusive", share), 1) == "over 100 seeds"
    assert (
        judging.number_of_tests([judged("no effect", share), dataclasses.replace(judged("", share), found=None)]) == 1
    )


def test_a_verdict_that_needs_the_other_arms_says_so(tmp_path: Path) -> None:
    """gmpo's three seeds lie further apart than those of the others."""
    for arm, seeds in {
        "gmpo": (0.18, 0.22, 0.26),
        "grpo": (0.10, 0.11, 0.12),
        "sapo": (0.20, 0.21, 0.22),
        "gspo": (0.14, 0.12, 0.10),
        "maxrl": (0.10, 0.12, 0.11),
        "grpo, token mean": (0.10, 0.11, 0.13),
    }.items():
        for seed, entropy in enumerate(seeds, 1):
            keep(tmp_path / "rows", arm, 1, entropy=entropy)
            path = tmp_path / "rows" / "off-policy" / f"{arm.replace(', ', '-').replace(' ', '-')}-s1.json"
            one = json.loads(path.read_text()) | {"seed": seed}
            path.with_name(path.name.replace("-s1.", f"-seed{seed}.")).write_text(json.dumps(one))
            path.unlink()
    judged = {
        one.arm: one
        for one in judging.promises(load(tmp_path / "rows"))
        if one.found and one.claim.outcome == "entropy" and one.claim.reading == "equal steps"
    }
    assert (judged["gmpo"].verdict, judged["gmpo"].alone) == ("reproduced", "inconclusive")
    text = made(tmp_path)
    assert re.search(r"\| gmpo \| entropy does not.*at step 100.*\| reproduced \| inconclusive \| \|", text)


def test_what_a_destroyed_policy_keeps_is_not_counted_as_reproduced() -> None:
    def judged(arm: str, verdict: str, promise: str = "more", **about: str) -> Judged:
        found = Effect(0.3, 0.2, 0.4, 0.01, 3, "entropy", variances=Variances(3, 1e-4))
        return Judged("off-policy", arm, "grpo", found, verdict, Claim(promise, "entropy"), **about)

    some = [
        judged("clip_cov", "reproduced", "steady (abstract)"),
        judged("maxrl", "reproduced", alone="inconclusive"),
        judged("sapo", "reproduced"),
        judged("nsr", "reproduced, small, policy destroyed"),
        judged("nsr", "contradicted, policy destroyed", "as good"),
        judged("dapo", "inconclusive"),
        judged("bapo", "inconclusive, inactive here", counts=False),
    ]
    [said] = sentences.of_promises(some)
    assert said.startswith(
        "Of 6 promises with two or more seeds (1 more are of methods that are inactive there), 3 are reproduced (2 of "
        "them also by the variance of their own seeds alone, as first planned): *more* (`maxrl` and `sapo`), *steady* "
        "(`clip_cov`); 1 is reproduced by a destroyed policy: *more* (`nsr`); 1 is contradicted: *as good* (`nsr`); 1 "
        "is inconclusive"
    )


def test_what_a_hundred_seeds_would_not_decide_is_counted() -> None:
    """Whether it is the problems that are few, or the seeds that would have to be more."""
    share = "share of selected tokens with A < 0, less 1/2"
    found = [
        Effect(0.0, -1, 1, 0.5, 3, outcome, variances=Variances(3, 1e-4, of))
        for outcome, of in ((share, 0), ("pass@1", 1))
    ]
    some = [Judged("off-policy", "dapo", "", one, "inconclusive", Claim("", one.outcome)) for one in found]
    [said] = sentences.of_promises(some)
    assert said.endswith("2 are inconclusive; for 2 of these a hundred seeds would not do.")


def test_a_method_that_does_nothing_keeps_no_promise(tmp_path: Path) -> None:
    """bapo's entropy is 0.3 above its base's, while its bounds stand where they start: it is not by them."""
    rows = tmp_path / "rows"
    for seed in (3, 2, 1):
        keep(rows, "grpo, token mean", seed, entropy=0.2 + 0.001 * seed)
        keep(rows, "bapo", seed, entropy=0.5 + 0.001 * seed, **{"algo/clip_low": 0.6, "algo/clip_high": 1.2})

    def judged() -> dict[str, Judged]:
        return {o.claim.reading: o for o in judging.promises(load(rows)) if o.found and o.claim.outcome == "entropy"}

    idle = judged()["equal steps"]
    assert idle.verdict == "inconclusive, inactive here" and not idle.counts and judging.would_take(idle, 1) == ""
    assert judging.number_of_tests(judging.promises(load(rows))) == 0 and not [*sentences.of_promises([idle])]
    text = made(tmp_path)
    assert "| inactive here: clip_low 0.6 (start 0.6), clip_high 1.2 (start 1.2) |" in text
    table = judging.against_bases(load(rows)["off-policy"], "off-policy")["bapo", "grpo, token mean"]
    assert [one.verdict.endswith(judging.INACTIVE) for one in table] == [True] * 4
    for seed in (3, 2, 1):
        keep(rows, "bapo", seed, entropy=0.5 + 0.001 * seed, **{"algo/clip_low": 0.7, "algo/clip_high": 1.2})
    assert judged()["equal steps"].verdict == "reproduced"


def test_what_an_inactive_method_selects_counts_all_the_same(tmp_path: Path) -> None:
    for arm in ("kl_cov", "grpo, mixed groups"):
        keep(
            tmp_path / "rows", arm, 3, "on-policy", **{"algo/selected_ratio": 0.02, "algo/selected_negative_ratio": 0.9}
        )
    found = {one.claim.outcome: one for one in judging.promises(load(tmp_path / "rows")) if one.found}
    share = found.pop("share of selected tokens with A < 0, less 1/2")
    assert share.verdict == "contradicted" and share.counts
    assert found and all(one.verdict.endswith(judging.INACTIVE) and not one.counts for one in found.values())


def test_what_makes_one_update_by_definition_stands_on_policy_too(tmp_path: Path) -> None:
    """And off-policy it is said what its rows are held against."""
    for arm in ("grpo", "opefo"):
        keep(tmp_path / "rows", arm, 2, "on-policy")
    keep(tmp_path / "rows", "grpo", 2)
    text = made(tmp_path)
    promised, _, rest = text.partition("## Off-policy")
    off, _, on = rest.partition("## On-policy")
    assert promised.count("| on-policy | opefo |") == promised.count("| off-policy | opefo |") == 3
    assert "| opefo | grpo | 2 |" in on and "\n| opefo | 2 |" in on.partition("### Family")[0]
    words = "`opo` and `opefo` make one update by definition (learning rate 0.0003); their rows here hold them against"
    assert words in promised and words in off and words not in on
    assert "\n| opefo | 2 |" not in off.partition("### Family")[0]


def test_the_tuned_knob_is_shown_beside_its_effects(tmp_path: Path) -> None:
    for arm in ("grpo", "sapo", "gmpo", "maxrl"):
        keep(tmp_path / "rows", arm, 1)
    for arm, knob, value in (("sapo", "tau_pos", 5.0), ("gmpo", "clip_ratio_high", 0.05)):
        path = tmp_path / "rows" / "off-policy" / f"{arm}-s1.json"
        one = json.loads(path.read_text())
        one["flags"][knob] = value
        path.write_text(json.dumps(one))
    cells = dict(re.findall(r"\n\| (sapo|gmpo|maxrl) \| grpo \|.*\| ([^|]*) \| [^|]* \|(?=\n)", made(tmp_path)))
    assert cells["sapo"] == "tau_pos 5.0" and cells["gmpo"] == "clip_ratio_high default"
    assert judging.tuned_knob(load(tmp_path / "rows")["off-policy"], "sapo") == ("tau_pos", 5.0, 20.0)
    assert judging.tuned_knob(load(tmp_path / "rows")["off-policy"], STOPPED) is None


def test_grpo_stopped_at_its_best_has_the_length_that_it_had_there(tmp_path: Path) -> None:
    """Of 100 steps the best evaluation is that of step 50."""
    keep(tmp_path / "rows", "grpo", 1, length=[12.0] * 10 + [16.0] * 10)
    path = tmp_path / "rows" / "off-policy" / "grpo-s1.json"
    one = json.loads(path.read_text())
    one["evaluations"][-1]["right"] = encode([1, 1])
    path.write_text(json.dumps(one))
    table = made(tmp_path, "READINGS.md").partition("### Secondary outcomes")[2]
    lengths = dict(re.findall(r"\n\| (grpo[^|]*) \| [^|]+ \| [^|]+ \| ([^|]+) \|", table))
    assert lengths == {"grpo": "16.000", STOPPED: "12.000"}
