"""What a run writes and shows: its files, a line or a bar per step, curves, Weights & Biases, and words of warning.

    records = Records(directory, args)
    records.start("grpo", first_step=1)          # args.json, env.json
    records.log(step, metrics)                   # metrics.jsonl, one object a step
    records.log_samples(step, samples, batch)    # samples.jsonl
    records.log_evaluation(step, counts)         # evaluations.jsonl, one object an evaluation
    records.finish()                             # curves.png

A file that cannot be written (a full disk, a directory that is gone) does not end the run: its lines are kept in memory
and written as soon as they can be. The checkpoints are common/run.py's.
"""

import atexit
import json
import math
import os
import platform
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import transformers
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from common import InputError, ranks, terminal
from common.curves import draw_curves
from common.health import LONG, findings
from common.tracker import Tracker

LINES = ("metrics.jsonl", "samples.jsonl", "evaluations.jsonl")
FILES = ("args.json", "env.json", *LINES, "curves.png")


class Records:
    """The files of a run's directory but for its checkpoints, and its lines on the terminal.

    One process writes: on other ranks than the first every method does nothing. Raises InputError if `args.track` asks
    for Weights & Biases and it is not installed or does not take the project's name.
    """

    def __init__(self, directory: Path, args: Any):
        self.directory, self.args = directory, args
        self.console = Console(file=terminal.out, highlight=False)
        self.progress: Progress | None = None
        self.latest: dict[str, float] = {}
        self.steps_logged: list[dict] = []  # the first and the last few, to see what goes wrong
        self.said: set[str] = set()
        self.curves_are_old = True
        self.whole: dict[str, str] = {}  # what is written once
        self.waiting: dict[str, list[str]] = {name: [] for name in LINES}  # lines for the disk
        self.tracker = Tracker(args.wandb_project_name, directory, self.print) if args.track else None

    def start(self, arguments: dict, first_step: int) -> None:
        """Begin in a directory that exists; of a resumed run's lines those before `first_step` stay.

        `arguments` are for args.json. Raises InputError for what cannot be written, and if Weights & Biases refuses.
        """
        if ranks.rank() > 0:
            return
        here = environment()
        self._warn_of_another_sampler(here)
        self.whole = {"args.json": as_json(arguments), "env.json": as_json(here)}
        try:
            for name in self.waiting:
                path = self.directory / name
                lines = path.read_text("utf-8", "replace").splitlines() if path.exists() else []
                kept = [line for line in lines if is_record(line) and json.loads(line)["step"] < first_step]
                write_whole(path, "".join(f"{line}\n" for line in kept))
                if name == "metrics.jsonl":
                    self.steps_logged = [json.loads(line) for line in kept if "rollout/reward" in line]
            for name, text in self.whole.items():
                write_whole(self.directory / name, text)
        except OSError as error:
            place = f"{self.directory} cannot be written ({error.strerror or error})"
            raise InputError(f"{place}; make room, or use another --output-dir") from None
        if self.tracker:
            self.tracker.directory = self.directory
            self.tracker.start(arguments)
        if self.console.is_terminal:
            columns = (BarColumn(20), MofNCompleteColumn(), TimeRemainingColumn(), TextColumn("{task.description}"))
            self.progress = Progress(*columns, console=self.console, redirect_stderr=terminal.err.isatty())
            self.progress.start()
            atexit.register(self.progress.stop)  # shows the cursor again, however the process ends
            self.bar = self.progress.add_task("", total=self.args.num_steps, completed=first_step - 1)

    def _warn_of_another_sampler(self, here: dict) -> None:
        """Of a resumed run: tokens that vLLM sampled are weighed (--importance-cap), the model's own are not."""
        with suppress(OSError, ValueError, AttributeError):  # a fresh run; env.json is no part of a run's state
            before = json.loads((self.directory / "env.json").read_text()).get("vllm")
            if bool(before) != bool(here["vllm"]):
                names = ["vLLM" if version else "the trained model" for version in (before, here["vllm"])]
                ranks.say(
                    f"warning: up to here {names[0]} sampled, and from here on {names[1]} does: with --importance-cap "
                    f"{self.args.importance_cap:g} that is another objective; --backend chooses"
                )

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """Append one line to metrics.jsonl and show the dense line; numbers that do not exist (no data) become null."""
        if ranks.rank() > 0:
            return
        clean = {k: v if math.isfinite(v) else None for k, v in metrics.items()}
        self._append("metrics.jsonl", [{"step": step} | clean])
        if self.tracker:
            self.tracker.log(step, {k: v for k, v in clean.items() if v is not None})
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

    def show_first_step(self, policy: Any, samples: list) -> None:
        """Show the arithmetic of a step, and one prompt as the model reads it with one response to it, to the token."""
        args, sample = self.args, samples[0]
        rows, updates = args.num_prompts * args.num_generations, args.num_minibatches * args.update_epochs
        self.print(
            f"a step: {args.num_prompts} prompts x {args.num_generations} responses = {rows} rows; "
            f"{updates} updates of {rows // args.num_minibatches} rows"
        )
        whole = policy.tokenizer.decode([*sample.prompt_ids, *sample.response.token_ids])
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
        records = []
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
            records.append(record)
        self._append("samples.jsonl", records)

    def log_evaluation(self, step: int, counts: dict[str, list]) -> None:
        """Append what an evaluation counted, problem by problem, to evaluations.jsonl."""
        if ranks.rank() == 0:
            self._append("evaluations.jsonl", [{"step": step} | counts])

    def _append(self, name: str, records: list[dict]) -> None:
        """Append lines, after those that could not be written before."""
        self.waiting[name] += map(json.dumps, records)
        late = len(self.waiting[name]) - len(records)
        try:
            self._write_what_is_missing()
            append_lines(self.directory / name, self.waiting[name])
        except OSError as error:
            if not late:
                reason = error.strerror or error
                self.print(
                    f"warning: {self.directory / name} cannot be written ({reason}); the run goes on and keeps its "
                    "lines in memory until they can be"
                )
            return
        if late:
            self.print(f"{self.directory / name} can be written again; the lines that waited ({late}) are in it")
        self.waiting[name] = []

    def _write_what_is_missing(self) -> None:
        """Somebody may have removed the directory: a run cannot be resumed without its arguments."""
        for name, text in self.whole.items():
            if not os.path.exists(self.directory / name):
                self.directory.mkdir(parents=True, exist_ok=True)
                write_whole(self.directory / name, text)
                self.print(f"warning: {self.directory / name} was gone and is written again; other files are not")

    def _draw_curves(self) -> None:
        try:
            draw_curves(self.directory / "metrics.jsonl", self.directory / "curves.png", self.directory.name)
        except Exception as error:  # a full disk, or a font: no picture is worth a run
            if "curves" not in self.said:
                self.said.add("curves")
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                self.print(f"warning: {self.directory / 'curves.png'} cannot be drawn ({reason})")

    def print(self, text: str) -> None:
        """A line above the progress bar, if there is one; from the first rank only."""
        if ranks.rank() > 0:
            return
        (self.progress.console if self.progress else self.console).print(text, soft_wrap=True, markup=False)

    def finish(self) -> str | None:
        """Take the bar away, write and draw what waits, close the tracker and say where everything is.

        What could not be written to the end, in words.
        """
        if self.progress:
            self.progress.stop()
        if ranks.rank() > 0:
            return None
        for name, lines in self.waiting.items():
            if lines:
                self._append(name, [])
        if self.curves_are_old:
            self._draw_curves()
        if self.tracker:
            self.tracker.finish()
        self.print(f"{self.directory}: {', '.join(self.waiting)}, curves.png, checkpoints/")
        lost = [f"{len(lines)} lines of {self.directory / name}" for name, lines in self.waiting.items() if lines]
        return " and ".join(lost) or None


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


def commit_of(root: Path) -> str | None:
    """The commit of a checkout, with -dirty where a tracked Python file differs: another table is no other program."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", root, *words], capture_output=True, text=True).stdout.strip()

    if not shutil.which("git") or not (commit := git("describe", "--always")):
        return None
    return commit + ("-dirty" if git("status", "--porcelain", "--untracked-files=no", "--", "*.py") else "")


def environment() -> dict:
    """Versions, device, commit and command: what one needs to run this again."""
    return {
        "command": [sys.executable, *sys.argv],
        "commit": commit_of(Path(__file__).resolve().parents[1]),
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
    """Whether a line is whole: a killed run may leave half of one behind, and a damaged disk other bytes than ASCII."""
    try:
        record = json.loads(line)
    except ValueError:
        return False
    return line.isascii() and isinstance(record, dict) and isinstance(record.get("step"), int)


def as_json(record: dict) -> str:
    return json.dumps(record, indent=2) + "\n"


def append_lines(path: Path, lines: list[str]) -> None:
    """All of them or none; what another process left half written stays on a line of its own."""
    with path.open("a+b", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        data = b"" if file.read(1) in (b"", b"\n") else b"\n"
        data += "".join(f"{line}\n" for line in lines).encode()
        try:
            while data:
                data = data[file.write(data) :]
        except OSError:
            with suppress(OSError):
                file.truncate(end)
            raise


def write_whole(path: Path, text: str) -> None:
    """Replace a file so that a reader sees the old text or the new, never a part."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text)
        os.replace(partial, path)
    except OSError:
        with suppress(OSError):
            partial.unlink()
        raise
