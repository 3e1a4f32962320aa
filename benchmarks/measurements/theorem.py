"""The change of entropy that an update promises, against the one that is measured: by method, step and optimiser.

    python -m benchmarks.theorem                     # some minutes of one thread
    python -m benchmarks.theorem --report            # page and figure again, from the numbers that are kept

The eight first methods from the embedded model, one update per rollout. The change is that of the mean entropy at the
batch's own positions, in nats per token. At each step the same batch and the same parameters see two updates: one of
plain gradient descent, which is taken back, and that of AdamW, with which training goes on. Three predictions of it:

- covariance: -Cov(log p, A) over the batch's tokens, as Cui et al. (arXiv 2505.22617) have it for a table of logits,
  the policy gradient and one sampled token for each state. It knows nothing of the method's loss.
- polarity: `promised_change` of common/metrics.py, which `--polarity` logs in training: exact to first order for a
  table of logits and the method's own loss.
- gradient: <dH/dtheta, step>, the first order of the network itself and of the step that was really made.

The first two are for a unit of learning rate and know no network: their scale means nothing here, their sign and their
correlation over steps do. The third has the units of what is measured, and a slope of 1 if the step is short enough.
Where polarity fails and gradient does not, it is the network or the optimiser that the theorem leaves out: the same
batch under plain descent says which. Writes theorem.csv, theorem.md and theorem.png under benchmarks/results/collapse.
"""

import csv
import importlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import matplotlib
import numpy as np
import torch
import tyro
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from torch import Tensor

from benchmarks import RESULTS
from benchmarks.collapse import FIRST, REGIMES, SIZE
from benchmarks.explore import play, scene
from benchmarks.measure import check_known
from benchmarks.plot import PALETTE
from benchmarks.report import finite, interval, markdown, plus_minus, write_csv
from benchmarks.rollouts import differentiate
from common.basics import random_seed
from common.batch import make_batch
from common.curves import INK, MUTED, STYLE
from common.loading import policy_from_args
from common.metrics import entropy_slope, entropy_square, promised_change
from common.policy import Policy
from common.tasks import problems_from_args

PREDICTIONS = ("covariance", "polarity", "gradient")
OPTIMISERS = ("SGD", "AdamW")
MARKERS = "osD^v<>P"


@dataclass
class Args:
    methods: tuple[str, ...] = tuple(FIRST)
    seeds: tuple[int, ...] = (1, 2, 3)
    num_steps: int = 16
    num_prompts: int = 16
    sgd_learning_rate: float = 0.01
    """of the update that is taken back"""
    report: bool = False
    """measure nothing"""
    out: Path = RESULTS / "collapse"


# --- Measuring --------------------------------------------------------------------------------------------------------


def gradient(policy: Policy, batch: dict, *by_output: Tensor) -> list[Tensor]:
    """A loss's gradient by all parameters, from its gradients by log-probabilities and entropies (B, T)."""
    policy.backward(batch, *by_output)
    found = [torch.zeros_like(p) if p.grad is None else p.grad for p in policy.root.parameters()]
    policy.optimizer.zero_grad()
    return found


def inner(left: list[Tensor], right: list[Tensor]) -> float:
    return sum((a.double() * b.double()).sum().item() for a, b in zip(left, right, strict=True))


def mean_entropy(policy: Policy, batch: dict) -> float:
    """Nats per token, at the batch's own positions."""
    return policy.score(batch)[1][batch["mask"]].double().mean().item()


def both_updates(policy: Policy, batch: dict, grads: tuple[Tensor, Tensor], rate: float) -> Iterator[dict]:
    """First order ("gradient") and measured change of the mean entropy by plain descent at this rate and by AdamW.

    The policy is left with the latter. `grads` are those of the loss by log-probabilities and entropies.
    """
    mask, entropy, before = batch["mask"], mean_entropy(policy, batch), policy.snapshot()
    of_loss = gradient(policy, batch, *grads)
    of_entropy = gradient(policy, batch, torch.zeros_like(grads[0]), mask.to(grads[1]) / mask.sum())
    for optimiser in OPTIMISERS:
        if optimiser == "SGD":
            policy.write([p - rate * g for p, g in zip(before, of_loss, strict=True)])
        else:
            policy.write(before)
            for parameter, g in zip(policy.root.parameters(), of_loss, strict=True):
                parameter.grad = g
            policy.step()
        step = [now - p for now, p in zip(policy.snapshot(), before, strict=True)]
        change = mean_entropy(policy, batch) - entropy
        made = {"optimiser": optimiser, "learning_rate": rate if optimiser == "SGD" else policy.learning_rate}
        yield made | {"gradient": inner(of_entropy, step), "measured": change}


def follow(own: Args, method: str, seed: int) -> Iterator[dict]:
    """Two rows a step, one for each optimiser."""
    module = importlib.import_module(f"algos.{method}")
    sizes = {"num_prompts": own.num_prompts, "num_generations": SIZE["num_generations"]}
    args = module.Args(seed=seed, device="cpu", **sizes, **REGIMES["on-policy"])
    policy, problems = policy_from_args(args), problems_from_args(args)[0]
    names = scene(module, args, policy, 1, {}, problems)
    play("setup", names)
    for step in range(1, own.num_steps + 1):
        torch.manual_seed(random_seed(seed, step))
        names["step"] = step
        play("sample", names)
        batch = names["batch"] = make_batch(names["samples"])
        keys = ("old_logprobs", "entropy", "entropy_slope", "entropy_square")
        batch |= zip(keys, policy.score(batch, also=(entropy_slope, entropy_square)), strict=True)
        batch["importance"] = torch.ones_like(batch["entropy"])
        module.assign_credit(batch, args, names["run"].state)
        _, grads = differentiate(module, (batch["old_logprobs"], batch["entropy"]), batch, args)
        mask = batch["mask"]
        pairs = torch.stack([batch["old_logprobs"][mask], batch["advantages"][mask]])
        common = {
            "method": method,
            "seed": seed,
            "prompts": own.num_prompts,
            "step": step,
            "reward": names["metrics"]["rollout/reward"],
        }
        common |= {"entropy": batch["entropy"][mask].mean().item(), "covariance": -pairs.cov()[0, 1].item()}
        common["polarity"] = promised_change(batch, grads)[mask].mean().item()
        yield from (common | row for row in both_updates(policy, batch, grads, own.sgd_learning_rate))
        names["sampler"].sync()


# --- Reading ----------------------------------------------------------------------------------------------------------


def agreement(predicted: np.ndarray, measured: np.ndarray) -> dict[str, float]:
    """Pearson's correlation, share of equal signs, slope of measured on predicted through 0; NaN where undefined."""
    varied = len(predicted) > 2 and np.ptp(predicted) > 0 and np.ptp(measured) > 0
    power = float(predicted @ predicted)
    return {
        "correlation": float(np.corrcoef(predicted, measured)[0, 1]) if varied else float("nan"),
        "sign": float(np.mean(np.sign(predicted) == np.sign(measured))) if len(predicted) else float("nan"),
        "slope": float(predicted @ measured) / power if power else float("nan"),
    }


def read_rows(path: Path) -> list[dict]:
    with path.open(newline="") as file:
        return [
            {k: v if k in ("method", "optimiser") else float(v) for k, v in row.items()} for row in csv.DictReader(file)
        ]


def columns(rows: list[dict], prediction: str, **where: object) -> tuple[np.ndarray, np.ndarray]:
    """Predicted and measured change in the rows that have these values."""
    chosen = [row for row in rows if all(row[key] == value for key, value in where.items())]
    return tuple(np.array([row[key] for row in chosen]) for key in (prediction, "measured"))


def over_seeds(rows: list[dict], prediction: str, number: str, **where: object) -> list[float]:
    """One of the numbers of `agreement`, inside each seed and method and averaged over methods; one for each seed."""
    methods = [where["method"]] if "method" in where else dict.fromkeys(row["method"] for row in rows)
    found = []
    for seed in sorted({row["seed"] for row in rows}):
        parts = [columns(rows, prediction, **where | {"seed": seed, "method": method}) for method in methods]
        known = finite(agreement(*part)[number] for part in parts)
        found.append(float(known.mean()) if len(known) else float("nan"))
    return found


# --- Report -----------------------------------------------------------------------------------------------------------

PAGE = """# The change of entropy: promised and measured

Written by `python -m benchmarks.theorem` from theorem.csv: {methods} methods, seeds {seeds}, {steps} steps of {prompts}
prompts x {generations} responses from the embedded model, one update per rollout. Each batch sees an update of plain
gradient descent (learning rate {SGD:g}, taken back) and the one of AdamW ({AdamW:g}) from the same parameters. The
change is that of the mean entropy at the batch's own positions, in nats per token. Promised by *covariance*:
-Cov(log p, A); by *polarity*: the first order for a table of logits and the method's own loss; by *gradient*: the first
order of the network and the step. Numbers are means over methods, ± is over seeds; correlations are over one seed's
steps, and the change is said to follow where their 95 % interval over seeds lies above 0.

{sentences}

![promised and measured change](theorem.png)

{summary}

Where entropy falls at nearly every step, whatever is always negative has the right sign: the first row of each
optimiser is what that guess gets. Slopes are of measured on promised, through 0; covariance and polarity have none,
since their scale means nothing for a network.

## By method

{methodwise}

KL-Cov's penalty is 0 where a rollout is used once: its rows are those of its base without a clip.

## By step

{stepwise}
"""


def cells(rows: list[dict], optimiser: str, **where: object) -> dict[tuple[str, str], str]:
    """(prediction, number) -> mean and spread over seeds."""
    return {
        (prediction, number): plus_minus(over_seeds(rows, prediction, number, optimiser=optimiser, **where))
        for prediction in PREDICTIONS
        for number in ("correlation", "sign", "slope")
    }


def falling(rows: list[dict], **where: object) -> str:
    """Share of updates after which entropy is lower."""
    _, measured = columns(rows, "gradient", **where)
    return f"{(measured < 0).mean():.3f}"


def sentences(rows: list[dict]) -> list[str]:
    """What the numbers say, by rule: a mean correlation over seeds whose 95 % interval lies above 0 is one."""
    lines = []
    for optimiser in OPTIMISERS:
        told = []
        for prediction in PREDICTIONS:
            mean, low, high = interval(over_seeds(rows, prediction, "correlation", optimiser=optimiser))
            word = "follows" if low > 0 else "runs against" if high < 0 else "is not seen to follow"
            told.append(f"{word} {prediction} ({mean:+.2f}, {low:+.2f} to {high:+.2f})")
        slope = plus_minus(over_seeds(rows, "gradient", "slope", optimiser=optimiser))
        lines.append(
            f"- **{optimiser}**: from step to step the measured change {', '.join(told)}; it is {slope} times what the "
            "network's own first order says."
        )
    return lines


def page(rows: list[dict]) -> str:
    summary, methodwise, stepwise = [], [], []
    first_steps = sorted({row["step"] for row in rows})
    for optimiser in OPTIMISERS:
        summary.append((optimiser, "that it falls", "", falling(rows, optimiser=optimiser), ""))
        found = cells(rows, optimiser)
        for prediction in PREDICTIONS:
            numbers = [found[prediction, number] for number in ("correlation", "sign", "slope")]
            summary.append(("", prediction, *numbers[:2], numbers[2] if prediction == "gradient" else ""))
        for method in dict.fromkeys(row["method"] for row in rows):
            found = cells(rows, optimiser, method=method)
            shown = [("covariance", "correlation"), ("polarity", "correlation"), ("gradient", "correlation")]
            shown += [("polarity", "sign"), ("gradient", "slope")]
            share = falling(rows, optimiser=optimiser, method=method)
            methodwise.append((optimiser, method, *(found[key] for key in shown), share))
        for steps in np.array_split(first_steps, min(4, len(first_steps))):
            part = [row for row in rows if row["step"] in steps]
            found = cells(part, optimiser)
            _, measured = columns(part, "gradient", optimiser=optimiser)
            span = f"{steps[0]:.0f} to {steps[-1]:.0f}"
            signs = [found[prediction, "sign"] for prediction in PREDICTIONS]
            stepwise.append((optimiser, span, f"{measured.mean():+.2e}", *signs, found["gradient", "slope"]))
    heads = [f"correlation, {prediction}" for prediction in PREDICTIONS]
    signs = [f"same sign, {prediction}" for prediction in PREDICTIONS]
    tail = ("same sign, polarity", "slope, gradient", "steps on which it falls")
    tables = {
        "summary": markdown(("update", "prediction", "correlation", "same sign", "slope"), summary),
        "methodwise": markdown(("update", "method", *heads, *tail), methodwise),
        "stepwise": markdown(("update", "steps", "mean change", *signs, "slope, gradient"), stepwise),
        "sentences": sentences(rows),
    }
    return PAGE.format(
        methods=len({row["method"] for row in rows}),
        seeds=", ".join(f"{seed:.0f}" for seed in sorted({row["seed"] for row in rows})),
        steps=len(first_steps),
        prompts=f"{rows[0]['prompts']:.0f}",
        generations=SIZE["num_generations"],
        **{row["optimiser"]: row["learning_rate"] for row in rows},
        **{name: "\n".join(lines) for name, lines in tables.items()},
    )


def draw(rows: list[dict], path: Path) -> None:
    """Measured against promised change: a dot is one update, a column a prediction, a row an optimiser."""
    methods = list(dict.fromkeys(row["method"] for row in rows))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(12.5, 7.4), layout="constrained")
        axes = figure.subplots(2, 3, sharey="row")
        for line, optimiser in zip(axes, OPTIMISERS, strict=True):
            for axis, prediction in zip(line, PREDICTIONS, strict=True):
                for method, color, marker in zip(methods, PALETTE, MARKERS, strict=False):
                    x, y = columns(rows, prediction, optimiser=optimiser, method=method)
                    axis.scatter(x, y, s=14, color=color, marker=marker, alpha=0.7, linewidth=0, label=method)
                axis.axhline(0, color=MUTED, linewidth=0.8)
                axis.axvline(0, color=MUTED, linewidth=0.8)
                axis.set_title(f"{optimiser}: {prediction}")
                axis.xaxis.set_major_locator(MaxNLocator(5))
            line[2].axline((0, 0), slope=1, color=INK, linewidth=1)
            line[0].set_ylabel("measured change, nats per token")
        for axis, unit in zip(axes[1], ("-Cov(log p, A)", "mean polarity", "<dH/dtheta, step>, nats"), strict=True):
            axis.set_xlabel(unit)
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower left", ncols=8, fontsize=9)
        figure.suptitle(
            "Change of entropy by one update: promised (x) and measured (y)", fontsize=12, x=0.01, ha="left"
        )
        figure.savefig(path, dpi=110)


def main(own: Args) -> None:
    check_known("methods", own.methods, FIRST)
    if not own.report:
        torch.set_num_threads(1)
        rows = [row for seed in own.seeds for method in own.methods for row in follow(own, method, seed)]
        write_csv(own.out / "theorem.csv", rows, digits=6)
    rows = read_rows(own.out / "theorem.csv")
    (own.out / "theorem.md").write_text(page(rows))
    draw(rows, own.out / "theorem.png")
    print("\n".join(sentences(rows)))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
