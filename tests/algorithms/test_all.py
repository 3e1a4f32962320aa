"""What holds for every algorithm; the names in capitals are those of tests/algorithms/__init__.py."""

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from common.batch import take_rows
from tests import sync
from tests.algorithms.oracle import SIZE, Neutral, grads_of, load, methods, mixed, plain, random_batch, take

METHODS = methods()
SKELETON = {f.name: f.default for f in dataclasses.fields(load("grpo")[0].Args)}
SKELETON = {name: default for name, default in SKELETON.items() if name not in METHODS["grpo"].FLAGS}

each_method = pytest.mark.parametrize("name", METHODS)
CASES = [pytest.param(name, o, id=f"{name}-{i}") for name in METHODS for i, o in enumerate(METHODS[name].CASES)]
each_case = pytest.mark.parametrize(("name", "options"), CASES)


def each(listed: str) -> pytest.MarkDecorator:
    """Every entry of the list that some files have under this name."""
    entries = [(name, entry) for name in METHODS for entry in getattr(METHODS[name], listed, [])]
    ids = [f"{name}-{entry.parent}-{i}" for i, (name, entry) in enumerate(entries)]
    return pytest.mark.parametrize(("name", "entry"), entries, ids=ids)


def draw(name: str, seed: int, **shape) -> tuple[dict, Tensor, Tensor]:
    """A random batch with what this method needs besides."""
    return random_batch(seed, extra=getattr(METHODS[name], "extra", None), **shape)


def test_every_algorithm_has_a_file() -> None:
    assert not set(sync.algorithms()) - METHODS.keys()
    for name, method in METHODS.items():
        assert method.CASES and callable(method.slow), name


@each_method
def test_flags(name: str) -> None:
    """Names and defaults are an interface: scripts and papers quote them."""
    fields = {f.name: f.default for f in dataclasses.fields(load(name)[0].Args)}
    own = {flag: default for flag, default in fields.items() if SKELETON.get(flag, ...) != default}
    assert own == METHODS[name].FLAGS and fields.keys() >= SKELETON.keys()


# --- I5: the equations, token by token --------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@each_case
def test_equals_the_equation(name: str, options: dict, seed: int) -> None:
    """Loss by the slow loop, gradient by central differences of that loop, nothing on padding."""
    (module, args), slow = load(name, **options), METHODS[name].slow
    batch, logprobs, entropy = draw(name, seed)
    with torch.no_grad():  # a share of likely tokens, as in a trained model
        logprobs[::3] *= 0.02
    lists, values, step = plain(batch, logprobs, entropy), (logprobs.tolist(), entropy.tolist()), 1e-6
    module.assign_credit(batch, args, {})
    loss, grads = grads_of(module, args, batch, logprobs, entropy)
    assert loss.item() == pytest.approx(slow(lists, *values, args), abs=1e-12)
    for which, grad in enumerate(grads):
        expected = torch.zeros_like(grad)
        for i, t in batch["mask"].nonzero().tolist():
            centre, sides = values[which][i][t], []
            for shift in (step, -step):
                values[which][i][t] = centre + shift
                sides.append(slow(lists, *values, args))
            values[which][i][t] = centre
            expected[i, t] = (sides[0] - sides[1]) / (2 * step)
        torch.testing.assert_close(grad, expected, rtol=0, atol=1e-8)
        assert not grad[~batch["mask"]].any()
    assert any(grad.any() for grad in grads)


# --- I3: padding and the order of prompts -----------------------------------------------------------------------------


@each_case
def test_padding_and_prompt_order_do_not_matter(name: str, options: dict) -> None:
    module, args = load(name, **options)
    batch, logprobs, entropy = draw(name, 3)

    def widen(key: str, values: Tensor, extra: int) -> Tensor:
        """More columns, not of zeros: what stands on padding is nobody's."""
        filler = 0 if values.dtype in (torch.bool, torch.int64) else -0.5 if key.endswith("logprobs") else 0.5
        return torch.nn.functional.pad(values, (0, extra), value=filler)

    def gradient(rows: Tensor, extra: int) -> tuple[Tensor, Tensor]:
        moved = take(batch, rows)
        moved = {k: widen(k, v, extra) if isinstance(v, Tensor) and v.ndim == 2 else v for k, v in moved.items()}
        credit = module.assign_credit(moved, args, {})
        inputs = widen("logprobs", logprobs[rows].detach(), extra).requires_grad_()
        loss, stats = module.policy_loss(inputs, widen("entropy", entropy[rows].detach(), extra), moved, args)
        numbers = [loss.item(), *stats.values(), *credit.values()]
        return torch.autograd.grad(loss, inputs)[0], torch.tensor(numbers, dtype=torch.float64)

    same, turned = torch.arange(12), torch.tensor([8, 9, 10, 11, 0, 1, 2, 3, 4, 5, 6, 7])
    expected, numbers = gradient(same, 0)
    padded, padded_numbers = gradient(same, 5)
    reordered, reordered_numbers = gradient(turned, 0)
    close = {"rtol": 1e-10, "atol": 1e-15}
    torch.testing.assert_close(padded[:, :6], expected, **close)
    torch.testing.assert_close(reordered, expected[turned], **close)
    torch.testing.assert_close(padded_numbers, numbers, equal_nan=True, **close)
    torch.testing.assert_close(reordered_numbers, numbers, equal_nan=True, **close)
    assert expected.any() and not padded[:, 6:].any()


# --- Edges ------------------------------------------------------------------------------------------------------------


@each_case
def test_far_ratios_stay_finite(name: str, options: dict) -> None:
    """Log-ratios are clamped to +-20 before exp: a policy far from the old one, or from the reference, gives no inf."""
    module, args = load(name, **options)
    batch, logprobs, entropy = draw(name, 4)
    module.assign_credit(batch, args, {})
    away = {key: batch[key] - 800 for key in ("old_logprobs", "ref_logprobs", "rollout_logprobs")}
    moved = (logprobs.detach() - 800).requires_grad_()
    for mb, inputs in ((batch | away, logprobs), (batch, moved)):
        loss, grads = grads_of(module, args, mb, inputs, entropy)
        assert loss.isfinite() and all(g.isfinite().all() for g in grads)


EQUAL = [(name, r) for name in METHODS for r in (0.0, 0.3, 1.0) if r not in getattr(METHODS[name], "UNMIXED", ())]


@pytest.mark.parametrize(("name", "value"), EQUAL)
def test_equal_rewards_give_exactly_zero(name: str, value: float) -> None:
    """In float32, where the mean of eight times 0.3 is not 0.3, nor one that is weighed by lengths."""
    module, args = load(name, num_generations=8)
    batch, _, _ = draw(name, 5, groups=10, size=8)
    batch = {k: v.float() if isinstance(v, Tensor) and v.is_floating_point() else v for k, v in batch.items()}
    batch["rewards"][:72], batch["likely_trained"][:72] = value, False
    batch["rewards"][72:], batch["likely_trained"][72:] = torch.eye(8)[0], True
    module.assign_credit(batch, args, {})
    assert not batch["advantages"][:72].any() and batch["advantages"][72:].any()


EMPTY = [case for case in CASES if not getattr(METHODS[case.values[0]], "NEEDS_TOKENS", False)]


@pytest.mark.parametrize(("name", "options"), EMPTY)
def test_a_minibatch_without_a_token_gives_exactly_zero(name: str, options: dict) -> None:
    """What is left when a method has left out all of a minibatch."""
    module, args = load(name, **options)
    batch, logprobs, entropy = draw(name, 6)
    module.assign_credit(batch, args, {})
    batch["loss_mask"] = torch.zeros_like(batch["mask"])
    loss, grads = grads_of(module, args, batch, logprobs, entropy)
    assert loss == 0 and not any(g.any() for g in grads)


@each_case
def test_strange_batches(name: str, options: dict) -> None:
    """Nothing right, nothing wrong, one token a row, no entropy, nothing moved yet: finite, and the same metrics."""
    module, args = load(name, **options)

    def results(**changes: Tensor) -> tuple[set, set]:
        batch, logprobs, entropy = draw(name, 7)
        inputs = changes.pop("logprobs", logprobs), changes.pop("entropy", entropy)
        batch |= changes
        batch["likely_trained"] = mixed(batch["rewards"])
        credit = module.assign_credit(batch, args, {})
        loss, stats = module.policy_loss(*inputs, batch, args)
        grads = torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True)
        assert loss.isfinite() and all(g.isfinite().all() for g in grads)
        numbers = credit | stats
        assert all(isinstance(value, float | int) for value in numbers.values()), numbers
        assert not any(math.isinf(value) for value in numbers.values()), numbers
        return credit.keys(), stats.keys()

    batch, _, entropy = draw(name, 7)
    first = torch.zeros_like(batch["mask"])
    first[:, 0] = True
    expected = results()
    assert results(rewards=torch.zeros(12, dtype=torch.float64)) == expected
    assert results(rewards=torch.ones(12, dtype=torch.float64)) == expected
    assert results(mask=first) == expected
    assert results(entropy=torch.zeros_like(entropy).requires_grad_()) == expected
    same = {"logprobs": batch["old_logprobs"].clone().requires_grad_(), "entropy": batch["entropy"].requires_grad_()}
    assert results(**same) == expected


# --- What stands in the batch, and what is logged ---------------------------------------------------------------------


@each_case
def test_credit_writes_into_the_batch(name: str, options: dict) -> None:
    """`advantages` and `loss_mask`, and perhaps more; what was there stays as it was, the loss changes nothing."""
    module, args = load(name, **options)
    batch, logprobs, entropy = draw(name, 8)
    given = {key: value.clone() if isinstance(value, Tensor) else list(value) for key, value in batch.items()}
    module.assign_credit(batch, args, {})
    advantages, mask = batch["advantages"], batch["loss_mask"]
    assert advantages.shape == mask.shape == batch["mask"].shape and advantages.dtype == torch.float64
    assert mask.dtype == torch.bool and not (mask & ~batch["mask"]).any() and not advantages[~batch["mask"]].any()
    assert all(torch.equal(batch[k], v) if isinstance(v, Tensor) else batch[k] == v for k, v in given.items())
    for key in batch.keys() - given.keys():  # a row of each, or one number for all
        assert isinstance(batch[key], float) or len(batch[key]) == len(advantages), key
    before = {key: value.clone() if isinstance(value, Tensor) else value for key, value in batch.items()}
    module.policy_loss(logprobs, entropy, batch, args)
    assert batch.keys() == before.keys()
    assert all(torch.equal(batch[k], v) if isinstance(v, Tensor) else batch[k] is v for k, v in before.items())


def test_numbers_pass_into_a_minibatch() -> None:
    """A controller's number, such as `alpha`, is one for all rows."""
    batch, _, _ = random_batch(9)
    rows = torch.arange(SIZE, 3 * SIZE)
    mb = take_rows(batch | {"alpha": 0.3}, rows)
    assert mb["alpha"] == 0.3 and mb["answers"] == batch["answers"][SIZE:]
    assert torch.equal(mb["old_logprobs"], batch["old_logprobs"][rows])


@each_method
def test_metrics(name: str) -> None:
    """At most five of its own, and shared names."""
    (module, args), method = load(name), METHODS[name]
    batch, logprobs, entropy = draw(name, 0)
    stats = module.assign_credit(batch, args, {}) | module.policy_loss(logprobs, entropy, batch, args)[1]
    own = {key.removeprefix("algo/") for key in stats if key.startswith("algo/")}
    elsewhere = getattr(method, "SCRIPT_METRICS", set())
    assert method.METRICS <= own <= method.METRICS | elsewhere and len(method.METRICS | elsewhere) <= 5
    shared = {key for key in stats if not key.startswith("algo/")}
    assert shared in (set(), {"policy/clip_high_ratio", "policy/clip_low_ratio"}, {"policy/clip_high_ratio"})


# --- I6: what does nothing is the parent ------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
@each("NEUTRAL")
def test_neutral_setting_is_the_parent(name: str, entry: Neutral, seed: int) -> None:
    """Loss and gradient, bit for bit: the same operations on the same shapes, or multiplied by 1."""
    ours, parent = load(name, **entry.options), load(entry.parent, **entry.parent_options)
    batch, logprobs, entropy = draw(name, seed)
    theirs = dict(batch)
    ours[0].assign_credit(batch, ours[1], {})
    if entry.credit:
        other, args = parent if entry.credit == entry.parent else load(entry.credit)
        other.assign_credit(theirs, args, {})
        assert torch.equal(batch["advantages"], theirs["advantages"])
        assert torch.equal(batch["loss_mask"], theirs["loss_mask"])
    loss, grads = grads_of(*ours, batch, logprobs, entropy)
    expected, expected_grads = grads_of(*parent, theirs if entry.credit else batch, logprobs, entropy)
    assert torch.equal(loss, expected) and all(map(torch.equal, grads, expected_grads))
    assert any(g.any() for g in grads)


@pytest.mark.parametrize("seed", range(3))
@each("ON_POLICY")
def test_first_update_is_the_parents(name: str, entry: Neutral, seed: int) -> None:
    """At logprobs equal to old_logprobs the gradient, though not the loss, is that of another method."""
    ours, parent = load(name, **entry.options), load(entry.parent, **entry.parent_options)
    batch, _, entropy = draw(name, seed)
    theirs = dict(batch)
    ours[0].assign_credit(batch, ours[1], {})
    credit, args = load(entry.credit) if entry.credit else ours
    credit.assign_credit(theirs, args, {})
    logprobs = batch["old_logprobs"].clone().requires_grad_()
    _, grads = grads_of(*ours, batch, logprobs, entropy)
    _, expected = grads_of(*parent, theirs, logprobs, entropy)
    for ours_, theirs_ in zip(grads, expected, strict=True):
        torch.testing.assert_close(ours_, theirs_, rtol=0, atol=1e-12)
    assert grads[0].any()
