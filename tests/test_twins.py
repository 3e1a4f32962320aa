"""Further models beside the policy: copies, references that move, critics; against plain torch in float64."""

import copy
import json
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from common import InputError
from common.batch import make_batch
from common.critic import ValueModel
from common.loading import load_policy
from common.policy import Policy
from tests.helpers import byte_tokenizer, random_samples, save_tiny, tiny_model, tiny_policy

F64 = torch.float64
KINDS = [("qwen2", True), ("llama", False), ("phi", False), ("neox", False)]


def parameters_of(policy: Policy) -> list[Tensor]:
    return [p.detach().clone() for p in policy.root.parameters()]


def moments_of(policy: Policy) -> list[Tensor]:
    return [value.clone() for state in policy.optimizer.state.values() for value in state.values()]


def equal(first: list[Tensor], second: list[Tensor]) -> bool:
    return len(first) == len(second) > 0 and all(map(torch.equal, first, second))


def train(policy: Policy, batch: dict, steps: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        policy.backward(batch, torch.randn(batch["mask"].shape, generator=generator, dtype=policy.dtype))
        policy.step()


# --- Twins ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "tied"), KINDS)
def test_a_twin_starts_equal_and_goes_its_own_way(kind: str, tied: bool) -> None:
    policy, batch = tiny_policy(kind, tied, F64, learning_rate=1e-2), make_batch(random_samples())
    train(policy, batch, 1)
    twin = policy.twin(learning_rate=1e-3)
    assert equal(list(twin.score(batch)), list(policy.score(batch)))
    assert not {p.data_ptr() for p in policy.root.parameters()} & {p.data_ptr() for p in twin.root.parameters()}
    assert (twin.head.weight is twin.model.get_input_embeddings().weight) == tied
    assert not twin.optimizer.state and twin.learning_rate == 1e-3 and policy.learning_rate == 1e-2
    before = parameters_of(policy)
    train(twin, batch, 2)
    assert equal(parameters_of(policy), before) and not equal(parameters_of(twin), before)


def test_two_matrices_stay_two_where_the_configuration_promises_one(tmp_path: Path) -> None:
    """The library keeps both that it finds in the files; what is copied or saved keeps both as well."""
    directory = save_tiny(tmp_path / "model", tied=False)
    config = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    policy, batch = load_policy(str(directory), device="cpu"), make_batch(random_samples())
    assert equal(list(policy.frozen_copy().score(batch)), list(policy.score(batch)))
    policy.save(tmp_path / "saved")
    assert equal(list(load_policy(str(tmp_path / "saved"), device="cpu").score(batch)), list(policy.score(batch)))


@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_copy_from_moves_that_share_of_the_way(share: float) -> None:
    policy, batch = tiny_policy(dtype=F64, learning_rate=1e-2), make_batch(random_samples())
    reference = policy.frozen_copy()
    start = parameters_of(reference)
    train(policy, batch, 2)
    updates = reference.updates
    reference.copy_from(policy, share)
    assert reference.updates > updates
    for moved, old, new in zip(parameters_of(reference), start, parameters_of(policy), strict=True):
        torch.testing.assert_close(moved, old + share * (new - old), rtol=0, atol=1e-15)
    if share == 1:
        assert equal(parameters_of(reference), parameters_of(policy))
    assert not equal(start, parameters_of(policy))


def test_write_takes_a_snapshot_back() -> None:
    policy, batch = tiny_policy(learning_rate=1e-2), make_batch(random_samples())
    before, kept = policy.score(batch), policy.snapshot()
    train(policy, batch, 2)
    assert not torch.equal(policy.score(batch)[0], before[0])
    updates = policy.updates
    policy.write(kept)
    assert policy.updates > updates and equal(list(policy.score(batch)), list(before))
    train(policy, batch, 1)  # a snapshot is no view
    assert not equal(kept, parameters_of(policy))


def test_write_computes_between_two_snapshots() -> None:
    policy, batch = tiny_policy(dtype=F64, learning_rate=1e-2), make_batch(random_samples())
    first = policy.snapshot()
    train(policy, batch, 1)
    second = policy.snapshot()
    policy.write([a + 1.5 * (b - a) for a, b in zip(first, second, strict=True)])
    for found, a, b in zip(parameters_of(policy), first, second, strict=True):
        torch.testing.assert_close(found, a + 1.5 * (b - a), rtol=0, atol=0)


@pytest.mark.parametrize("offload", [False, True])
def test_a_reset_optimiser_is_a_new_one(offload: bool) -> None:
    """After a reset Adam steps as if it had never stepped: bias correction included."""
    batch = make_batch(random_samples())
    policies = [Policy(tiny_model(), byte_tokenizer(), learning_rate=1e-2, offload_optimizer=offload) for _ in range(2)]
    train(policies[0], batch, 3)
    policies[1].copy_from(policies[0])
    policies[0].reset_optimizer()
    for policy in policies:
        train(policy, batch, 2, seed=7)
    assert equal(parameters_of(policies[0]), parameters_of(policies[1]))
    assert equal(moments_of(policies[0]), moments_of(policies[1]))


# --- Critics ----------------------------------------------------------------------------------------------------


def plain_values(critic: Policy, batch: dict) -> Tensor:
    """V(s_t) (B, T) with its graph: each row alone, unpadded."""
    rows = []
    for row in range(len(batch["mask"])):
        prompt = batch["prompt_ids"][row][batch["prompt_mask"][row]]
        response = batch["response_ids"][row][batch["mask"][row]]
        ids = torch.cat([prompt, response])[None, :-1]
        hidden = critic.model.base_model(input_ids=ids, use_cache=False).last_hidden_state[0, len(prompt) - 1 :]
        values = hidden @ critic.root.value.weight[0] + critic.root.value.bias
        rows.append(nn.functional.pad(values, (0, batch["mask"].shape[1] - len(response))))
    return torch.stack(rows)


def moved_critic(kind: str = "qwen2", tied: bool = True, **options) -> Policy:
    """A critic whose head is no longer 0."""
    critic = tiny_policy(kind, tied, F64, **options).twin(ValueModel, learning_rate=1e-2)
    torch.manual_seed(1)
    with torch.no_grad():
        critic.root.value.weight.normal_()
        critic.root.value.bias.normal_()
    return critic


@pytest.mark.parametrize(
    "options", [{}, {"micro_batch_tokens": 24}, {"packing": True}, {"gradient_checkpointing": True}]
)
@pytest.mark.parametrize(("kind", "tied"), [("qwen2", True), ("llama", False)])
def test_critic_equals_autograd(kind: str, tied: bool, options: dict) -> None:
    critic, batch = moved_critic(kind, tied, **options), make_batch(random_samples())
    expected = plain_values(critic, batch)
    (values,) = critic.score(batch)
    torch.testing.assert_close(values, expected.detach(), rtol=0, atol=1e-10)
    assert values[batch["mask"]].std() > 0.1 and not values[~batch["mask"]].any()
    gradient = torch.randn(values.shape, dtype=F64, generator=torch.Generator().manual_seed(0))
    gradient[::3] = 0
    (expected * gradient * batch["mask"]).sum().backward()
    wanted = {name: p.grad.clone() for name, p in critic.root.named_parameters() if p.grad is not None}
    critic.root.zero_grad()
    critic.backward(batch, gradient)
    found = {name: p.grad for name, p in critic.root.named_parameters() if p.grad is not None}
    assert found.keys() == wanted.keys() and "value.weight" in found
    scale = max(g.abs().max().item() for g in wanted.values())
    for name in wanted:
        assert (found[name] - wanted[name]).abs().max() <= 1e-10 * scale, name


def test_critic_keeps_a_graph() -> None:
    critic, batch = moved_critic(), make_batch(random_samples())
    gradient = torch.ones(batch["mask"].shape, dtype=F64)
    critic.backward(batch, gradient)
    expected = [p.grad.clone() for p in critic.root.parameters() if p.grad is not None]
    critic.root.zero_grad()
    calls = []
    critic.model.base_model.register_forward_hook(lambda *_: calls.append(1))
    critic.score(batch, batch["mask"].any(1))
    critic.backward(batch, gradient)
    found = [p.grad for p in critic.root.parameters() if p.grad is not None]
    assert len(calls) == 1
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("tied", [True, False])
def test_critic_starts_at_zero_and_learns(tied: bool) -> None:
    """It leaves the policy alone, and an output head that it does not use."""
    policy, batch = tiny_policy(tied=tied), make_batch(random_samples())
    before = parameters_of(policy)
    critic = policy.twin(ValueModel, learning_rate=1e-2)
    (values,) = critic.score(batch)
    assert not values.any()
    target = batch["rewards"][:, None] * batch["mask"]
    errors = []
    for _ in range(30):
        (values,) = critic.score(batch)
        error = values - target
        critic.backward(batch, error)
        assert critic.step() > 0
        errors.append(error.square().sum().item())
    assert errors[-1] < 0.2 * errors[0]
    assert equal(parameters_of(policy), before)
    if not tied:
        assert torch.equal(critic.head.weight, policy.head.weight) and not critic.head.weight.requires_grad


# --- On disk ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tied", [True, False])
def test_a_further_model_comes_back_to_the_bit(tied: bool, tmp_path: Path) -> None:
    policy, batch = tiny_policy(tied=tied, learning_rate=1e-2), make_batch(random_samples())
    reference, critic = policy.frozen_copy(), policy.twin(ValueModel, learning_rate=1e-2)
    train(policy, batch, 1)
    reference.copy_from(policy, 0.5)
    train(critic, batch, 2)
    extra = tmp_path / "checkpoints" / "step-000002" / "extra"
    reference.save_state(extra / "reference")
    critic.save_state(extra / "critic")
    other_reference, other_critic = policy.frozen_copy(), policy.twin(ValueModel, learning_rate=1e-2)
    other_reference.restore_state(extra / "reference")
    other_critic.restore_state(extra / "critic")
    assert equal(parameters_of(other_reference), parameters_of(reference))
    assert equal(moments_of(other_critic), moments_of(critic))
    for model in (critic, other_critic):
        train(model, batch, 2, seed=5)
    assert equal(parameters_of(other_critic), parameters_of(critic))


def test_saving_before_the_first_step_changes_nothing(tmp_path: Path) -> None:
    """To ask the library for the state of an optimiser that has none would make one that has taken a step."""
    batch = make_batch(random_samples())
    saved, plain = tiny_policy(learning_rate=1e-2), tiny_policy(learning_rate=1e-2)
    saved.save(tmp_path)
    saved.save_optimizer(tmp_path)
    for policy in (saved, plain):
        train(policy, batch, 2)
    assert equal(parameters_of(saved), parameters_of(plain)) and equal(moments_of(saved), moments_of(plain))


@pytest.mark.parametrize("damage", ["missing", "empty"])
def test_a_damaged_further_model_is_one_line(damage: str, tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    policy = tiny_policy()
    extra = tmp_path / "run" / "checkpoints" / "step-000002" / "extra"
    if damage == "empty":
        policy.save_state(extra / "reference")
        for path in (extra / "reference").glob("*.distcp"):
            path.write_bytes(b"")
    with pytest.raises(InputError, match=r"extra/reference of step-000002 is missing or damaged") as caught:
        policy.restore_state(extra / "reference")
    assert "\n" not in str(caught.value)


# --- Statistics of a distribution -------------------------------------------------------------------------------


def second_moment(logprobs: Tensor, targets: Tensor) -> Tensor:
    return logprobs.exp().square().sum(1)


def rank_of_target(logprobs: Tensor, targets: Tensor) -> Tensor:
    return (logprobs > logprobs.gather(1, targets)).sum(1).to(logprobs.dtype)


@pytest.mark.parametrize("options", [{}, {"micro_batch_tokens": 24}, {"packing": True}, {"temperature": 0.7}])
@pytest.mark.parametrize(("kind", "tied"), KINDS)
def test_also_is_what_the_full_distribution_gives(kind: str, tied: bool, options: dict) -> None:
    policy, batch = tiny_policy(kind, tied, F64, **options), make_batch(random_samples())
    policy.chunk = 7
    plain = policy.score(batch)
    seen = []

    def watched(logprobs: Tensor, targets: Tensor) -> Tensor:
        seen.append(len(logprobs))
        assert targets.shape == (len(logprobs), 1)
        return second_moment(logprobs, targets)

    logprobs, entropy, moment, rank = policy.score(batch, also=(watched, rank_of_target))
    assert torch.equal(logprobs, plain[0]) and torch.equal(entropy, plain[1])  # the same passes, to the bit
    assert max(seen) <= 7 and sum(seen) == batch["mask"].sum()
    for row in range(len(batch["mask"])):
        prompt = batch["prompt_ids"][row][batch["prompt_mask"][row]]
        response = batch["response_ids"][row][batch["mask"][row]]
        ids = torch.cat([prompt, response])[None]
        full = (policy.model(input_ids=ids).logits[0, len(prompt) - 1 : -1] / policy.temperature).log_softmax(-1)
        n = len(response)
        torch.testing.assert_close(moment[row, :n], second_moment(full, response[:, None]).detach(), rtol=0, atol=1e-10)
        assert torch.equal(rank[row, :n], rank_of_target(full, response[:, None]).detach())
    assert not moment[~batch["mask"]].any()


def test_also_beside_a_kept_graph() -> None:
    """A statistic is no reason to run the model twice, and the gradient stays what it was."""
    policy, batch = tiny_policy(dtype=F64), make_batch(random_samples())
    gradient = torch.ones(batch["mask"].shape, dtype=F64)
    policy.backward(batch, gradient)
    expected = [p.grad.clone() for p in policy.root.parameters()]
    policy.root.zero_grad()
    twin = copy.copy(policy)
    *_, plain = twin.score(batch, also=(second_moment,))
    calls = []
    policy.model.base_model.register_forward_hook(lambda *_: calls.append(1))
    *_, moment = policy.score(batch, batch["mask"].any(1), (second_moment,))
    policy.backward(batch, gradient)
    assert len(calls) == 1
    torch.testing.assert_close(moment, plain, rtol=0, atol=1e-12)
    for parameter, wanted in zip(policy.root.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.grad, wanted, rtol=1e-9, atol=1e-9)


def test_also_in_half_precision_is_computed_in_float32() -> None:
    policy = Policy(tiny_model(), byte_tokenizer(), dtype=torch.bfloat16)
    dtypes = []
    policy.score(make_batch(random_samples()), also=(lambda x, y: (dtypes.append(x.dtype), x[:, 0])[1],))
    assert set(dtypes) == {torch.float32}


def test_token_texts() -> None:
    policy = tiny_policy()
    ids = torch.tensor([policy.encode("3*7=21,é"), policy.encode("21+5=26  ")[:9]])
    texts = policy.token_texts(ids)
    assert texts[0][:7] == list("3*7=21,") and texts[0][7:] == ["\ufffd", "\ufffd"]
    assert texts[1] == list("21+5=26  ") and policy.token_texts(torch.tensor([[256]])) != [[""]]


def test_step_index() -> None:
    """A separator is part of the step that it ends; it may lie across tokens, and two in one token end one step."""
    policy = tiny_policy()
    texts = ["3*7=21,21+5=26", ",,1", "12"]
    ids = [policy.encode(text) for text in texts]
    width = max(map(len, ids))
    batch = {
        "response_ids": torch.tensor([row + row[:1] * (width - len(row)) for row in ids]),
        "mask": torch.tensor([[True] * len(row) + [False] * (width - len(row)) for row in ids]),
    }
    found = policy.step_index(batch, ",").tolist()
    assert found[0] == [0] * 7 + [1] * 7 and found[1] == [0, 1, 2] + [0] * 11 and found[2] == [0] * 14
    assert [max(row) + 1 for row in found] == [len(text.split(",")) for text in texts]
    assert policy.step_index(batch, "").tolist()[2] == [0, 1] + [0] * 12
    assert policy.step_index(batch, "1,")[0].tolist() == [0] * 7 + [1] * 7
    policy.token_texts = lambda ids: [["a.", "b", "...", "c", "d.", "."]]
    batch = {"response_ids": torch.zeros(1, 6, dtype=torch.int64), "mask": torch.ones(1, 6, dtype=torch.bool)}
    assert policy.step_index(batch, ".").tolist() == [[0, 1, 1, 2, 2, 3]]
