"""Explorer pages: one training step of a run, its tokens coloured by what the loss made of them.

A page for each record that `python -m benchmarks.explore` left in benchmarks/results/explorer, and for each run that
is asked for. All numbers are in the page; colours are classes that style sheets choose by the checked radio button.
"""

import itertools
import json
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks import explore
from benchmarks.gallery.svg import COOL, INK, LOOK, MUTED, WARM, to_page
from benchmarks.law import LAWS
from benchmarks.methods import method
from common import InputError

MOST = 96  # responses of a page
# What colours the tokens: name of the class, label, and what the colours mean.
CHANNELS = (
    ("entropy", "entropy", "Nats of the policy's distribution where it chose the token."),
    ("advantage", "advantage", "Orange: the response did better than its baseline. Blue: worse."),
    ("gradient", "gradient", "d loss / d log p of the token. Orange: the update makes it likelier. Blue: less likely."),
    ("covariance", "covariance", "Of log p and advantage. Orange: the update lowers entropy here. Blue: raises it."),
    ("polarity", "polarity", "What the update promises for the entropy here. Orange: it falls. Blue: it rises."),
    ("status", "selected or clipped", "What the loss does with the token."),
)
STATUS_TEXTS = {
    "t": "carries the policy gradient",
    "c": "the ratio to the policy that sampled has left its bounds: no gradient",
    "o": "left out of the loss by the method: no gradient",
    "h": "among the largest covariances of its minibatch: trained under a KL penalty",
    "l": "likelier than the threshold: the entropy controller adds to its gradient",
    "n": "the advantage is 0, as in groups whose rewards are all equal: no gradient",
}
LEVELS = 3  # shades on each side of 0
SHADES = 6  # of entropy
STYLE = LOOK | {
    "font.size": 11,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


# --- Colours ----------------------------------------------------------------------------------------------------------


def shade(value: float, top: float) -> int:
    """Class of an entropy: 0 to SHADES - 1, linear up to `top`."""
    return min(SHADES - 1, int(SHADES * value / top))


def level(value: float, top: float) -> int:
    """Class of a signed number: 0 for 0 alone, else 1 to LEVELS with its sign, linear up to `top`."""
    return int(math.copysign(min(LEVELS, math.ceil(LEVELS * abs(value) / top)), value)) if value else 0


def tops(groups: list[dict]) -> dict[str, float]:
    """Where each scale ends: the 98th percentile of the sizes shown, for advantages their largest."""
    ends = {}
    for key in ("entropy", "advantage", "gradient", "covariance", "polarity"):
        sizes = [abs(value) for group in groups for one in group["responses"] for value in one[key]]
        ends[key] = float(np.percentile(sizes, 100 if key == "advantage" else 98)) or 1.0
    return ends


def number(value: float) -> str:
    """Four digits, with a true minus sign, which 0 never has."""
    return f"{value + 0.0:.4g}".replace("-", "\u2212")


def legends(record: dict, ends: dict[str, float]) -> dict[str, list[tuple[str, str]]]:
    """Channel -> (class, text) of each of its colours."""
    shown = {"entropy": [], "status": []}
    for i in range(SHADES):
        low, high = (number(ends["entropy"] * k / SHADES) for k in (i, i + 1))
        shown["entropy"].append((f"e{i}", f"{low} to {high}" if i < SHADES - 1 else f"above {low}"))
    for key in ("advantage", "gradient", "covariance", "polarity"):
        sign = -1 if key in ("gradient", "polarity") else 1  # likelier tokens, and entropy that falls, are orange
        shown[key] = []
        for i in range(-LEVELS, LEVELS + 1):
            edges = sorted(sign * ends[key] * k / LEVELS for k in (i, i - math.copysign(1, i)))
            far = number(edges[0] if sign * i > 0 else edges[1])
            text = f"{number(edges[0])} to {number(edges[1])}" if abs(i) < LEVELS else f"beyond {far}"
            shown[key].append((f"{key[0]}{i}", text if i else "0"))
    for letter in record["batch"]["statuses"]:
        text = method(record["algorithm"]).statuses.get(letter, STATUS_TEXTS[letter])
        shown["status"].append((f"s-{letter}", f"{explore.STATUSES[letter]}: {text}"))
    return shown


# --- Tokens -----------------------------------------------------------------------------------------------------------


def shown_text(text: str) -> Markup:
    """A token as it is read: line ends visible, and the end token by a short name."""
    if re.fullmatch(r"<[^<>\s]*(end|eos|eot)[^<>\s]*>|</s>", text):
        return Markup('<span class="mark">end</span>')
    return Markup(escape(text).replace("\n", Markup("\u21b5<br>")))


def token(one: dict, i: int, ends: dict[str, float]) -> dict:
    """Text, classes and the sentence with all numbers of token i of a response."""
    value = {key: one[key][i] for key in explore.NUMBERS}
    likelier = {-1: ": likelier", 0: "", 1: ": less likely"}[int(np.sign(value["gradient"]))]
    lines = (
        f"token {one['tokens'][i]!r}, id {one['ids'][i]}",
        f"entropy {number(value['entropy'])} nats",
        f"log p {number(value['logprob'])}",
        f"advantage {number(value['advantage'])}",
        f"ratio {number(value['ratio'])}",
        f"gradient {number(value['gradient'])}{likelier}",
        f"covariance {number(value['covariance'])}",
        f"polarity {number(value['polarity'])}",
        f"status {explore.STATUSES[one['status'][i]]}",
    )
    classes = (
        f"e{shade(value['entropy'], ends['entropy'])}",
        f"a{level(value['advantage'], ends['advantage'])}",
        f"g{level(-value['gradient'], ends['gradient'])}",
        f"c{level(value['covariance'], ends['covariance'])}",
        f"p{level(-value['polarity'], ends['polarity'])}",
        f"s-{one['status'][i]}",
    )
    return {"text": shown_text(one["tokens"][i]), "classes": " ".join(classes), "title": "\n".join(lines)}


def shown_groups(record: dict, groups: list[dict], ends: dict[str, float]) -> list[dict]:
    shown = []
    for group in groups:
        responses = group["responses"]
        right = sum(one["reward"] > 0 for one in responses)
        kind = "right" if right == len(responses) else "mixed" if right else "wrong"
        rows = [
            {
                "right": one["reward"] > 0,
                "answer": one["answer"],
                "truncated": one["truncated"],
                "length": one["length"],
                "tokens": [token(one, i, ends) for i in range(len(one["tokens"]))],
            }
            for one in responses
        ]
        facts = {"kind": kind, "right": right, "of": len(responses), "minibatch": responses[0]["update"]}
        shown.append({"prompt": group["prompt"], "gold": group["gold"]} | facts | {"responses": rows})
    return shown


# --- Charts -----------------------------------------------------------------------------------------------------------


def as_svg(draw: Callable[[Axes], None], name: str, title: str, text: str) -> Markup:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 3.3))
        axis = figure.subplots()
        draw(axis)
        axis.set_axisbelow(True)
        return to_page(figure, name, title, text)


def percent(share: float) -> str:
    return f"{100 * share:.3g}\u00a0%"


def entropy_chart(record: dict) -> dict:
    found = record["entropy"]
    edges, counts, line = np.array(found["edges"]), np.array(found["counts"]), found["percentile_80"]
    above = f"{percent(found['share_above'])} of all entropy" if found["share_above"] is not None else "no entropy"
    tokens = record["batch"]["tokens"]
    text = f"80 % of the {tokens} tokens have at most {number(line)} nats; the others hold {above}."

    def draw(axis: Axes) -> None:
        middles = (edges[1:] + edges[:-1]) / 2
        colors = [WARM if middle > line else COOL for middle in middles]
        axis.bar(middles, counts, np.diff(edges) * 0.9, color=colors)
        axis.axvline(line, color=INK, linestyle="--", linewidth=1.2)
        axis.set(yscale="log", xlabel="entropy, nats", ylabel="tokens", ylim=(0.7, counts.max() * 4))
        side = 1 if line < edges[-1] / 2 else -1
        where = {"xytext": (5 * side, 0), "textcoords": "offset points", "ha": "left" if side > 0 else "right"}
        axis.annotate(f"80th percentile {number(line)}", (line, counts.max() * 2), va="center", **where)

    return {"name": "Entropy of the tokens", "svg": as_svg(draw, "entropy", "Histogram of entropy", text), "text": text}


def covariance_chart(record: dict) -> dict:
    found = record["covariance"]
    shares, values, cut = np.array(found["shares"]), np.array(found["values"]), found["cut"]
    if (values <= 0).all():
        return {}
    sentences = [f"The largest is {number(values[0])}, the mean {number(found['mean'])}"]
    if cut:
        sentences.append(f"the method may choose {percent(cut['share'])} of each minibatch's tokens")
        if "low" in cut:
            sentences[-1] += f" between covariances of {number(cut['low'])} and {number(cut['high'])}"
    text = "; ".join(sentences) + "."

    def draw(axis: Axes) -> None:
        positive = values > 0
        axis.plot(shares[positive], values[positive], color=COOL, linewidth=2)
        axis.set(xscale="log", yscale="log", xlabel="share of tokens with a larger one", ylabel="covariance")
        axis.set_ylim(max(values[positive].min(), values[0] / 1e4) * 0.8, values[0] * 2)
        if cut:
            axis.axvline(cut["share"], color=WARM, linestyle="--", linewidth=1.5)
            place = {"xytext": (5, 4), "textcoords": "offset points"}
            axis.annotate("quota", (cut["share"], 0), xycoords=axis.get_xaxis_transform(), color=WARM, **place)
        if "low" in cut:
            axis.axhspan(cut["low"], cut["high"], color=WARM, alpha=0.18, linewidth=0)
            axis.text(0.99, cut["low"] * 1.1, "window", transform=axis.get_yaxis_transform(), color=WARM, ha="right")

    svg = as_svg(draw, "covariance", "Largest covariances", text)
    return {"name": "Covariance, its upper tail", "svg": svg, "text": text}


def history_chart(record: dict) -> dict:
    found = record["history"]
    reward, entropy = np.array(found["reward"]), np.array(found["entropy"])
    if not found["fits"]:
        return {}
    names = {"R = -a exp(H) + b": "R = \u2212a exp(H) + b", "straight line in H": "straight line"}
    parts = [f"R\u00b2 {fit['r2']:.3f} for {names[name]}" for name, fit in found["fits"].items()]
    law = found["fits"]["R = -a exp(H) + b"]
    constants = f"a = {number(-law['slope'])}, b = {number(law['offset'])}"
    text = f"{len(reward)} training steps: {', '.join(parts)}; {constants}."

    def draw(axis: Axes) -> None:
        axis.scatter(entropy, reward, s=14, color=COOL, linewidths=0)
        x = np.linspace(entropy.min(), entropy.max(), 50)
        for (name, fit), color, dash in zip(found["fits"].items(), (WARM, INK), ("-", ":"), strict=True):
            y = fit["slope"] * LAWS[name](x) + fit["offset"]
            axis.plot(x, y, dash, color=color, linewidth=2, label=names[name])
        axis.invert_xaxis()
        axis.set(xlabel="entropy, nats (falls to the right)", ylabel="reward")
        axis.legend(loc="best", fontsize=10)

    svg = as_svg(draw, "history", "Reward against entropy", text)
    return {"name": "Entropy spent for reward", "svg": svg, "text": text}


# --- Pages ------------------------------------------------------------------------------------------------------------


def context(name: str, record: dict, names: Sequence[str], most: int = MOST) -> dict:
    """What the template needs of one record: at most `most` responses of it, in whole groups."""
    counts = itertools.accumulate(len(group["responses"]) for group in record["groups"])
    kept = [group for group, count in zip(record["groups"], counts, strict=True) if count <= most]
    kept = kept or record["groups"][:1]
    ends = tops(kept)
    return {
        "name": name,
        "names": list(names),
        "record": record,
        "channels": CHANNELS,
        "legends": legends(record, ends),
        "groups": shown_groups(record, kept, ends),
        "shown": sum(len(group["responses"]) for group in kept),
        "statuses": [(explore.STATUSES[key], count) for key, count in record["batch"]["statuses"].items()],
        "charts": [c for c in (entropy_chart(record), covariance_chart(record), history_chart(record)) if c],
    }


def read_record(path: Path) -> dict:
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read ({type(error).__name__}); remove it or make it again") from None
    if not isinstance(record, dict) or not {"groups", "batch", "history"} <= record.keys():
        raise InputError(f"{path} is no record of benchmarks.explore; remove it or make it again")
    return record


def pages(results: Path, runs: Sequence[Path] = (), most: int = MOST) -> dict[str, dict]:
    """Page -> context, of each record in results/explorer and of each run; a run is explored unless it has been."""
    records = {path.stem: read_record(path) for path in sorted((results / "explorer").glob("*.json"))}
    for run in runs:
        made = run / "explorer.json"
        if not made.exists():
            made.write_text(explore.as_text(explore.explore(explore.Args(run))))
        records[run.resolve().name] = read_record(made)
    return {f"explorer/{name}.html": context(name, record, list(records), most) for name, record in records.items()}
