"""What the comparison's runs teach about a policy of the embedded model's size, as limits that `doctor` reads.

    python -m benchmarks.evidence                  # from all kept runs: benchmarks/results/collapse/evidence.json

Two lessons, each with the runs that it comes from, and neither where fewer than LEAST runs speak:

- Past recovery: the highest entropy such that, of the runs that came so low, at most one in ten gained more than the
  margin of PLAN.md afterwards, in pass@1 or in pass@32; and so at every lower level that enough runs have come to.
  Where hardly any run has gained from any level, entropy tells nothing of it, and there is no limit.
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

from benchmarks import RESULTS
from benchmarks.collapse import COLUMNS
from benchmarks.law import kept_runs
from benchmarks.readings import column

EVIDENCE = RESULTS / "collapse" / "evidence.json"
LEAST = 10  # runs behind a limit
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


def descents(record: dict, outcome: str) -> list[tuple[float, float]]:
    """(entropy, later gain) at each evaluation but the first and the last: how much its best later one is above it."""
    entropy = dict(zip(record["training"]["step"], column(record, "entropy"), strict=True))
    values = [evaluation[outcome] for evaluation in record["evaluations"]]
    steps = [evaluation["step"] for evaluation in record["evaluations"]]
    return [(entropy[steps[i]], max(values[i + 1 :]) - values[i]) for i in range(1, len(values) - 1)]


def gains_below(runs: Iterable[list[tuple[float, float]]], level: float) -> list[float]:
    """The later gain of each run from the first evaluation at which its entropy is at the level or below."""
    return [below[0] for run in runs if (below := [gain for entropy, gain in run if entropy <= level])]


def recovery(records: Sequence[dict], outcome: str) -> dict:
    """The `entropy` from which on nearly no run gains, and how many came to it; None if there is no such level.

    None with runs is where hardly any of them has gained from wherever it was.
    """
    runs = [descents(record, outcome) for record in records]
    found = {"margin": MARGINS[outcome], "entropy": None, "runs": 0, "recovered": 0}
    for level in sorted({entropy for run in runs for entropy, _ in run if np.isfinite(entropy)}):
        gains = gains_below(runs, level)
        recovered = sum(gain > MARGINS[outcome] for gain in gains)
        if len(gains) >= LEAST and recovered > EXCEPTIONS * len(gains):
            return found
        if len(gains) >= LEAST:
            found |= {"entropy": float(level), "runs": len(gains), "recovered": recovered}
    return found | {"entropy": None}


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
    """Which runs the limits come from, in a sentence."""
    if not evidence["runs"]:
        return "no run of the comparison is kept yet, so nothing is known of recovery and destruction"
    seeds = ", ".join(map(str, evidence["seeds"]))
    regimes = " and ".join(evidence["regimes"])
    text = f"from {evidence['runs']} runs of {evidence['arms']} arms on countdown ({regimes}, seeds {seeds})"
    without = {outcome: found for outcome, found in evidence["recovery"].items() if found["entropy"] is None}
    for outcome, found in without.items():
        if found["runs"]:
            text += f"; {outcome} has risen again in {found['recovered']} of {found['runs']}, from whichever entropy"
    silent = [f"{outcome} after a low entropy" for outcome, found in without.items() if not found["runs"]]
    silent += ["signs of destruction"] if not evidence["destruction"]["signs"] else []
    return text + (f"; too few, or too mixed, for a limit on {', '.join(silent)}" if silent else "")


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
                f"entropy is {now('entropy'):.3f} nats: of the {level['runs']} kept runs of this model that came to "
                f"{level['entropy']:.3f}, {level['recovered']} gained more than {level['margin']} of {outcome} "
                "afterwards; go on from an earlier checkpoint, with what keeps entropy"
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


def speaking(records: Iterable[dict]) -> list[dict]:
    """The runs that were taught by their answers: with random rewards nothing is learned or lost by them."""
    return [record for record in records if record["flags"].get("reward_mode") != "random"]


def main(args: Args) -> None:
    evidence = derive(speaking(kept_runs(args.rows)))
    args.out.write_text(json.dumps(evidence, indent=1) + "\n")
    print(f"{args.out}: {where_from(evidence)}")


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
