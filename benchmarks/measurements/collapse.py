"""The comparison through the collapse: its runs, each kept as one compact file.

    python -m benchmarks.collapse                                  # everything that is not there yet: many hours
    python -m benchmarks.collapse --arms grpo nsr --seeds 1        # a part
    python -m benchmarks.collapse --only first --seeds 1           # the eight first methods at one seed

What is run, in which order and why is written in benchmarks/results/collapse/PLAN.md. A finished run is one file
runs/<regime>/<arm>-s<seed>.json beside it, and is never made again, in whichever checkout; one that was stopped goes
on from its last checkpoint under runs/collapse. So this may be killed at any time and started again. Every run is a
process of one thread; `--jobs` of them go at a time.

Two regimes: eight updates per rollout, as in the papers, and one. Methods that make one by definition (OPO, OPEFO) are
run in the second alone and stand in both comparisons.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import tyro

from benchmarks import RESULTS, ROOT
from benchmarks.measure import as_flags, check_known, read_metrics, worker_environment
from benchmarks.methods import METHODS, Arm
from common import InputError, lock
from common.records import write_whole
from common.run import checkpoints_of

WORK, ROWS = ROOT / "runs" / "collapse", RESULTS / "collapse" / "runs"
# Eight small steps on a rollout, or one that is sqrt(8) times as long.
REGIMES = {
    "off-policy": {"num_minibatches": 8, "learning_rate": 1e-4},
    "on-policy": {"num_minibatches": 1, "learning_rate": 3e-4},
}
SIZE = {"num_prompts": 32, "num_generations": 8, "eval_problems": 128, "eval_samples": 64, "save_every": 50}
HORIZON = {"num_steps": 400, "eval_every": 50}
TUNING, TUNE_SEED = {"num_steps": 100, "eval_every": 100}, 101  # a seed that no other run has

FIRST = "grpo dapo clip_cov kl_cov forking_tokens nsr entropic opo".split()
ARMS: dict[str, tuple[str, Arm]] = {
    name: (script, arm) for script, record in METHODS.items() for name, arm in record.arms.items()
}
CONTROLS = [name for name, (script, _) in ARMS.items() if script in FIRST and name not in FIRST]
FAMILIES = {record.family: name for name, record in reversed(METHODS.items()) if name not in FIRST}  # the first of each
TIERS = {  # in the order in which they are run
    "first": FIRST,
    "controls": CONTROLS,
    "families": [name for name in METHODS if name in FAMILIES.values()],
    "rest": [name for name, (script, _) in ARMS.items() if script not in (*FIRST, *FAMILIES.values())]
    + [name for name, (script, _) in ARMS.items() if script in FAMILIES.values() and name != script],
}
SEEDS = {"first": 5, "controls": 5, "families": 3, "rest": 3}
ON_POLICY, ON_POLICY_SEEDS = ["grpo, mixed groups", *FIRST], 3

WINDOW, DIGITS = 5, 4  # training numbers are means over so many steps, with so many significant digits
COLUMNS = {
    "reward": "rollout/reward",
    "entropy": "rollout/entropy",
    "policy_entropy": "policy/entropy",
    "length": "rollout/response_length",
    "truncated": "rollout/truncated_ratio",
    "all_right": "rollout/all_right_ratio",
    "all_wrong": "rollout/all_wrong_ratio",
    "trained_groups": "rollout/trained_group_ratio",
    "approx_kl": "policy/approx_kl",
    "clip_high": "policy/clip_high_ratio",
    "clip_low": "policy/clip_low_ratio",
    "trained": "policy/trained_token_ratio",
    "grad_norm": "policy/grad_norm",
}  # and all that the method calls algo/...
COUNTED = {"samples": "rollout/num_samples", "tokens": "tokens/rollout"}  # sums from the start
EVALUATED = ("eval/entropy", "eval/coverage", "eval/avg@", "eval/pass@")
STOPPED = threading.Event()
processes: set[subprocess.Popen] = set()


@dataclass
class Args:
    only: tuple[str, ...] = ()
    """of first, controls, families, rest; by default all"""
    arms: tuple[str, ...] = ()
    """by default all"""
    regimes: tuple[str, ...] = tuple(REGIMES)
    seeds: tuple[int, ...] = ()
    """by default five of the first methods and the controls, three of the others"""
    num_steps: int = HORIZON["num_steps"]
    tune_steps: int = TUNING["num_steps"]
    jobs: int = 2
    """runs at a time, one thread each"""
    work: Path = WORK
    """where runs are made"""
    rows: Path = ROWS
    """where finished ones are kept"""
    dry_run: bool = False
    """print what there is to do"""


# --- What is to be run ------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One run. `group` is a regime or "tuning"; the flags are those that go to the script, without seed and place."""

    group: str
    arm: str
    seed: int
    flags: tuple[tuple[str, object], ...]
    setting: str = ""  # of a tuning run: the knob and its value

    @property
    def script(self) -> str:
        return ARMS[self.arm][0]

    @property
    def name(self) -> str:
        words = self.arm + (f" {self.setting}" if self.setting else "")
        return f"{self.group}/{re.sub(r'[ ,]+', '-', words)}-s{self.seed}"

    def file(self, args: Args) -> Path:
        return args.rows / f"{self.name}.json"


def knob_of(arm: str) -> tuple[str, tuple]:
    """The flag that is tuned for this arm, and its values; ("", ()) if there is none or the arm sets it itself."""
    script, one = ARMS[arm]
    knob = one.knob or METHODS[script].knob
    return ("", ()) if knob is None or knob[0] in one.flags else knob


def source_of_knob(arm: str) -> str:
    """The arm whose tuning is this one's: the method's own, unless the arm has a knob for itself."""
    script, one = ARMS[arm]
    return arm if one.knob else script


def regime_of(arm: str, regime: str) -> str:
    return "on-policy" if METHODS[ARMS[arm][0]].one_update else regime


def flags_of(arm: str, regime: str, plan: dict, knob: dict) -> tuple[tuple[str, object], ...]:
    script, one = ARMS[arm]
    settings = SIZE | plan | REGIMES[regime_of(arm, regime)] | one.flags | knob
    if METHODS[script].one_update:
        del settings["num_minibatches"]  # it has no other
    return tuple(settings.items())


def tuning_jobs(args: Args, arms: Iterable[str]) -> list[Job]:
    """The runs that have to be there before these arms are run."""
    plan = {"num_steps": args.tune_steps, "eval_every": args.tune_steps}
    jobs = []
    for arm in dict.fromkeys(source_of_knob(arm) for arm in arms if knob_of(arm)[0]):
        knob, values = knob_of(arm)
        for value in values:
            flags = flags_of(arm, "off-policy", plan, {knob: value})
            jobs.append(Job("tuning", arm, TUNE_SEED, flags, f"{knob}={value}"))
    return jobs


def tuned(args: Args, arm: str) -> dict[str, object]:
    """The arm's knob at its better value: the higher pass@1 on held-out problems after tuning; the first of equals.

    A value whose run ended before its time is out. Raises LookupError while a tuning run is missing.
    """
    if not (knob := knob_of(arm)[0]):
        return {}
    best, chosen = -1.0, None
    for one in tuning_jobs(args, [arm]):
        if not one.file(args).exists():
            raise LookupError(f"{one.name} is not there yet")
        record = json.loads(one.file(args).read_text())
        score = -0.5 if record["ended"] else record["evaluations"][-1]["pass@1"]
        if score > best:
            best, chosen = score, dict(one.flags)[knob]
    return {knob: chosen}


def main_job(args: Args, regime: str, arm: str, seed: int) -> Job:
    plan = HORIZON | {"num_steps": args.num_steps}
    return Job(regime_of(arm, regime), arm, seed, flags_of(arm, regime, plan, tuned(args, arm)))


def rounds(args: Args) -> list[list[tuple[str, str, int]]]:
    """(regime, arm, seed) in the order of PLAN.md, in lists; a list's tuning is done before it begins."""

    def wanted(regime: str, tier: str, arm: str, seed: int) -> bool:
        return (
            regime in args.regimes
            and (not args.only or tier in args.only)
            and (not args.arms or arm in args.arms)
            and (seed in args.seeds if args.seeds else True)
        )

    every = []
    for seed in args.seeds or range(1, max(SEEDS.values()) + 1):
        off = [
            [("off-policy", arm, seed) for arm in arms if wanted("off-policy", tier, arm, seed)]
            for tier, arms in TIERS.items()
            if args.seeds or seed <= SEEDS[tier]
        ]
        on = [
            ("on-policy", arm, seed)
            for arm in ON_POLICY
            if wanted("on-policy", "first" if arm in FIRST else "controls", arm, seed)
            and (args.seeds or seed <= ON_POLICY_SEEDS)
        ]
        every += [*off, on]
    return [one for one in every if one]


# --- Running ----------------------------------------------------------------------------------------------------------


def command_of(one: Job, directory: Path) -> tuple[list[str], int]:
    """The words that start a run or go on with it, and the step from which it goes on; raises InputError if it is live.

    What was made with other flags, or has no checkpoint yet, begins anew.
    """
    script = [sys.executable, str(ROOT / "algos" / f"{one.script}.py")]
    lock.check(directory)
    flags = {"seed": one.seed} | dict(one.flags)
    try:
        recorded = json.loads((directory / "args.json").read_text())
    except (OSError, ValueError):
        recorded = {}
    saved = checkpoints_of(directory)
    if saved and all(recorded.get(key) == value for key, value in flags.items()):
        return [*script, "--resume", str(directory)], int(saved[-1].name.partition("-")[2])
    shutil.rmtree(directory, ignore_errors=True)
    return [*script, *as_flags(flags), "--output-dir", str(directory)], 0


def run(args: Args, one: Job) -> str:
    """Do one run and keep its file; what came of it, in a few words."""
    directory = (args.work / one.name).absolute()
    directory.parent.mkdir(parents=True, exist_ok=True)
    try:
        command, begun = command_of(one, directory)
    except InputError:
        return "left alone: another process is at it"
    settings = {"cwd": ROOT, "env": worker_environment(1), "stdout": subprocess.DEVNULL, "text": True}
    settings["start_new_session"] = True  # Ctrl-C comes to this process alone, which asks them once
    with (args.work / f"{one.name}.err").open("w+") as errors:
        process = subprocess.Popen(command, stderr=errors, **settings)
        processes.add(process)
        if STOPPED.is_set():  # came between the last look and the start
            process.terminate()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        processes.discard(process)
        errors.seek(0)
        said = errors.read().strip().splitlines()
    reason = said[-1] if said else ""
    # 1 with a reason: the run ended itself, as it does when updates are no longer finite. That is a result.
    if process.returncode and not (process.returncode == 1 and reason.startswith("error: ")):
        return f"stopped ({process.returncode}) {reason}"
    seconds = None if begun else round(usage.ru_utime + usage.ru_stime)
    record = compact(directory, one, seconds, begun, reason if process.returncode else None)
    one.file(args).parent.mkdir(parents=True, exist_ok=True)
    write_whole(one.file(args), as_lines(record))
    shutil.rmtree(directory)
    (args.work / f"{one.name}.err").unlink()
    last = record["evaluations"][-1]
    return f"pass@1 {last['pass@1']}, coverage {last['coverage']}, CPU seconds {seconds or 'unknown: resumed'}"


def run_all(args: Args, jobs: list[Job]) -> None:
    todo = [one for one in jobs if not one.file(args).exists()]
    if args.dry_run:
        for one in todo:
            print(one.name, *as_flags(dict(one.flags)))
        return

    def do(one: Job) -> None:
        if not STOPPED.is_set():
            words = run(args, one)
            print(f"{one.name}: {words}", flush=True)

    with ThreadPoolExecutor(args.jobs) as pool:
        list(pool.map(do, todo))


def stop(number: int, frame: object) -> None:
    """End after the runs have saved what they have."""
    STOPPED.set()
    for process in [*processes]:
        process.terminate()


# --- What is kept -----------------------------------------------------------------------------------------------------


def short(value: float | None) -> float | int | None:
    """With DIGITS significant digits; None where there is no number."""
    if value is None or not np.isfinite(value):
        return None
    rounded = float(f"{value:.{DIGITS}g}")
    return int(rounded) if rounded.is_integer() else rounded


def mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return short(sum(known) / len(known)) if known else None


def encode(counts: list[int]) -> str:
    """Counts of 0 to 78 as one character each, from "0" on: "0" is 0, "9" 9, "A" 17, "p" 64."""
    if not all(0 <= count <= 78 for count in counts):
        raise ValueError("counts beyond 78 do not fit one character")
    return "".join(chr(48 + count) for count in counts)


def decode(text: str) -> list[int]:
    return [ord(letter) - 48 for letter in text]


def compact(directory: Path, one: Job, seconds: int | None, resumed_at: int, ended: str | None) -> dict:
    """What the file of a finished run holds: what it was, training columns by windows, evaluations with counts."""
    records, settings = read_metrics(directory), json.loads((directory / "env.json").read_text())
    steps = [record for record in records if record["step"] > 0]
    windows = [steps[i : i + WINDOW] for i in range(0, len(steps), WINDOW)]
    own = sorted({key for record in steps for key in record if key.startswith("algo/")})
    training = {"step": [window[-1]["step"] for window in windows]}
    for name, key in COUNTED.items():
        totals = np.cumsum([sum(record.get(key) or 0 for record in window) for window in windows])
        training[name] = [int(total) for total in totals]
    for name, key in (COLUMNS | {key: key for key in own}).items():
        training[name] = [mean([record.get(key) for record in window]) for window in windows]
    lines = (directory / "evaluations.jsonl").read_text().splitlines()
    counted = {found["step"]: found for found in map(json.loads, lines)}
    evaluations = []
    for record in records:
        if record["step"] in counted:
            counts = counted[record["step"]]
            values = {key.removeprefix("eval/"): short(v) for key, v in record.items() if key.startswith(EVALUATED)}
            strings = {name: encode(counts[name]) for name in ("right", "distinct")}
            evaluations.append({"step": record["step"]} | without_intervals(values) | strings)
    return {
        "arm": one.arm,
        "group": one.group,
        "seed": one.seed,
        "base": ARMS[one.arm][1].base,
        "script": one.script,
        "setting": one.setting,
        "flags": dict(one.flags),
        "active": active_columns(one.script),
        "steps": steps[-1]["step"],
        "ended": ended,  # why, if before its time
        "cpu_seconds": seconds,
        "resumed_at": resumed_at,
        "commit": settings["commit"],
        "torch": settings["torch"],
        "python": settings["python"],
        "total": encode(next(iter(counted.values()))["total"]),  # distinct solutions of each evaluation problem
        "evaluations": evaluations,
        "training": training,
    }


def active_columns(script: str) -> list[str]:
    """The training columns that show whether a method acts."""
    names = {key: name for name, key in COLUMNS.items()}
    return [names.get(key, key) for key in METHODS[script].active]


def without_intervals(values: dict) -> dict:
    """They can be had from the counts."""
    return {key: value for key, value in values.items() if not key.endswith(("_low", "_high"))}


def as_lines(record: dict) -> str:
    """JSON with a line for each entry, evaluation and training column: small, and fit for a diff."""

    def write(value: object) -> str:
        return json.dumps(value, separators=(",", ":"))

    parts = []
    for key, value in record.items():
        text = write(value)
        if key == "evaluations":
            text = "[\n" + ",\n".join(map(write, value)) + "\n]"
        if key == "training":
            text = "{\n" + ",\n".join(f"{write(name)}:{write(column)}" for name, column in value.items()) + "\n}"
        parts.append(f"{write(key)}:{text}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main(args: Args) -> None:
    check_known("only", args.only, TIERS)
    check_known("arms", args.arms, ARMS)
    check_known("regimes", args.regimes, REGIMES)
    # The tuning of a list is done beside the runs of the one before, so that no core waits for long.
    plan = rounds(args)
    before: list[Job] = []
    for part in [*plan, []]:
        run_all(args, before + tuning_jobs(args, [arm for _, arm, _ in part]))
        if STOPPED.is_set():
            raise SystemExit("stopped; the same command goes on from here")
        before = []
        for regime, arm, seed in part:
            try:
                before.append(main_job(args, regime, arm, seed))
            except LookupError as error:
                print(f"{regime}, {arm}, seed {seed}: not run, {error}", flush=True)
    print(f"{len([*args.rows.rglob('*.json')])} runs are kept in {args.rows}")


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    main(tyro.cli(Args))
