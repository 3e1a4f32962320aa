"""The comparison through the collapse, read: CLAIMS.md, READINGS.md and figures, from the runs that are kept.

    python -m benchmarks.claims

The runs are those of benchmarks.collapse, the readings those of benchmarks.readings, and what the sentences and tables
say follows from both by rule: CLAIMS.md has the verdicts, READINGS.md what has none. Any part of the runs may be
missing: an arm without any is listed as not run, one seed has no interval and so no verdict. The README shows the first
table between two marks.
"""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from benchmarks import RESULTS as ALL_RESULTS
from benchmarks import ROOT, collapse, figures, sentences
from benchmarks.collapse import (
    ARMS,
    CAUSES,
    ON_POLICY,
    ON_POLICY_SEEDS,
    REGIMES,
    SEEDS,
    STARTED,
    STARTED_PLAN,
    STARTED_SEEDS,
    TIERS,
)
from benchmarks.judging import (
    Judged,
    activity_of,
    against_bases,
    against_controls,
    against_started,
    at_one_update,
    decides,
    family_of,
    number_of_tests,
    planned,
    promises,
    seeds_due,
    tuned_knob,
    would_take,
)
from benchmarks.methods import FAMILIES, METHODS
from benchmarks.readings import (
    LEVEL,
    MARGINS,
    READINGS,
    STOPPED,
    Effect,
    Regime,
    base_of,
    can_be_read,
    column,
    effect,
    ends,
    load,
    load_group,
)
from benchmarks.report import markdown, plus_minus, put_between

RESULTS = ALL_RESULTS / "collapse"
UPDATES = {"off-policy": "eight updates per rollout", "on-policy": "one update per rollout"}


@dataclass
class Args:
    rows: Path = collapse.ROWS
    """the runs, as benchmarks.collapse keeps them"""
    out: Path = RESULTS
    """where the two pages and the figures go; where that is this repository's, the README follows"""


# --- Words and tables -------------------------------------------------------------------------------------------------


def number(found: Effect | None) -> str:
    """An effect with its interval; one seed has none."""
    if found is None or math.isnan(found.mean):
        return ""
    return f"{found.mean:+.3f}" + ("" if math.isnan(found.low) else f" ({found.low:+.3f} to {found.high:+.3f})")


def end_cells(runs: Regime, arm: str) -> list[str]:
    """The primary outcomes of an arm at its last step, mean and spread over seeds."""
    return [plus_minus(run.at(outcome, run.horizon).mean() for run in runs[arm].values()) for outcome in MARGINS]


def first_table(runs: Regime, arms: Iterable[str]) -> list[str]:
    """Where arms end."""
    rows = []
    for arm in arms:
        mine = runs.get(arm, {})
        drawn = f"{np.mean([run.drawn('samples') for run in mine.values()]):,.0f}" if mine else ""
        rows.append((arm, len(mine) or "not run", *(end_cells(runs, arm) if mine else [""] * len(MARGINS)), drawn))
    return markdown(("arm", "seeds", *MARGINS, "samples"), rows)


def knob_words(runs: Regime, arm: str) -> str:
    """The tuned flag with its value."""
    found = tuned_knob(runs, arm)
    return f"{found[0]} {'default' if found[1] == found[2] else found[1]}" if found else ""


def family_table(runs: Regime, regime: str, judged: dict[tuple[str, str], list[Judged]], family: str) -> list[str]:
    """The arms of one family that were run, each outcome with its effect and verdict."""
    rows = []
    for (arm, base), outcomes in judged.items():
        if family_of(arm) == family and arm in runs:
            cells = [f"{number(one.found)} {one.verdict}".strip() for one in outcomes]
            seeds = outcomes[0].found.seeds if outcomes[0].found else f"{len(runs[arm])}, base not run"
            rows.append((arm, base, seeds, *cells, knob_words(runs, arm), activity_of(runs, regime, arm)[1]))
    return markdown(("arm", "less", "seeds", *MARGINS, "knob", "active"), rows) if rows else []


def by_definition() -> str:
    """What the rows off-policy of methods with one update are, and where the fair comparison is."""
    eight, one = (plan["learning_rate"] for plan in REGIMES.values())
    names = sentences.listed(at_one_update())
    return (
        f"{names} make one update by definition (learning rate {one:g}); their rows here hold them against "
        f"{UPDATES['off-policy'].partition(' per')[0]} at {eight:g}, the fair comparison is the on-policy table."
    )


def promise_section(judged: Sequence[Judged]) -> list[str]:
    """The promises of what was run, and how many there are besides."""
    run, rest = [one for one in judged if one.found], [one for one in judged if not one.found]
    words = "Holm's correction is over this table."
    if rest:
        lacking = ", ".join(
            f"{sum(one.regime == regime for one in rest)} {regime}" for regime in dict.fromkeys(o.regime for o in rest)
        )
        words += f" Without a run of the method or of its base: {lacking}, of {len(judged)} promises in all."
    return [f"{words} Off-policy, {by_definition()}\n", *(promise_table(run) if run else []), ""]


def promise_table(judged: Sequence[Judged]) -> list[str]:
    rows = [
        (
            one.regime,
            one.arm,
            one.claim.promise,
            one.words,
            number(one.found),
            one.found.seeds,
            one.verdict,
            one.alone,
            would_take(one, number_of_tests(judged)),
        )
        for one in judged
    ]
    heads = ("regime", "method", "promise", "read here as", "effect (95 %)", "seeds", "verdict")
    return markdown((*heads, "by its own variance", "would take"), rows)


def control_table(runs: Regime, judged: dict[tuple[str, str], list[Judged]]) -> list[str]:
    """Each method less its own control; one that draws at random or shuffles decides about the idea."""
    rows = []
    for (method, control), outcomes in judged.items():
        if all(one.found is None for one in outcomes):
            continue
        differs = [one.found.outcome for one in outcomes if one.says_more]
        if outcomes[0].found.seeds < 2:
            word = "one seed"
        elif differs:
            word = f"differs in {', '.join(differs)}"
        else:
            word = "idea not shown" if decides(control) else "no difference shown"
        rows.append((method, control, outcomes[0].found.seeds, *(number(one.found) for one in outcomes), word))
    return markdown(("method", "less its control", "seeds", *MARGINS, "verdict"), rows) if rows else []


def other_readings(runs: Regime, regime: str) -> list[str]:
    """Effects on all readings but equal steps, and the area under pass@1: without verdicts."""
    rows = []
    for arm in planned(regime):
        if not base_of(arm) or not effect(runs, arm, base_of(arm), "pass@1"):
            continue
        for reading in READINGS:
            if reading != "equal steps" and can_be_read(arm, base_of(arm), reading):
                found = [effect(runs, arm, base_of(arm), outcome, reading) for outcome in MARGINS]
                where = found[0].words.removeprefix("pass@1 ").partition(", less")[0]
                rows.append((arm, where, *map(number, found)))
        area = effect(runs, arm, base_of(arm), "area under pass@1")
        rows.append((arm, "area under pass@1, mean height", number(area), *[""] * (len(MARGINS) - 1)))
    return markdown(("arm, less its base", "read", *MARGINS), rows) if rows else []


def not_of_one_thing(regime: str) -> str:
    """Which arms are not read at equal reward."""
    arms = [arm for arm in planned(regime) if not can_be_read(arm, base_of(arm), "equal reward")]
    return f"Not read at equal reward, which would not be of one thing: {'; '.join(arms)}." if arms else ""


def secondary_table(runs: Regime, regime: str) -> list[str]:
    rows = []
    for arm in planned(regime):
        if mine := [*runs.get(arm, {}).values()]:
            many = plus_minus(run.at("coverage, two and more", run.horizon).mean() for run in mine)
            held = plus_minus(run.record["evaluations"][len(run.steps) - 1]["entropy"] for run in mine)
            length = plus_minus(run.at("response length", run.horizon)[0] for run in mine)
            rows.append((arm, many, held, length, plus_minus(run.at("area under pass@1", 0).mean() for run in mine)))
    heads = ("arm", "coverage, problems of two and more", "entropy, held out", "length", "area under pass@1")
    return markdown(heads, rows) if rows else []


def destruction_table(runs: Regime, regime: str) -> list[str]:
    """Arms with a run that was destroyed or ended itself."""
    rows = []
    for arm in planned(regime):
        mine = runs.get(arm, {}) if arm != STOPPED else {}
        steps = {seed: run.destroyed() for seed, run in mine.items()}
        records = {seed: run.record for seed, run in mine.items() if run.record["ended"]}
        ended = [f"seed {seed}, step {one['steps']}: {one['ended']}" for seed, one in records.items()]
        if ended or any(step is not None for step in steps.values()):
            words = ", ".join(f"seed {seed}: {'never' if step is None else step}" for seed, step in steps.items())
            rows.append((arm, words, "; ".join(ended), METHODS[ARMS[arm][0]].trained_on))
    return markdown(("arm", "step of destruction", "ended itself", "trained on another task"), rows) if rows else []


def tuning_table(args: Args) -> list[str]:
    """Each tuning run that is kept, and whether its value is used."""
    own, rows = collapse.Args(rows=args.rows), []
    for arm in ARMS:
        if collapse.source_of_knob(arm) != arm or not collapse.knob_of(arm)[0]:
            continue
        for job in collapse.tuning_jobs(own, [arm]):
            if job.file(own).exists():
                run = json.loads(job.file(own).read_text())
                last = run["evaluations"][-1]
                entropy = collapse.mean(run["training"]["entropy"][-5:])
                knob, value = job.setting.split("=")
                try:
                    kept = "kept" if str(collapse.tuned(own, arm)[knob]) == value else ""
                except LookupError:
                    kept = "the other is not run"
                rows.append((arm, job.setting, *(f"{last[k]:.3f}" for k in [*MARGINS][:3]), f"{entropy:.3f}", kept))
    return markdown(("arm", "setting", *MARGINS, ""), rows) if rows else []


def started_table(runs: Regime) -> list[str]:
    """Where the arms end that begin at GRPO's checkpoint, and their effects."""
    judged, rows = against_started(runs), []
    for arm in STARTED:
        if mine := runs.get(arm, {}):
            gone = [run.destroyed() for run in mine.values()]
            step = ", ".join("never" if one is None else str(one) for one in gone)
            found = judged.get((arm, base_of(arm)), [])
            effects = [f"{number(one.found)} {one.verdict}".strip() for one in found] or [""] * len(MARGINS)
            cells = [f"{end}; {less}".strip("; ") for end, less in zip(end_cells(runs, arm), effects, strict=True)]
            rows.append((arm, base_of(arm), len(mine), *cells, step))
    return markdown(("arm", "less", "seeds", *MARGINS, "destroyed at"), rows) if rows else []


def causes_table(causes: Regime, runs: Regime) -> list[str]:
    """The methods as they are and with one flag changed, on the seeds of the changed ones."""
    rows = []
    for method in dict.fromkeys(changed.base for _, changed in CAUSES.values()):
        some = {arm: causes[arm] for arm, (_, changed) in CAUSES.items() if changed.base == method and arm in causes}
        usual = {seed: run for seed, run in runs.get(method, {}).items() if any(seed in each for each in some.values())}
        for arm, mine in {method: usual, **some}.items() if some else ():
            for seed, run in mine.items():
                passed = " ".join(f"{run.at('pass@1', step).mean():.2f}" for step in (100, 200, 300, 400))
                entropy = " ".join(f"{run.at('entropy', step)[0]:.2f}" for step in (100, 200, 300, 400))
                gone = run.destroyed()
                last = [f"{run.at(outcome, run.horizon).mean():.3f}" for outcome in ("pass@32", "coverage")]
                rows.append((arm, seed, passed, entropy, *last, "never" if gone is None else gone))
    heads = ("arm", "seed", "pass@1 at 100, 200, 300, 400", "entropy there", "pass@32", "coverage", "destroyed at")
    return markdown(heads, rows) if rows else []


def further_section(args: Args, runs: Regime) -> list[str]:
    """The two groups beside the regimes: from GRPO's checkpoint, and what one flag changes."""
    own, lines = collapse.Args(rows=args.rows), []
    if started := load_group(args.rows, "from-grpo"):
        start = json.loads(collapse.start_job(own, 0).file(own).read_text())
        begin = start["evaluations"][-1]
        words = (
            "nsr, positive_weight and qae live on wrong answers, and the embedded model begins with five wrong in six. "
            f"Here they and their bases begin at GRPO's checkpoint of step {start['steps']} (seed {start['seed']}), "
            f"where pass@1 is {begin['pass@1']:.2f} and pass@32 {begin['pass@32']:.2f}, and go on for "
            f"{STARTED_PLAN['num_steps']} steps off-policy. Each cell: where the arm ends; the difference to its base."
        )
        lines += ["## From GRPO's checkpoint\n", f"{words}\n", *started_table(started), ""]
    if causes := causes_table(load_group(args.rows, "causes"), runs):
        words = (
            "One flag changed, one seed, off-policy; the flags are in `CAUSES` of `collapse.py`. Without verdicts. NSR "
            "with a KL to the initial policy is made with `reinforce_rej.py`, as `nsr.py` has none."
        )
        lines += ["## When NSR, Starter and EntroPIC hold\n", f"{words}\n", *causes, ""]
    return lines


def missing(runs: Regime, regime: str) -> list[str]:
    """What the plan has and no run is kept of."""
    goal = {
        arm: SEEDS[tier] if regime == "off-policy" else ON_POLICY_SEEDS for tier, arms in TIERS.items() for arm in arms
    }
    without = [arm for arm in planned(regime) if arm not in runs and arm != STOPPED]
    few = [
        f"{arm} ({len(runs[arm])} of {goal[arm]})"
        for arm in planned(regime)
        if arm in runs and arm in goal and len(runs[arm]) < goal[arm]
    ]
    lines = [f"- {regime}, not run: {'; '.join(without)}."] if without else []
    return lines + ([f"- {regime}, with fewer seeds than planned: {'; '.join(few)}."] if few else [])


def missing_beside(args: Args) -> list[str]:
    """The same of the groups beside the regimes."""
    started, causes = load_group(args.rows, "from-grpo"), load_group(args.rows, "causes")
    few = [
        f"{arm} ({len(started.get(arm, {}))} of {STARTED_SEEDS})"
        for arm in STARTED
        if len(started.get(arm, {})) < STARTED_SEEDS
    ]
    without = [arm for arm in CAUSES if arm not in causes]
    lines = [f"- from GRPO's checkpoint: {'; '.join(few)}."] if few else []
    return lines + ([f"- of the causes: {'; '.join(without)}."] if without else [])


# --- The page ---------------------------------------------------------------------------------------------------------

HEAD = """# What the papers promise, and what the runs through the collapse show

{sentences}

Written by `python -m benchmarks.claims` from the files under `runs`, as [`PLAN.md`](PLAN.md) says, which was there
before them (later changes are marked there): a model of 0.43 million parameters, countdown, 400 steps of 32 prompts x 8
responses; {made}. It is a toy: evidence about what an idea does here, none against results at 7B or 32B.

An effect is the difference to the base on the same seeds and problems, with its 95 % interval over both; the variance
over seeds is moderated by that of other arms. *Reproduced*, *contradicted*: beyond 0 on the promised or the other side,
after Holm's correction over its table at {level}; *higher*, *lower*: the same where nothing is promised; *small*: the
difference is under the margin. *No effect*: the interval lies inside the margin ({margins}).
Else *inconclusive*. A promise to lose nothing is held against minus the margin instead of 0. *Inactive here*: what
shows a method active is trivial in its runs; its rows count neither in the correction nor above. *By its own variance*:
the verdict without that moderation, where it is another one. *Would take*: the seeds that would decide it, were effect
and variances as estimated, or more problems where a hundred seeds would not do. [`READINGS.md`](READINGS.md) has the
same effects at equal samples, tokens and reward, and how knobs were tuned.
"""

CONTROLS = """![pass@32 against pass@1, of methods and their controls]({regime}-controls-front.png)

![entropy, of methods and their controls]({regime}-controls-entropy.png)

A control answers before the paper does: a method that is not told apart from its own with random selection or shuffled
weights has not shown its idea, whatever it does against its base.
"""

EFFECTS = """![each method less its base]({regime}-effects.png)

Every method that has been run with its base, in one figure; the tables of families below have its numbers, and its
controls. An arrow is beyond the frame; a red one is a destroyed policy.
"""

ENDS = """![pass@32 and pass@1 against entropy]({regime}-ends.png)

Of the arms that keep a policy and train on the task that they are evaluated on; named are GRPO and some of those that
are farthest from the middle.
"""

FRONT = """![pass@32 against pass@1]({regime}-front.png)

Both are of samples at temperature 1, that of the rollouts. At a lower one pass@1 rises and pass@32 falls for the same
policy: points at two temperatures are not of one front.
"""

ENTROPY = """![entropy]({regime}-entropy.png)

A mean over tokens, in which long responses count more; a mean of responses' means is another number wherever length and
entropy go together. Measured on what was drawn, before the update{updates}. At temperature 1; an entropy at another one
is of another distribution. Of all responses drawn: a method that drops groups trains on others{population}.
"""

COVERAGE = """![coverage]({regime}-coverage.png)

Most of these problems have one or two solutions, so this is near pass@64; problems of two and more are among the
[secondary outcomes](READINGS.md).
"""

READINGS_HEAD = """# The comparison through the collapse, read in other ways

What has no verdict: the readings beside equal steps, secondary outcomes, and the tuning of each method's knob. Written
by `python -m benchmarks.claims` beside [`CLAIMS.md`](CLAIMS.md), which says what an effect and its interval are.
"""

PUBLISHED = """## What full scale showed

The paper's own figures, not ours: Cui et al., arXiv 2505.22617, Table 2, Qwen2.5 base models; AIME and AMC are avg@32.
One run each, no spread. The printed averages are not the plain means of the seven columns, which would be 39.1, 39.8,
41.7, 41.1 (7B) and 45.2, 46.5, 50.6, 51.6 (32B).

| | AIME24 | AIME25 | AMC | MATH500 | OMNI | Olympiad | Minerva | average as printed |
|---|---|---|---|---|---|---|---|---|
| 7B GRPO | 21.2 | 9.6 | 58.7 | 78.8 | 27.9 | 40.7 | 36.7 | 38.6 |
| 7B clip-higher | 18.1 | 11.5 | 56.6 | 79.2 | 29.8 | 43.3 | 40.4 | 38.8 |
| 7B Clip-Cov | 22.1 | 15.8 | 58.2 | 80.4 | 30.5 | 44.1 | 41.1 | 40.4 |
| 7B KL-Cov | 22.6 | 12.9 | 61.4 | 80.8 | 29.1 | 42.6 | 38.2 | 40.6 |
| 32B GRPO | 21.8 | 16.2 | 69.7 | 84.2 | 35.2 | 43.6 | 45.5 | 45.8 |
| 32B clip-higher | 35.6 | 22.3 | 69.5 | 77.2 | 35.1 | 42.5 | 43.0 | 47.2 |
| 32B Clip-Cov | 32.3 | 22.7 | 67.2 | 87.0 | 42.0 | 57.2 | 46.0 | 50.3 |
| 32B KL-Cov | 36.8 | 30.8 | 74.5 | 84.6 | 39.1 | 49.0 | 46.3 | 52.2 |"""


def population(runs: Regime) -> str:
    """How far the entropy of what DAPO trains on is from that of all that it draws, where it was run."""
    if "dapo" not in runs:
        return ""
    gaps = [np.nanmean(column(r.record, "policy_entropy") - column(r.record, "entropy")) for r in runs["dapo"].values()]
    return f", and in `dapo`'s runs their entropy is {np.mean(gaps):+.3f} nats off"


def lent(runs: Regime) -> list[str]:
    """What arms lend each other's variance over seeds, and which neither give nor take; of few arms, nothing."""
    found = {outcome: runs.usual(outcome, "equal steps") for outcome in MARGINS}
    freedoms = ", ".join(f"{outcome} {usual.freedom}" for outcome, (usual, _) in found.items())
    apart = "; ".join(f"in {outcome} {', '.join(sorted(arms))}" for outcome, (_, arms) in found.items() if arms)
    if not any(usual.freedom for usual, _ in found.values()):
        return []
    words = f"Degrees of freedom that arms lend each other's variance over seeds, at equal steps: {freedoms}."
    return [words + (f" Too variable to give or take: {apart}." if apart else "") + "\n"]


def titled(title: str, lines: Sequence[str], text: str = "") -> list[str]:
    return [f"### {title}\n", *([f"{text}\n"] if text else []), *lines, ""] if lines else []


def regime_section(runs: Regime, regime: str, out: Path) -> list[str]:
    """The verdicts of one regime: figures with what to mind, families, controls; and which policies were destroyed."""
    title = f"## {regime.capitalize()}: {UPDATES[regime]}\n"
    if not runs:
        return [title, "No run is kept yet.\n"]
    judged = against_bases(runs, regime)
    figures.draw_all(runs, judged, regime, out)
    updates = ": with eight updates a rollout, the policy is another one by the end of a step" * (
        regime == "off-policy"
    )
    also = at_one_update() if regime == "on-policy" else []
    lines = [
        title,
        *([f"{by_definition()}\n"] if regime == "off-policy" else []),
        *lent(runs),
        *([EFFECTS.format(regime=regime)] if figures.measured(judged) else []),
        *([ENDS.format(regime=regime)] if len(ends(runs)) >= figures.FEWEST_ENDS else []),
        FRONT.format(regime=regime),
        ENTROPY.format(regime=regime, updates=updates, population=population(runs)),
        COVERAGE.format(regime=regime),
        *titled(
            "Where the first methods end",
            first_table(runs, dict.fromkeys([*ON_POLICY, *also, STOPPED])),
            f"![pass@32 against pass@1, and entropy, of the first methods]({regime}-first.png)\n\n"
            "Mean ± standard deviation over seeds; samples are all that were drawn.",
        ),
    ]
    for family, about in FAMILIES.items():
        lines += titled(
            f"Family: {family}", family_table(runs, regime, judged, family), f"{about[0].upper()}{about[1:]}."
        )
    lines += titled(
        "Methods less their controls",
        control_table(runs, against_controls(runs, regime)),
        CONTROLS.format(regime=regime).rstrip(),
    )
    return lines + titled(
        "Instability",
        destruction_table(runs, regime),
        "The step of destruction is the first evaluation with pass@1 under half of the start's. What trains on another "
        "task may have forgotten this one instead.",
    )


def made_with(runs: dict[str, Regime]) -> str:
    """torch and commits of the runs."""
    records = [run.record for regime in runs.values() for seeds in regime.values() for run in seeds.values()]
    torches = sorted({record["torch"] for record in records})
    warning = ", WHICH ARE NOT ONE VERSION" if len(torches) > 1 else ""
    return f"torch {', '.join(torches) or '-'}{warning}, one CPU thread a run"


def page(args: Args, runs: dict[str, Regime]) -> str:
    lines = [
        HEAD.format(
            sentences="\n".join(f"- {sentence}" for sentence in sentences.of_all(args.rows, runs)),
            made=made_with(runs),
            level=LEVEL,
            margins=", ".join(f"{outcome} {margin}" for outcome, margin in MARGINS.items()),
        ),
        "## All promises\n",
        *promise_section(promises(runs)),
    ]
    for regime in REGIMES:
        lines += regime_section(runs[regime], regime, args.out)
    lines += further_section(args, runs["off-policy"])
    lines += ["## What was not run\n", *(line for regime in REGIMES for line in missing(runs[regime], regime))]
    lines += missing_beside(args)
    for regime in REGIMES:
        if due := seeds_due(runs[regime], regime):
            lines += [f"- {regime}, two more seeds are due for: {'; '.join(due)}."]
    return "\n".join([*lines, "", PUBLISHED]) + "\n"


def readings_page(args: Args, runs: dict[str, Regime]) -> str:
    """What has no verdict."""
    lines = [READINGS_HEAD]
    for regime in REGIMES:
        lines += [f"## {regime.capitalize()}: {UPDATES[regime]}\n"]
        lines += [] if runs[regime] else ["No run is kept yet.\n"]
        lines += titled("Readings beside equal steps", other_readings(runs[regime], regime), not_of_one_thing(regime))
        lines += titled("Secondary outcomes", secondary_table(runs[regime], regime))
    words = "One flag a method, 100 steps off-policy, seed 101, not used again; the higher pass@1 is kept."
    lines += ["## Tuning\n", f"{words}\n", *(tuning_table(args) or ["No run is kept yet."])]
    return "\n".join(lines) + "\n"


def show_in_readme(args: Args, runs: dict[str, Regime]) -> None:
    """Put the sentences, the figure where there is one, and the first table between the README's two marks."""
    path = f"{RESULTS.relative_to(ROOT)}/off-policy-first.png"
    picture = f"![pass@32 against pass@1, and entropy, of the first methods]({path})\n\n"
    said = "\n".join(f"- {sentence}" for sentence in sentences.of_all(args.rows, runs))
    table = "\n".join(first_table(runs["off-policy"], [*ON_POLICY, STOPPED]))
    put_between(ROOT / "README.md", "claims", f"{said}\n\n{picture * bool(runs['off-policy'])}{table}")


def main(args: Args) -> None:
    args.out.mkdir(parents=True, exist_ok=True)
    runs = load(args.rows)
    (args.out / "CLAIMS.md").write_text(page(args, runs))
    (args.out / "READINGS.md").write_text(readings_page(args, runs))
    if args.out == RESULTS:
        show_in_readme(args, runs)
    print("\n".join(sentences.of_all(args.rows, runs)))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
