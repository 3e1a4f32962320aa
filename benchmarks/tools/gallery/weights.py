"""How much a loss lets a token count, by how far its probability has moved: read off each file's own loss by autograd.

One response of a single token stands in a group of four, two of them right; nothing else in the batch has moved since
it was sampled. The token's weight is minus the derivative of the loss by its log-probability, signed so that a push in
the direction of its reward is positive, in units of the largest weight of a token that has not moved. Clips, caps,
soft gates, masks and normalisers show as what they do to a gradient.
"""

import functools
import math
from dataclasses import dataclass
from types import ModuleType

import torch
from markupsafe import Markup

from benchmarks.exercise import LENGTH, SIZE, Kind, load_copy, random_batch
from benchmarks.gallery.svg import COOL, PAINT, WARM
from benchmarks.methods import method
from tests import sync

RATIOS = tuple(2 ** (k / 10) for k in range(-20, 21))  # 1/4 to 4
TABLE = (0.5, 2**-0.3, 1.0, 2**0.3, 2.0)  # 0.5, 0.81, 1, 1.23, 2
LOW, HIGH = 0.05, 0.6  # probabilities of the token when it was sampled
CURVES = ((1, LOW), (1, HIGH), (-1, LOW), (-1, HIGH))  # (right or wrong, probability)
WORDS = 9  # of the token's distribution: itself, and others that share the rest evenly
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 300, 180, 34, 26, 8


@dataclass(frozen=True)
class Curve:
    right: bool
    probability: float
    points: tuple[tuple[float, float], ...]  # (ratio, weight), as far as a probability can grow

    @property
    def label(self) -> str:
        return f"{'right' if self.right else 'wrong'}, p {self.probability:g}"


def probe(module: ModuleType, args: object, sign: int, p: float) -> tuple[dict, torch.Tensor, torch.Tensor]:
    """A batch with the method's credit, in which token 0 of row 0 is the one that will move."""
    batch, logprobs, entropy = random_batch(Kind("", padding=True), 0)
    batch["mask"][0, 1:] = False
    batch["values"].zero_()  # a critic that knows nothing yet
    batch["rewards"][:SIZE] = torch.tensor([sign > 0, sign < 0, True, False], dtype=torch.float64)
    words = torch.full((WORDS,), (1 - p) / (WORDS - 1), dtype=torch.float64)
    words[0] = p
    logprobs[0, 0], entropy[0, 0] = math.log(p), -(words * words.log()).sum()
    batch |= {key: logprobs.clone() for key in ("old_logprobs", "ref_logprobs", "rollout_logprobs")}
    batch["entropy"] = entropy.clone()
    if hasattr(module, "state_mean"):
        batch["state_mean"][0, 0] = module.state_mean(words.log()[None], torch.tensor([[0]]))[0]
    if hasattr(module, "proxy_gain"):
        batch["proxy_gain"][0, 0] = module.proxy_gain(words.log()[None], torch.tensor([[0]]), args.min_p)[0]
    module.assign_credit(batch, args, {})
    return batch, logprobs, entropy


def curve(module: ModuleType, args: object, sign: int, p: float) -> Curve:
    """Not yet in units."""
    batch, logprobs, entropy = probe(module, args, sign, p)
    points = []
    for ratio in (r for r in RATIOS if p * r <= 1):
        moved = logprobs.clone()
        moved[0, 0] += math.log(ratio)
        inputs = moved.requires_grad_(), entropy.clone().requires_grad_()
        torch.default_generator.manual_seed(0)  # where tokens are drawn; no device's but the CPU's, which takes time
        loss, _ = module.policy_loss(*inputs, dict(batch), args)
        gradient = torch.autograd.grad(loss, inputs[0], allow_unused=True, materialize_grads=True)[0]
        points.append((ratio, -sign * gradient[0, 0].item()))
    return Curve(sign > 0, p, tuple(points))


def curves(name: str) -> tuple[Curve, ...]:
    """The four curves of algos/<name>.py, at its defaults but for what its record says it needs to act at this size.

    Empty for a file that needs more of a batch than a random one has.
    """
    return of_text(name, sync.read(name))


@functools.cache
def of_text(name: str, text: str) -> tuple[Curve, ...]:
    module = load_copy(sync.ALGOS / f"{name}.py")
    args = module.Args(**{"num_generations": SIZE, "max_response_length": LENGTH} | method(name).acts)
    try:
        found = [curve(module, args, *how) for how in CURVES]
    except (LookupError, TypeError, ValueError, RuntimeError):
        return ()
    unit = max(abs(weight) for one in found for ratio, weight in one.points if ratio == 1) or 1.0
    return tuple(Curve(c.right, c.probability, tuple((r, w / unit) for r, w in c.points)) for c in found)


def number(value: float) -> str:
    """Two decimals at most, with a true minus sign, which 0 never has."""
    return f"{round(value, 2) + 0.0:g}".replace("-", "\u2212")


def table(name: str) -> list[tuple[str, list[str]]]:
    """Label and the weights at the ratios of TABLE, for each curve."""
    return [
        (one.label, [number(weights[r]) if r in weights else "" for r in TABLE])
        for one in curves(name)
        for weights in [dict(one.points)]
    ]


def figure(name: str) -> Markup | None:
    """The curves as SVG: ratio from 1/4 to 4 on a logarithmic axis, weight from the least to the largest."""
    found = curves(name)
    if not found:
        return None
    weights = [weight for one in found for _, weight in one.points]
    low, high = min(0.0, *weights), max(1.0, *weights)

    def at(ratio: float, weight: float) -> str:
        x = LEFT + (WIDTH - LEFT - 8) * (math.log2(ratio) + 2) / 4
        return f"{x:.1f},{HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * (weight - low) / (high - low):.1f}"

    parts = []
    for weight in sorted({low, 0.0, 1.0, high}):
        (left, y), right = at(0.25, weight).split(","), at(4, weight).split(",")[0]
        parts.append(f'<line class="grid" x1="{left}" y1="{y}" x2="{right}" y2="{y}"/>')
        near = any(0 < abs(other - weight) < 0.12 * (high - low) for other in (0.0, 1.0))
        if weight in (0.0, 1.0) or not near:
            parts.append(f'<text x="{LEFT - 5}" y="{y}" dy="0.35em" text-anchor="end">{number(weight)}</text>')
    for ratio, label in ((0.25, "\u00bc"), (0.5, "\u00bd"), (1, "1"), (2, "2"), (4, "4")):
        x, y = at(ratio, low).split(",")
        parts.append(f'<line class="grid" x1="{x}" y1="{TOP}" x2="{x}" y2="{y}"/>')
        parts.append(f'<text x="{x}" y="{HEIGHT - 10}" text-anchor="middle">{label}</text>')
    for one in found:
        style = f'stroke="var({PAINT[WARM if one.right else COOL]})"' + (
            "" if one.probability == LOW else ' stroke-dasharray="5 3"'
        )
        parts.append(f'<polyline {style} points="{" ".join(at(*point) for point in one.points)}"/>')
    words = "; ".join(f"{label}: {', '.join(row)}" for label, row in table(name))
    text = f"Weight of a token at ratios {', '.join(map(number, TABLE))}. {words}."
    return Markup(
        '<svg viewBox="0 0 {} {}" role="img" aria-labelledby="weight-{}-title" aria-describedby="weight-{}-desc" '
        'class="weights"><title id="weight-{}-title">Weight of a token by its ratio: {}</title>'
        '<desc id="weight-{}-desc">{}</desc>'
    ).format(WIDTH, HEIGHT, name, name, name, name, name, text) + Markup("\n".join(parts) + "</svg>")
