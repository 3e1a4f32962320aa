"""What the comparison's runs teach about a policy of the embedded model's size, as limits that `doctor` reads.

    python -m benchmarks.evidence                  # from all kept runs: benchmarks/results/collapse/evidence.json

Two lessons, each with the runs that it comes from, and neither where fewer than LEAST runs speak:

- Past recovery: the highest entropy such that, of the runs that came so low with LATER evaluations or more still to
  come, at most one in ten gained more than the margin of PLAN.md afterwards, in pass@1 or in pass@32, where runs of
  the same regime above it gained more often from the same steps; and so at every lower level that enough runs have
  come to. A run that has little time left gains little at any entropy, so what is low only at the end is no limit.
- Signs of destruction: what a training metric shows in no window of a sound run, by a tenth of what those span, and in
  at least half of the destroyed ones before they were. Destroyed is, as in PLAN.md, a run with an evaluation at which
  pass@1 is under half of the start's, and one that ended because its updates were not finite.

Entropy is that of the rollouts, nats per token; it and all metrics are means over windows of five steps.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tyro

from benchmarks import HERE, RESULTS
from benchmarks.collapse import COLUMNS
from benchmarks.law import kept_runs
from benchmarks.readings import column
from benchmarks.report import number_word, put_between

EVIDENCE = RESULTS / "collapse" / "evidence.json"
LEAST = 10  # runs behind a limit, and above it
LATER = 2  # evaluations after the one at which a run is low, so that it could still gain
LEVEL = 0.05  # of a one-sided test that runs below gain less often
MARGINS = {"pass@1": 0.02, "pass@32": 0.04}
EXCEPTIONS = 0.1  # share of runs that may have recovered from beyond a level
ROOM = 0.1  # of the span of sound runs, beyond which a number is no accident
# Column -> on which side a sign lies.
SIGNS = {
    "reward": "below",
    "entropy": "above",
    "length": "above",
    "truncated": "above",
    "all_wrong": "above",
    "approx_kl": "above",
    "grad_norm": "above",
}
WORDS = {
    "reward": "reward",
    "entropy": "entropy",
    "length": "response length",
    "truncated": "the share of truncated responses",
    "all_wrong": "the share of groups that are all wrong",
    "approx_kl": "the policy's move within a rollout (approx_kl)",
    "grad_norm": "the gradient's norm",
}
LOST = {"pass@1": "learning over", "pass@32": "breadth gone"}  # the finding's name


@dataclass
class Args:
    rows: Path = RESULTS / "collapse" / "runs"
    """where benchmarks.collapse keeps its runs"""
    out: Path = EVIDENCE


# --- From the runs ----------------------------------------------------------------------------------------------------


def origin(records: Sequence[dict]) -> dict:
    """Which runs these are."""
    return {
        "runs": len(records),
        "arms": len({record["arm"] for record in records}),
        "regimes": sorted({record["group"] for record in records}),
        "seeds": sorted({record["seed"] for record in records}),
    }


Descent = list[tuple[tuple[str, int], float, bool]]  # of a run: (regime, step), entropy there, whether it gained after


def descent(record: dict, outcome: str) -> Descent:
    """Each evaluation but the first that has LATER others after it; gained: a later one is higher by the margin."""
    entropy = dict(zip(record["training"]["step"], column(record, "entropy"), strict=True))
    values = [evaluation[outcome] for evaluation in record["evaluations"]]
    steps = [evaluation["step"] for evaluation in record["evaluations"]]
    return [
        ((record["group"], steps[i]), entropy[steps[i]], max(values[i + 1 :]) - values[i] > MARGINS[outcome])
        for i in range(1, len(values) - LATER)
        if np.isfinite(entropy[steps[i]])
    ]


def below_and_above(runs: Sequence[Descent], level: float) -> list[tuple[bool, float]]:
    """Of each run that came to the level, (whether it gained, the share that did of runs above it at that step).

    It counts from the first evaluation at the level or below; where fewer than LEAST runs are above, it does not.
    """
    first = [next((one for one in run if one[1] <= level), None) for run in runs]
    above: dict[tuple[str, int], list[bool]] = {one[0]: [] for one in first if one}
    for when, entropy, gained in (one for run in runs for one in run):
        if when in above and entropy > level:
            above[when].append(gained)
    return [(one[2], float(np.mean(above[one[0]]))) for one in first if one and len(above[one[0]]) >= LEAST]


def chance(shares: Iterable[float], most: int) -> float:
    """That at most so many of independent events with these probabilities happen."""
    counts = np.ones(1)  # the probability of 0, 1, ... events
    for share in shares:
        counts = np.convolve(counts, (1 - share, share))
    return float(counts[: most + 1].sum())


def recovery(records: Sequence[dict], outcome: str) -> dict:
    """The `entropy` from which on nearly no run gains, None if there is no such level; and what was seen.

    `runs` came to the level `at`, `recovered` of them gained, and `expected` had they gained as often as runs above it:
    at the limit, or at the lowest level that LEAST runs have come to. The test goes from the lowest level up and ends
    at the first that is no limit, so that one level is enough for it.
    """
    runs = [descent(record, outcome) for record in records]
    found = {"margin": MARGINS[outcome], "entropy": None, "at": None, "runs": 0, "recovered": 0, "expected": 0.0}
    for level in sorted({entropy for run in runs for _, entropy, _ in run}):
        pairs = below_and_above(runs, level)
        if len(pairs) < LEAST:
            continue
        gained, shares = zip(*pairs, strict=True)
        seen = {"at": level, "runs": len(pairs), "recovered": sum(gained), "expected": round(sum(shares), 1)}
        if sum(gained) > EXCEPTIONS * len(pairs) or chance(shares, sum(gained)) > LEVEL:
            return found if found["runs"] else found | seen
        found |= seen | {"entropy": level}
    return found


def destroyed_at(record: dict) -> int | None:
    """The step of the first evaluation with pass@1 under half of the start's, or of the end of a run that broke off."""
    start = record["evaluations"][0]["pass@1"]
    steps = [evaluation["step"] for evaluation in record["evaluations"] if evaluation["pass@1"] < start / 2]
    return next(iter(steps), record["steps"] if record["ended"] else None)


def beyond(values: np.ndarray, side: str, limit: float) -> np.ndarray:
    return values > limit if side == "above" else values < limit


def destruction(records: Sequence[dict]) -> dict:
    """The signs, with their limits, in how many destroyed runs they were seen and the median of steps before."""
    ends = [destroyed_at(record) for record in records]
    sound = [record for record, end in zip(records, ends, strict=True) if end is None]
    lost = [(record, end) for record, end in zip(records, ends, strict=True) if end is not None]
    signs = {}
    for name, side in SIGNS.items() if len(sound) >= LEAST else ():
        seen = np.concatenate([column(record, name) for record in sound])
        low, high = float(np.nanmin(seen)), float(np.nanmax(seen))
        limit = high + ROOM * (high - low) if side == "above" else low - ROOM * (high - low)
        before = []
        for record, end in lost:
            steps = column(record, "step")
            shown = steps[beyond(column(record, name), side, limit) & (steps <= end)]
            before += [end - shown[0]] if len(shown) else []
        if before and 2 * len(before) >= len(lost):
            signs[name] = {"limit": limit, "seen_in": len(before), "steps_before": float(np.median(before))}
    names = [f"{record['group']}, {record['arm']}, seed {record['seed']}, step {end}" for record, end in lost]
    return {"destroyed": names, "sound": len(sound), "signs": signs}


def derive(records: Sequence[dict]) -> dict:
    """All that evidence.json holds."""
    return origin(records) | {
        "recovery": {outcome: recovery(records, outcome) for outcome in MARGINS},
        "destruction": destruction(records),
    }


# --- In words ---------------------------------------------------------------------------------------------------------


def where_from(evidence: dict) -> str:
    """Which runs the limits come from, and what they say nothing of, in a sentence."""
    if not evidence["runs"]:
        return "no run of the comparison is kept yet, so nothing is known of recovery and destruction"
    seeds = ", ".join(map(str, evidence["seeds"]))
    regimes = " and ".join(evidence["regimes"])
    counts = f"{number_word(evidence['runs'], 'run')} of {number_word(evidence['arms'], 'arm')}"
    parts = [f"from {counts} on countdown ({regimes}, seeds {seeds})"]
    for outcome, found in evidence["recovery"].items():
        if found["entropy"] is None:
            parts.append(f"no entropy is a limit to {outcome}: {seen(found)}")
    lost = evidence["destruction"]
    if not lost["signs"]:
        parts.append(
            f"no sign tells the {number_word(len(lost['destroyed']), 'destroyed run')} from {lost['sound']} sound"
        )
    return "; ".join(parts)


def sentence(evidence: dict) -> str:
    text = where_from(evidence)
    return f"{text[0].upper()}{text[1:]}."


def seen(found: dict) -> str:
    """What became of the runs that were lowest, beside those above them at the same steps."""
    if not found["runs"]:
        return f"fewer than {LEAST} runs came low while as many were above them"
    return (
        f"of the {found['runs']} runs that came to {found['at']:.3f}, {found['recovered']} gained more than "
        f"{found['margin']} afterwards, where {found['expected']:g} would have had they gained as often as runs above "
        "them at the same steps"
    )


def has_limits(evidence: dict) -> bool:
    """Whether there is anything that a run could be beyond."""
    levels = [found["entropy"] for found in evidence["recovery"].values()]
    return bool(evidence["destruction"]["signs"]) or levels != [None] * len(levels)


def applies(args: dict) -> bool:
    """The limits are in nats and tokens of one model on one task."""
    return args.get("model") is None and str(args.get("task")).partition(":")[0] == "countdown"


def lessons(records: Sequence[dict], evidence: dict) -> dict[str, str]:
    """Name -> one sentence, for each limit that the last five of these training records are beyond on average."""
    rows = [record for record in records if "rollout/reward" in record][-5:]

    def now(name: str) -> float:
        values = [row.get(COLUMNS[name]) for row in rows]
        return float(np.mean(values)) if len(rows) == 5 and None not in values else float("nan")

    found = {}
    for outcome, level in evidence["recovery"].items():
        if level["entropy"] is not None and now("entropy") <= level["entropy"]:
            found[LOST[outcome]] = (
                f"entropy is {now('entropy'):.3f} nats: in {outcome}, {seen(level)}; go on from an earlier checkpoint, "
                "with what keeps entropy"
            )
    lost = evidence["destruction"]
    for name, sign in lost["signs"].items():
        if beyond(np.array(now(name)), SIGNS[name], sign["limit"]):
            found[f"sign of destruction, {name}"] = (
                f"{WORDS[name]} is {now(name):.3g}: it was {SIGNS[name]} {sign['limit']:.3g} in none of "
                f"{lost['sound']} sound runs, and in {sign['seen_in']} of the {len(lost['destroyed'])} destroyed ones, "
                f"{sign['steps_before']:.0f} steps before (median)"
            )
    return found


def read(path: Path = EVIDENCE) -> dict:
    """The kept evidence; that of no run where there is none."""
    return json.loads(path.read_text()) if path.exists() else derive([])


def main(args: Args) -> None:
    evidence = derive(kept_runs(args.rows))
    args.out.write_text(json.dumps(evidence, indent=1) + "\n")
    if args.out == EVIDENCE:
        put_between(HERE / "README.md", "evidence", sentence(evidence))
    print(f"{args.out}: {where_from(evidence)}")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
