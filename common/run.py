"""One run: its arguments, its directory, its progress, its checkpoints, its end.

    run = Run("grpo", args)                # checks everything, writes nothing
    run.start()                            # creates the directory, or truncates a resumed one to its checkpoint
    for step in run.steps():               # ends early, after a checkpoint, on SIGINT or SIGTERM
        ...
        run.log(step, metrics)
        run.save(step, policy, {...})
    run.finish()                           # curves, exit status

A run directory holds args.json, env.json, metrics.jsonl (one object a step), samples.jsonl, curves.png and
checkpoints/step-000050/, each of which `from_pretrained` loads and each of which is written whole or not at all.
"""

import atexit
import dataclasses
import json
import math
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any

import torch
import transformers
import tyro
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from common import InputError, ranks
from common.curves import draw_curves
from common.health import LONG, doubtful_settings, findings
from common.plan import print_plan

STATE_FILE = "training_state.pt"
POSITIVE = (
    "num_steps num_prompts num_generations max_response_length temperature update_epochs num_minibatches "
    "micro_batch_tokens max_grad_norm eval_problems eval_samples vllm_tensor_parallel_size vllm_gpu_memory_utilization"
).split()
# What a resumed run may do differently; anything else would make it another run.
MAY_CHANGE = (
    "resume output_dir device backend vllm_tensor_parallel_size vllm_gpu_memory_utilization num_steps "
    "micro_batch_tokens packing gradient_checkpointing offload_optimizer compile eval_every save_every track "
    "wandb_project_name dry_run"
).split()


# --- Arguments --------------------------------------------------------------------------------------------------


@contextmanager
def exit_on_bad_input() -> Iterator[None]:
    """Turn an InputError into one line on standard error and exit status 2."""
    try:
        yield
    except InputError as error:
        if ranks.rank() == 0:  # the others say the same
            print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        raise SystemExit(2) from None


def parse_args(args_class: type) -> Any:
    """The command line as `args_class`. With --resume the run's own arguments are the defaults."""
    args = tyro.cli(args_class)
    if args.resume is None:
        return args
    saved = read_json(Path(args.resume) / "args.json", args.resume)
    known = {field.name for field in dataclasses.fields(args_class)}
    if unknown := sorted(saved.keys() - known - {"algorithm"}):
        raise InputError(
            f"cannot resume {args.resume}: it was made with flags this script lacks ({', '.join(unknown)}); "
            "use the script that made it"
        )
    for field in dataclasses.fields(args_class):
        if type(field.default) in (int, float, bool) and type(saved.get(field.name)) is not type(field.default):
            raise InputError(f"cannot resume {args.resume}: args.json is damaged at {field.name}; start a new run")
    saved = {key: value for key, value in saved.items() if key in known} | {"resume": args.resume}
    return tyro.cli(args_class, default=args_class(**saved))


def check_args(args: Any) -> None:
    """Refuse numbers that make no sense: every number is finite and >= 0, sizes are > 0, groups fill minibatches."""
    for name, value in vars(args).items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if not math.isfinite(value) or value < 0 or (value == 0 and name in POSITIVE):
            least = "greater than 0" if name in POSITIVE else "0 or more"
            raise InputError(f"{flag} is {value}; it must be a finite number, {least}")
    if args.num_generations < 2:
        raise InputError("--num-generations 1 leaves no group to compare with; use 2 or more")
    if args.num_prompts % args.num_minibatches:
        raise InputError(
            f"--num-prompts {args.num_prompts} does not divide by --num-minibatches {args.num_minibatches}, and groups "
            "stay whole; change one of them"
        )


def read_json(path: Path, run: str) -> dict:
    try:
        if isinstance(record := json.loads(path.read_text()), dict):
            return record
        reason = "not an object"
    except (OSError, ValueError) as error:
        reason = type(error).__name__
    raise InputError(f"cannot resume {run}: {path.name} is missing or damaged ({reason}); name a run directory")


def check_writable(directory: Path) -> None:
    """Whether a run directory can be made here, found out without making it."""
    try:
        directory.exists()
    except OSError as error:
        raise InputError(f"--output-dir {directory} cannot be written ({error.strerror}); use another place") from None
    if directory.exists() and not directory.is_dir():
        raise InputError(f"--output-dir {directory} is a file; name a directory")
    if (directory / "args.json").exists():
        raise InputError(f"--output-dir {directory} already holds a run; use another name, or --resume {directory}")
    parent = next(p for p in [directory, *directory.absolute().parents] if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"--output-dir {directory} cannot be written (no permission in {parent}); use another place")


@cache
def warn_once(text: str) -> None:
    """Say something on standard error, the first time it is said."""
    ranks.say(f"warning: {text}")


def random_seed(*parts: int) -> int:
    """A seed that is a function of a few integers, such as (run seed, step)."""
    return hash(parts) % 2**63


# --- Time -------------------------------------------------------------------------------------------------------


class Timer:
    """Seconds per part of a step: `with timer("rollout"): ...`, then `timer.pop()` for {"time/rollout": seconds}."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        self.seconds[part] = self.seconds.get(part, 0.0) + time.perf_counter() - started

    def pop(self) -> dict[str, float]:
        """The parts and the whole ("time/step") since the last call."""
        now = time.perf_counter()
        times = {f"time/{part}": seconds for part, seconds in self.seconds.items()} | {"time/step": now - self.started}
        self.started, self.seconds = now, {}
        return times


# --- The run ----------------------------------------------------------------------------------------------------


class Run:
    """The directory of one run and everything that is written there.

    `checkpoint` is the directory to load the model from when resuming, else None; `saved` is what was passed to
    `save` then. Raises InputError for a directory that cannot be used and for a run that cannot be resumed.
    """

    def __init__(self, algorithm: str, args: Any):
        check_args(args)
        ranks.start()
        self.algorithm, self.args = algorithm, args
        self.checkpoint: Path | None = None
        self.saved: dict = {}
        self.first_step = 1
        if args.resume:
            self.directory = Path(args.resume)
            self._find_checkpoint()
        else:
            task = re.sub(r"[^\w=-]+", "-", Path(args.task).stem if "/" in args.task else args.task)
            stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
            name = f"{algorithm}-{task}-s{args.seed}-{stamp}"
            self.directory = Path(ranks.agree(args.output_dir or str(Path("runs") / name)))
            check_writable(self.directory)
        self.console = Console(highlight=False)
        self.progress: Progress | None = None
        self.tracker = None
        self.latest: dict[str, float] = {}
        self.steps_logged: list[dict] = []  # the first and the last few, to see what goes wrong
        self.said: set[str] = set()
        self.signal: int | None = None
        self.failure: str | None = None
        self.stopping = False
        self.unsaved = False  # whether the newest checkpoint could not be written
        self.curves_are_old = True
        if args.track:
            try:
                import wandb
            except ImportError:
                raise InputError("--track needs wandb; pip install wandb") from None
            self.wandb = wandb

    def _find_checkpoint(self) -> None:
        """Set `checkpoint`, `saved` and `first_step` from the newest checkpoint of the run to resume."""
        directory, args = self.directory, self.args
        recorded = read_json(directory / "args.json", args.resume)
        if recorded.get("algorithm") != self.algorithm:
            raise InputError(
                f"cannot resume {directory}: it is a run of {recorded.get('algorithm')}, not {self.algorithm}; "
                f"use algos/{recorded.get('algorithm')}.py"
            )
        changed = [k for k, v in vars(args).items() if k not in MAY_CHANGE and recorded.get(k) != v]
        if changed:
            raise InputError(
                f"cannot resume {directory} with another --{changed[0].replace('_', '-')}; leave that flag out"
            )
        found = sorted((directory / "checkpoints").glob("step-*"))
        if not found:
            raise InputError(f"cannot resume {directory}: it has no checkpoint; start again without --resume")
        self.checkpoint = found[-1]
        try:
            self.saved = torch.load(self.checkpoint / STATE_FILE, weights_only=True)
            self.first_step = self.saved["step"] + 1
        except Exception as error:  # unpickling a damaged file can raise almost anything
            raise InputError(
                f"cannot resume {directory}: {self.checkpoint.name}/{STATE_FILE} is missing or damaged "
                f"({type(error).__name__}); remove {self.checkpoint} to resume from the one before"
            ) from None

    def _doubt(self) -> None:
        """Say on standard error which settings do not fit the model or the task."""
        defaults = {field.name: field.default for field in dataclasses.fields(self.args)}
        for text in doubtful_settings(vars(self.args), defaults).values():
            ranks.say(f"warning: {text}")

    def show_plan(self) -> None:
        """Print what this run would do, and exit; raises InputError for a path or name that is wrong."""
        print_plan(self.algorithm, self.args, self.directory)
        self._doubt()
        raise SystemExit

    def start(self) -> None:
        """Create the directory, or cut a resumed run's records back to its checkpoint; begin to watch for signals."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        if ranks.rank() > 0:  # one process writes
            return
        try:
            (self.directory / "checkpoints").mkdir(parents=True, exist_ok=self.checkpoint is not None)
        except OSError as error:
            place = f"--output-dir {self.directory}"
            raise InputError(f"{place} cannot be created ({error.strerror}); use another place") from None
        for name in ("metrics.jsonl", "samples.jsonl"):
            path = self.directory / name
            lines = path.read_text().splitlines() if path.exists() else []
            kept = [line for line in lines if is_record(line) and json.loads(line)["step"] < self.first_step]
            write_whole(path, "".join(f"{line}\n" for line in kept))
            if name == "metrics.jsonl":
                self.steps_logged = [json.loads(line) for line in kept if "rollout/reward" in line]
        arguments = {"algorithm": self.algorithm} | dataclasses.asdict(self.args)
        self._doubt()
        write_whole(self.directory / "args.json", json.dumps(arguments, indent=2) + "\n")
        write_whole(self.directory / "env.json", json.dumps(environment(), indent=2) + "\n")
        if self.args.track:
            # Without an account wandb would stop to ask for one: record offline then, for `wandb sync` later.
            known = os.environ.get("WANDB_MODE") or self.wandb.login(prompt=False)
            self.tracker = self.wandb.init(
                project=self.args.wandb_project_name,
                name=self.directory.name,
                id=self.directory.name,
                resume="allow",
                dir=str(self.directory),
                config=arguments,
                mode=None if known else "offline",
            )
        if self.console.is_terminal:
            columns = (BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
            self.progress = Progress(*columns, console=self.console)
            self.progress.start()
            atexit.register(self.progress.stop)  # shows the cursor again, however the process ends
            self.bar = self.progress.add_task("", total=self.args.num_steps, completed=self.first_step - 1)

    def _on_signal(self, number: int, frame: object) -> None:
        if self.signal is not None:  # asked twice: stop now
            raise SystemExit(128 + number)
        self.signal = number
        self.print(f"{signal.Signals(number).name}: finishing this step, then saving (again to stop at once)")

    def steps(self) -> Iterator[int]:
        """Step numbers, 1-based, until the last one or until `ends` has said that this one is."""
        for step in range(self.first_step, self.args.num_steps + 1):
            yield step
            if self.stopping:
                return

    def due(self, every: int, step: int) -> bool:
        """Whether something done every so many steps (0: never) is due: also at the end, and before step 1 (step 0)."""
        return every > 0 and (step % every == 0 or step == self.args.num_steps)

    def fail(self, reason: str) -> None:
        """End the run after this step and a checkpoint, with this reason and exit status 1."""
        self.failure = reason

    # --- Records ---

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Append one line to metrics.jsonl and show the dense line; numbers that do not exist (no data) become null."""
        if ranks.rank() > 0:
            return
        clean = {k: v if math.isfinite(v) else None for k, v in metrics.items()}
        append_line(self.directory / "metrics.jsonl", {"step": step} | clean)
        if self.tracker:
            self.tracker.log({k: v for k, v in clean.items() if v is not None}, step=step)
        self.latest |= {k: v for k, v in clean.items() if v is not None}
        line = dense_line(self.latest)
        if self.progress:
            self.progress.update(self.bar, completed=step, description=line)
        else:
            self.print(f"step {step}/{self.args.num_steps}  {line}")
        if "rollout/reward" in clean:
            self.steps_logged = [*self.steps_logged[:1], *self.steps_logged[1:][-LONG:], clean]
            for name, text in findings(self.steps_logged, vars(self.args)).items():
                if name not in self.said:
                    self.said.add(name)
                    self.print(f"warning: {text}")
        self.curves_are_old = not any(key.startswith("eval/") for key in clean)
        if not self.curves_are_old:
            self._draw_curves()
            if self.progress:
                self.print(f"step {step}  {line}")

    def introduce(self, policy: Any, samples: list) -> None:
        """Show the arithmetic of a step, and one prompt as the model reads it with one response to it, to the token."""
        args, sample = self.args, samples[0]
        rows, updates = args.num_prompts * args.num_generations, args.num_minibatches * args.update_epochs
        self.print(
            f"a step: {args.num_prompts} prompts x {args.num_generations} responses = {rows} rows; "
            f"{updates} updates of {rows // args.num_minibatches} rows"
        )
        whole = policy.tokenizer.decode(sample.prompt_ids + sample.response.token_ids)
        split = len(policy.tokenizer.decode(sample.prompt_ids))
        ends = " or ".join(map(repr, policy.tokenizer.convert_ids_to_tokens(policy.end_ids)))
        self.print(f"a response ends with {ends}, or after {args.max_response_length} tokens")
        self.print(f"prompt ({len(sample.prompt_ids)} tokens): {whole[:split]!r}")
        self.print(f"response ({len(sample.response.token_ids)} tokens, {sample.verdict.reason}): {whole[split:]!r}")

    def log_samples(self, step: int, samples: list, batch: dict, most: int = 4) -> None:
        """Append a few of the step's responses to samples.jsonl, spread over its prompts."""
        if ranks.rank() > 0:
            return
        means = (batch["entropy"] * batch["mask"]).sum(1) / batch["mask"].sum(1)
        for row in range(0, len(samples), max(1, math.ceil(len(samples) / most))):
            sample = samples[row]
            record = {
                "step": step,
                "prompt": sample.problem.prompt,
                "response": sample.text,
                "gold": sample.problem.answer,
                "answer": sample.verdict.answer,
                "reward": sample.verdict.reward,
                "reason": sample.verdict.reason,
                "length": len(sample.response.token_ids),
                "truncated": sample.response.truncated,
                "entropy": means[row].item() if means[row].isfinite() else None,
            }
            append_line(self.directory / "samples.jsonl", record)

    def _draw_curves(self) -> None:
        draw_curves(self.directory / "metrics.jsonl", self.directory / "curves.png", self.directory.name)

    def print(self, text: str) -> None:
        """A line above the progress bar, if there is one; from the first rank only."""
        if ranks.rank() > 0:
            return
        (self.progress.console if self.progress else self.console).print(text, soft_wrap=True, markup=False)

    # --- Checkpoints ---

    def save(self, step: int, policy: Any, state: dict) -> None:
        """Write checkpoints/step-NNNNNN, whole or not at all, and keep the last two. All ranks call it together.

        `state` is anything torch.load(weights_only=True) reads back; the step is added. If it cannot be written (disk
        full) the previous checkpoint stays and the run goes on with a warning.
        """
        final = self.directory / "checkpoints" / f"step-{step:06d}"
        partial = final.with_name(f".{final.name}.partial")
        if ranks.agree(final.exists()):
            return
        first = ranks.rank() == 0
        if first:
            shutil.rmtree(partial, ignore_errors=True)

        def write_state() -> None:
            if first:
                torch.save(state | {"step": step}, partial / STATE_FILE)
                for path in [*partial.rglob("*"), partial]:
                    sync_to_disk(path)
                os.replace(partial, final)

        # Each part ends on all ranks before the next begins, or none of them goes on.
        for write in (lambda: policy.save(partial), lambda: policy.save_optimizer(partial), write_state):
            error = None
            try:
                write()
            except Exception as caught:  # the writers raise different types when a disk is full
                error = caught
            errors = list(filter(None, ranks.gather([error and f"{type(error).__name__}: {error}"])))
            self.unsaved = bool(errors)
            if errors:
                if first:
                    shutil.rmtree(partial, ignore_errors=True)
                self.print(f"warning: no checkpoint at step {step}, the previous one is kept ({errors[0]})")
                return
        if first:
            for old in sorted(final.parent.glob("step-*"))[:-2]:
                shutil.rmtree(old, ignore_errors=True)

    def ends(self, step: int) -> bool:
        """Whether this step is the last, by plan, signal or failure. Ask once a step, before the checkpoint."""
        self.signal = ranks.most(self.signal or 0) or None  # it may have come to one rank alone
        self.stopping = self.signal is not None or self.failure is not None
        return self.stopping or step == self.args.num_steps

    def finish(self) -> None:
        """Draw the curves and leave: returns after the last step, exits 1 after `fail`, 130 or 143 after a signal."""
        ranks.stop()
        if self.progress:
            self.progress.stop()
        if self.curves_are_old and ranks.rank() == 0:
            self._draw_curves()
        if self.tracker:
            self.tracker.finish()
        self.print(f"{self.directory}: metrics.jsonl, samples.jsonl, curves.png, checkpoints/")
        if self.unsaved and self.failure is None:
            self.failure = f"the last checkpoint could not be written to {self.directory}; free some space there"
        if self.failure is not None:
            if ranks.rank() == 0:
                print(f"error: {self.failure}", file=sys.stderr)
            raise SystemExit(1)
        if self.signal is not None:
            self.print(f"stopped; go on with --resume {self.directory}")
            raise SystemExit(128 + self.signal)


# --- Small things -----------------------------------------------------------------------------------------------


def dense_line(latest: dict[str, float]) -> str:
    """Reward, entropy, length and the latest pass rates; no loss, whose value says nothing."""
    parts = []
    for name, key, digits in (
        ("reward", "rollout/reward", 3),
        ("entropy", "policy/entropy", 3),
        ("length", "rollout/response_length", 1),
    ):
        if key in latest:
            parts.append(f"{name} {latest[key]:.{digits}f}")
    rates = {int(k.partition("@")[2]): v for k, v in latest.items() if re.fullmatch(r"eval/pass@\d+", k)}
    parts += [f"pass@{k} {rates[k]:.3f}" for k in sorted({min(rates), max(rates)} if rates else ())]
    return "  ".join(parts)


def environment() -> dict:
    """Versions, device, commit and command: what one needs to run this again."""
    root = Path(__file__).resolve().parents[1]
    command = ["git", "-C", root, "describe", "--always", "--dirty"]
    commit = subprocess.run(command, capture_output=True, text=True).stdout.strip() if shutil.which("git") else ""
    return {
        "command": [sys.executable, *sys.argv],
        "commit": commit or None,
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "vllm": sys.modules["vllm"].__version__ if "vllm" in sys.modules else None,  # where it samples
        "threads": torch.get_num_threads(),
        "machine": platform.platform(),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or "cpu",
    }


def is_record(line: str) -> bool:
    """Whether a line is whole: a killed run may leave half of one behind."""
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return isinstance(record, dict) and "step" in record


def append_line(path: Path, record: dict) -> None:
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Replace a file so that a reader sees the old text or the new, never a part."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(text)
    os.replace(partial, path)


def sync_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
