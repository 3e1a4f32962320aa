"""Exercises: an algorithm file with one part left blank, and a check that tells when it is right, or what is wrong.

    python -m benchmarks.exercise                                      # which there are
    python -m benchmarks.exercise kl_cov                               # writes exercises/kl_cov.py without its loss
    python -m benchmarks.exercise kl_cov --region credit --force
    python -m benchmarks.exercise gxpo --region watch                  # a function that this file alone has
    python -m benchmarks.exercise --check exercises/kl_cov.py          # exit status 0: right; 1: not yet
    python exercises/kl_cov.py                                         # trains, as the original does

The check imports the copy and calls its assign_credit and policy_loss on random batches of several kinds, in float64,
beside those of the original in algos/: what they write, the loss, and its gradients have to agree. Kinds go from plain
to special (padding, a group without spread, ratios beyond the clip, a quota of no token ...), and the first on which
the two differ is named. policy_loss is given the original's advantages, so that each function is judged by itself.
Where a method's idea is in a further function, on what is drawn from or on the parameters, that one is left blank and
called on inputs of its own kinds.
"""

import ast
import contextlib
import importlib
import io
import math
import sys
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Annotated

import torch
import tyro
from rich import box
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.methods import METHODS, method
from common import InputError
from common.arguments import exit_on_bad_input
from tests import sync

FUNCTIONS = {"credit": "assign_credit", "loss": "policy_loss"}  # of every file, by region
SEEDS = range(4)  # random batches of each kind
GROUPS, SIZE, LENGTH = 3, 4, 6  # groups, responses in each, and tokens of the longest


EXERCISES = {name: record.exercises for name, record in METHODS.items() if record.exercises}
NOTES = {
    "credit": "# Write into `batch` what the docstring names; return metrics, a dict that may stay empty here.",
    "loss": "# Return (loss, metrics): a scalar with a gradient, and a dict that may stay empty here.",
}


def functions(name: str) -> dict[str, str]:
    """The functions that a file's check judges: those of its regions, and further ones under their own names."""
    return FUNCTIONS | {part: part for part in EXERCISES.get(name, {}) if part not in FUNCTIONS}


# --- Writing ----------------------------------------------------------------------------------------------------


def blank(text: str, part: str, hint: str) -> tuple[str, int]:
    """A file's text without the body of one function, and how many lines that took away.

    `part` is the region whose function it is, or its own name.
    """
    name, parts = FUNCTIONS.get(part, part), sync.own_parts(text)
    for region in map(parts.get, FUNCTIONS):
        for node in ast.parse(region).body:
            if isinstance(node, ast.FunctionDef) and node.name == name:
                lines = region.splitlines()
                first, last = node.body[0].end_lineno, node.end_lineno  # after the docstring
                statement = [f'    raise NotImplementedError("{hint}")']
                if len(statement[0]) > 120:
                    statement = ["    raise NotImplementedError(", f'        "{hint}"', "    )"]
                note = NOTES.get(part, "# Return what the docstring says.")
                lines[first:last] = [f"    {note}", *statement]
                return text.replace(region, "\n".join(lines) + "\n"), last - first
    raise InputError(f"its regions {' and '.join(FUNCTIONS)} have no function {name}")


def exercise(name: str, region: str, folder: str = "exercises") -> tuple[str, int]:
    """The text of an exercise, with commands that name its own place, and the number of lines left out."""
    text, removed = blank(sync.read(name), region, EXERCISES[name][region].hint)
    return text.replace(f"python algos/{name}.py", f"python {folder}/{name}.py"), removed


def table() -> Table:
    shown = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    shown.add_column("file", no_wrap=True)
    shown.add_column("region", no_wrap=True)
    shown.add_column("difficulty", no_wrap=True)
    shown.add_column("lines", justify="right")
    shown.add_column("what one learns")
    for name, regions in EXERCISES.items():
        for region, entry in regions.items():
            shown.add_row(name, region, entry.difficulty, str(exercise(name, region)[1]), entry.learns)
    return shown


# --- Batches ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Kind:
    """How a kind of random batch is made, and its name in a report."""

    words: str
    padding: bool = False  # responses of different lengths
    noise: bool = False  # numbers on padding, where the trainer has zeros
    equal_groups: int = 0  # groups whose rewards are all equal
    log_ratio: float = 0.02  # standard deviation of log pi / pi_old
    flags: tuple[tuple[str, object], ...] = ()


KINDS = (
    Kind("plain batches (no padding, mixed groups, ratios near 1)"),
    Kind("batches with padding", padding=True),
    Kind("batches with numbers on the padding", padding=True, noise=True),
    Kind("batches with a group of equal rewards", equal_groups=1),
    Kind("batches of equal rewards only", equal_groups=GROUPS),
    Kind("batches where nothing has moved (ratios of 1)", log_ratio=0.0),
    Kind("batches with ratios beyond the clip", log_ratio=0.5),
    Kind("batches with log-ratios beyond 20", log_ratio=40.0),
)


def kinds(name: str, region: str) -> list[Kind]:
    """All kinds of batches that a function is tried on."""
    found = list(KINDS)
    if region == "loss" and method(name).needs_spread:
        found = [kind for kind in found if kind.equal_groups < GROUPS]
    if region == "credit":  # which does not read the log-probabilities
        found = [kind for kind in found if kind.log_ratio == Kind.log_ratio]
    for flags in method(name).tried:
        words = " ".join(f"--{flag.replace('_', '-')} {value}" for flag, value in flags.items())
        found.append(Kind(f"batches of all sorts with {words}", True, True, 1, 0.5, tuple(flags.items())))
    return found


def random_batch(kind: Kind, seed: int) -> tuple[dict, Tensor, Tensor]:
    """A batch before assign_credit, and logprobs and entropy (B, T) after some updates, all in float64."""
    generator = torch.Generator().manual_seed(seed)

    def uniform() -> Tensor:
        return torch.rand(rows, LENGTH, generator=generator, dtype=torch.float64)

    def normal() -> Tensor:
        return torch.randn(rows, LENGTH, generator=generator, dtype=torch.float64)

    rows = GROUPS * SIZE
    lengths = (
        torch.randint(1, LENGTH + 1, (rows,), generator=generator) if kind.padding else torch.full((rows,), LENGTH)
    )
    mask = torch.arange(LENGTH) < lengths[:, None]
    rewards = torch.stack([torch.randperm(SIZE, generator=generator) for _ in range(GROUPS)])  # 0 .. 3
    right = torch.randint(1, SIZE, (GROUPS, 1), generator=generator)
    rewards = (rewards < right).double()  # from one right response to all but one
    for group in range(kind.equal_groups):
        rewards[group] = float((group + seed) % 2 == 0)
    logprobs, entropy = -3 * uniform() ** 2, 2 * uniform()
    values = {
        "old_logprobs": logprobs - kind.log_ratio * normal(),
        "ref_logprobs": logprobs - 0.3 * normal(),
        "entropy": 2 * uniform(),
        "values": normal(),  # of a critic
        "state_mean": 0.3 * normal(),
        "proxy_gain": 0.5 * uniform(),
        "rollout_logprobs": logprobs - 0.1 * normal(),
        "teacher_logprobs": logprobs - 0.5 * normal(),
    }
    if not kind.noise:
        values, logprobs, entropy = {k: v * mask for k, v in values.items()}, logprobs * mask, entropy * mask
    drawn = torch.randint(4, (rows,), generator=generator).tolist()
    batch = {"answers": [str(answer) if answer else None for answer in drawn]}
    batch["step_index"] = (uniform() < 0.3).cumsum(1)  # steps begin anywhere
    batch["step_right"] = (uniform() < 0.5) & mask
    batch["general"] = torch.arange(rows) >= rows // 2
    batch["truncated"] = lengths == LENGTH
    batch["response_ids"] = torch.randint(3, (rows, LENGTH), generator=generator)
    return batch | {"mask": mask, "rewards": rewards.view(-1)} | values, logprobs, entropy


# --- Inputs of further functions ---------------------------------------------------------------------------------


def randoms(*size: int, seed: int) -> Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def drawn_from(function: Callable, args: object, seed: int, words: int, scale: float, token: int, digits: int) -> dict:
    """What cuts draws from, as shares, on random distributions rounded to `digits`: the fewer, the more words tie."""
    rows = (scale * randoms(8, words, seed=seed)).softmax(-1).round(decimals=digits)
    weights = function(rows.clone(), token, args)
    if isinstance(weights, Tensor) and weights.is_floating_point():
        weights = weights / weights.sum(-1, keepdim=True)
    return {"the shares": weights}


def led(function: Callable, args: object, seed: int, ratio: float | None, size: float = 1.0) -> dict:
    """gxpo's k after a first step of about `size`, and a second that is `ratio` times that, or right back (None)."""
    x, step = (torch.zeros(20), torch.full((20,), size)) if size < 1e-9 else randoms(2, 20, seed=seed)
    v = x + step
    w = x if ratio is None else v + (1.0 if size < 1e-9 else ratio * randoms(20, seed=seed + 1) * step)
    return {"k": function(x, v, w, args)}


def watched(function: Callable, args: object, seed: int, *norms: float, leaps: bool = True) -> dict:
    """gxpo's gate, on gradient norms one after the other: what it returns, and what it then remembers."""
    state, jitter = {}, 1 + 0.01 * randoms(len(norms), seed=seed)
    above = [function(norm * j, args, state, leaps) for norm, j in zip(norms, jitter.tolist(), strict=True)]
    known = {f"state['{key}']": state.get(key, 0.0) for key in ("gate_mean", "gate_var", "gate_count", "off")}
    return {"what it returns": torch.tensor(above, dtype=torch.float64)} | known


@dataclass(frozen=True)
class Case:
    """A kind of inputs of a function that one file alone has, and its name in a report."""

    words: str
    outputs: Callable[[Callable, object, int], dict]  # (function, Args, seed) -> what the function made, by name
    flags: dict = field(default_factory=dict)


plain_rows = {"words": 12, "scale": 2.0, "token": 9, "digits": 9}
CASES = {
    "spread": (
        Case("plain distributions", partial(drawn_from, **plain_rows)),
        Case("distributions of a sure policy", partial(drawn_from, **plain_rows | {"scale": 9.0})),
        Case("the first tokens", partial(drawn_from, **plain_rows | {"token": 1})),
        Case("the token after those", partial(drawn_from, **plain_rows | {"token": 2})),
        Case("distributions with few likely words", partial(drawn_from, **plain_rows | {"words": 60, "scale": 0.3})),
        Case("fewer words than k", partial(drawn_from, **plain_rows | {"words": 3})),
        Case("words of equal probabilities", partial(drawn_from, **plain_rows | {"digits": 1})),
        Case("--cuts-top-k 2", partial(drawn_from, **plain_rows), {"cuts_top_k": 2}),
        Case("--cuts-min-prob 0.2", partial(drawn_from, **plain_rows), {"cuts_min_prob": 0.2}),
        Case("--cuts-warmup 0", partial(drawn_from, **plain_rows | {"token": 0}), {"cuts_warmup": 0}),
    ),
    "lead": (
        Case("second steps of all sorts", partial(led, ratio=1.0)),
        Case("second steps of the first one's size and more", partial(led, ratio=4.0)),
        Case("second steps right back", partial(led, ratio=None)),
        Case("parameters that stood still", partial(led, ratio=1.0, size=0.0)),
        Case("parameters that all but stood still", partial(led, ratio=1.0, size=1e-13)),
        Case("--horizon 2", partial(led, ratio=1.0), {"horizon": 2}),
        Case("--horizon 10", partial(led, ratio=1.0), {"horizon": 10}),
    ),
    "watch": (
        Case("norms near 1", lambda *args: watched(*args, 1.0, 1.2, 0.9, 1.1)),
        Case("a norm that ends the leaps", lambda *args: watched(*args, 1.0, 1.2, 0.9, 9.0)),
        Case("a second norm that is large", lambda *args: watched(*args, 1.0, 90.0)),
        Case("a norm far below the others", lambda *args: watched(*args, 9.0, 9.0, 9.0, 0.1), {"gate": 0.5}),
        Case("norms that are all but equal", lambda *args: watched(*args, *[1.0] * 150)),
        Case("norms that are not finite", lambda *args: watched(*args, 1.0, math.inf, math.nan, 1.2, 0.9, 1.1)),
        Case("steps without a leap", lambda *args: watched(*args, 1.0, 1.2, 0.9, 9.0, leaps=False)),
        Case("--gate 0", lambda *args: watched(*args, 1.0, 1.2, 0.9, 9.0), {"gate": 0.0}),
        Case("--gate-decay 0.5", lambda *args: watched(*args, 1.0, 1.2, 0.9, 1.1), {"gate_decay": 0.5}),
    ),
}


# --- Comparing --------------------------------------------------------------------------------------------------


@dataclass
class Difference:
    """Where a copy first differs on one batch. `got` and `want` are tensors of one shape, or None."""

    text: str
    output: str = ""
    got: Tensor | None = None
    want: Tensor | None = None
    mask: Tensor | None = None


def load_copy(path: Path, needed: Iterable[str] = FUNCTIONS.values()) -> ModuleType:
    """The module in a file, compiled anew each time. Raises InputError if it cannot be imported or lacks a function."""
    module, before = ModuleType(f"exercise_{path.stem}"), list(sys.path)
    module.__file__ = str(path.resolve())
    sys.modules[module.__name__] = module  # dataclasses look there
    try:
        exec(compile(path.read_text(), str(path), "exec"), module.__dict__)
    except SyntaxError as error:
        raise InputError(f"{path}, line {error.lineno}: {error.msg}") from None
    except OSError as error:
        raise InputError(
            f"{path} cannot be read ({error.strerror}); write it with: -m benchmarks.exercise NAME"
        ) from None
    except Exception as error:
        raise InputError(f"{path} cannot be imported ({type(error).__name__}: {error})") from None
    finally:
        sys.path[:] = before
    if missing := [name for name in ("Args", *needed) if not hasattr(module, name)]:
        raise InputError(f"{path} has no {' and no '.join(missing)}")
    return module


def where(module: ModuleType, error: Exception) -> str:
    """The line of the copy that an exception came from."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [frame.lineno for frame in frames if Path(frame.filename).resolve() == Path(module.__file__)]
    return f", line {lines[-1]}" if lines else ""


def compare(
    output: str,
    got: object,
    want: Tensor,
    mask: Tensor | None,
    exact: bool = False,
    axes: tuple[str, str] = ("response", "token"),
) -> Difference | None:
    """Nothing, or in what way an output differs from the original's; `axes` are what its dimensions stand for."""
    if not isinstance(got, Tensor):
        return Difference(f"{output} is {'missing' if got is None else f'a {type(got).__name__}'} instead of a tensor")
    got = got.detach()
    if got.shape != want.shape:
        return Difference(f"{output} has shape {tuple(got.shape)} instead of {tuple(want.shape)}")
    if (want.dtype == torch.bool) != (got.dtype == torch.bool):
        return Difference(f"{output} has type {got.dtype} instead of {want.dtype}")
    left, right = got.double(), want.double()
    near = left == right if exact else torch.isclose(left, right, rtol=1e-9, atol=1e-11, equal_nan=True)
    if near.all():
        return None
    error = (left - right).abs().masked_fill(near, 0).nan_to_num(math.inf, math.inf)
    place = torch.unravel_index(error.argmax(), error.shape) if error.ndim else ()
    words = ""
    if len(place) == 2:
        inside = mask is None or mask[place]
        words = f" ({axes[0]} {place[0]}, {axes[1] if inside else 'on padding, position'} {place[1]})"
    elif len(place) == 1:
        words = f" ({axes[0]} {place[0]})"
    found, expected = left[place].item(), right[place].item()
    digits = next((n for n in (3, 6, 9) if f"{found:.{n}g}" != f"{expected:.{n}g}"), 12)
    shown = f"{found:.{digits}g} instead of {expected:.{digits}g}"
    if want.dtype == torch.bool:
        shown = f"{bool(found)} instead of {bool(expected)}"
    return Difference(f"{output}: {shown}{words}", output, left, right, mask)


def as_tensor(value: object) -> object:
    """A number as a tensor, anything else as it is."""
    return torch.tensor(float(value), dtype=torch.float64) if isinstance(value, int | float) else value


def copied(batch: dict) -> dict:
    return {key: value.clone() if isinstance(value, Tensor) else value for key, value in batch.items()}


class Different(Exception):
    """Raised with the Difference that makes any comparison of numbers pointless."""


@dataclass
class Pair:
    """An original and a copy under the same settings."""

    name: str
    original: ModuleType
    copy: ModuleType

    def args(self, flags: dict) -> list:
        flags = {"num_generations": SIZE, "max_response_length": LENGTH} | method(self.name).acts | flags
        return [module.Args(**flags) for module in (self.original, self.copy)]

    def credit(self, kind: Kind, seed: int, metrics: set[str]) -> Difference | None:
        """assign_credit, on three batches in a row where it uses `state`; `metrics` gains those that differ."""
        args, states = self.args(dict(kind.flags)), ({}, {})
        for turn in range(3):
            batch = random_batch(kind, 100 * seed + turn)[0]
            ours, theirs = copied(batch), copied(batch)
            known = self.original.assign_credit(ours, args[0], states[0])
            found = self.copy.assign_credit(theirs, args[1], states[1])
            for key in sorted(ours.keys() - batch.keys()):
                got, want = as_tensor(theirs.get(key)), as_tensor(ours[key])
                if problem := compare(f"batch['{key}']", got, want, batch["mask"] if want.ndim == 2 else None):
                    return problem
            for key in states[0] | states[1]:
                got, want = (as_tensor(state.get(key, 0.0)) for state in reversed(states))
                if problem := compare(f"state['{key}']", got, want, None):
                    return problem
            if not isinstance(found, dict):
                return Difference("what it returns is no dict of metrics")
            metrics |= differing_metrics(found, known)
            if not states[0] | states[1]:  # nothing is remembered: one batch says it all
                break
        return None

    def rounding(self) -> Difference | None:
        """Eight rewards of 0.3 in float32: their mean is not 0.3, and the advantages have to be 0 all the same."""
        batch, _, _ = random_batch(KINDS[0], 0)
        batch = {
            key: v[:8].float() if isinstance(v, Tensor) and v.is_floating_point() else v[:8] for key, v in batch.items()
        }
        batch["rewards"] = torch.full((8,), 0.3)
        args = self.args({"num_generations": 8, "max_response_length": 12})[1]
        self.copy.assign_credit(batch, args, {})
        return compare("batch['advantages']", batch.get("advantages"), torch.zeros(8, LENGTH), None, exact=True)

    def inputs(self, kind: Kind, seed: int) -> tuple[dict, Tensor, Tensor]:
        """What policy_loss is given, with the original's credit."""
        batch, logprobs, entropy = random_batch(kind, seed)
        self.original.assign_credit(batch, self.args(dict(kind.flags))[0], {})
        return batch, logprobs, entropy

    def gradients(self, which: int, flags: dict, inputs: tuple[dict, Tensor, Tensor], seed: int = 0) -> tuple:
        """(loss, metrics, gradient by logprobs, gradient by entropy) of the original (0) or the copy (1)."""
        batch, *values = inputs
        leaves = [value.clone().requires_grad_() for value in values]
        torch.manual_seed(seed)
        result = (self.original, self.copy)[which].policy_loss(*leaves, copied(batch), self.args(flags)[which])
        if not (isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], dict)):
            raise Different(Difference("what it returns is not (loss, metrics)"))
        loss, metrics = result
        if not isinstance(loss, Tensor) or loss.ndim:
            shape = f"of shape {tuple(loss.shape)}" if isinstance(loss, Tensor) else f"a {type(loss).__name__}"
            raise Different(Difference(f"the loss is {shape} instead of a scalar tensor"))
        if not loss.requires_grad:
            raise Different(Difference("the loss has no gradient: was everything detached?"))
        return loss, metrics, *torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)

    def loss(self, kind: Kind, seed: int, metrics: set[str]) -> Difference | None:
        """policy_loss and its gradients; `metrics` gains those that differ."""
        inputs = self.inputs(kind, seed)
        mask, flags = inputs[0]["mask"], dict(kind.flags)
        known, found = (self.gradients(which, flags, inputs) for which in (0, 1))
        names = {0: "the loss", 2: "its gradient by logprobs", 3: "its gradient by entropy"}
        for index, output in names.items():
            if problem := compare(output, found[index], known[index], inputs[0]["loss_mask"] if index == 0 else mask):
                return problem
        metrics |= differing_metrics(found[1], known[1])
        return None

    def further(self, part: str, case: Case, seed: int) -> Difference | None:
        """A function that this file alone has."""
        args, modules = self.args(case.flags), (self.original, self.copy)
        known, found = (case.outputs(getattr(module, part), a, seed) for module, a in zip(modules, args, strict=True))
        for output, want in known.items():
            got = as_tensor(found[output])
            if problem := compare(output, got, as_tensor(want), None, axes=("entry", "word")):
                return problem
        return None

    def draw(self) -> Difference | None:
        """A random selection where the quota is smaller than the window: any draw of the right size will do."""
        share = method(self.name).draws
        kind = Kind("", padding=True, log_ratio=0.3)
        for seed in SEEDS:
            inputs = self.inputs(kind, seed)
            everything, window = (self.gradients(0, {share: r}, inputs)[2] for r in (0.0, 1.0))
            tokens = inputs[0]["mask"].sum().item()
            candidates = (everything != 0) & (window == 0)
            got = self.gradients(1, {share: 0.1}, inputs)[2]
            left_out = (everything != 0) & (got == 0)
            quota = min(int(0.1 * tokens), int(candidates.sum()))
            if left_out.sum() != quota:
                return Difference(f"{int(left_out.sum())} tokens are left out instead of {quota} of {tokens}")
            if (left_out & ~candidates).any():
                return Difference("a token outside the window is left out")
            if problem := compare("its gradient by logprobs", got[~left_out], everything[~left_out], None):
                return problem
        drawn = {tuple((self.gradients(1, {share: 0.1}, inputs, seed)[2] == 0).flatten().tolist()) for seed in SEEDS}
        return None if len(drawn) > 1 else Difference("the same tokens are left out every time, not random ones")


def differing_metrics(found: dict, known: dict) -> set[str]:
    """Names of the original's metrics that are missing or have another value."""

    def same(key: str) -> bool:
        try:
            return math.isclose(found[key], known[key], rel_tol=1e-6, abs_tol=1e-9) or (
                math.isnan(found[key]) and math.isnan(known[key])
            )
        except (KeyError, TypeError):
            return False

    return {key for key in known if not same(key)}


def guess(problems: list[Difference]) -> str | None:
    """A common mistake that would make just this difference on every batch of a kind, in words."""
    first = problems[0]
    same = [problem for problem in problems if problem.output == first.output and problem.got is not None]
    if not same or len(same) < len(problems):
        return None
    factors = []
    for problem in same:
        ratio = (problem.got / problem.want)[problem.want.abs() > 1e-9]
        if not len(ratio) or (problem.got[problem.want.abs() <= 1e-9].abs() > 1e-6).any():
            return None
        if not ratio.isfinite().all() or ratio.max() - ratio.min() > 1e-4 * ratio.abs().max():
            return None
        factors.append(ratio.mean().item())

    def all_are(*expected: float) -> bool:
        return all(math.isclose(f, e, rel_tol=1e-4) for f, e in zip(factors, expected, strict=True))

    count = len(same)
    if all(abs(factor - 1) < 1e-3 for factor in factors):
        return "nearly right: look at a small constant, such as the 1e-6 beside the standard deviation"
    if all_are(*[-1.0] * count):
        return "every number has the wrong sign"
    if first.output.startswith("batch"):
        if all_are(*[math.sqrt(SIZE / (SIZE - 1))] * count):
            return "the standard deviation lacks Bessel's correction: it divides by G instead of G - 1"
    elif first.mask is not None:
        tokens = [problem.mask.sum().item() for problem in same]
        if all_are(*[n / problem.mask.numel() for n, problem in zip(tokens, same, strict=True)]):
            return "the mean is over all positions, padding included, instead of over the tokens of the mask"
        if all_are(*map(float, tokens)):
            return "this is a sum over the tokens, not their mean"
        if all_are(*[n / len(problem.mask) for n, problem in zip(tokens, same, strict=True)]):
            return "this is a sum over each response, divided by the number of responses"
    if all_are(*[factors[0]] * count):
        return f"every number is {factors[0]:.4g} times what it should be"
    return None


def attempts(pair: Pair, region: str) -> Iterator[tuple[str, list[Callable[[set[str]], Difference | None]]]]:
    """(kind of batch in words, one trial for each seed) for everything that a function is tried on."""
    for case in CASES.get(region, ()):
        yield case.words, [lambda metrics, c=case, s=seed: pair.further(region, c, s) for seed in SEEDS]
    if region not in FUNCTIONS:
        return
    judge = pair.credit if region == "credit" else pair.loss
    for kind in kinds(pair.name, region):
        yield kind.words, [lambda metrics, k=kind, s=seed: judge(k, s, metrics) for seed in SEEDS]
    if region == "credit" and not method(pair.name).binary_rewards:
        yield "a group of eight rewards of 0.3 in float32, whose mean rounds", [lambda metrics: pair.rounding()]
    if region == "loss" and method(pair.name).draws:
        yield "batches where the quota is smaller than the window", [lambda metrics: pair.draw()]


def check(path: Path, regions: Iterable[str] | None = None) -> tuple[bool, list[str]]:
    """Whether the functions of a copy, or of these regions, do what the original's do, and a report in words."""
    name = path.stem
    if name not in sync.algorithms():
        raise InputError(f"{path}: no algorithm is called {name}; its name has to be one of {', '.join(EXERCISES)}")
    known = functions(name)
    if unknown := [region for region in regions or () if region not in known]:
        raise InputError(f"{name} has no part {unknown[0]} to judge; name one of {', '.join(known)}")
    pair = Pair(name, importlib.import_module(f"algos.{name}"), load_copy(path, known.values()))
    try:
        pair.gradients(0, {}, pair.inputs(KINDS[0], 0))
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(
            f"algos/{name}.py cannot be checked: random batches are not enough for it ({reason})"
        ) from None
    right, lines = True, []
    for region in known if regions is None else regions:
        function = known[region]
        agreeing, differing, metrics, batches = [], {}, set(), 0
        for words, trials in attempts(pair, region):
            problems = []
            for trial in trials:
                try:
                    # Settings are meant to be odd here: no warnings.
                    with contextlib.redirect_stderr(io.StringIO()), warnings.catch_warnings(action="ignore"):
                        problem = trial(metrics)
                except NotImplementedError as error:
                    problem = Difference(f"it is still blank: {error}")
                except Different as error:
                    problem = error.args[0]
                except Exception as error:
                    problem = Difference(f"it raises {type(error).__name__}{where(pair.copy, error)}: {error}")
                batches += 1
                if problem:
                    problems.append(problem)
                    if differing:  # only the first kind is looked at closely
                        break
            if problems:
                differing[words] = problems
            else:
                agreeing.append(words)
        if not differing:
            lines.append(
                f"{function} is right: it agrees with algos/{name}.py on {batches} trials of {len(agreeing)} kinds"
            )
            if metrics:
                lines.append(
                    f"  metrics that are missing or differ, which no training needs: {', '.join(sorted(metrics))}"
                )
            continue
        right = False
        words, problems = next(iter(differing.items()))
        if problems[0].text.startswith("it is still blank"):
            lines.append(f"{function}: {problems[0].text}")
            continue
        lines += [f"{function} is not right yet.", f"  On {words}: {problems[0].text}"]
        if (text := guess(problems)) or (text := only_gradient(differing)):
            lines.append(f"  That looks like this: {text}.")
        lines.append(f"  It agrees on: {'; '.join(agreeing) or 'nothing'}")
        if others := list(differing)[1:]:
            lines.append(f"  It differs too on: {'; '.join(others)}")
    return right, lines


def only_gradient(differing: dict[str, list[Difference]]) -> str | None:
    if all(problem.output.startswith("its gradient") for problems in differing.values() for problem in problems):
        return (
            "the loss itself agrees everywhere, so something that should be a constant carries gradient, or the reverse"
        )
    return None


# --- Command line -----------------------------------------------------------------------------------------------


@dataclass
class Args:
    name: Annotated[str | None, tyro.conf.Positional] = None
    """algorithm to make an exercise of; without it: the list"""
    region: str | None = None
    """which part is left blank, or judged: credit, loss, or a further function; by default what holds the method's
    idea is blank, and all are judged"""
    out: Path = Path("exercises")
    """folder for the copy, in the root of the repository: from there the copy finds common/"""
    force: bool = False
    """write over an existing copy"""
    check: Path | None = None
    """a copy to be judged"""


def write(args: Args) -> tuple[Path, str]:
    """Where the copy is, from the repository's root, and which region is blank."""
    if args.name not in EXERCISES:
        what = "has no exercise yet" if args.name in sync.algorithms() else "is no algorithm"
        raise InputError(f"{args.name} {what}; name one of {', '.join(EXERCISES)}")
    folder = args.out.resolve()
    if folder.parent != sync.ROOT or folder.name in ("algos", "common", "tests", "benchmarks"):
        raise InputError(f"--out {args.out}: name a folder of its own in {sync.ROOT}, where the copy finds common/")
    region = next(iter(EXERCISES[args.name])) if args.region is None else args.region
    if region not in EXERCISES[args.name]:
        raise InputError(f"{args.name} has no exercise on its {region}; leave --region out")
    path = folder / f"{args.name}.py"
    if path.exists() and not args.force:
        raise InputError(f"{path.relative_to(sync.ROOT)} exists; keep it, or write over it with --force")
    text = exercise(args.name, region, folder.name)[0]
    try:
        folder.mkdir(exist_ok=True)
        path.write_text(text)
    except OSError as error:
        raise InputError(f"--out {args.out} cannot be written ({error.strerror}); name another folder") from None
    return path.relative_to(sync.ROOT), region


def check_flags(args: Args) -> None:
    """Refuse what would be ignored: each way of calling the command has flags of its own."""
    if args.check:
        way, used = "beside --check", ("check", "region")
    elif args.name is None:
        way, used = "without an algorithm's name", ()
    else:
        return
    for name, value in vars(args).items():
        if name not in used and value != getattr(Args, name):
            flag = "an algorithm's name" if name == "name" else f"--{name}"
            raise InputError(f"{flag} does nothing {way}; leave it out")


def main(args: Args) -> int:
    width = None if sys.stdout.isatty() else 160
    console = Console(highlight=False, markup=False, emoji=False, width=width)  # code and names of files are no markup
    check_flags(args)
    if args.check:
        right, lines = check(args.check, None if args.region is None else [args.region])
        console.print("\n".join(lines), soft_wrap=True)
        return int(not right)
    if args.name is None:
        console.print(table())
        console.print("python -m benchmarks.exercise FILE [--region REGION]")
        return 0
    path, region = write(args)
    entry = EXERCISES[args.name][region]
    console.print(f"wrote {path}: {functions(args.name)[region]} is blank ({entry.difficulty}); {entry.hint}")
    console.print(f"when it is filled in: python -m benchmarks.exercise --check {path}")
    return 0


if __name__ == "__main__":
    with exit_on_bad_input():
        status = main(tyro.cli(Args, description=__doc__))
    raise SystemExit(status)
