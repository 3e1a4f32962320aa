"""The comparison through the collapse: its runs, each kept as one compact file.

    python -m benchmarks.collapse                                  # everything that is not there yet: many hours
    python -m benchmarks.collapse --arms grpo nsr --seeds 1        # a part
    python -m benchmarks.collapse --only first --seeds 1           # the eight first methods at one seed

What is run, in which order and why is written in benchmarks/results/collapse/PLAN.md. A finished run is one file
runs/<regime>/<arm>-s<seed>.json beside it, and is never made again, in whichever checkout; one that was stopped goes
on from its last checkpoint under runs/collapse. So this may be killed at any time and started again. Every run is a
process of one thread; `--jobs` of them go at a time.

Two regimes: eight updates per rollout, as in the papers, and one. Methods that make one by definition (OPO, OPEFO) are
run in the second alone and stand in both comparisons. Beside them two groups with tables of their own: `from-grpo` goes
on from a checkpoint of GRPO, and `causes` changes one flag of methods that destroyed the policy or missed their target.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
from collections import ChainMap
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import tyro

from benchmarks import RESULTS, ROOT
from benchmarks.measure import as_flags, check_known, read_metrics, worker_environment
from benchmarks.methods import A_FIFTH, METHODS, Arm
from common import InputError, lock
from common.records import write_whole
from common.run import checkpoints_of, step_of

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
BASES = ["grpo, mixed groups", "grpo, token mean"]  # that some of the first are held against
ON_POLICY, ON_POLICY_SEEDS = [*BASES, *FIRST, A_FIFTH], 3

# Methods that live on wrong answers, and their bases, from GRPO's checkpoint at its first evaluation with pass@1 of
# ENOUGH or more.
STARTED, STARTED_SEEDS = ["grpo", "grpo, token mean", "dapo", "nsr", "positive_weight", "qae"], 3
STARTED_PLAN, START_SEED, ENOUGH = {"num_steps": 200, "eval_every": 50}, 201, 0.35

# One flag changed, to see when a method holds: arms of one seed, held against the method as it is.
CAUSES: dict[str, tuple[str, Arm]] = {
    f"{script}, {name}": (script, Arm(script, flags))
    for script, changes in {
        "grpo": {"learning rate 3e-5": {"learning_rate": 3e-5}},  # what of NSR's is the learning rate's
        "nsr": {
            "learning rate 3e-5": {"learning_rate": 3e-5},
            "clip 0.05": {"clip_ratio_low": 0.05, "clip_ratio_high": 0.05},
            "positive weight 0.5": {"positive_weight": 0.5},
        },
        "starter": {
            "learning rate 3e-5": {"learning_rate": 3e-5},
            "positive weight 0.5": {"positive_weight": 0.5},
        },
        "entropic": {
            "proportional gain 30": {"kp": 30.0},
            "integral gain 0.1": {"ki": 0.1},
            "all tokens as lever": {"high_prob_threshold": 0.0},
            "target 0.15": {"target_entropy": 0.15},
        },
    }.items()
    for name, flags in changes.items()
}
# nsr.py has no KL. With a right response at 1 and a wrong one at -10, Reinforce-Rej that rejects nothing is NSR of
# positive weight 0.1 at ten times the loss, which the optimiser does not see if the gradient's bound grows as well.
NSR_TIMES_TEN = {"reject": "none", "wrong_reward": -10.0, "max_grad_norm": 10.0}
CAUSES |= {
    f"nsr, KL {weight:g}": ("reinforce_rej", Arm("nsr", NSR_TIMES_TEN | {"beta": 10 * weight}))
    for weight in (0.05, 0.5)
}
EVERY, GROUPS = ChainMap(ARMS, CAUSES), (*REGIMES, "from-grpo", "causes")

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
    regimes: tuple[str, ...] = GROUPS
    """of off-policy, on-policy, from-grpo, causes; by default all"""
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
    """One run. `group` is one of GROUPS or "tuning"; the flags go to the script, besides those of seed and place."""

    group: str
    arm: str
    seed: int
    flags: tuple[tuple[str, object], ...]
    setting: str = ""  # of a tuning run: the knob and its value; of the run that others start from: "start"

    @property
    def script(self) -> str:
        return EVERY[self.arm][0]

    @property
    def name(self) -> str:
        words = self.arm + (f" {self.setting}" if self.setting else "")
        return f"{self.group}/{re.sub(r'[ ,]+', '-', words)}-s{self.seed}"

    def file(self, args: Args) -> Path:
        return args.rows / f"{self.name}.json"


def knob_of(arm: str) -> tuple[str, tuple]:
    """The flag that is tuned for this arm, and its values; ("", ()) if there is none or the arm sets it itself."""
    script, one = EVERY[arm]
    knob = one.knob or METHODS[script].knob
    return ("", ()) if knob is None or knob[0] in one.flags else knob


def source_of_knob(arm: str) -> str:
    """The arm whose tuning is this one's: the method's own, unless the arm has a knob for itself."""
    script, one = EVERY[arm]
    return arm if one.knob else script


def regime_of(arm: str, regime: str) -> str:
    return "on-policy" if METHODS[EVERY[arm][0]].one_update else regime


def flags_of(arm: str, regime: str, plan: dict, knob: dict) -> tuple[tuple[str, object], ...]:
    script, one = EVERY[arm]
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


def main_job(args: Args, group: str, arm: str, seed: int) -> Job:
    if group == "from-grpo":
        plan = STARTED_PLAN | {"num_steps": min(args.num_steps, STARTED_PLAN["num_steps"])}
        flags = (*flags_of(arm, "off-policy", plan, tuned(args, arm)), ("model", named(checkpoint_to_start(args))))
        return Job(group, arm, seed, flags)
    plan, regime = HORIZON | {"num_steps": args.num_steps}, group if group in REGIMES else "off-policy"
    group = regime_of(arm, regime) if group in REGIMES else group
    return Job(group, arm, seed, flags_of(arm, regime, plan, tuned(args, arm)))


def start_job(args: Args, steps: int) -> Job:
    """GRPO for so many steps: the run whose checkpoint others start from."""
    plan = HORIZON | {"num_steps": steps}
    return Job("from-grpo", "grpo", START_SEED, flags_of("grpo", "off-policy", plan, {}), "start")


def checkpoint_to_start(args: Args) -> Path:
    """The checkpoint at which the kept run of `start_job` ends; raises LookupError before it is there."""
    one = start_job(args, 0)
    end = json.loads(one.file(args).read_text())["steps"] if one.file(args).exists() else None
    for path in checkpoints_of(args.work / one.name):
        if step_of(path) == end:
            return path
    raise LookupError("GRPO's checkpoint is not there yet")


def named(path: Path) -> str:
    """A path as the flags of a run name it: relative to the repository inside of it."""
    path = path.absolute()
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def rounds(args: Args) -> list[list[tuple[str, str, int]]]:
    """(group, arm, seed) in the order of PLAN.md, in lists; a list's tuning is done before it begins."""

    def wanted(group: str, arms: Iterable[str], seed: int, seeds: int, tier: str = "") -> list[tuple[str, str, int]]:
        if group not in args.regimes or (args.only and tier not in args.only):
            return []
        if (args.seeds and seed not in args.seeds) or (not args.seeds and seed > seeds):
            return []
        return [(group, arm, seed) for arm in arms if not args.arms or arm in args.arms]

    every = []
    for seed in args.seeds or range(1, max(SEEDS.values()) + 1):
        every += [wanted("off-policy", arms, seed, SEEDS[tier], tier) for tier, arms in TIERS.items()]
        every.append(
            wanted("on-policy", [*BASES, A_FIFTH], seed, ON_POLICY_SEEDS, "controls")
            + wanted("on-policy", FIRST, seed, ON_POLICY_SEEDS, "first")
        )
        every += [wanted("from-grpo", STARTED, seed, STARTED_SEEDS), wanted("causes", CAUSES, seed, 1)]
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
    if saved and all(recorded.get(key) == value for key, value in flags.items() if key != "model"):
        return [*script, "--resume", str(directory)], step_of(saved[-1])
    shutil.rmtree(directory, ignore_errors=True)
    return [*script, *as_flags(flags), "--output-dir", str(directory)], 0


def execute(args: Args, one: Job, command: list[str]) -> tuple[int, str, int]:
    """Run a script to its end: exit status, the last line that it said of an error, CPU seconds."""
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
    return process.returncode, said[-1] if said else "", round(usage.ru_utime + usage.ru_stime)


def make_start(args: Args) -> None:
    """Train GRPO until an evaluation is good enough, and keep its record. Checkpoints stay in the work folder alone.

    50 steps at a time: a longer run is its shorter one, gone on with. On another processor it may come out otherwise:
    raises SystemExit where kept runs began elsewhere, as a comparison is of runs from one start.
    """
    every = HORIZON["eval_every"]
    directory = (args.work / start_job(args, 0).name).absolute()
    directory.parent.mkdir(parents=True, exist_ok=True)
    for steps in range(every, args.num_steps + 1, every):
        one = start_job(args, steps)
        flags = {"seed": one.seed} | dict(one.flags)
        saved = checkpoints_of(directory)
        if saved and step_of(saved[-1]) > steps:  # made before: it was not good enough here
            continue
        if not saved or step_of(saved[-1]) < steps:
            script = [sys.executable, str(ROOT / "algos" / f"{one.script}.py")]
            where = {"resume": directory, "num_steps": steps} if saved else flags | {"output_dir": directory}
            status, reason, _ = execute(args, one, [*script, *as_flags(where)])
            if status or STOPPED.is_set():
                raise SystemExit(f"{one.name}: stopped ({status}) {reason}")
        record = compact(directory, one, None, 0, None)
        if record["evaluations"][-1]["pass@1"] >= ENOUGH:
            file = one.file(args)
            begun = [path for path in file.parent.glob("*.json") if path != file]
            if begun and file.exists() and json.loads(file.read_text())["evaluations"] != record["evaluations"]:
                raise SystemExit(
                    f"{one.name}: as made here it is not the run whose checkpoint the {len(begun)} others in "
                    f"{file.parent} began at; without them the group can be made anew"
                )
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, as_lines(record))
            return
    raise SystemExit(f"{one.name}: no evaluation in {steps} steps has pass@1 of {ENOUGH} or more")


def run(args: Args, one: Job) -> str:
    """Do one run and keep its file; what came of it, in a few words."""
    directory = (args.work / one.name).absolute()
    directory.parent.mkdir(parents=True, exist_ok=True)
    try:
        command, begun = command_of(one, directory)
    except InputError:
        return "left alone: another process is at it"
    status, reason, seconds = execute(args, one, command)
    # 1 with a reason: the run ended itself, as it does when updates are no longer finite. That is a result.
    if status and not (status == 1 and reason.startswith("error: ")):
        return f"stopped ({status}) {reason}"
    seconds = None if begun else seconds
    record = compact(directory, one, seconds, begun, reason if status else None)
    one.file(args).parent.mkdir(parents=True, exist_ok=True)
    write_whole(one.file(args), as_lines(record))
    shutil.rmtree(directory)
    (args.work / f"{one.name}.err").unlink()
    last = record["evaluations"][-1]
    return f"pass@1 {last['pass@1']}, coverage {last['coverage']}, CPU seconds {seconds or 'unknown: resumed'}"


def run_all(args: Args, jobs: list[Job]) -> None:
    todo = [one for one in dict.fromkeys(jobs) if not one.file(args).exists()]  # OPO's stand in both regimes
    if args.dry_run:
        for one in todo:
            print(one.name, *as_flags(dict(one.flags)))
        return

    def do(one: Job) -> None:
        if not STOPPED.is_set() and not one.file(args).exists():  # by a process beside this one
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
        "base": EVERY[one.arm][1].base,
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
    check_known("arms", args.arms, EVERY)
    check_known("regimes", args.regimes, GROUPS)
    waiting: list[Job] = []  # until something has to be there before the next list: so cores seldom wait for each other
    for part in [*rounds(args), []]:
        tuning = [one for one in tuning_jobs(args, [arm for _, arm, _ in part]) if not one.file(args).exists()]
        started = any(group == "from-grpo" for group, _, _ in part)
        if tuning or started or not part:
            run_all(args, waiting + tuning)
            waiting = []
        if started and not args.dry_run and not STOPPED.is_set():
            make_start(args)
        if STOPPED.is_set():
            raise SystemExit("stopped; the same command goes on from here")
        for group, arm, seed in part:
            try:
                waiting.append(main_job(args, group, arm, seed))
            except LookupError as error:
                print(f"{group}, {arm}, seed {seed}: not run, {error}", flush=True)
    print(f"{len([*args.rows.rglob('*.json')])} runs are kept in {args.rows}")


if __name__ == "__main__":
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    main(tyro.cli(Args))
