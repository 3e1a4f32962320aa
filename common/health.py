"""What is wrong with a run, in plain words, from its metrics.

`findings` looks at the records of a run (the lines of metrics.jsonl) and names what has gone wrong, with the likely
causes. A run says each of them once, as it happens; `python -m benchmarks.doctor runs/x` says them of a finished one.
The limits are far from what a healthy run shows, so that a warning means something.
"""

from collections.abc import Callable

from common.tasks import is_named

LONG, SHORT = 10, 5  # steps over which something must hold before it is worth a word
LONGER = 5  # times an average response: mixed groups hold no more tokens than this times their share of the groups


def column(records: list[dict], key: str, last: int) -> list[float]:
    """The metric in each of the last training steps; nothing where it has not been there in all of them."""
    values = [record.get(key) for record in records[-last:]]
    return values if len(values) == last and None not in values else []


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def all_are(records: list[dict], key: str, last: int, test: Callable[[float], bool]) -> bool:
    values = column(records, key, last)
    return bool(values) and all(map(test, values))


def unmixed_groups_teach(records: list[dict], args: dict) -> bool:
    """Whether far more tokens have carried gradient, in all of the last steps, than mixed groups can hold.

    So it is where a method learns from groups whose rewards are all equal. False where it cannot be told: a weight of
    the KL or of an entropy bonus gives every token a gradient, and further rounds of sampling replace such groups.
    """
    replaced = any(record.get("rollout/sampling_rounds", 1) > 1 for record in records[-LONG:])
    if replaced or args.get("beta") or args.get("entropy_coef"):
        return False
    trained, unmixed = (column(records, key, LONG) for key in ("policy/trained_token_ratio", "rollout/zero_std_ratio"))
    return bool(trained and unmixed) and all(t > LONGER * (1 - u) for t, u in zip(trained, unmixed, strict=True))


def doubtful_settings(args: dict, defaults: dict) -> dict[str, str]:
    """Name -> one sentence, for settings that do not fit the model or the task; `defaults` are those of the flags."""
    found = {}
    small = [name for name in ("learning_rate", "max_response_length") if args[name] == defaults[name]]
    if args["model"] and small:
        flags = " and ".join(f"--{name.replace('_', '-')} {args[name]:g}" for name in small)
        found["defaults of the embedded model"] = (
            f"{flags}: defaults for the embedded model of 0.4 million parameters. Models of a billion and more are "
            "usually trained at 1e-6, with room for thousands of tokens; benchmarks/recipes has the papers' settings"
        )
    length, buffer = args["max_response_length"], args.get("overlong_buffer_length", 0)
    if 2 * buffer > length and args["overlong_penalty_factor"]:
        found["charge for length"] = (
            f"--overlong-buffer-length {buffer} of --max-response-length {length}: every token after the first "
            f"{max(0, length - buffer)} costs a response some of its reward. Make it a small part of the length; 0 is "
            "no charge"
        )
    if is_named(args["task"]) and args["prompt_template"] in ("raw", "chat"):
        found["no form of answer"] = (
            f"the questions of {args['task']} do not say how to state the answer, and in long responses the checker "
            "looks for \\boxed{}, <answer> or Answer: alone. --prompt-template qwen_boxed, dapo or r1 asks for one"
        )
    return found


def findings(records: list[dict], args: dict) -> dict[str, str]:
    """Name -> one sentence with its likely causes, for everything that is wrong at the last of these records.

    `records` are those of training steps, in order; `args` the run's arguments.
    """
    records = [record for record in records if "rollout/reward" in record]
    found = {}
    if not records:
        return found
    last, length = records[-1], args["max_response_length"]
    no_answer, truncated = (last.get(key) or 0.0 for key in ("verifier/no_answer_ratio", "rollout/truncated_ratio"))
    without_spread = unmixed_groups_teach(records, args)
    # Where wrong responses alone teach as well, none that is right is no fault yet; none that can be checked is one.
    checked = max(no_answer, truncated) < 0.5
    if all_are(records, "rollout/reward", LONG, lambda x: x == 0) and not (without_spread and checked):
        found["zero reward"] = (
            f"no response has been right for {LONG} steps. Likely: responses are cut off before their answer "
            f"({truncated:.0%} are); no answer is found in them ({no_answer:.0%}: does the prompt ask for the form "
            "that the checker looks for?); or the task is too hard for this model. Comparing rewards inside a group "
            "teaches nothing then"
        )
    if all_are(records, "rollout/reward", LONG, lambda x: x == 1):
        found["full reward"] = (
            f"every response has been right for {LONG} steps: nothing is left to learn from this task"
        )
    if (cut := column(records, "rollout/truncated_ratio", SHORT)) and mean(cut) > 0.3:
        found["truncated"] = (
            f"{mean(cut):.0%} of the responses are cut off at --max-response-length {length} and count as wrong. "
            "Raise it, or look at samples.jsonl: a model that never ends may lack its end token or its chat template"
        )
    unmixed = all_are(records, "rollout/zero_std_ratio", LONG, lambda x: x > 0.9)
    if "zero reward" not in found and unmixed and not without_spread:
        found["no spread"] = (
            f"in nine of ten groups all rewards are equal, for {LONG} steps: comparing them teaches in the rest alone. "
            "Choose problems nearer to what the model can do, or raise --num-generations"
        )
    first, entropy = records[0].get("policy/entropy"), column(records, "policy/entropy", SHORT)
    if first and entropy:
        now = mean(entropy)
        if now < 0.1 * first:
            found["entropy gone"] = (
                f"entropy has fallen from {first:.3f} to {now:.3f} nats: the policy has all but stopped trying. "
                "Likely: too high a --learning-rate, too many --num-minibatches or --update-epochs, or a solved task"
            )
        if now > 2 * first and now > first + 0.5:
            found["entropy exploding"] = (
                f"entropy has risen from {first:.3f} to {now:.3f} nats: responses turn to noise. Likely: an entropy "
                "bonus, too high a --learning-rate, a loss that mostly pushes answers down, "
                "truncated responses all counted wrong, or a sampler that does not follow the trainer"
            )
    if (gap := column(records, "rollout/sampler_gap_mean", SHORT)) and mean(gap) > 0.05:
        found["sampler gap"] = (
            f"sampler and trainer disagree by {mean(gap):.3f} nats per token on average. Likely: their weights are out "
            "of step, they differ in precision or temperature, or the sampler cuts its distribution (top-p, top-k)"
        )
    if (moved := column(records, "policy/approx_kl", SHORT)) and mean(moved) > 0.1:
        found["moves too far"] = (
            f"the policy moves by {mean(moved):.2f} nats per token within one rollout: its samples are no longer its "
            "own. Lower --learning-rate, --num-minibatches or --update-epochs"
        )
    mixed = all_are(records, "rollout/zero_std_ratio", SHORT, lambda x: x < 1)  # without them it may well be 0
    if mixed and all_are(records, "policy/trained_token_ratio", SHORT, lambda x: x == 0):
        found["nothing trained"] = (
            f"no token has carried a gradient for {SHORT} steps: the settings switch the loss off"
        )
    if all_are(records, "algo/selected_ratio", SHORT, lambda x: x == 0):
        found["inert"] = f"the method has selected no token for {SHORT} steps: with these settings it is its parent"
    if all_are(records, "policy/skipped_updates", SHORT, lambda x: x > 0):
        found["skipped updates"] = (
            f"updates have been skipped in each of the last {SHORT} steps, for want of a finite loss or gradient. "
            "Lower --learning-rate, or compute in float32"
        )
    return found
