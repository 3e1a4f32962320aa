"""Exercises: what is left blank, and whether the check finds every mistake and names it."""

import re
import subprocess
import sys

import pytest

from benchmarks import exercise
from benchmarks.exercise import CASES, EXERCISES, FUNCTIONS, check, functions
from common import InputError
from tests import sync

ALL = [(name, region) for name, regions in EXERCISES.items() for region in regions]


def report(tmp_path, text: str, name: str, regions: tuple[str, ...] | None = None) -> tuple[bool, str]:
    path = tmp_path / f"{name}.py"
    path.write_text(text)
    right, lines = check(path, regions)
    return right, "\n".join(lines)


def test_exercises_leave_a_function_blank() -> None:
    assert {*FUNCTIONS} <= {*sync.REGIONS}
    assert {part for _, part in ALL} == {*FUNCTIONS, *CASES}  # a further function is nothing without inputs
    with pytest.raises(InputError, match="its regions credit and loss have no function spread"):
        exercise.blank(sync.read("grpo"), "spread", "")


@pytest.mark.parametrize("name", EXERCISES)
def test_the_original_is_right(name: str) -> None:
    right, lines = check(sync.ALGOS / f"{name}.py")
    assert right and len(lines) == len(functions(name)), lines  # nor do its metrics differ


@pytest.mark.parametrize(("name", "region"), ALL)
def test_blank_copy(tmp_path, name: str, region: str) -> None:
    """One function without its body; the rest of the file as it was; the check says which one and what to do."""
    text, removed = exercise.exercise(name, region)
    original, function = sync.read(name), functions(name)[region]
    place = region if region in FUNCTIONS else "loss"
    parts, known = sync.own_parts(text), sync.own_parts(original)
    assert sync.skeleton(text) == sync.skeleton(original)
    assert [part for part in parts if parts[part] != known[part]] == ["head", place]
    assert parts["head"].replace("exercises/", "algos/") == known["head"]
    before = parts[place].partition("    # Return" if region != "credit" else "    # Write")[0]
    assert known[place].startswith(before) and f"def {function}(" in before and before.endswith('"""\n')
    assert len(original.splitlines()) - len(text.splitlines()) == removed - 2 - 2 * ("NotImplementedError(\n" in text)
    assert max(map(len, parts[place].splitlines())) <= 120
    right, said = report(tmp_path, text, name)
    assert not right and f"{function}: it is still blank: {EXERCISES[name][region].hint}" in said
    assert all(f"{other} is right" in said for other in functions(name).values() if other != function)


CLIPPED = "torch.min(ratio * advantages, clipped * advantages)"
MEAN = "(token_loss * mask).sum() / mask.sum().clamp(min=1)"
# File, what is changed, and words of the report.
MISTAKES = [
    ("dapo", f"-{CLIPPED}", CLIPPED, ["the loss", "every number has the wrong sign"]),
    ("dapo", CLIPPED, "(ratio * advantages)", ["On batches with ratios beyond the clip", "agrees on: plain batches"]),
    ("dapo", CLIPPED, "torch.max(ratio * advantages, clipped * advantages)", ["On batches with ratios beyond"]),
    ("dapo", MEAN, "(token_loss * mask).mean()", ["On batches with padding: the loss", "padding included"]),
    ("dapo", MEAN, "(token_loss * mask).sum()", ["On plain batches", "a sum over the tokens"]),
    ("dapo", MEAN, "(token_loss * mask).sum() / len(mask)", ["a sum over each response"]),
    ("dapo", MEAN, "token_loss.sum() / mask.sum()", None),  # advantages are 0 on padding: as good
    ("dapo", ".clamp(-20, 20).exp()", ".exp()", ["On batches with log-ratios beyond 20"]),
    ("dapo", "2 * batch", "batch", ["batch['advantages']", "assign_credit is not right"]),
    ("dapo", "if args.max_resample > 0:", "if True:", ["--max-resample 0"]),
    ("dapo", "excess.clamp(min=0)", "excess", ["On batches with padding: batch['adv"]),
    ("grpo", "rewards.std(1, keepdim=True)", "rewards.std(1, keepdim=True, unbiased=False)", ["Bessel"]),
    ("grpo", "+ 1e-6)", "+ 1e-4)", ["a small constant"]),
    ("grpo", "+ 1e-6)", ")", ["a small constant"]),
    ("grpo", "    scaled[rewards.amax(1) == rewards.amin(1)] = 0.0\n", "", ["0.3 in float32", "instead of 0 "]),
    ("grpo", "rewards.mean(1, keepdim=True)", "rewards.mean()", ["assign_credit is not right", "response"]),
    ("grpo", 'scaled.view(-1, 1) * batch["mask"]', "scaled.view(-1, 1)", ["has shape (12, 1) instead of (12, 6)"]),
    ("grpo", "(-1, args.num_generations)", "(args.num_generations, -1)", ["assign_credit is not right"]),
    ("grpo", "(log_ref_ratio.exp() - log_ref_ratio - 1)", "(-log_ref_ratio)", ["of all sorts with --beta 0.1"]),
    ("grpo", "- args.entropy_coef * entropy", "+ args.entropy_coef * entropy", ["with --entropy-coef 0.1"]),
    ("grpo", "mask.sum(1).clamp(min=1)).mean()", "mask.shape[1]).mean()", ["On batches with padding: the loss"]),
    ("clip_cov", "logprobs.detach()", "logprobs", None),  # only compared and sorted: its gradient goes nowhere
    ("clip_cov", ")).sum() / num_tokens", ")).sum() / (mask & ~selected).sum()", ["the loss"]),
    ("clip_cov", "[torch.randperm(len(candidates))[:quota]]", "[:quota]", ["the same tokens are left out every time"]),
    ("clip_cov", "[:quota]]", "]", ["the quota is smaller than the window", "--clip-cov-ratio 1e-06"]),
    ("clip_cov", "quota = int(", "quota = 1 + int(", ["with --clip-cov-ratio 1e-06"]),
    ("clip_cov", "& (cov < args.clip_cov_ub)", "", ["with --clip-cov-ub 0.4"]),
    ("kl_cov", "quota = int(", "quota = 1 + int(", ["the loss"]),
    ("kl_cov", "int(args.kl_cov_ratio * num_tokens)", "max(1, int(args.kl_cov_ratio * num_tokens))", ["1e-06"]),
    ("kl_cov", "values[mask].mean()", "values.mean()", ["padding"]),
    ("kl_cov", ".masked_fill(~mask, -torch.inf)", "", ["padding"]),
    ("kl_cov", 'mb["kl_cov_coef"] * log_ratio.abs()', 'mb["kl_cov_coef"] * log_ratio', ["the loss"]),
    ("kl_cov", "* log_ratio.abs()", "* log_ratio.detach().abs()", ["the loss itself agrees everywhere"]),
    ("forking_tokens", "ceil(args", "int(args", ["the loss"]),
    ("forking_tokens", 'if args.normalize_by == "selected" else mask', "", ["--normalize-by all"]),
    ("forking_tokens", ".masked_fill(~mask, -torch.inf)", "", ["numbers on the padding"]),
    ("nsr", 'mb["loss_mask"]', 'mb["mask"]', ["--positive-weight 0.0", "The loss"]),
    ("nsr", "- args.negative_weight * (1", "+ args.negative_weight * (1", ["batch['advantages']"]),
    ("nsr", " & (advantages != 0)[:, None]", "", ["batch['loss_mask']: True instead of False"]),
    ("entropic", 'state["integral"] = integral + error', 'state["integral"] = error', ["state['integral']"]),
    ("entropic", "if alpha == wanted or error * wanted < 0:", "if True:", ["with --kp 30"]),
    ("entropic", "min(1.0, max(-1.0, wanted))", "wanted", ["batch['alpha']"]),
    ("entropic", '["entropy"][batch["mask"]]', '["entropy"]', ["On batches with padding: batch['alpha']"]),
    ("entropic", "ratio * advantages.abs()", "ratio * advantages", ["the loss"]),
    ("entropic", "likely.sum().clamp(min=1)", "mask.sum()", ["the loss"]),
    ("opo", "lengths = batch", "lengths = 1 + batch", ["On batches with padding: batch['advantages']"]),
    ("opo", "advantages * logprobs", "advantages * logprobs.exp()", ["On plain batches", "the loss"]),
    ("opo", "return loss, {}", "return loss", ["what it returns is not (loss, metrics)"]),
    ("opo", "return loss, {}", "return loss.item(), {}", ["the loss is a float instead of a scalar tensor"]),
    ("opo", "return loss, {}", "return loss.detach(), {}", ["the loss has no gradient"]),
    ("opo", "return loss, {}", "return loss.expand(2), {}", ["of shape (2,)"]),
    ("opo", "return loss, {}", "return loss / undefined, {}", ["it raises NameError, line", "undefined"]),
    ("steer", "p * (1 - p) * surprise", "p * surprise", ["On plain batches", "the loss"]),
    ("steer", 'values + mb["entropy"]', "values + entropy.detach()", ["On plain batches", "the loss"]),
    ("steer", ' - mb["state_mean"]', "", ["with --omega exact"]),
    ("steer", ".abs() * mask", ".abs()", None),  # advantages are 0 on padding
    ("steer", "/ mask.sum().clamp(min=1)  #", "/ (weights * mask).sum()  #", ["On plain batches", "the loss"]),
    ("steer", "values = logprobs.detach()", "values = logprobs", ["the loss itself agrees everywhere"]),
    ("vapo", ".clamp(min=0) if", " if", ["with --gae-alpha 0.3"]),
    ("vapo", "2 * batch", "batch", ["batch['advantages']"]),
    ("vapo", "~last * values.roll(-1, 1)", "values.roll(-1, 1)", ["batch['advantages']"]),
    ("vapo", 'batch["values"] * batch["mask"]', 'batch["values"]', None),  # what follows the last token is not read
    ("vapo", "- values) * mask", "- values)", ["On batches with padding", "batch['advantages']"]),
    ("vapo", "right.sum().clamp(min=1)", "mask.sum()", ["the loss"]),
    ("vapo", "+ args.nll_coef * nll", "- args.nll_coef * nll", ["the loss"]),
    ("aepo", "entropy.detach()[mask]", "entropy[mask]", ["the loss itself agrees everywhere"]),
    ("aepo", "/ chosen.std()", "/ chosen.std(unbiased=False)", ["the loss"]),
    ("aepo", "ratio / ratio.detach() - 1", "ratio - ratio.detach()", ["its gradient by logprobs"]),
    ("aepo", "if args.keep_clipped_gradient:", "if True:", ["with --keep-clipped-gradient False"]),
    ("aepo", "1 + args.clip_ratio_high) * (ratio /", "1.0) * (ratio /", ["On batches with ratios beyond the clip"]),
    ("cuts", ".to(probabilities.dtype)", ".double() / 3", None),  # weights in any scale
    ("cuts", ".to(probabilities.dtype)", "", ["spread is not right", "has type torch.bool"]),
    ("cuts", ".to(probabilities.dtype)", " * probabilities", ["On plain distributions: the shares", "(entry "]),
    ("cuts", "if t < args.cuts_warmup", "if t <= args.cuts_warmup", ["On the token after those"]),
    ("cuts", "    if t < args.cuts_warmup:\n        return probabilities\n", "", ["On the first tokens"]),
    ("cuts", "torch.where(sure.any(-1, keepdim=True), sure, top)", "sure", ["On distributions with few likely words"]),
    ("cuts", "sure.any(-1, keepdim=True), sure, top", "sure.any(), sure, top", ["with few likely words"]),
    ("cuts", "top & (probabilities >= args", "(probabilities >= args", ["On plain distributions"]),
    (
        "cuts",
        "tied & (tied.cumsum(-1) <= args.cuts_top_k - above.sum(-1, keepdim=True))",
        "tied",
        ["On words of equal"],
    ),
    ("cuts", "min(args.cuts_top_k, probabilities.shape[-1])", "args.cuts_top_k", ["On fewer words than k: it raises"]),
    ("cuts", "min(args.cuts_top_k,", "min(5,", ["On --cuts-top-k 2"]),
    ("cuts", ">= args.cuts_min_prob", ">= 0.03", ["On --cuts-min-prob 0.2"]),
    ("cuts", "rewards.std(1, keepdim=True)", "1.0", ["assign_credit is not right"]),
    ("gxpo", "total / (1 + q)", "total", ["lead is not right", "On second steps of all sorts"]),
    ("gxpo", "q**j for j in range(args.horizon)", "q**j for j in range(1, args.horizon)", ["On second steps of all"]),
    ("gxpo", "(w - v) / (v - x)", "(w - x) / (v - x)", ["On second steps of all sorts"]),
    ("gxpo", ".clamp(-2, 3)", "", None),  # k stays within its own bounds
    ("gxpo", ".clamp(1, args.horizon / 2 + 1)", "", ["On second steps of all sorts"]),
    ("gxpo", "args.horizon / 2 + 1", "3.5", ["On --horizon 10"]),
    ("gxpo", "q == -1, 1.0,", "q == -1, 0.5,", None),
    ("gxpo", "torch.where(q == -1, 1.0, total / (1 + q))", "(total / (1 + q))", ["On second steps right back: k"]),
    ("gxpo", "torch.where((v - x).abs() < 1e-12, 0.0, (w - v) / (v - x))", "(w - v) / (v - x)", ["stood still"]),
    ("gxpo", "< 1e-12", "== 0", ["On parameters that all but stood still"]),
    ("gxpo", "(norm - mean) / var**0.5", "(norm - mean) / var", ["watch is not right", "On norms near 1"]),
    ("gxpo", "if count >= 2 else", "if count >= 1 else", ["On norms near 1", "(entry 1)"]),
    ("gxpo", "(1 - d) * var + d", "var + d", ["On norms near 1"]),
    (
        "gxpo",
        "max(1e-4, (1 - d) * var + d * (norm - mean) ** 2)",
        "(1 - d) * var + d * (norm - mean) ** 2",
        ["all but eq"],
    ),
    ("gxpo", "not leaps or not norm < torch.inf", "not leaps", ["On norms that are not finite"]),
    ("gxpo", "not leaps or not norm < torch.inf", "not norm < torch.inf", ["On steps without a leap"]),
    ("gxpo", "0 < args.gate <= above", "args.gate <= above", ["On --gate 0"]),
    ("gxpo", "0 < args.gate <= above", "0 < args.gate <= abs(above)", ["On a norm far below the others"]),
    ("gxpo", "0 < args.gate <= above", "False", ["On a norm that ends the leaps: state['off']"]),
    ("gxpo", "d, above = args.gate_decay", "d, above = 0.1", ["On --gate-decay 0.5"]),
]


@pytest.mark.parametrize(("name", "old", "new", "words"), MISTAKES)
def test_mistakes_are_named(tmp_path, name: str, old: str, new: str, words: list[str] | None) -> None:
    text = sync.read(name)
    parts = sync.own_parts(text)
    region = next(region for region in ("credit", "loss") if old in parts[region])
    changed = parts[region].replace(old, new)
    further = {*functions(name)} - {*FUNCTIONS}
    right, said = report(tmp_path, text.replace(parts[region], changed), name, (region, *sorted(further)))
    assert right == (words is None), said
    for word in words or ():
        assert word.lower() in said.lower(), said


def test_metrics_are_a_remark(tmp_path) -> None:
    text = sync.read("grpo").replace('"policy/clip_low_ratio"', '"policy/low"')
    right, said = report(tmp_path, text, "grpo")
    assert right and "which no training needs: policy/clip_low_ratio" in said


def test_batches_are_what_their_kind_says() -> None:
    for kind in exercise.KINDS:
        for seed in exercise.SEEDS:
            batch, logprobs, entropy = exercise.random_batch(kind, seed)
            groups = batch["rewards"].view(exercise.GROUPS, exercise.SIZE)
            assert (groups.amax(1) == groups.amin(1)).sum() == kind.equal_groups
            assert bool(batch["mask"].all()) != kind.padding
            assert bool((logprobs[~batch["mask"]] != 0).any() or (entropy[~batch["mask"]] != 0).any()) == kind.noise
            moved = (logprobs - batch["old_logprobs"]).abs().max()
            assert (moved == 0) if kind.log_ratio == 0 else (0 < moved < 6 * kind.log_ratio)
    assert [kind.log_ratio > 0.4 for kind in exercise.KINDS].count(True) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("def f(:\n", "line 1"),
        ("raise ValueError('no')\n", "cannot be imported (ValueError: no)"),
        ("Args = assign_credit = None\n", "has no policy_loss"),
    ],
)
def test_bad_files(tmp_path, text: str, words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        report(tmp_path, text, "grpo")
    with pytest.raises(InputError, match="no algorithm is called mine"):
        report(tmp_path, "", "mine")
    with pytest.raises(InputError, match="cannot be read"):
        check(tmp_path / "dapo.py")


def test_command_line(tmp_path, monkeypatch, capsys) -> None:
    """The idea's region by default, no overwriting, and only where the copy finds common/."""
    monkeypatch.setattr(sync, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    args = exercise.Args("opo")
    assert exercise.main(args) == 0 and "assign_credit is blank" in capsys.readouterr().out
    assert exercise.main(exercise.Args(check=tmp_path / "exercises" / "opo.py")) == 1
    assert "assign_credit: it is still blank" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"exercises/opo\.py exists"):
        exercise.main(args)
    exercise.main(exercise.Args("opo", region="loss", force=True))
    assert "policy_loss is blank" in capsys.readouterr().out
    for place in ("algos", "a/b", ".."):
        with pytest.raises(InputError, match="name a folder of its own"):
            exercise.main(exercise.Args("opo", out=tmp_path / place))
    with pytest.raises(InputError, match="is no algorithm"):
        exercise.main(exercise.Args("ppo"))
    (tmp_path / "LICENSE").write_text("")
    for flags, words in (
        ({"out": tmp_path / "LICENSE"}, "LICENSE cannot be written"),
        ({"out": tmp_path / "new", "region": "loss "}, "no exercise on its loss "),
        ({"out": tmp_path / "new", "region": ""}, "no exercise on its "),
    ):
        with pytest.raises(InputError, match=words):
            exercise.main(exercise.Args("opo", **flags))
    assert {path.name for path in tmp_path.iterdir()} == {"LICENSE", "exercises"}
    assert exercise.main(exercise.Args()) == 0
    listed = re.findall(r"^ \w+ +\w+ +(?:easy|medium|hard) +\d+ ", capsys.readouterr().out, re.M)
    assert len(listed) == len(ALL)


def test_flags_are_used_or_refused(tmp_path, capsys) -> None:
    """Beside --check a region is what is judged, and nothing else means anything; nor does it without a name."""
    copy = tmp_path / "opo.py"
    copy.write_text(exercise.exercise("opo", "credit")[0])
    assert exercise.main(exercise.Args(check=copy)) == 1 and "still blank" in capsys.readouterr().out
    assert exercise.main(exercise.Args(check=copy, region="credit")) == 1 and "still blank" in capsys.readouterr().out
    assert exercise.main(exercise.Args(check=copy, region="loss")) == 0
    assert "policy_loss is right" in capsys.readouterr().out
    for region in ("", "watch"):
        with pytest.raises(InputError, match=f"opo has no part {region} to judge"):
            exercise.main(exercise.Args(check=copy, region=region))
    for flags in ({"name": "opo"}, {"force": True}, {"out": tmp_path}):
        with pytest.raises(InputError, match="does nothing beside --check"):
            exercise.main(exercise.Args(**flags, check=copy))
    for flags in ({"region": "loss"}, {"force": True}, {"out": tmp_path}):
        with pytest.raises(InputError, match="does nothing without an algorithm's name"):
            exercise.main(exercise.Args(**flags))


@pytest.mark.slow
def test_a_copy_runs_as_a_script() -> None:
    """From its folder beside algos/ it finds common/."""
    folder = sync.ROOT / "exercises"
    ignored = (sync.ROOT / ".gitignore").read_text().split()
    assert "exercises/" in ignored and "plots/" in ignored
    path = folder / "opo.py"
    existed = path.exists()
    folder.mkdir(exist_ok=True)
    if not existed:
        path.write_text(sync.read("opo"))
    try:
        done = subprocess.run(
            [sys.executable, str(path), "--dry-run"], cwd=sync.ROOT, capture_output=True, text=True, check=False
        )
    finally:
        if not existed:
            path.unlink()
    assert done.returncode == 0 and "opo" in done.stdout, done.stderr
