"""One training step of a finished run, token by token: what its loss sees, selects and clips.

    python -m benchmarks.explore runs/x                            # writes runs/x/explorer.json
    python -m benchmarks.explore runs/x --prompts 64 --out x.json
    python -m benchmarks.explore runs/x --base                     # the initial model, as the run's first step saw it

The run's last checkpoint makes one step on the run's own task, with its flags, on a policy in memory: the regions of
the algorithm's file are run as they stand (setup, sample, score, update), with the further models that the checkpoint
holds, and its `policy_loss` is followed through the updates, minibatch by minibatch. Nothing in the run is changed.
`python -m benchmarks.gallery --run runs/x` makes a page of it.

Of each token, as the loss saw it in its minibatch: entropy, log-probability, advantage, ratio to the policy that
sampled, d loss / d log-probability, covariance (Eq. 10 of arXiv 2505.22617), polarity (the change of entropy that its
update promises, common/metrics.py) and one status. A status is what the loss
did, read from the masks that it computed (`bound`, and those that the method's record in benchmarks/methods.py names)
and from the gradient that autograd gives; an algorithm of one's own is judged by the gradient alone.

Sampling is with the trained model itself, also where the run used vLLM. A file whose regions need more of a run than
its policy, problems, sampler and memory is refused.
"""

import dataclasses
import importlib
import json
import os
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from textwrap import dedent
from types import ModuleType, SimpleNamespace
from typing import Annotated

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import numpy as np
import torch
import tyro
from torch import Tensor

from benchmarks import ROOT
from benchmarks.doctor import read
from benchmarks.inputs import check_writable
from benchmarks.law import LAWS, explained, fit_law
from benchmarks.measure import environment
from benchmarks.methods import method
from benchmarks.rollouts import Actor
from common import InputError
from common.arguments import RECORDED, exit_on_bad_input
from common.basics import Timer, random_seed
from common.batch import Sample, make_batch, minibatches
from common.loading import policy_from_args
from common.metrics import entropy_slopes, promised_change
from common.policy import Policy
from common.rollout import fit_prompts, sample_groups
from common.run import STATE_FILE, checkpoints_of
from common.tasks import problems_from_args
from common.verifier import Verifier
from tests.sync import own_parts

# Letter -> what a loss does with a token.
STATUSES = {
    "t": "trained",
    "c": "clipped",  # its ratio has left the bounds: no gradient
    "o": "left out",  # by the method's own choice: no gradient
    "h": "held back",  # chosen by KL-Cov: the gradient has a penalty in it
    "l": "lever",  # likely enough for the entropy controller, which adds to its gradient
    "n": "no signal",  # advantage 0
}
LETTERS = "".join(STATUSES)
NUMBERS = "entropy logprob advantage ratio gradient covariance polarity".split()


@dataclass
class Args:
    run: Annotated[Path, tyro.conf.Positional]
    """a run directory with a checkpoint"""
    out: Path | None = None
    """by default explorer.json in the run directory"""
    prompts: int = 32
    """prompts of the batch (P); as many minibatches as the run had, if there are that many groups"""
    responses: int = 96
    """most responses of which the tokens are written, in whole groups; statistics are of the whole batch"""
    tokens: int = 20_000
    """most tokens written, the same number of each response from its beginning"""
    base: bool = False
    """the initial model instead of the last checkpoint"""
    seed: int = 0
    """of the problems and the samples"""
    device: str = "auto"


# --- The run ----------------------------------------------------------------------------------------------------------


def load_algorithm(name: object) -> ModuleType:
    """algos/<name>.py as a module."""
    if not (isinstance(name, str) and name.isidentifier() and (ROOT / "algos" / f"{name}.py").is_file()):
        raise InputError(f"algorithm {name!r} has no file in algos/; add the one that made this run")
    return importlib.import_module(f"algos.{name}")


def load_run(own: Args) -> tuple[ModuleType, object, list[dict], Path]:
    """Algorithm, its arguments, metrics and last checkpoint of a run; raises InputError for what is none."""
    saved, records = read(own.run)
    module = load_algorithm(saved.pop("algorithm", None))
    saved = {key: value for key, value in saved.items() if key not in RECORDED}
    fields = {field.name: field for field in dataclasses.fields(module.Args)}
    if unknown := sorted(saved.keys() - fields.keys()):
        raise InputError(
            f"{own.run} was made with flags that algos/{module.__name__.partition('.')[2]}.py lacks "
            f"({', '.join(unknown)}); use the file that made it"
        )
    for name, value in saved.items():  # as --resume does
        if type(default := fields[name].default) in (int, float, bool) and type(value) is not type(default):
            raise InputError(f"{own.run} is not a run that can be read (args.json is damaged at {name})")
    found = checkpoints_of(own.run)
    if not found:
        raise InputError(f"{own.run} has no checkpoint to load; name a run that has one")
    return module, module.Args(**saved | {"device": own.device}), records, found[-1]


def load_policy(args: object, checkpoint: Path, base: bool) -> tuple[Policy, dict]:
    """The policy with its optimiser, and what else the checkpoint holds: all as the next step would find it."""
    if base:
        return policy_from_args(args), {}
    policy = policy_from_args(dataclasses.replace(args, model=str(checkpoint)))
    policy.restore(checkpoint)
    try:
        return policy, torch.load(checkpoint / STATE_FILE, weights_only=True)
    except Exception as error:  # unpickling a damaged file can raise almost anything
        raise InputError(f"{checkpoint / STATE_FILE} is missing or damaged ({type(error).__name__})") from None


# --- One step ---------------------------------------------------------------------------------------------------------


def scene(module: ModuleType, args: object, policy: Policy, step: int, state: dict, train_problems: list) -> dict:
    """What the regions of a file find around them in a run, by their names."""
    actor = Actor(policy, verifier=Verifier(args.reward_mode, args.seed))
    sizes = {"n": args.num_generations, "temperature": args.temperature, "max_new_tokens": args.max_response_length}
    found = {"args": args, "policy": policy, "step": step, "train_problems": train_problems, "timer": Timer()}
    run = SimpleNamespace(state=state, checkpoint=Path())  # not None: nothing is measured as before a first step
    run.check_further = lambda **_: None
    found |= {"run": run, "sampler": actor.sampler, "verifier": actor.verifier}
    found["limits"] = args.max_prompt_length, args.max_response_length
    # The step's prompts are those that the run has read, and an engine had room for all of them.
    found["longest"], found["eval_longest"] = args.max_response_length, policy.context_length
    found["draw"] = partial(sample_groups, sampler=actor.sampler, verifier=actor.verifier, **sizes)
    return vars(module) | found


def play(region: str, names: dict) -> None:
    """Run a region of a file as it stands; `names` gains what it assigns."""
    path = Path(names["__file__"])
    try:
        exec(compile(dedent(own_parts(path.read_text())[region]), f"{path.name}, region {region}", "exec"), names)
    except (NameError, AttributeError, LookupError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise InputError(f"algos/{path.name} cannot be explored: its {region} region needs more ({reason})") from None


def with_locals(function: Callable, *inputs: object) -> tuple[object, dict]:
    """What a function returns and what its local variables were then: the masks of the real call, random draws too."""
    seen, before = {}, sys.getprofile()

    def look(frame, event: str, _: object) -> None:
        if event == "return" and frame.f_code is function.__code__:
            seen.update(frame.f_locals)

    sys.setprofile(look)
    try:
        return function(*inputs), seen
    finally:
        sys.setprofile(before)


def covariance(logprobs: Tensor, advantages: Tensor, mask: Tensor) -> Tensor:
    """(l - mean l) (A - mean A) of each token, the means over all tokens in the mask; 0 outside. All (M, T)."""
    if not mask.any():
        return torch.zeros_like(logprobs)
    return (logprobs - logprobs[mask].mean()) * (advantages - advantages[mask].mean()) * mask


def token_values(
    module: ModuleType, logprobs: Tensor, entropy: Tensor, mb: dict, args: object
) -> tuple[tuple[Tensor, dict], tuple[Tensor, Tensor], dict[str, Tensor]]:
    """What policy_loss returns for a minibatch, the loss's gradients by its two inputs, which must want one, and what
    it says of each token: NUMBERS and `status`, (M, T) each.
    """
    inputs = logprobs, entropy
    result, seen = with_locals(module.policy_loss, *inputs, mb, args)
    grads = torch.autograd.grad(result[0], inputs, retain_graph=True, allow_unused=True, materialize_grads=True)
    logprobs, entropy, mask, advantages = logprobs.detach(), entropy.detach(), mb["loss_mask"], mb["advantages"]
    nowhere = torch.zeros_like(mask)
    carries = (grads[0] != 0) | (grads[1] != 0)
    signal = mask & (advantages != 0)
    found = [("t", carries), ("o", signal & ~carries), ("c", seen.get("bound", nowhere) & mask)]
    for name, letter in method(module.__name__.rpartition(".")[2]).masks.items():
        where = ~seen[name[1:]] if name.startswith("~") else seen[name]
        if letter == "l":  # pulled only while the controller is on
            where = where & (mb["alpha"] != 0)
        found.append((letter, where & (mask if letter == "h" else signal)))

    status = torch.full(mask.shape, LETTERS.index("n"))
    for letter, where in found:  # a later one counts
        status[where] = LETTERS.index(letter)
    return (
        result,
        grads,
        {
            "entropy": entropy,
            "logprob": logprobs,
            "advantage": advantages,
            "ratio": (logprobs - mb["old_logprobs"]).clamp(-20, 20).exp(),
            "gradient": grads[0],
            "covariance": covariance(logprobs, advantages, mask),
            "polarity": promised_change(mb, grads),
            "status": status,
        },
    )


def walk(module: ModuleType, names: dict, batch: dict) -> dict[str, Tensor]:
    """A step's updates as the file makes them: of every token, (B, T) each, what its last minibatch's loss saw.

    Also `update` (B,), the number of that minibatch, from 1.
    """
    policy, args = names["policy"], names["args"]
    values, found = {"update": torch.zeros(len(batch["mask"]), dtype=torch.long)}, {}

    def followed(*inputs: object) -> tuple[Tensor, dict]:
        result, _, seen = token_values(module, *inputs)
        found.update(seen)
        return result

    names |= {"sampled_by": policy.updates, "policy_loss": followed}
    batch = batch | {"row": torch.arange(len(batch["mask"]))}
    for number, mb in enumerate(minibatches(batch, args), 1):
        found.clear()
        names["mb"], rows = mb, mb["row"]
        play("update", names)
        if not found:
            raise InputError(f"{module.__name__} cannot be explored: its update region does not call policy_loss")
        values["update"][rows] = number
        for key, value in found.items():
            values.setdefault(key, torch.zeros(batch["mask"].shape, dtype=value.dtype))[rows] = value
    return values


# --- The record -------------------------------------------------------------------------------------------------------


def short(value: float) -> float:
    """Four significant digits; 0 without a sign."""
    return float(f"{value:.4g}") + 0.0


def relative(word: str) -> str:
    """A path inside the repository as seen from there, another absolute one by its last part."""
    word = word.removeprefix(f"{ROOT}/")
    return Path(word).name if os.path.isabs(word) else word


def entropy_statistics(entropy: np.ndarray, bins: int = 40) -> dict:
    """Histogram of the tokens' entropies (nats), their 80th percentile, and the share of all entropy above it."""
    counts, edges = np.histogram(entropy, bins, (0.0, max(float(entropy.max()), 1e-6)))
    line = float(np.percentile(entropy, 80))
    total = float(entropy.sum())
    return {
        "counts": counts.tolist(),
        "edges": [short(edge) for edge in edges],
        "mean": short(entropy.mean()),
        "percentile_80": short(line),
        "share_above": short(entropy[entropy > line].sum() / total) if total > 0 else None,
    }


def covariance_tail(values: np.ndarray, points: int = 60) -> dict:
    """The k-th largest covariance for some sixty k, evenly spaced in log k: `shares` k / N and `values`."""
    ordered = np.sort(values)[::-1]
    ranks = np.unique(np.geomspace(1, len(ordered), points).round().astype(int))
    return {
        "mean": short(values.mean()),
        "shares": [short(k / len(ordered)) for k in ranks],
        "values": [short(ordered[k - 1]) for k in ranks],
    }


def reward_and_entropy(records: list[dict]) -> dict:
    """A run's reward and entropy over its steps, and the law R = -a exp(H) + b and a straight line fitted to them."""
    keys = "rollout/reward", "rollout/entropy"
    rows = [(r["step"], *(r[key] for key in keys)) for r in records if all(r.get(key) is not None for key in keys)]
    steps, reward, entropy = (np.array(column) for column in zip(*rows, strict=True)) if rows else ([np.array([])] * 3)
    fits = {}
    if len(rows) >= 3 and np.ptp(reward) > 0 and np.ptp(entropy) > 0:
        for name, of in LAWS.items():
            a, b = fit_law(entropy, reward, of)
            fits[name] = {"slope": short(-a), "offset": short(b), "r2": short(explained(entropy, reward, of))}
    return {
        "steps": [int(step) for step in steps],
        "reward": [short(value) for value in reward],
        "entropy": [short(value) for value in entropy],
        "fits": fits,
    }


def token_texts(policy: Policy, ids: list[int]) -> list[str]:
    """Each token by itself; one that is a part of a character in the tokenizer's own notation."""
    names = policy.tokenizer.convert_ids_to_tokens(ids)
    texts = [policy.tokenizer.decode([i], clean_up_tokenization_spaces=False) for i in ids]
    return [str(name) if "\ufffd" in text or not text else text for text, name in zip(texts, names, strict=True)]


def response_record(policy: Policy, one: Sample, row: int, values: dict[str, Tensor], most: int) -> dict:
    """A response with a list per quantity of its first `most` tokens."""
    ids = one.response.token_ids[:most].tolist()
    return {
        "reward": one.verdict.reward,
        "answer": one.verdict.answer,
        "reason": one.verdict.reason,
        "truncated": one.response.truncated,
        "length": len(one.response.token_ids),
        "update": values["update"][row].item(),
        "tokens": token_texts(policy, ids),
        "ids": ids,
        "status": "".join(LETTERS[i] for i in values["status"][row, : len(ids)].tolist()),
    } | {key: [short(value) for value in values[key][row, : len(ids)].tolist()] for key in NUMBERS}


def cut(args: object) -> dict:
    """Where a covariance method's quota cuts: its share of a minibatch's tokens, and the window of candidates."""
    share = getattr(args, "kl_cov_ratio", getattr(args, "clip_cov_ratio", None))
    window = {"low": args.clip_cov_lb, "high": args.clip_cov_ub} if hasattr(args, "clip_cov_lb") else {}
    return {} if share is None else {"share": share} | window


def training(run: Path) -> dict:
    """The command that made the run, and its commit."""
    try:
        made = json.loads((run / "env.json").read_text())
        command = ["python", *map(relative, made["command"][1:])]
    except (OSError, ValueError, LookupError, TypeError):
        return {"command": None, "commit": None}
    return {"command": shlex.join(command), "commit": made.get("commit")}


def explore(own: Args) -> dict:
    """The record of one batch, as it is written."""
    if min(own.prompts, own.responses, own.tokens) < 1:
        raise InputError("--prompts, --responses and --tokens must be 1 or more")
    module, args, records, checkpoint = load_run(own)
    policy, saved = load_policy(args, checkpoint, own.base)
    step = saved.get("step", 0) + 1
    policy.learning_rate = args.learning_rate * min(1.0, step / max(1, args.warmup_steps))
    problems, _ = problems_from_args(args)
    problems, _ = fit_prompts(policy, problems, args.max_prompt_length, args.max_response_length)
    of_step = dataclasses.replace(args, num_prompts=own.prompts, seed=random_seed(args.seed, own.seed))
    names = scene(module, of_step, policy, step, saved.get("state", {}), problems)
    torch.manual_seed(random_seed(of_step.seed, step))
    play("setup", names)
    if not own.base:
        for name, model in names["extra"].items():
            model.restore_state(checkpoint / "extra" / name)
    play("sample", names)
    samples, drawn = names["samples"], names["metrics"]
    batch = names["batch"] = make_batch(samples)
    batch |= entropy_slopes(policy, batch)
    play("score", names)
    batch["importance"] = torch.ones_like(batch["old_logprobs"])
    module.assign_credit(batch, of_step, names["run"].state)
    values = walk(module, names, batch)

    n, mask = args.num_generations, batch["mask"]
    written = min(len(samples), max(n, own.responses)) // n * n
    most, groups = max(1, own.tokens // written), []
    for first in range(0, written, n):
        group = samples[first : first + n]
        prompt = group[0].problem.prompt
        groups.append(
            {
                "prompt": prompt if isinstance(prompt, str) else "\n\n".join(str(turn["content"]) for turn in prompt),
                "gold": group[0].problem.answer,
                "responses": [response_record(policy, one, first + i, values, most) for i, one in enumerate(group)],
            }
        )
    letters = [LETTERS[i] for i in values["status"][mask].tolist()]
    defaults = {f.name for f in dataclasses.fields(importlib.import_module("algos.grpo").Args)}
    knobs = {f.name: getattr(args, f.name) for f in dataclasses.fields(args)}
    shared = "learning_rate num_generations num_minibatches update_epochs temperature max_response_length".split()
    shared += ["clip_ratio_low", "clip_ratio_high"]
    about = environment("explore", own)
    return {
        "algorithm": module.__name__.rpartition(".")[2],
        "model": relative(args.model) if args.model else "embedded model",
        "task": relative(args.task),
        "run_seed": args.seed,
        "step": step - 1,
        "settings": {k: v for k, v in knobs.items() if k in shared or k not in defaults},
        "batch": {
            "prompts": len(samples) // n,
            "responses": len(samples),
            "tokens": int(mask.sum()),
            "drawn_responses": drawn["rollout/num_samples"],
            "reward": short(drawn["rollout/reward"]),
            "updates": int(values["update"].max()),
            "statuses": {letter: letters.count(letter) for letter in LETTERS if letter in letters},
        },
        "entropy": entropy_statistics(batch["entropy"][mask].double().numpy()),
        "covariance": covariance_tail(values["covariance"][batch["loss_mask"]].double().numpy()) | {"cut": cut(args)},
        "history": reward_and_entropy(records),
        "groups": groups,
        "provenance": {
            "command": shlex.join(["python", "-m", "benchmarks.explore", *map(relative, sys.argv[1:])]),
            "training": training(own.run),
            "checkpoint": None if own.base else relative(str(checkpoint)),
            "seed": own.seed,
            "date": about["date"],
            "python": about["python"],
            "packages": about["packages"],
            "cpu": about["cpu"],
        },
    }


def as_text(record: dict) -> str:
    """JSON with a line for each list of numbers or words."""
    text = json.dumps(record, indent=1, ensure_ascii=False)
    return re.sub(r"\[\n[^\[\]{}]*?\n *\]", lambda found: re.sub(r"\n *", "", found[0]), text) + "\n"


def main(own: Args) -> None:
    """Write the record; where it cannot go is said before anything is sampled."""
    out = own.out or own.run / "explorer.json"
    load_run(own)  # before a folder is made for what is none
    check_writable(out)
    record = explore(own)
    try:
        out.write_text(as_text(record))
    except OSError as error:
        raise InputError(f"--out {out} cannot be written ({error.strerror}); use another place") from None
    counts = ", ".join(f"{count} {STATUSES[letter]}" for letter, count in record["batch"]["statuses"].items())
    print(f"{out}: {record['batch']['tokens']} tokens of {record['batch']['responses']} responses ({counts})")


if __name__ == "__main__":
    with exit_on_bad_input():
        main(tyro.cli(Args))
