"""How a run starts, stops, saves and goes on.

    run = Run("grpo", args)                # checks everything, writes nothing
    run.check_data(train, evaluation)      # a resumed run's problems are the ones it began with
    run.start(policy, stream)              # creates the directory, or cuts a resumed one back to its checkpoint
    for step in run.steps():               # ends early, after a checkpoint, on a signal of common/signals.py
        ...
        run.log(step, metrics)
        if run.saves(step):
            run.save(step)
    run.finish()                           # curves, exit status

A run directory holds args.json, env.json, metrics.jsonl (one object a step), samples.jsonl, evaluations.jsonl (one
object an evaluation, with each problem's counts), curves.png (common/records.py) and checkpoints/step-000050/, each of
which `from_pretrained` loads and each of which is written whole or not at all.
"""

import dataclasses
import errno
import itertools
import math
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import torch

from common import InputError, lock, ranks, terminal
from common.arguments import BY_CONTENT, MAY_CHANGE, check_args, further_tasks, read_json
from common.basics import warn_once
from common.health import doubtful_settings
from common.identity import absolute_paths, are_digests, digest_model, digest_problems, refuse_other
from common.plan import print_plan
from common.problems import Problem
from common.records import FILES, Records
from common.signals import StopSignals

STATE_FILE = "training_state.pt"
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
FAILED_SAVES = 3  # in a row, then the run ends
TRIAL = ".trial.partial"  # in the directory of checkpoints, before the first step
CHECKPOINT = re.compile("step-([0-9]{6}|[1-9][0-9]{6,})")


def check_writable(directory: Path) -> None:
    """Whether a run directory can be made here, found out without making it."""
    try:
        directory.exists()
    except OSError as error:
        raise InputError(f"--output-dir {directory} cannot be written ({error.strerror}); use another place") from None
    if directory.exists() and not directory.is_dir():
        raise InputError(f"--output-dir {directory} is a file; name a directory")
    parent = next(p for p in [directory, *directory.absolute().parents] if p.exists())
    if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
        raise InputError(f"--output-dir {directory} cannot be written (no permission in {parent}); use another place")


def check_unused(directory: Path) -> None:
    """Whether a run can begin here without writing over what another run has left, or a user keeps, under its names."""
    place = f"--output-dir {directory} already holds"
    if os.path.lexists(directory / "args.json"):
        goes_on = f", or --resume {directory}" if checkpoints_of(directory) else ""
        raise InputError(f"{place} a run; use another name{goes_on}")
    try:
        taken = [name for name in (*FILES, "checkpoints") if holds_something(directory / name)]
    except OSError as error:
        raise InputError(f"--output-dir {directory} cannot be read ({error.strerror}); use another place") from None
    if taken:
        raise InputError(f"{place} {', '.join(taken)}, which a run would write over; use another name")


def holds_something(path: Path) -> bool:
    """Whether there is more than a start that was killed leaves behind: an empty file, or a trial."""
    if os.path.isdir(path):
        return any(name != TRIAL for name in os.listdir(path))
    return os.path.lexists(path) and not (os.path.isfile(path) and os.path.getsize(path) == 0)


class Run:
    """One run, from its flags to its exit status.

    `checkpoint` is the directory to load the model from when resuming, else None; `first_step` is the step to begin
    with, from 1; `state` is the algorithm's own memory, a dict of plain numbers, strings and lists of them, which every
    checkpoint holds: empty on a fresh start. Raises InputError for a directory that cannot be used and for a run that
    cannot be resumed.
    """

    def __init__(self, algorithm: str, args: Any):
        check_args(args)
        ranks.start()
        self.algorithm, self.args = algorithm, args
        # What may have moved, and where its digest is: of a method's own task under the flag's name.
        self.by_content = BY_CONTENT | {name: name for name in further_tasks(vars(args))}
        self.checkpoint: Path | None = None
        self.first_step, self.cursor, self.state, self.skipped_in_a_row = 1, 0, {}, 0
        self.recorded: dict[str, Any] = {}  # args.json of the run that is resumed
        self.digests: dict[str, Any] = {}
        if args.resume:
            self.directory = Path(args.resume)
            self._on_first_rank(lambda: lock.check(self.directory))
            self._find_checkpoint()
        else:
            task = re.sub(r"[^\w=-]+", "-", Path(args.task).stem if "/" in args.task else args.task)[:40]
            stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
            name = f"{algorithm}-{task}-s{args.seed}-{stamp}"
            self.directory = Path(ranks.agree(args.output_dir or str(Path("runs") / name)))
            check_writable(self.directory)
            self._on_first_rank(lambda: check_unused(self.directory))
        self.records = Records(self.directory, args)
        self.signals: StopSignals | None = None  # from the start on
        self.failure: str | None = None
        self.stopping = False
        self.failed_saves, self.unsaved = 0, ""  # in a row, and why the last one failed
        self.shown = False  # whether the first step's arithmetic was

    def _find_checkpoint(self) -> None:
        """Set `checkpoint` and what it holds from the newest one of the run to resume."""
        directory, args = self.directory, self.args
        self.recorded = recorded = read_json(directory / "args.json", args.resume)
        if recorded.get("algorithm") != self.algorithm:
            raise InputError(
                f"cannot resume {directory}: it is a run of {recorded.get('algorithm')}, not {self.algorithm}; "
                f"use algos/{recorded.get('algorithm')}.py"
            )
        # Runs of before digests were recorded know names alone.
        digests = recorded.get("digests") or {}
        if not are_digests(digests):
            raise InputError(f"cannot resume {directory}: args.json is damaged at digests; mend or remove them there")
        by_content = [name for name, part in self.by_content.items() if digests.get(part)]
        before = absolute_paths(recorded)
        changed = [name for name, now in absolute_paths(vars(args)).items() if before.get(name) != now]
        for name in changed:
            if name in (*MAY_CHANGE, *by_content):
                continue
            raise InputError(f"cannot resume {directory} with another --{name.replace('_', '-')}; leave that flag out")
        # Over a network file system two ranks may see two newest ones.
        found = ranks.agree([path.name for path in checkpoints_of(directory)])
        if not found:
            raise InputError(
                f"cannot resume {directory}: it has no checkpoint; start again without --resume, with another "
                "--output-dir or once this directory is removed"
            )
        self.checkpoint = directory / "checkpoints" / found[-1]
        try:
            saved = torch.load(self.checkpoint / STATE_FILE, weights_only=True)
            self.first_step, self.cursor = saved["step"] + 1, saved["cursor"]
            self.state, self.skipped_in_a_row = saved["state"], saved["skipped_in_a_row"]
        except Exception as error:  # unpickling a damaged file can raise almost anything
            raise InputError(
                f"cannot resume {directory}: {self.checkpoint.name}/{STATE_FILE} is missing or damaged "
                f"({type(error).__name__}); remove {self.checkpoint} to resume from the one before"
            ) from None
        if self.first_step - 1 != step_of(self.checkpoint):
            raise InputError(
                f"cannot resume {directory}: {self.checkpoint.name} is a copy of step {self.first_step - 1}; "
                f"remove {self.checkpoint}, or give it a name of its own"
            )

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

    def check_data(self, train: Sequence[Problem], evaluation: Sequence[Problem]) -> None:
        """Take down what the run learns from and is judged by; raises InputError if a resumed run's are others."""
        self.digests |= {"train": digest_problems(train), "eval": digest_problems(evaluation)}
        self._refuse_other()

    def check_further(self, **problems: Sequence[Problem]) -> None:
        """The same for the problems of a method's own tasks, by their flags; `start` wants those of each."""
        self.digests |= {name: digest_problems(those) for name, those in problems.items()}
        self._refuse_other()

    def _refuse_other(self) -> None:
        before, now = absolute_paths(self.recorded or vars(self.args)), absolute_paths(vars(self.args))
        is_other = {name: before.get(name) != now[name] for name in self.by_content}
        # What is evaluated on is taken out of what is trained on.
        train = "eval_task" if is_other["eval_task"] and not is_other["task"] else "task"
        evaluation = "eval_task" if self.args.eval_task or is_other["eval_task"] else "task"
        flags = {part: name for name, part in self.by_content.items()} | {"train": train, "eval": evaluation}
        named = {part: (name.replace("_", "-"), is_other[name]) for part, name in flags.items()}
        refuse_other(self.directory, self.recorded.get("digests") or {}, self.digests, named)

    def start(self, policy: Any, stream: Any, extra: Mapping[str, Any] = {}) -> None:
        """Create the directory, or cut a resumed run's records back to its checkpoint; begin to watch for signals.

        `policy`, the stream of problems and the further models by name are what `save` saves; of a fresh run they are
        saved once for trial. On a resume the stream and the further models are set to where the checkpoint has them;
        the policy has been restored before. Raises InputError for a directory that cannot be created or is another
        process's, and for what cannot be saved; ValueError for a script that has a task which it has not checked.
        """
        for name in further_tasks(vars(self.args)):
            if getattr(self.args, name) and name not in self.digests:
                raise ValueError(
                    f"--{name.replace('_', '-')}: its problems must pass through check_further({name}=...)"
                )
        self.policy, self.stream, self.extra = policy, stream, extra
        stream.cursor = self.cursor
        self._on_first_rank(self._take_down_model)
        if self.checkpoint:
            for name, model in extra.items():
                model.restore_state(self.checkpoint / "extra" / name)
        self._on_first_rank(self._take_directory)
        self.directory = self.records.directory = Path(ranks.agree(str(self.directory)))
        try:
            if not self.checkpoint:
                self._try_to_save()
            self.signals = StopSignals(self._say_signal)  # before there is anything that a run is resumed from
            self._on_first_rank(self._start_records)
        except BaseException:  # also Ctrl-C
            if self.signals:
                self.signals.close()
            if not self.checkpoint and ranks.rank() == 0:
                self._take_away_directory()
            raise
        self._doubt()

    def _on_first_rank(self, act: Callable[[], object]) -> None:
        """Call it on the first rank; what it refuses all ranks refuse."""
        refusal = None
        if ranks.rank() == 0:
            try:
                act()
            except InputError as error:
                refusal = str(error)
        if refusal := ranks.agree(refusal):
            raise InputError(refusal)

    def _take_down_model(self) -> None:
        self.digests |= {"model": digest_model(self.args.model)}
        self._refuse_other()

    def _take_directory(self) -> None:
        """Create it, under a name that no other run has taken if it may be any, and be the only one to write there."""
        self.made: list[Path] = []  # what was not there before
        wanted = self.directory
        for number in itertools.count(2):
            missing = [
                path for path in [self.directory, *self.directory.absolute().parents] if not os.path.exists(path)
            ]
            try:
                self.directory.mkdir(parents=True, exist_ok=bool(self.args.output_dir or self.checkpoint))
                self.made = missing
                break
            except FileExistsError:
                if self.args.output_dir:  # a link to nowhere
                    raise InputError(f"--output-dir {self.directory} is no directory; use another place") from None
                self.directory = wanted.with_name(f"{wanted.name}-{number}")
            except OSError as error:
                place = f"--output-dir {self.directory}"
                raise InputError(f"{place} cannot be created ({error.strerror}); use another place") from None
        try:
            lock.take(self.directory)
            if self.checkpoint:
                newest = next(reversed(checkpoints_of(self.directory)), None)
                if newest != self.checkpoint:
                    raise InputError(
                        f"cannot resume {self.directory}: another process has just gone on with it; start again"
                    )
                return
            check_unused(self.directory)  # again: another process may have been faster
            self.before = written_in(self.directory) - {self.directory / "checkpoints" / TRIAL}
            (self.directory / "checkpoints").mkdir(exist_ok=True)  # a process that was killed may have left it
        except OSError as error:
            raise InputError(
                f"--output-dir {self.directory} cannot be written ({error.strerror}); use another place"
            ) from None

    def _take_away_directory(self) -> None:
        """Of a run that could not start nothing is left, and all that was there before stays."""
        for path in written_in(self.directory) - self.before:
            with suppress(OSError):
                shutil.rmtree(path, True) if path.is_dir() and not path.is_symlink() else path.unlink()
        lock.release()
        for path in self.made:
            with suppress(OSError):
                path.rmdir()

    def _start_records(self) -> None:
        arguments = {"algorithm": self.algorithm} | absolute_paths(dataclasses.asdict(self.args))
        self.records.start(arguments | {"digests": self.digests}, self.first_step)

    def _say_signal(self, number: int) -> None:
        text = f"{signal.Signals(number).name}: finishing this step, then saving (again to stop at once)"
        if ranks.launched():
            text += "; torchrun kills its workers after 30 s, or after its --shutdown-timeout"
        self.say(text)

    def say(self, text: str) -> None:
        """A line above the progress bar; on the terminal also when the reader of standard output is gone."""
        self.records.print(text)
        if terminal.out.lost and ranks.rank() == 0:
            terminal.say_aside(text)

    def steps(self) -> Iterator[int]:
        """Step numbers, 1-based, until the last one or until `ends` has said that this one is."""
        for step in range(self.first_step, self.args.num_steps + 1):
            yield step
            if self.stopping:
                return

    def evaluates(self, step: int) -> bool:
        """Whether an evaluation is due: every `eval_every` steps (0: never), at the planned end, and as step 0.

        Step 0 is before the first step; a run that goes on from a checkpoint has had it.
        """
        return not (step == 0 and self.checkpoint) and self._due(self.args.eval_every, step)

    def saves(self, step: int) -> bool:
        """Whether a checkpoint is due: every `save_every` steps, and where the run `ends`. Ask once a step."""
        return self.ends(step) or self._due(self.args.save_every, step)

    def _due(self, every: int, step: int) -> bool:
        return every > 0 and (step % every == 0 or step == self.args.num_steps)

    def ends(self, step: int) -> bool:
        """Whether this step is the last, by plan, signal or failure. All ranks ask together."""
        # It may have come to one rank alone; one that comes while the ranks talk is for the next step.
        if asked := ranks.largest(self.signals.number or 0):
            self.signals.ask(asked)
        self.stopping = asked > 0 or self.failure is not None
        return self.stopping or step == self.args.num_steps

    def fail(self, reason: str) -> None:
        """End the run after this step and a checkpoint, with this reason and exit status 1."""
        self.failure = reason

    def count_update(self, grad_norm: float) -> None:
        """Count updates in a row that were skipped, as a norm that is not finite tells; the third one ends the run."""
        if math.isfinite(grad_norm):
            self.skipped_in_a_row = 0
            return
        self.skipped_in_a_row += 1
        warn_once("skipped an update without a finite loss or gradient; see policy/skipped_updates")
        if self.skipped_in_a_row >= 3:
            self.fail("three updates in a row had no finite loss or gradient; try a lower --learning-rate")

    # --- Records ---

    def log(self, step: int, metrics: dict, samples: Sequence = (), batch: dict | None = None) -> None:
        """Write and show the metrics of a step, and a few of its samples; numbers that do not exist become null."""
        self.records.log(step, metrics)
        if samples:
            self.log_samples(step, samples, batch)

    def log_samples(self, step: int, samples: list, batch: dict) -> None:
        """Write a few of the step's responses."""
        self.records.log_samples(step, samples, batch)

    def log_evaluation(self, step: int, counts: dict[str, list]) -> None:
        """Write what an evaluation counted, problem by problem."""
        self.records.log_evaluation(step, counts)

    def show_first_step(self, samples: list) -> None:
        """Show a step's arithmetic, and a prompt as the model reads it with a response to it, to the token; once."""
        if not self.shown:
            self.records.show_first_step(self.policy, samples)
        self.shown = True

    # --- Checkpoints ---

    def save(self, step: int) -> None:
        """Write checkpoints/step-NNNNNN, whole or not at all, and keep the last two. All ranks call it together.

        If it cannot be written (a full disk, something else of that name) the previous checkpoint stays and the run
        goes on with a warning.
        """
        final = self.directory / "checkpoints" / f"step-{step:06d}"
        unfinished = final.with_name(f".{final.name}.partial")
        first = ranks.rank() == 0
        if first:
            shutil.rmtree(unfinished, ignore_errors=True)
        parts = [partial(self.policy.save, unfinished), partial(self.policy.save_optimizer, unfinished)]
        parts += [partial(model.save_state, unfinished / "extra" / name) for name, model in self.extra.items()]
        parts += [partial(self._save_own, step, unfinished, final)]
        # Each part ends on all ranks before the next begins, or none of them goes on.
        self.unsaved = next(filter(None, map(ranks.first_error, parts)), "")
        self.failed_saves = self.failed_saves + 1 if self.unsaved else 0
        if self.unsaved:
            kept = "the previous one is kept" if self.newest_checkpoint() else "and there is none before"
            self.records.print(f"warning: no checkpoint at step {step}, {kept} ({self.unsaved})")
        if self.failed_saves >= FAILED_SAVES:
            self.fail(f"{FAILED_SAVES} checkpoints in a row could not be written to {self.directory}: {self._why()}")
            self.stopping = True
        if first:
            shutil.rmtree(unfinished, ignore_errors=True)
            with suppress(OSError):
                for old in [path for path in checkpoints_of(self.directory) if step_of(path) <= step][:-2]:
                    shutil.rmtree(old, ignore_errors=True)

    def newest_checkpoint(self) -> Path | None:
        with suppress(OSError):
            return next(reversed(checkpoints_of(self.directory)), None)
        return None

    def _why(self) -> str:
        """Why the last checkpoint could not be written, and what to do about it."""
        is_full = any(os.strerror(number) in self.unsaved for number in FULL)
        return self.unsaved + ("; free some space there" if is_full else "")

    def _try_to_save(self) -> None:
        """Write model, tokenizer and state once and take them away again: what cannot be saved is found out now.

        The optimiser's state and further models are tensors by name, which can only fail as these do.
        """
        trial = self.directory / "checkpoints" / TRIAL
        if ranks.rank() == 0:
            shutil.rmtree(trial, ignore_errors=True)
        parts = partial(self.policy.save, trial), partial(self._write_own, 0, trial)
        self.unsaved = next(filter(None, map(ranks.first_error, parts)), "")
        if ranks.rank() == 0:
            shutil.rmtree(trial, ignore_errors=True)
        if self.unsaved:
            raise InputError(
                f"a checkpoint cannot be written to {self.directory} ({self._why()}); change --model or --output-dir"
            )

    def _save_own(self, step: int, unfinished: Path, final: Path) -> None:
        """Write what `_find_checkpoint` reads, and give the directory its final name once all of it is on the disk."""
        if ranks.rank() > 0:
            return
        self._write_own(step, unfinished)
        for path in [*unfinished.rglob("*"), unfinished]:
            sync_to_disk(path)
        os.replace(unfinished, final)

    def _write_own(self, step: int, directory: Path) -> None:
        if ranks.rank() == 0:
            own = {"cursor": self.stream.cursor, "state": self.state, "skipped_in_a_row": self.skipped_in_a_row}
            torch.save(own | {"step": step}, directory / STATE_FILE)

    def finish(self) -> None:
        """Draw the curves and leave: returns after the last step, exits 1 after `fail`, 128 + n after signal n."""
        ranks.stop()
        lost = self.records.finish()
        if self.failure is None and self.unsaved:
            self.failure = f"the last checkpoint could not be written to {self.directory}: {self._why()}"
        if self.failure is None and lost:
            self.failure = f"{lost} could not be written; the checkpoints are whole"
        number = self.signals.number
        if self.failure is None and number is not None:
            self.say(f"stopped; go on with --resume {self.directory}")
        lock.release()
        self.signals.close(at_end=True)
        if self.failure is not None and ranks.rank() == 0:
            terminal.warn(f"error: {self.failure}")
        ranks.leave(1 if self.failure is not None else 128 + number if number is not None else 0)


def checkpoints_of(directory: Path) -> list[Path]:
    """Those of a run, in the order of their steps; copies under names of another form, links and archives are not."""
    found = (directory / "checkpoints").glob("step-*")
    own = [path for path in found if CHECKPOINT.fullmatch(path.name) and path.is_dir() and not path.is_symlink()]
    return sorted(own, key=step_of)


def step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def written_in(directory: Path) -> set[Path]:
    """What is here under the names that a run writes before its first step, its folders and what is in them."""
    names = [*FILES, *(f".{name}.partial" for name in FILES), "checkpoints", "checkpoints/*", "wandb", "wandb/*"]
    return {path for name in names for path in directory.glob(name)}


def sync_to_disk(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    os.fsync(descriptor)
    os.close(descriptor)
