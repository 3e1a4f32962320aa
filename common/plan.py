"""--dry-run: what a run would do, from its flags alone. Paths and names are checked, no weights are loaded."""

import dataclasses
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from common import InputError, hub, terminal
from common.arguments import further_tasks
from common.files import is_file
from common.loading import TINY, check_device, check_model_name, load_tokenizer, place_of
from common.policy import BYTES_PER_PARAMETER
from common.procedural import is_procedural
from common.tasks import load_task

LAST_SHARED_FLAG = "polarity"  # those after it are the algorithm's own


def describe_model(name: str | None) -> str:
    """Size and place. The configuration of a hub model is read only if it was downloaded before."""
    place = str(name or TINY)
    is_local = check_model_name(place)
    try:
        config = AutoConfig.from_pretrained(**place_of(place), local_files_only=True)
    except Exception as error:
        if is_local:
            reason = " ".join(str(error).split())[:200]
            raise InputError(f"model {place!r} has no usable config.json ({reason}); check the directory") from None
        return f"{place}, from the hub (not downloaded yet)"
    if is_local:
        load_tokenizer(place)
    with torch.device("meta"):
        count = sum(p.numel() for p in AutoModelForCausalLM.from_config(config).parameters())
    memory = count * BYTES_PER_PARAMETER / 2**30
    shown = name or "the embedded model"
    return f"{shown}: {count / 1e6:,.1f} million parameters, {memory:,.2f} GiB with gradients and optimiser"


def describe_task(
    name: str, split: str, prompt_column: str | None, answer_column: str | None, trace_column: str | None = None
) -> str:
    """What is known of a task without the network; raises InputError for a name, knob, file or column that is wrong."""
    if not is_procedural(name) and not is_file(name) and hub.is_hub_name(name):
        source = hub.KNOWN.get(name)
        if source is None:
            return f"{name}, from the hub (looked up when the run starts)"
        here = source.train or source.test if split == "train" else source.test or source.train
        return f"{name}: {source.repo}{f' ({source.config})' if source.config else ''}, split {here}, from the hub"
    limit = 1 if is_procedural(name) else None
    problems = load_task(name, split, limit, prompt_column, answer_column, trace_column)
    return name if is_procedural(name) else f"{name}: {len(problems):,} problems"


def print_plan(algorithm: str, args: Any, directory: object) -> None:
    """Print model, data, arithmetic and the algorithm's own settings."""
    check_device("cpu" if args.device == "auto" else args.device)
    rows, updates = args.num_prompts * args.num_generations, args.num_minibatches * args.update_epochs
    names = [field.name for field in dataclasses.fields(args)]
    own = names[names.index(LAST_SHARED_FLAG) + 1 :]
    columns = args.prompt_column, args.answer_column
    eval_task = args.eval_task or args.task
    longest = f", at most {args.max_prompt_length:,} tokens" if args.max_prompt_length else ""
    evaluation = describe_task(eval_task, "all" if is_file(eval_task) and args.eval_task else "eval", *columns)
    held = args.eval_problems
    if is_procedural(eval_task):  # a small task has fewer
        held = len(load_task(eval_task, "eval", held))
    when = f"every {args.eval_every} steps" if args.eval_every else "never"
    plan = {
        "model": describe_model(args.model),
        "task": describe_task(args.task, "train", *columns, args.trace_column),
    }
    for name in further_tasks(names):
        if task := getattr(args, name):
            split = "all" if is_file(task) else "train"  # evaluation is on another
            plan[name.removesuffix("_task")] = describe_task(task, split, *columns, args.trace_column)
    plan |= {
        "evaluation": f"{evaluation}; {held} problems x {args.eval_samples} samples, {when}",
        "prompts": f"template {args.prompt_template}{longest}",
        "a step": f"{args.num_prompts} prompts x {args.num_generations} responses = {rows:,} rows of at most "
        f"{args.max_response_length:,} tokens ({rows * args.max_response_length:,} in all); {updates} updates of "
        f"{rows // args.num_minibatches:,} rows",
        "the run": f"{args.num_steps:,} steps: {args.num_steps * rows:,} responses, {args.num_steps * updates:,} "
        f"updates; learning rate {args.learning_rate:g} after {args.warmup_steps} steps of warm-up",
        "method": ", ".join(f"{name} {getattr(args, name)}" for name in own),
        "writes to": f"{directory} (nothing was written now)",
    }
    terminal.say(f"{algorithm}, dry run")
    for name, text in plan.items():
        terminal.say(f"{name:<12}{text}")
