"""The command line: flags as a dataclass, what they may be, and bad input said in one line.

    args = parse_args(Args)
    check_args(args)

A flag that is a number must be finite and 0 or more, unless its class declares what it may be:

    wrong_reward: Signed = -1.0
    branch_ratio: between(0, 0.5) = 0.25
    teacher_sign: Sign = 1
"""

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

import tyro

from common import InputError, lock, ranks, terminal

POSITIVE = (
    "num_steps num_prompts num_generations max_response_length temperature update_epochs num_minibatches "
    "micro_batch_tokens max_grad_norm eval_problems eval_samples vllm_tensor_parallel_size vllm_gpu_memory_utilization"
).split()
# What a resumed run may do differently; anything else would make it another run.
MAY_CHANGE = (
    "resume output_dir device backend vllm_tensor_parallel_size vllm_gpu_memory_utilization num_steps "
    "micro_batch_tokens packing share_prompts gradient_checkpointing offload_optimizer compile eval_every save_every "
    "track wandb_project_name dry_run"
).split()
# What may have moved, if it is the same, and where its digest is (common/identity.py).
BY_CONTENT = {"task": "train", "eval_task": "eval", "model": "model"}
RECORDED = ("algorithm", "digests")  # what args.json holds besides flags
BACKENDS = ("auto", "hf", "vllm")


def may_be_path(name: str) -> bool:
    """Whether a flag of this name takes a path, or what may be one: a task, a model."""
    return name in ("output_dir", "resume", "model") or name.endswith("task")


def at_home(arguments: dict) -> dict:
    """The same, with the home directory for a ~ in front of a path: a shell leaves that of --task=~/x.jsonl alone."""
    return {
        name: os.path.expanduser(value) if may_be_path(name) and isinstance(value, str) else value
        for name, value in arguments.items()
    }


def further_tasks(names: Iterable[str]) -> list[str]:
    """Those of these flags that name a task of a method's own, beside --task and --eval-task: they end in _task."""
    return [name for name in names if name.endswith("_task") and name not in BY_CONTENT]


@dataclass(frozen=True)
class Range:
    """The numbers that a flag may be, both ends included; NaN and the infinite never are."""

    low: float = -math.inf
    high: float = math.inf

    def holds(self, value: float) -> bool:
        return -math.inf < value < math.inf and self.low <= value <= self.high

    def __str__(self) -> str:
        low = f", at least {self.low:g}" if math.isfinite(self.low) else ""
        high = f", at most {self.high:g}" if math.isfinite(self.high) else ""
        return f"a finite number{low}{high}"


Signed = Annotated[float, Range()]  # any finite number
Sign = Annotated[Literal[1, -1], Range(-1, 1)]  # a direction


def between(low: float, high: float) -> type:
    """The type of a flag that is a number from `low` to `high`."""
    return Annotated[float, Range(low, high)]


@contextmanager
def exit_on_bad_input() -> Iterator[None]:
    """Turn an InputError into one line on standard error, from one of the ranks that have it, and exit status 2."""
    try:
        yield
    except InputError as error:
        text = " ".join(str(error).split())
        if ranks.first_to_say(text):
            terminal.warn(f"error: {text}" + (f" (rank {ranks.rank()})" if ranks.rank() else ""))
        lock.release()
        raise SystemExit(2) from None


def parse_args(args_class: type) -> Any:
    """The command line as `args_class`. With --resume the run's own arguments are the defaults.

    Raises InputError for a run that cannot be resumed, or not into another directory.
    """

    def parse(**default: Any) -> Any:
        return args_class(**at_home(vars(tyro.cli(args_class, default=args_class(**default)))))

    args = parse()
    if args.resume is None:
        return args
    saved = read_json(Path(args.resume) / "args.json", args.resume)
    if args.output_dir is not None and os.path.realpath(args.output_dir) != os.path.realpath(args.resume):
        raise InputError(
            f"--resume {args.resume} goes on in that directory, not in --output-dir {args.output_dir}; leave "
            "--output-dir out, or copy the run there and resume the copy"
        )
    known = {field.name for field in dataclasses.fields(args_class)}
    if unknown := sorted(saved.keys() - known - {*RECORDED}):
        raise InputError(
            f"cannot resume {args.resume}: it was made with flags this script lacks ({', '.join(unknown)}); "
            "use the script that made it"
        )
    hints = get_type_hints(args_class)
    for field in dataclasses.fields(args_class):
        is_number = type(field.default) in (int, float, bool)  # which older runs have too
        value = saved.get(field.name, None if is_number else field.default)
        if not is_of(value, hints[field.name]):
            raise InputError(f"cannot resume {args.resume}: args.json is damaged at {field.name}; start a new run")
    saved = {key: value for key, value in saved.items() if key in known} | {"resume": args.resume}
    saved["output_dir"] = saved.get("output_dir") and args.resume  # it may have been moved or copied
    return parse(**saved)


def is_of(value: object, hint: Any) -> bool:
    """Whether it is of exactly this type, or one of these types or values: no bool is an int, and no int a float."""
    parts = get_args(hint)
    if get_origin(hint) is Literal:
        return any(type(value) is type(part) and value == part for part in parts)
    return any(is_of(value, part) for part in parts) if parts else type(value) is hint


def declared_ranges(args_class: type) -> dict[str, Range]:
    """The `Range` of each flag that declares one, also of a flag that may be None instead."""
    return {
        name: mark
        for name, hint in get_type_hints(args_class, include_extras=True).items()
        for part in (hint, *get_args(hint))
        for mark in getattr(part, "__metadata__", ())
        if isinstance(mark, Range)
    }


def check_args(args: Any) -> None:
    """Refuse numbers out of their range (if undeclared: finite, >= 0, sizes > 0), a backend that nobody knows, and
    groups that fill no minibatch."""
    ranges = declared_ranges(type(args))
    for name, value in vars(args).items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        if name in ranges:
            if not ranges[name].holds(value):
                raise InputError(f"{flag} is {value}; it must be {ranges[name]}")
        elif not 0 <= value < math.inf or (value == 0 and name in POSITIVE):
            least = "greater than 0" if name in POSITIVE else "0 or more"
            raise InputError(f"{flag} is {value}; it must be a finite number, {least}")
    if args.backend not in BACKENDS:
        raise InputError(f"backend {args.backend!r} does not exist; use --backend hf, vllm or auto")
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
