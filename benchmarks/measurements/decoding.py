"""Whether decoding gets faster: a rollout of the embedded model as it is, and with what could be changed in it.

    python -m benchmarks.decoding

- float32 draw: the cumulative distribution that a token is drawn by in float32 instead of float64.
- compiled step: torch.compile of the model's forward pass for one new token a row, with symbolic shapes, because the
  cache grows by a token at each step and loses the rows that have ended.

All variants sample the same prompts with the same seeds in turn, one thread, in a process that is started twice: what
torch.compile needs before it is fast is measured without anything in its cache on disk, and with what the first
process left there. The draw alone is measured over vocabularies of several sizes: in blocks, as it is, and by one
cumulative distribution of all words in either precision.
"""

import functools
import json
import os
import statistics
import tempfile
import time
from dataclasses import dataclass

import torch
import tyro
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks import RESULTS
from benchmarks.measure import Load, environment, run_worker, serve
from benchmarks.rollouts import countdown
from common import hf
from common.loading import load_policy

VARIANTS = ("as it is", "float32 draw", "compiled step")
VOCABULARIES = (32, 49_152, 151_936)


@dataclass
class Args:
    repeats: int = 20
    """rollouts of each variant"""
    num_prompts: int = 32
    num_generations: int = 8
    max_response_length: int = 24


def draw_in_float32(probabilities: Tensor, noise: Tensor) -> Tensor:
    """`hf.draw` with a cumulative distribution in float32."""
    cumulative = probabilities.float().cumsum(-1)
    threshold = noise[:, None].float() * cumulative[:, -1:]
    return torch.searchsorted(cumulative, threshold, right=True)[:, 0].clamp(max=probabilities.shape[-1] - 1)


def rollouts(options: dict) -> dict:
    """Seconds of each variant's rollouts, the first ones apart, and how many of its responses differ from the usual."""
    policy = load_policy()
    sampler = hf.TransformersSampler(policy)
    prompts = [policy.tokenizer(problem.prompt).input_ids for problem in countdown(1).take(options["num_prompts"])]
    as_it_is, forward = hf.draw, policy.model.forward
    compiled = torch.compile(forward, dynamic=True)

    def compiled_step(*args: object, **kwargs: object) -> object:
        return (compiled if kwargs.get("past_key_values") is not None else forward)(*args, **kwargs)

    def sample(variant: str, seed: int) -> tuple[float, list[list[int]]]:
        hf.draw = draw_in_float32 if variant == "float32 draw" else as_it_is
        policy.model.forward = compiled_step if variant == "compiled step" else forward
        started = time.perf_counter()
        responses = sampler.generate(prompts, options["num_generations"], 1.0, options["max_response_length"], seed)
        return time.perf_counter() - started, [response.token_ids.tolist() for response in responses]

    start = {variant: [sample(variant, seed)[0] for seed in range(4)] for variant in VARIANTS}
    seconds, differing = {variant: [] for variant in VARIANTS}, dict.fromkeys(VARIANTS, 0)
    with Load() as load:
        for seed in range(100, 100 + options["repeats"]):
            made = {variant: sample(variant, seed) for variant in VARIANTS}
            for variant, (one, responses) in made.items():
                seconds[variant].append(one)
                pairs = zip(responses, made["as it is"][1], strict=True)
                differing[variant] += sum(mine != usual for mine, usual in pairs)
    return {"start": start, "seconds": seconds, "responses that differ": differing, "load": load.others}


def draws(options: dict) -> dict:
    """Seconds of one draw of 64 rows by vocabulary and way, and of the softmax before it."""
    found = {}
    for vocabulary in VOCABULARIES:
        logits = torch.randn(64, vocabulary, generator=torch.Generator().manual_seed(0))
        probabilities, noise = (3 * logits).softmax(-1), torch.rand(64, dtype=torch.float64)
        ways = {
            "in blocks": hf.draw,
            "float64": lambda probabilities, noise: hf.pick(probabilities.double().cumsum(-1), noise)[:, 0],
            "float32": draw_in_float32,
            "softmax": lambda probabilities, noise: probabilities.softmax(-1),
        }
        times = {name: [] for name in ways}
        for _ in range(options["repeats"] + 2):
            for name, way in ways.items():
                started = time.perf_counter()
                way(probabilities, noise)
                times[name].append(time.perf_counter() - started)
        found[vocabulary] = {name: statistics.median(some[2:]) for name, some in times.items()}
    return found


def report(results: dict) -> None:
    table = Table(
        "variant", "ms a rollout", "as it is / variant", "start, nothing on disk", "start, from disk", "differ"
    )
    cold, warm = results["cold"], results["warm"]
    both = {variant: cold["seconds"][variant] + warm["seconds"][variant] for variant in VARIANTS}
    for variant, some in both.items():
        ratio = statistics.median(usual / one for usual, one in zip(both["as it is"], some, strict=True))
        starts = [f"{sum(each['start'][variant]):.1f} s" for each in (cold, warm)]
        differing = cold["responses that differ"][variant] + warm["responses that differ"][variant]
        table.add_row(variant, f"{1e3 * statistics.median(some):.0f}", f"{ratio:.2f}", *starts, str(differing))
    Console().print(table)
    for vocabulary, times in results["draws"].items():
        print(f"a draw of 64 rows of {vocabulary} words:", *(f"{k} {1e3 * v:.2f} ms" for k, v in times.items()))
    print("other processes kept", *(f"{100 * each['load']:.0f} %" for each in (cold, warm)), "of the processors busy")


def main(args: Args) -> None:
    options, results = vars(args), {"environment": environment("decoding", args)}
    measure = functools.partial(run_worker, __file__, options=options, threads=1)
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        results |= {"cold": measure(name="rollouts"), "warm": measure(name="rollouts")}
    results["draws"] = measure(name="draws")
    (RESULTS / "decoding.json").write_text(json.dumps(results, indent=1) + "\n")
    report(results)


if __name__ == "__main__":
    serve({"rollouts": rollouts, "draws": draws})
    main(tyro.cli(Args, description=__doc__))
