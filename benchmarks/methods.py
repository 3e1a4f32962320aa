"""What the benchmarks, the gallery and the exercises know of a method beyond its file: one record for each.

A new file in algos/ needs a record here, with its family and levers; a test says so. All else may stay empty: a method
without exercises is left out of their list, and one without arms is not in the comparison yet, as its page says. A file
of one's own without a record gets an empty one.
"""

from dataclasses import dataclass, field
from typing import Literal

# Family -> what its methods change. In the order of the gallery.
FAMILIES = {
    "baseline": "what a reward is compared with",
    "clip": "bounds of the ratio",
    "token weight": "some tokens weigh more, less, or nothing",
    "sample weight": "some responses weigh more, less, or nothing",
    "penalty": "a charge on change, or a bonus for entropy",
    "controller": "feedback from the measured entropy",
    "sampling": "how responses are drawn, and which are kept",
    "data": "which problems are trained on",
    "critic": "a learned estimate of the reward",
    "optimiser": "how the parameters follow the gradient",
}
# Lever -> what it does. In the order of the map's columns.
LEVERS = {
    "baseline": "what a reward is compared with",
    "clip": "bounds of the ratio",
    "averaging": "what the loss is a mean over",
    "sampling": "which responses are drawn, and which groups kept",
    "reward": "what is added to the verifier's reward",
    "covariance": "tokens chosen by covariance",
    "token filter": "tokens left out of the gradient",
    "token weight": "some tokens weigh more or less",
    "penalty": "a charge on the change of some tokens",
    "sample weight": "right and wrong responses weigh differently",
    "controller": "feedback from the measured entropy",
    "critic": "how expected reward is learned, token by token",
    "optimiser": "how the parameters follow the gradient",
}


@dataclass(frozen=True)
class Exercise:
    """One function of a file left blank."""

    difficulty: Literal["easy", "medium", "hard"]
    hint: str
    learns: str


@dataclass(frozen=True)
class Arm:
    """A script with some flags, in the comparison. The arm with the method's own name is the method."""

    base: str = "grpo"  # the arm that it is held against
    flags: dict = field(default_factory=dict)
    knob: tuple[str, tuple] | None = None  # instead of the method's


@dataclass(frozen=True)
class Claim:
    """What a paper promises of a method, and how the comparison reads it."""

    promise: str
    outcome: str  # key of OUTCOMES in readings.py
    base: str = ""  # the arm that it is held against; without one, 0
    reading: str = "equal steps"  # key of READINGS in readings.py
    direction: int = 1  # -1: the promise is less; 0: there is none, and it is judged as higher or lower
    target: float = 0.0  # of an outcome that is a distance from it
    arm: str = ""  # that it is read on, where tuning took another setting of the method than the promise speaks of
    no_less: bool = False  # the promise is to lose nothing: held against minus the outcome's margin instead of 0


@dataclass(frozen=True)
class Method:
    family: str = ""  # key of FAMILIES
    levers: dict[str, str] = field(default_factory=dict)  # key of LEVERS -> its setting; * marks what the parent lacks

    # Exercises: region (or the name of a further function, with cases in exercise.py) -> exercise, the one with the
    # idea first; and what the check of a copy has to know.
    exercises: dict[str, Exercise] = field(default_factory=dict)
    acts: dict = field(default_factory=dict)  # flags under which all of it acts on a batch of some seventy tokens
    tried: tuple[dict, ...] = ()  # further flags to check a copy with
    needs_spread: bool = False  # its loss is undefined on a batch of equal rewards only
    binary_rewards: bool = False  # it reads rewards of 0 and 1 alone
    draws: str = ""  # the flag that is the share of tokens drawn at random

    # Explorer: masks in policy_loss -> the status of their tokens (~: of those outside); words for a status here.
    masks: dict[str, str] = field(default_factory=dict)
    statuses: dict[str, str] = field(default_factory=dict)

    # Comparison: arms, one knob to tune with the values tried (for all arms that do not set it themselves), the metrics
    # that show whether the method is active, and what the paper says.
    arms: dict[str, Arm] = field(default_factory=dict)
    knob: tuple[str, tuple] | None = None
    active: tuple[str, ...] = ()  # empty: by definition
    starts: dict[str, float] = field(default_factory=dict)  # of these, bounds -> where each begins and does nothing
    inert_at_one_update: str = ""  # why it does nothing at one update per rollout, if so
    trained_on: str = ""  # where that is not the task that it is evaluated on, which it may forget
    reward_of: str = ""  # its training's reward is a mean of these, if not of what the policy draws as problems come
    one_update: bool = False  # per rollout, by definition and without a flag: its runs stand in both regimes
    claims: tuple[Claim, ...] = ()


# --- Claims that several papers make ----------------------------------------------------------------------------------


def keeps_entropy(base: str) -> tuple[Claim, Claim]:
    promise = "entropy does not collapse"
    return Claim(promise, "entropy", base), Claim(promise, "entropy", base, "equal reward")


def holds_target(base: str, target: float) -> Claim:
    return Claim("holds entropy at its target", "distance of entropy from a target", base, direction=-1, target=target)


def better(base: str) -> Claim:
    return Claim("better at equal steps", "pass@1", base)


def as_good(base: str) -> Claim:
    return Claim("as good at k = 1", "pass@1", base, no_less=True)


def reaches_further(base: str, reading: str = "equal steps") -> Claim:
    return Claim("more problems with many samples", "pass@32", base, reading)


# GRPO in the forms that methods start from.
MIXED = "grpo, mixed groups"  # the entropy paper filtered groups in its baseline too
MIXED_HIGHER = "grpo, mixed groups, clip-higher"
HIGHER = "grpo, clip-higher"
TOKENS = "grpo, token mean"
TOKENS_HIGHER = "grpo, token mean, clip-higher"
A_FIFTH = "forking_tokens, a fifth"  # of the tokens, as in the paper
COVARIANCE = (
    *keeps_entropy(MIXED),
    better(MIXED),
    Claim("not a claim: keeps what many samples can reach", "pass@32", MIXED, direction=0),
    Claim(
        "its tokens are likely ones of good responses (abstract)",
        "share of selected tokens with A < 0, less 1/2",
        direction=-1,
    ),
)
SAME_CREDIT = Exercise("easy", "A_j, as in GRPO", "the same credit in another file: what the method leaves as it was")

# --- The records ------------------------------------------------------------------------------------------------------

METHODS = {
    "grpo": Method(
        family="baseline",
        levers={
            "baseline": "group mean, by standard deviation",
            "clip": "0.2 on both sides",
            "averaging": "tokens, then responses",
        },
        exercises={
            "loss": Exercise(
                "medium",
                "Eq. 3 and 4: clipped surrogate, KL estimate, entropy bonus; tokens first, then responses",
                "what min and clip do together, and which mean makes a long response weigh no more than a short one",
            ),
            "credit": Exercise(
                "easy",
                "A_i: standardise the rewards inside each group of num_generations rows",
                "what a group is, Bessel's correction, and why a group of equal rewards has to give exactly 0",
            ),
        },
        tried=({"beta": 0.1}, {"entropy_coef": 0.1}, {"clip_ratio_high": 0.28}),
        arms={
            "grpo": Arm(""),
            HIGHER: Arm(flags={"clip_ratio_high": 0.28}),
            "grpo, entropy bonus": Arm(knob=("entropy_coef", (0.003, 0.01, 0.03))),
            "grpo, KL to the start": Arm(knob=("beta", (0.01, 0.05))),
            "grpo, random reward": Arm(flags={"reward_mode": "random"}),
            "grpo, random reward, wide above": Arm(flags={"reward_mode": "random", "clip_ratio_high": 0.28}),
            "grpo, random reward, wide below": Arm(flags={"reward_mode": "random", "clip_ratio_low": 0.28}),
            "grpo, rows split": Arm(flags={"minibatch_split": "rows"}),
            "grpo, balanced split": Arm(flags={"minibatch_split": "balanced"}),
        },
    ),
    "dapo": Method(
        family="sampling",
        levers={
            "baseline": "as GRPO",
            "clip": "*0.2 below, 0.28 above",
            "averaging": "*tokens",
            "sampling": "*mixed groups only",
            "reward": "*charge for length",
        },
        exercises={
            "credit": Exercise(
                "medium",
                "Eq. 7 and 13: +-1 less a charge for length, then standardised; unmixed groups are dropped",
                "how a charge for length enters the reward, and how length alone could become a signal",
            ),
            "loss": Exercise(
                "easy",
                "Eq. 8: clip-higher, and a mean over all tokens",
                "two different sides of a clip, and a mean in which long responses weigh more",
            ),
        },
        acts={"overlong_buffer_length": 3},
        tried=({"max_resample": 0}, {"overlong_penalty_factor": 0.5}, {"overlong_buffer_length": 0}),
        arms={
            MIXED: Arm(flags={"clip_ratio_high": 0.2, "overlong_buffer_length": 0}),
            "dapo": Arm(),
            MIXED_HIGHER: Arm(flags={"clip_ratio_high": 0.28, "overlong_buffer_length": 0}),
            TOKENS: Arm(flags={"clip_ratio_high": 0.2, "overlong_buffer_length": 0, "max_resample": 0}),
            TOKENS_HIGHER: Arm(flags={"clip_ratio_high": 0.28, "overlong_buffer_length": 0, "max_resample": 0}),
        },
        active=("policy/clip_high_ratio", "algo/overlong_penalty"),
        knob=("clip_ratio_high", (0.28, 0.4)),
        claims=(
            *keeps_entropy("grpo"),
            better("grpo"),
            Claim("not a claim: the same at equal samples", "pass@1", "grpo", "equal samples", direction=0),
        ),
    ),
    "clip_cov": Method(
        family="token weight",
        levers={
            "baseline": "as GRPO",
            "clip": "*ratio up to 2",
            "averaging": "tokens",
            "sampling": "mixed groups only",
            "covariance": "*some inside a window",
            "token filter": "*those are left out",
        },
        exercises={
            "loss": Exercise(
                "hard",
                "Eq. 10, 11 and 12: covariance, a random draw of its window, a mask on the gradient",
                "which statistics carry no gradient, and what staying in the denominator means",
            ),
            "credit": SAME_CREDIT,
        },
        acts={"clip_cov_ratio": 1.0, "clip_cov_lb": 0.1},  # as many as there are: the draw is no matter of chance
        tried=({"clip_cov_ratio": 1e-6}, {"clip_ratio_high": 0.2}, {"clip_cov_ub": 0.4}),
        draws="clip_cov_ratio",
        statuses={"o": "drawn from the tokens inside the covariance window: no gradient"},
        arms={
            "clip_cov": Arm(MIXED),
            "clip_cov, random selection": Arm(MIXED, {"random_selection": True}),
        },
        active=("algo/selected_ratio",),
        knob=("clip_cov_ratio", (1e-2, 5e-2)),
        claims=COVARIANCE,
    ),
    "kl_cov": Method(
        family="penalty",
        levers={
            "baseline": "as GRPO",
            "clip": "*none",
            "averaging": "tokens",
            "sampling": "mixed groups only",
            "covariance": "*the largest",
            "penalty": "*|log-ratio| of those",
        },
        exercises={
            "loss": Exercise(
                "hard",
                "Eq. 10, 13 and 14: covariance, the tokens of its largest values, a penalty on those",
                "selection over a whole minibatch, a quota that may be 0, and a penalty that starts without a gradient",
            ),
            "credit": SAME_CREDIT,
        },
        acts={"kl_cov_ratio": 0.2},
        tried=({"kl_cov_ratio": 1e-6}, {"kl_cov_coef": 0.3}, {"kl_cov_anneal": True}),
        needs_spread=True,  # all covariances are 0 without: which tokens are largest is undefined
        masks={"selected": "h"},
        arms={
            "kl_cov": Arm(MIXED),
            "kl_cov, random selection": Arm(MIXED, {"random_selection": True}),
            "kl_cov, annealed": Arm(MIXED, {"kl_cov_anneal": True}),
        },
        active=("algo/selected_ratio",),
        inert_at_one_update="the penalty has no gradient before the first update",
        knob=("kl_cov_ratio", (2e-2, 1e-1)),
        claims=COVARIANCE,
    ),
    "forking_tokens": Method(
        family="token weight",
        levers={
            "baseline": "as GRPO",
            "clip": "0.2 below, 0.28 above",
            "averaging": "*the selected tokens",
            "sampling": "mixed groups only",
            "reward": "charge for length",
            "token filter": "*all but the most uncertain fifth",
        },
        exercises={
            "loss": Exercise(
                "medium",
                "S and J: the clipped surrogate on the ceil(rho N) tokens of largest entropy",
                "a selection through which no gradient passes, and how a normaliser changes the size of a loss",
            ),
            "credit": Exercise(
                "medium", "as in DAPO: Eq. 7, 11 and 13 there", "the parent's charge for length, once more from memory"
            ),
        },
        acts={"overlong_buffer_length": 3},
        tried=({"normalize_by": "all"}, {"top_entropy_ratio": 1.0}, {"max_resample": 0}, {"entropy_scope": "response"}),
        masks={"~selected": "o"},
        statuses={
            "o": "not among the tokens of largest entropy of its minibatch: no gradient",
            "t": "selected, being among the largest entropies of its minibatch: carries the gradient",
        },
        arms={
            "forking_tokens": Arm("dapo"),
            "forking_tokens, random selection": Arm("dapo", {"random_selection": True}),
            "forking_tokens, by response": Arm("dapo", {"entropy_scope": "response"}),
            A_FIFTH: Arm("dapo", {"top_entropy_ratio": 0.2}),
        },
        active=("algo/selected_ratio",),
        knob=("top_entropy_ratio", (0.2, 0.5)),
        claims=(
            Claim("better with a fifth of the tokens", "pass@1", "dapo", arm=A_FIFTH),
            *keeps_entropy("dapo"),
        ),
    ),
    "nsr": Method(
        family="sample weight",
        levers={
            "baseline": "*none",
            "clip": "0.2 on both sides",
            "averaging": "*tokens",
            "sample weight": "*0.1 for right, 1 for wrong",
        },
        exercises={
            "credit": Exercise(
                "easy",
                "A_i: one weight for right responses, one for wrong; what has weight 0 is not kept",
                "reinforcement without any baseline, and a loss mask narrower than the response",
            ),
            "loss": Exercise(
                "easy",
                "the clipped surrogate and entropy bonus, averaged over the tokens that are kept",
                "why the mask of the loss is not the mask of the response",
            ),
        },
        tried=({"positive_weight": 0.0}, {"positive_weight": 1.0, "negative_weight": 0.0}, {"entropy_coef": 0.1}),
        binary_rewards=True,
        arms={
            "nsr": Arm(),
            "nsr, right alone": Arm(flags={"positive_weight": 1.0, "negative_weight": 0.0}),
            "nsr, wrong alone": Arm(flags={"positive_weight": 0.0}),
            "nsr, both alike": Arm(flags={"positive_weight": 1.0}),
        },
        knob=("positive_weight", (0.1, 0.3)),
        claims=(
            Claim("keeps pass@k at large k", "pass@32", "grpo", no_less=True),
            as_good("grpo"),
            *keeps_entropy("grpo"),
        ),
    ),
    "entropic": Method(
        family="controller",
        levers={
            "baseline": "as GRPO",
            "clip": "0.2 on both sides",
            "averaging": "*tokens",
            "controller": "*weight of likely tokens, by a PI controller",
        },
        exercises={
            "credit": Exercise(
                "hard",
                "A_i as in GRPO; e, alpha and I, with anti-windup; I is state['integral'], alpha goes to the batch",
                "a PI controller: what it remembers between steps, and when its memory has to stand still",
            ),
            "loss": Exercise(
                "medium",
                "J: J_PPO, and alpha times the mean of r |A| over the likely tokens",
                "how a controller's output becomes a gradient, and which tokens it can move",
            ),
        },
        acts={"target_entropy": 0.9, "high_prob_threshold": 0.5},
        tried=({"kp": 0.0, "ki": 0.0}, {"kp": 30.0}, {"kp": 0.5, "ki": 1.0}, {"high_prob_threshold": 1.0}),
        masks={"likely": "l"},
        arms={"entropic": Arm(TOKENS)},
        active=("algo/alpha",),
        knob=("kp", (1.0, 10.0)),
        claims=(holds_target("grpo", 0.25), better("grpo")),
    ),
    "opo": Method(
        family="baseline",
        levers={
            "baseline": "*group mean weighted by length",
            "clip": "*none: one update per rollout",
            "averaging": "*tokens",
        },
        exercises={
            "credit": Exercise(
                "easy",
                "b and A_i: rewards less their group's mean, weighted by length",
                "the baseline of least variance, and why it needs no standard deviation",
            ),
            "loss": Exercise(
                "easy",
                "J: A_i log pi, averaged over all tokens",
                "the policy gradient as it stands, without ratio or clip",
            ),
        },
        arms={"opo": Arm()},
        active=("algo/baseline_shift",),
        one_update=True,
        claims=(*keeps_entropy("grpo"), better("grpo")),
    ),
    "steer": Method(
        family="token weight",
        levers={
            "baseline": "as GRPO",
            "clip": "0.2 below, 0.28 above",
            "averaging": "tokens",
            "sampling": "*every group",
            "token weight": "*less where entropy would move most",
        },
        exercises={
            "loss": Exercise(
                "hard",
                "Omega in both forms, w and J: what a token does to entropy, and how much less it counts for that",
                "how one token's update moves the entropy of its state, and a scale that a single token sets for all",
            ),
            "credit": SAME_CREDIT,
        },
        tried=({"omega": "exact"}, {"damping": 0.0}, {"damping": 0.5, "clip_ratio_high": 0.2}),
        statuses={"t": "carries gradient, times a weight between 1 - damping and 1"},
        arms={
            "steer": Arm(TOKENS_HIGHER),
            "steer, shuffled weights": Arm(TOKENS_HIGHER, {"shuffle_weights": True}),
        },
        knob=("damping", (0.2, 0.5)),
        active=("algo/weight_mean", "algo/weight_min"),
        claims=(*keeps_entropy(TOKENS_HIGHER), better(TOKENS_HIGHER)),
    ),
    "vapo": Method(
        family="critic",
        levers={
            "baseline": "*a critic's value of each prefix",
            "clip": "0.2 below, 0.28 above",
            "averaging": "tokens",
            "sample weight": "*right ones imitated besides",
            "critic": "*trained first; lambda by length",
        },
        exercises={
            "credit": Exercise(
                "hard",
                "lambda_i, d_it and A_it: GAE over a critic's values, the reward paid at the last token",
                "how a reward reaches the tokens before it, and what lambda leaves to the critic",
            ),
            "loss": Exercise(
                "medium",
                "J: the clipped surrogate over all tokens, and mu times the mean log-likelihood of right ones",
                "imitation beside reinforcement, and what a mean is over where nothing is right",
            ),
        },
        tried=({"gae_alpha": 0.0}, {"gae_alpha": 0.3}, {"nll_coef": 0.0}, {"nll_coef": 0.5, "clip_ratio_high": 0.2}),
        binary_rewards=True,
        statuses={"c": "its ratio has left the bounds: no gradient, but for that of the likelihood of right responses"},
        arms={"vapo": Arm(MIXED_HIGHER)},
        knob=("gae_alpha", (0.3, 1.5)),
        active=("algo/explained_variance",),
        claims=(
            Claim("less entropy than DAPO at the end", "entropy", MIXED_HIGHER, direction=-1),
            better(MIXED_HIGHER),
        ),
    ),
    "aepo": Method(
        family="sampling",
        levers={
            "baseline": "as GRPO",
            "clip": "*0.2 on both sides, with a gradient above",
            "averaging": "*tokens",
            "sampling": "*some branch off from others",
            "token weight": "*more where entropy is high",
        },
        exercises={
            "loss": Exercise(
                "hard",
                "A'_j and J: advantages weighed by standardised entropy, and an upper bound that keeps a gradient",
                "a bound with the value of a constant and the gradient of a ratio, and statistics without a gradient",
            ),
            "credit": SAME_CREDIT,
        },
        tried=(
            {"keep_clipped_gradient": False},
            {"entropy_weight": 0.0},
            {"entropy_weight": 2.0, "clip_ratio_high": 0.28},
            {"beta": 0.1},
            {"entropy_coef": 0.1},
        ),
        statuses={"c": "its ratio has left the bounds: no gradient below them, that of the bound above"},
        arms={
            "aepo": Arm(TOKENS),
            "aepo, shuffled entropy": Arm(TOKENS, {"shuffle_entropy": True}),
        },
        knob=("branch_ratio", (0.25, 0.5)),
        active=("algo/clipped_ratio", "algo/multiplier_min"),
        claims=(Claim("more diverse right answers", "coverage", TOKENS), better(TOKENS)),
    ),
    "reinforce_rej": Method(
        family="data",
        levers={
            "baseline": "*none",
            "clip": "0.2 on both sides",
            "averaging": "*tokens",
            "sampling": "*mixed groups only, the others not replaced",
            "sample weight": "*1 for right, -1 for wrong",
        },
        exercises={
            "credit": Exercise(
                "easy",
                "A_i: 1 or wrong_reward, and 0 in the groups that reject names; log the share of groups rejected",
                "what is left of GRPO's advantage without mean and std, and which prompts it passes over",
            ),
            "loss": Exercise(
                "easy",
                "J: the clipped surrogate, KL estimate and entropy bonus, averaged over all tokens",
                "what it means that a rejected response stays in the denominator",
            ),
        },
        tried=(
            {"reject": "wrong"},
            {"reject": "right"},
            {"reject": "none"},
            {"wrong_reward": 0.0},
            {"beta": 0.1, "entropy_coef": 0.1},
        ),
        binary_rewards=True,
        arms={"reinforce_rej": Arm(TOKENS)},
        knob=("wrong_reward", (-1.0, 0.0)),
        active=("algo/rejected_ratio",),
        claims=(as_good(TOKENS),),
    ),
    "maxrl": Method(
        family="baseline",
        levers={
            "baseline": "*group mean, by the mean",
            "clip": "0.2 on both sides",
            "averaging": "tokens, then responses",
        },
        exercises={
            "credit": Exercise(
                "easy",
                "A_i: the centred reward over the group's mean; nothing where no response is right",
                "what a division decides: prompts weigh like 1/p instead of 1/sqrt(p (1-p))",
            ),
        },
        tried=({"scale_by": "std"},),
        arms={"maxrl": Arm()},
        active=("algo/weight_max",),
        claims=(reaches_further("grpo"), reaches_further("grpo", "equal reward")),
    ),
    "sapo": Method(
        family="clip",
        levers={
            "baseline": "group mean, by standard deviation",
            "clip": "*none: a sigmoid gate",
            "averaging": "tokens, then responses",
        },
        exercises={
            "loss": Exercise(
                "medium",
                "J: 4/tau sigmoid(tau (r - 1)) A, tau by the sign of A, and the gate's mean from the same sigmoid",
                "a soft trust region, and why its value is not that of a clip",
            ),
            "credit": SAME_CREDIT,
        },
        acts={"tau_pos": 4.0, "tau_neg": 6.0},
        tried=({"beta": 0.1, "entropy_coef": 0.1},),
        arms={"sapo": Arm()},
        knob=("tau_pos", (5.0, 20.0)),
        active=("algo/gate_mean", "algo/gate_low_ratio"),
        claims=(better("grpo"),),
    ),
    "dppo": Method(
        family="clip",
        levers={
            "baseline": "group mean, by standard deviation",
            "clip": "*none on ratios: tokens whose probability moved too far are held",
            "averaging": "*tokens",
        },
        exercises={
            "loss": Exercise(
                "hard",
                "J: which tokens are held, by |p - p_old| or binary KL, and the capped ratio as a constant weight",
                "a bound on what is likely instead of on a ratio: rare tokens may move",
            ),
            "credit": SAME_CREDIT,
        },
        tried=(
            {"divergence": "kl", "divergence_low": 0.001, "divergence_high": 0.001},
            {"divergence_low": 0.0, "divergence_high": 0.0, "ratio_cap": 1.1},
            {"beta": 0.1, "entropy_coef": 0.1},
        ),
        masks={"held": "o"},
        statuses={"o": "its probability has moved too far: no gradient"},
        arms={"dppo": Arm(TOKENS)},
        knob=("divergence_high", (0.02, 0.05)),
        active=("algo/masked_high_ratio", "algo/masked_low_ratio"),
        claims=(*keeps_entropy(TOKENS), better(TOKENS)),
    ),
    "gmpo": Method(
        family="clip",
        levers={
            "baseline": "group mean, by standard deviation",
            "clip": "*0.05 in log r, inside a geometric mean",
            "averaging": "*one weight a response",
        },
        exercises={
            "loss": Exercise(
                "medium",
                "J: the clipped log-ratios of a response, their mean, its exponential as weight of the advantage",
                "what the geometric mean does to one token that has moved far",
            ),
            "credit": SAME_CREDIT,
        },
        tried=({"clip_ratio_low": 0.4, "clip_ratio_high": 0.4}, {"beta": 0.1, "entropy_coef": 0.1}),
        arms={"gmpo": Arm()},
        knob=("clip_ratio_high", (0.05, 0.1)),
        active=("policy/clip_high_ratio", "policy/clip_low_ratio"),
        claims=(*keeps_entropy("grpo"), better("grpo")),
    ),
    "passk": Method(
        family="baseline",
        levers={
            "sampling": "*every group",
            "baseline": "*mean over subsets of k",
            "clip": "0.2 below, 0.28 above",
            "averaging": "tokens",
            "reward": "*pass@k of the subsets",
        },
        exercises={
            "credit": Exercise(
                "hard",
                "b and v from the number of wrong responses by binomials, then A of a right and of a wrong response",
                "how a reward for sets of samples becomes one for each sample, without drawing sets",
            ),
        },
        acts={"pass_k": 2},
        tried=({"pass_k": 1}, {"pass_k": 3}),
        binary_rewards=True,
        arms={"passk": Arm(TOKENS_HIGHER)},
        knob=("pass_k", (2, 4)),
        active=("algo/zero_advantage_ratio",),
        claims=(reaches_further(TOKENS_HIGHER), as_good(TOKENS_HIGHER), *keeps_entropy(TOKENS_HIGHER)),
    ),
    "clip_b": Method(
        family="token weight",
        levers={
            "baseline": "group mean, by standard deviation",
            "clip": "0.2 on both sides",
            "averaging": "tokens, then responses",
            "token filter": "*unlikely words of wrong responses in certain states",
        },
        exercises={
            "credit": Exercise(
                "medium",
                "D: tokens of A < 0 with S more than mu standard deviations below the mean; out of loss_mask with them",
                "which tokens lower entropy when they are pushed down",
            ),
        },
        acts={"clip_b_mu": 0.8},
        tried=({"clip_b_mu": 0.0}, {"beta": 0.1, "entropy_coef": 0.1}),
        arms={
            "clip_b": Arm(),
            "clip_b, random selection": Arm(flags={"random_selection": True}),
        },
        knob=("clip_b_mu", (1.5, 2.5)),
        active=("algo/dropped_ratio",),
        claims=(*keeps_entropy("grpo"), better("grpo")),
    ),
    "clip_v": Method(
        family="token weight",
        levers={
            "baseline": "group mean, by standard deviation",
            "clip": "0.2 on both sides",
            "averaging": "tokens, then responses",
            "token filter": "*words of wrong responses that would lower entropy most, by each state's own mean",
        },
        exercises={
            "credit": Exercise(
                "hard",
                "X and its candidates, of which the largest max_drop_ratio N leave loss_mask",
                "the exact first-order change of entropy, and what a bound on the number of tokens does",
            ),
        },
        acts={"clip_v_mu": 0.1, "max_drop_ratio": 0.2},
        tried=({"clip_v_mu": 0.0}, {"beta": 0.1, "entropy_coef": 0.1}),
        arms={
            "clip_v": Arm(),
            "clip_v, random selection": Arm(flags={"random_selection": True}),
        },
        knob=("max_drop_ratio", (0.01, 0.05)),
        active=("algo/dropped_ratio",),
        claims=(*keeps_entropy("grpo"), better("grpo")),
    ),
    "opefo": Method(
        family="token weight",
        levers={
            "baseline": "group mean, by standard deviation",
            "clip": "0.2 on both sides",
            "averaging": "*tokens",
            "token weight": "*what raises entropy against what lowers it, balanced",
        },
        exercises={
            "credit": Exercise(
                "hard",
                "d of each token, the two flows F and K over the batch, lambda, and the weight on A",
                "that one number can make the predicted change of entropy zero",
            ),
        },
        acts={"num_minibatches": 1},
        tried=({"flow": "sampled"}, {"flow_balance": 0.0}),
        one_update=True,
        arms={"opefo": Arm()},
        knob=("flow_balance", (0.5, 1.0)),
        active=("algo/flow_lambda",),
        claims=(*keeps_entropy("grpo"), better("grpo")),
    ),
    "lp_reg": Method(
        family="penalty",
        levers={
            "baseline": "group mean, by standard deviation",
            "clip": "*1 down, 9 up",
            "averaging": "*tokens",
            "penalty": "*a KL to a min-p proxy on the unlikeliest tokens of wrong responses",
        },
        exercises={
            "loss": Exercise(
                "hard",
                "u from proxy_gain, the floor(rho n) unlikeliest tokens with A < 0 that stand below u, and their k3",
                "how a filter on sampling becomes a floor under learning",
            ),
            "credit": SAME_CREDIT,
        },
        acts={"low_prob_ratio": 0.5},
        tried=({"lp_coef": 0.0}, {"beta": 0.1, "entropy_coef": 0.1}),
        arms={
            "lp_reg": Arm("lp_reg, no penalty"),
            "lp_reg, no penalty": Arm(TOKENS, {"lp_coef": 0.0}),
            "lp_reg, random selection": Arm("lp_reg, no penalty", {"random_selection": True}),
        },
        knob=("low_prob_ratio", (0.02, 0.05)),
        active=("algo/selected_ratio",),
        claims=(*keeps_entropy("lp_reg, no penalty"), better("lp_reg, no penalty")),
    ),
    "starter": Method(
        family="sample weight",
        levers={
            "baseline": "none",
            "clip": "*0.2 below, 0.28 above",
            "averaging": "*selected tokens",
            "sample weight": "0.1 for right, 1 for wrong",
            "token filter": "*the top fifth by entropy",
        },
        exercises={
            "loss": Exercise(
                "medium",
                "J: the surrogate over the ceil(rho N) tokens of largest entropy",
                "how three methods become one file, and which of them changes a line here",
            ),
        },
        tried=({"top_entropy_ratio": 1.0}, {"normalize_by": "all"}, {"entropy_coef": 0.1}),
        binary_rewards=True,
        masks={"~selected": "o"},
        arms={
            "starter": Arm("nsr"),
            "starter, random selection": Arm("nsr", {"random_selection": True}),
        },
        knob=("top_entropy_ratio", (0.2, 0.5)),
        active=("algo/selected_ratio",),
        claims=(
            *keeps_entropy("grpo"),
            reaches_further("grpo"),
            Claim("less reward at equal steps", "pass@1", "grpo", direction=-1),
        ),
    ),
    "positive_weight": Method(
        family="controller",
        levers={
            "baseline": "as GRPO",
            "clip": "0.2 on both sides",
            "averaging": "*tokens",
            "sample weight": "*right ones, from 0 to 1",
            "controller": "*that weight, in equal steps",
        },
        exercises={
            "credit": Exercise(
                "medium",
                "A_i as in GRPO; lambda by each schedule, from state['steps'] and state['weight'], to the batch",
                "a controller that knows only up and down, and what a step uses before it moves what the next one uses",
            ),
            "loss": Exercise(
                "easy",
                "J: the clipped surrogate, times lambda where A > 0, KL estimate and bonus, averaged over all tokens",
                "a weight that makes the step smaller, and one that would only turn it",
            ),
        },
        acts={"positive_weight": 0.3},
        tried=(
            {"schedule": "stage", "num_steps": 3},
            {"schedule": "constant", "positive_weight": 1.0},
            {"target_entropy": 9.0, "positive_weight": 0.02},
            {"target_entropy": 0.0, "positive_weight": 0.98},
            {"positive_weight": 0.3, "beta": 0.1, "entropy_coef": 0.1},
        ),
        statuses={"t": "carries gradient, times a weight between 0 and 1 if its advantage is positive"},
        arms={"positive_weight": Arm(TOKENS)},
        knob=("target_entropy", (0.15, 0.25)),
        active=("algo/positive_weight",),
        claims=(holds_target(TOKENS, 0.15), as_good(TOKENS)),
    ),
    "skywork": Method(
        family="controller",
        levers={
            "baseline": "as GRPO",
            "clip": "0.2 on both sides",
            "averaging": "*tokens of mixed groups",
            "sampling": "*mixed groups only, the others not replaced",
            "penalty": "*bonus for entropy",
            "controller": "*its coefficient, in equal steps, and a gate",
        },
        exercises={
            "credit": Exercise(
                "medium",
                "A_i as in GRPO, loss_mask on mixed groups; e, c and g in state['coef'] and ['gate'], c g to the batch",
                "a controller that integrates, a gate that remembers one step, and a step without a signal",
            ),
            "loss": Exercise(
                "easy",
                "J: the clipped surrogate, KL estimate and a bonus with the batch's coefficient, over the tokens kept",
                "what an entropy bonus is a mean over, and that its coefficient may be 0",
            ),
        },
        acts={"entropy_coef": 0.1, "coef_step": 0.02, "target_entropy": 0.9},
        tried=(
            {"target_entropy": 0.0},
            {"target_entropy": 9.0, "coef_max": 0.11},
            {"entropy_coef": 0.01, "target_entropy": 0.0},
            {"beta": 0.1},
        ),
        arms={"skywork": Arm(TOKENS)},
        knob=("coef_max", (0.02, 0.05)),
        active=("algo/coef",),
        claims=(holds_target(TOKENS, 0.25), better(TOKENS)),
    ),
    "entrocraft": Method(
        family="controller",
        levers={
            "baseline": "*none outside a band of entropy",
            "clip": "0.2 on both sides",
            "averaging": "tokens, then responses",
            "sample weight": "*right ones alone above it, wrong ones below",
            "controller": "*which of the three, by a band that sinks",
        },
        exercises={
            "credit": Exercise(
                "medium",
                "A_i in its three cases, and both bounds b after state['steps'] of num_steps, linear or cosine",
                "what right and wrong answers do to entropy, and a controller that switches instead of weighing",
            ),
            "loss": Exercise(
                "medium",
                "J: the clipped surrogate, KL estimate and entropy bonus; tokens first, then responses",
                "the parent's loss once more from memory",
            ),
        },
        tried=(
            {"band_low_start": 9.0, "band_high_start": 9.5},
            {"band": "off"},
            {"band": "cosine", "band_low_start": 0.5, "band_high_start": 1.4, "num_steps": 3},
            {"num_steps": 3, "band_low_end": 3.0, "band_high_end": 4.0},
            {"beta": 0.1, "entropy_coef": 0.1},
        ),
        binary_rewards=True,
        arms={"entrocraft": Arm()},
        knob=("band", ("linear", "cosine")),
        active=("algo/branch",),
        claims=(*keeps_entropy("grpo"), better("grpo")),
    ),
    "dr_grpo": Method(
        family="baseline",
        levers={
            "baseline": "*group mean",
            "clip": "0.2 on both sides",
            "averaging": "*sums over responses, by a constant",
        },
        exercises={
            "credit": Exercise("easy", "A_i: the centred reward", "one of GRPO's two divisions"),
            "loss": Exercise(
                "easy", "J: the sum over each response by max_response_length, then the mean", "the other division"
            ),
        },
        tried=({"length_norm": True}, {"scale_by": "std"}, {"beta": 0.1, "entropy_coef": 0.1}),
        arms={"dr_grpo": Arm()},
        claims=(Claim("responses stay shorter", "response length", "grpo", "equal reward", direction=-1),),
    ),
    "seed_grpo": Method(
        family="sample weight",
        levers={
            "baseline": "group mean",
            "clip": "0.2 on both sides",
            "averaging": "sums over responses, by a constant",
            "sample weight": "*prompts whose answers disagree weigh less",
        },
        exercises={
            "credit": Exercise(
                "medium",
                "A_i: Dr. GRPO's advantages times 1 - alpha H / log G, H from the masses of equal answers",
                "how a group's disagreement is measured without a judge of meaning",
            ),
        },
        tried=({"uncertainty_coef": 0.3}, {"scale_by": "std"}, {"same_scale": True}),
        arms={
            "seed_grpo": Arm("dr_grpo"),
            "seed_grpo, same scale": Arm("dr_grpo", {"same_scale": True}),
        },
        knob=("uncertainty_coef", (0.5, 1.0)),
        active=("algo/scale_mean",),
        claims=(better("dr_grpo"),),
    ),
    "gspo": Method(
        family="clip",
        levers={
            "baseline": "group mean, by standard deviation",
            "clip": "*0.015 down, 0.02 up, of a response's geometric mean",
            "averaging": "tokens, then responses",
        },
        exercises={
            "loss": Exercise(
                "medium",
                "J: s of each response as a value, and a gradient of 1/|o| for each of its tokens",
                "what changes when the unit of the ratio is that of the reward",
            ),
            "credit": SAME_CREDIT,
        },
        acts={"clip_ratio_low": 0.1, "clip_ratio_high": 0.1},
        tried=({"beta": 0.1, "entropy_coef": 0.1},),
        arms={"gspo": Arm()},
        knob=("clip_ratio_high", (0.02, 0.05)),
        active=("policy/clip_high_ratio", "policy/clip_low_ratio"),
        claims=(better("grpo"),),
    ),
    "cispo": Method(
        family="clip",
        levers={
            "baseline": "as GRPO",
            "clip": "*none: weights capped at 5",
            "averaging": "tokens",
            "sampling": "mixed groups only",
            "reward": "charge for length",
        },
        exercises={
            "loss": Exercise(
                "medium",
                "J: the capped ratio as a constant weight of A l",
                "a weight may be bounded without taking gradients away",
            ),
        },
        acts={"ratio_cap": 1.1},
        tried=({"ratio_cap": 0.0},),
        arms={"cispo": Arm("dapo")},
        knob=("ratio_cap", (1.2, 5.0)),
        active=("policy/clip_high_ratio",),
        claims=(better("dapo"),),
    ),
    "deepseek_v32": Method(
        family="sample weight",
        levers={
            "baseline": "*group mean",
            "clip": "0.2 on both sides",
            "averaging": "tokens, then responses",
            "sample weight": "*stale bad responses masked",
            "penalty": "*a KL estimate with the ratio",
        },
        exercises={
            "loss": Exercise(
                "medium",
                "J: the mask M on stale responses with negative advantages, and the KL estimate times the ratio",
                "why pushing a bad response down stops when it has become unlikely, and an unbiased gradient of a KL",
            ),
        },
        tried=({"opsm_delta": 0.0}, {"beta": 0.3}, {"beta": 0.3, "unbiased_kl": False}, {"scale_by": "std"}),
        arms={"deepseek_v32": Arm()},
        knob=("opsm_delta", (0.003, 0.01)),
        active=("algo/masked_ratio",),
        claims=(better("grpo"),),
    ),
    "qae": Method(
        family="baseline",
        levers={
            "baseline": "*the 0.4-quantile of a group, by standard deviation",
            "clip": "0.2 below, 0.28 above",
            "averaging": "tokens",
            "sampling": "mixed groups only",
            "reward": "charge for length",
        },
        exercises={
            "credit": Exercise(
                "easy",
                "the charged rewards, b as an order statistic of each group, and A_i",
                "a baseline that is a switch between learning from right and from wrong responses",
            ),
        },
        tried=({"baseline_quantile": 0.0}, {"baseline_quantile": 0.7}, {"max_resample": 0}),
        arms={"qae": Arm("dapo")},
        knob=("baseline_quantile", (0.4, 0.6)),
        active=("algo/zero_advantage_ratio",),
        claims=(better("dapo"), Claim("as good with many samples", "pass@32", "dapo", no_less=True)),
    ),
    "unlikeliness": Method(
        family="sample weight",
        levers={
            "baseline": "group mean, by standard deviation",
            "clip": "0.2 on both sides",
            "averaging": "tokens, then responses",
            "reward": "*less for likely right responses",
        },
        exercises={
            "credit": Exercise(
                "medium",
                "the place of each mean log-probability in its group, the reward it leaves, and GRPO's A of those",
                "how likelihood and reward meet in one number",
            ),
        },
        tried=({"rank_coef": 1.0},),
        binary_rewards=True,
        arms={
            "unlikeliness": Arm(),
            "unlikeliness, random rank": Arm(flags={"random_rank": True}),
        },
        knob=("rank_coef", (0.25, 0.5)),
        claims=(reaches_further("grpo"), reaches_further("grpo", "equal reward")),
    ),
    "entropy_advantage": Method(
        family="token weight",
        levers={
            "sampling": "*every group",
            "baseline": "*group mean, by standard deviation",
            "clip": "0.2 below, 0.28 above",
            "averaging": "tokens",
            "token weight": "*a bonus for entropy on the advantage, at most half of it",
        },
        exercises={
            "loss": Exercise(
                "medium",
                "B_j: the bonus, bounded by the advantage's size over kappa; then the parent's surrogate",
                "that a bonus which is a constant to the gradient does not push entropy up",
            ),
            "credit": SAME_CREDIT,
        },
        tried=({"entropy_adv_coef": 0.0}, {"entropy_adv_kappa": 3.0}),
        arms={
            "entropy_advantage": Arm(TOKENS_HIGHER),
            "entropy_advantage, shuffled entropy": Arm(TOKENS_HIGHER, {"shuffle_entropy": True}),
        },
        knob=("entropy_adv_coef", (0.1, 0.4)),
        active=("algo/bonus_mean",),
        claims=(reaches_further(TOKENS_HIGHER), better(TOKENS_HIGHER)),
    ),
    "gtpo": Method(
        family="token weight",
        levers={
            "baseline": "*mean over the tokens of a group, by their deviation, for each class",
            "clip": "0.2 below, 0.28 above",
            "averaging": "tokens",
            "sampling": "mixed groups only",
            "reward": "*shares of entropy, token by token",
        },
        exercises={
            "credit": Exercise(
                "hard",
                "q_it by Eq. 3 and 5, position by position, and A_it: Eq. 6 over all tokens of a group",
                "a reward that is shared out among the responses of a group, token by token",
            ),
        },
        tried=({"entropy_share": 0.0}, {"base_share": 0.0}),
        arms={
            "gtpo": Arm(MIXED_HIGHER),
            "gtpo, shuffled entropy": Arm(MIXED_HIGHER, {"shuffle_entropy": True}),
        },
        knob=("entropy_share", (0.1, 1.0)),
        active=("algo/right_spearman",),
        claims=(*keeps_entropy(MIXED_HIGHER), reaches_further(MIXED_HIGHER), better(MIXED_HIGHER)),
    ),
    "grpo_s": Method(
        family="sample weight",
        levers={
            "baseline": "group mean, by standard deviation",
            "clip": "*0.2 below, 0.28 above, of a response's mean ratio",
            "averaging": "tokens, then responses",
            "reward": "*shares of entropy, response by response",
        },
        exercises={
            "credit": Exercise(
                "medium",
                "q_i from the mean entropies of a group's right and wrong responses, and A_i",
                "two shares of one reward, and groups that stay at 0",
            ),
            "loss": Exercise(
                "medium", "J: w_i as a mean of ratios, clipped as a whole", "one ratio for a whole response"
            ),
        },
        tried=({"entropy_share": 0.0}, {"beta": 0.1, "entropy_coef": 0.1}),
        arms={
            "grpo_s": Arm(HIGHER),
            "grpo_s, shuffled entropy": Arm(HIGHER, {"shuffle_entropy": True}),
        },
        knob=("entropy_share", (0.1, 1.0)),
        active=("algo/weight_right_max",),
        claims=(*keeps_entropy(HIGHER), reaches_further(HIGHER), better(HIGHER)),
    ),
    "bapo": Method(
        family="clip",
        levers={
            "baseline": "as GRPO",
            "clip": "*searched in each minibatch, from 0.4 below and 0.2 above",
            "averaging": "*tokens",
        },
        exercises={
            "loss": Exercise(
                "hard",
                "g, d, the search for b and then for a, and J with the bounds found; KL estimate, bonus, token mean",
                "which bound can move the share of positive advantages, and a search that has to end",
            ),
            "credit": SAME_CREDIT,
        },
        acts={"positive_share": 0.6},
        tried=(
            {"positive_share": 0.0},
            {"positive_share": 1.0},
            {"positive_share": 0.45},
            {"clip_ratio_high_step": 0.0, "positive_share": 1.0},
            {"beta": 0.1, "entropy_coef": 0.1},
        ),
        arms={"bapo": Arm(TOKENS)},
        knob=("positive_share", (0.4, 0.5)),
        active=("algo/clip_low", "algo/clip_high"),
        starts={"algo/clip_low": 0.6, "algo/clip_high": 1.2},
        claims=(*keeps_entropy(TOKENS), better(TOKENS)),
    ),
    "cw_grpo": Method(
        family="token weight",
        levers={
            "baseline": "as GRPO",
            "clip": "0.2 on both sides",
            "averaging": "tokens, then responses",
            "covariance": "*of all tokens, group by group",
            "token weight": "*less where it is far from 0",
        },
        exercises={
            "credit": Exercise(
                "medium",
                "A'_j: GRPO's advantages times w_j / mean w, by kernel_weights, group by group, or shuffled there",
                "weights that redistribute a gradient and do not shrink it, and statistics of a group's tokens",
            ),
        },
        tried=({"kernel_width": 0.0}, {"kernel_width": 0.5}, {"beta": 0.1, "entropy_coef": 0.1}),
        arms={
            "cw_grpo": Arm(),
            "cw_grpo, shuffled weights": Arm(flags={"shuffle_weights": True}),
        },
        knob=("kernel_width", (0.5, 1.0)),
        active=("algo/weight_min", "algo/weight_max"),
        claims=(Claim("entropy moves more evenly", "unsteadiness of entropy", "grpo", direction=-1), better("grpo")),
    ),
    "aem": Method(
        family="sample weight",
        levers={
            "baseline": "as GRPO",
            "clip": "0.2 on both sides",
            "averaging": "tokens, then responses",
            "sample weight": "*more for the surer ones of a group",
        },
        exercises={
            "credit": Exercise(
                "medium",
                "H_i, z_i, w_i and A'_i: GRPO's advantages times a weight by mean entropy; all 1 below min_range",
                "a weight with mean 1 inside each group, and the range that may be 0",
            ),
        },
        tried=({"entropy_modulation": 0.0}, {"entropy_modulation": -2.0}, {"min_range": 0.5}, {"min_range": 0.0}),
        arms={
            "aem": Arm(),
            "aem, shuffled weights": Arm(flags={"shuffle_weights": True}),
            "aem, reversed": Arm(flags={"entropy_modulation": -1.0}),
        },
        knob=("entropy_modulation", (0.5, 1.0)),
        active=("algo/inactive_ratio", "algo/weight_max"),
        claims=(better("grpo"),),
    ),
    "mcpo": Method(
        family="penalty",
        levers={
            "baseline": "*as GRPO, but easy prompts all weigh the same",
            "clip": "*0.2 below, 0.28 above",
            "averaging": "tokens, then responses",
            "penalty": "*log-ratio beyond 0.01 on solved prompts",
        },
        exercises={
            "credit": Exercise(
                "easy",
                "A_i with its s, and accuracy (B,), p of each row's group; log the share of mastered rows",
                "how much a prompt weighs by its success rate, and what dividing by a standard deviation does to it",
            ),
            "loss": Exercise(
                "medium",
                "J: GRPO's, with KL estimate and entropy bonus, less the hinge on rows with accuracy 1",
                "a penalty that starts at an edge, on rows that have no advantage, and a mean that may be empty",
            ),
        },
        acts={"mastery_delta": 0.1},
        tried=({"flatten": False}, {"mastery_beta": 0.0}, {"mastery_delta": 0.0}, {"beta": 0.1, "entropy_coef": 0.1}),
        binary_rewards=True,
        arms={"mcpo": Arm(HIGHER)},
        knob=("mastery_beta", (1.0, 10.0)),
        active=("algo/mastered_ratio", "algo/beyond_ratio"),
        claims=(better(HIGHER), reaches_further(HIGHER)),
    ),
    "archer": Method(
        family="clip",
        levers={
            "baseline": "group mean, by standard deviation",
            "clip": "*0.2 on both sides, 0.5 on unsure tokens",
            "averaging": "tokens, then responses",
            "penalty": "*a KL to the initial policy on sure tokens",
        },
        exercises={
            "loss": Exercise(
                "hard",
                "S by a quantile of each response's entropies, two clips, and the two means of the KL",
                "constraints that depend on the token, and a mean over a part of each response",
            ),
        },
        tried=({"hard_quantile": 0.5}, {"beta": 0.3, "hard_beta": 0.2}, {"beta": 0.0, "entropy_coef": 0.1}),
        arms={
            "archer": Arm(),
            "archer, shuffled entropy": Arm(flags={"shuffle_entropy": True}),
        },
        knob=("beta", (0.003, 0.01)),
        active=("algo/hard_ratio", "algo/easy_kl"),
        claims=(better("grpo"),),
    ),
    "empg": Method(
        family="token weight",
        levers={
            "baseline": "group mean, by standard deviation",
            "clip": "0.2 on both sides",
            "averaging": "tokens, then responses",
            "token weight": "*steps weigh more, the surer they were",
            "reward": "*a bonus for a sure next step",
        },
        exercises={
            "credit": Exercise(
                "hard",
                "step_means, and A_ij: h, g and the bonus of the next step, centred over the steps of mixed groups",
                "credit by steps of a response, and what a mean over steps does with long ones",
            ),
        },
        tried=({"future_bonus": 0.0}, {"confidence_scale": 0.0}, {"confidence_scale": 0.0, "future_bonus": 0.0}),
        arms={"empg": Arm()},
        knob=("confidence_scale", (0.5, 1.0)),
        active=("algo/scale_max", "algo/bonus_mean"),
        claims=(
            better("grpo"),
            Claim("not a claim: its formula lowers entropy", "entropy", "grpo", "equal reward", direction=0),
        ),
    ),
    "htpo": Method(
        family="clip",
        levers={
            "baseline": "as GRPO",
            "clip": "*0.2 below, 0.28 above, with exceptions by hardness, reward and entropy",
            "averaging": "tokens",
            "sampling": "mixed groups only",
            "reward": "charge for length",
            "token filter": "*the surest and the least sure of some right responses",
        },
        exercises={
            "loss": Exercise(
                "hard",
                "largest, and the f_j of each class of tokens, with what is dropped",
                "gradients written as a value times x / sg(x), and quotas inside each response",
            ),
        },
        tried=({"drop_low_ratio": 0.0, "drop_high_ratio": 0.0}, {"hard_accuracy": 1.0}, {"high_ratio": 0.5}),
        arms={"htpo": Arm("dapo")},
        knob=("high_ratio", (0.1, 0.2)),
        active=("algo/restored_ratio", "algo/dropped_ratio"),
        claims=(better("dapo"), reaches_further("dapo"), *keeps_entropy("dapo")),
    ),
    "still3": Method(
        family="penalty",
        levers={
            "baseline": "as GRPO",
            "clip": "0.2 on both sides",
            "averaging": "tokens, then responses",
            "penalty": "*KL to the initial policy, annealed",
        },
        exercises={
            "credit": Exercise(
                "easy",
                "A_i as in GRPO, and beta_k from state['steps'] of beta_steps, or of num_steps where that is 0",
                "a schedule that goes on where a run was stopped, and what the batch carries to the loss",
            ),
            "loss": Exercise(
                "medium",
                "J: the clipped surrogate, the KL estimate with the batch's weight, the bonus; tokens, then responses",
                "a penalty whose weight is a constant to the gradient and another one in each step",
            ),
        },
        tried=(
            {"beta_schedule": "constant"},
            {"beta_steps": 2},
            {"num_steps": 3},
            {"beta": 0.0},
            {"beta": 0.3, "entropy_coef": 0.1},
        ),
        arms={"still3": Arm()},
        knob=("beta", (0.005, 0.02)),
        active=("algo/beta",),
        claims=(Claim("better than a constant weight of the KL", "pass@1", "grpo, KL to the start"),),
    ),
    "prorl": Method(
        family="penalty",
        levers={
            "baseline": "as GRPO",
            "clip": "*0.2 below, 0.4 above",
            "averaging": "tokens",
            "sampling": "mixed groups only",
            "penalty": "*a squared log-ratio to a reference that is anchored anew",
        },
        exercises={
            "loss": Exercise(
                "medium",
                "J: the clipped surrogate less half the squared log-ratio to the reference, by tokens",
                "an estimate of the KL whose gradient is the log-ratio itself",
            ),
            "credit": SAME_CREDIT,
        },
        tried=({"beta": 0.7}, {"beta": 0.0}),
        arms={
            "prorl": Arm("prorl, no leash"),
            "prorl, no leash": Arm(MIXED_HIGHER, {"beta": 0.0}),
            "prorl, optimiser kept": Arm("prorl, no leash", {"reset_optimizer": False}),
        },
        knob=("beta", (0.02, 0.05)),
        active=("algo/reference_kl", "algo/resets"),
        claims=(better("prorl, no leash"), *keeps_entropy("prorl, no leash")),
    ),
    "t1": Method(
        family="penalty",
        levers={
            "baseline": "*mean of the others in a group",
            "clip": "0.2 on both sides",
            "averaging": "*tokens",
            "reward": "*junk is charged for, and so is distance from an anchor that follows",
            "penalty": "*an entropy bonus",
        },
        exercises={
            "credit": Exercise(
                "medium",
                "repeats, and A_i: rewards against the others', less the centred distance from the anchor",
                "a baseline that leaves out its own response, and a leash that is part of the reward",
            ),
        },
        acts={"repeat_ngram": 2},
        tried=({"bad_reward": 0.0}, {"beta": 0.0}, {"repeat_ngram": 0}),
        arms={"t1": Arm(TOKENS)},
        knob=("beta", (0.01, 0.05)),
        active=("algo/bad_ratio", "algo/anchor_kl"),
        claims=(*keeps_entropy(TOKENS), better(TOKENS)),
    ),
    "bcpg_nsa": Method(
        family="token weight",
        levers={
            "baseline": "*group mean",
            "clip": "*none",
            "averaging": "tokens, then responses",
            "token weight": "*right steps of wrong answers count half",
            "penalty": "*the squared log-ratio of a response",
        },
        exercises={
            "loss": Exercise(
                "easy",
                "J: log-probabilities weighed by A_it, less the squared log-ratio of each response, by its length",
                "an objective without a ratio, and a leash on a whole response",
            ),
        },
        tried=({"beta": 0.3}, {"right_step_weight": -0.5, "beta": 0.0}),
        arms={"bcpg_nsa": Arm()},
        knob=("right_step_weight", (0.0, 0.5)),
        active=("algo/right_step_ratio", "algo/leash"),
        claims=(better("grpo"),),
    ),
    "heal": Method(
        family="data",
        levers={
            "baseline": "group mean, by standard deviation",
            "clip": "0.2 on both sides",
            "averaging": "tokens, then responses",
            "reward": "*a bonus for entropy that moves as in the other domain",
            "sampling": "*few problems among many general ones",
        },
        exercises={
            "credit": Exercise(
                "hard",
                "divergences, the nearest neighbours in both domains, the bonus, and GRPO's A of the sum",
                "how to compare sequences of different lengths, all pairs at once",
            ),
        },
        acts={"min_length": 2},
        binary_rewards=True,
        tried=({"alignment_bonus": 0.3}, {"alignment_bonus": 0.0}, {"min_length": 5}),
        arms={
            "heal": Arm("heal, no bonus"),
            "heal, no bonus": Arm(flags={"alignment_bonus": 0.0}),
        },
        knob=("alignment_bonus", (0.3, 1.0)),
        active=("algo/bonus_target", "algo/bonus_general"),
        trained_on="12 problems of two numbers for each of three",
        claims=(better("heal, no bonus"), *keeps_entropy("heal, no bonus")),
    ),
    "luffy": Method(
        family="data",
        levers={
            "baseline": "group mean",
            "clip": "*none",
            "averaging": "sums over responses, by a constant",
            "sampling": "*each group holds a given solution",
            "token weight": "*given tokens by a curve of their probability",
        },
        exercises={
            "loss": Exercise(
                "medium",
                "J: the ratio of drawn tokens, p / (p + gamma) of given ones, by a constant length",
                "a gradient for tokens that no old policy has drawn",
            ),
        },
        tried=({"num_expert": 2}, {"beta": 0.1, "entropy_coef": 0.1}, {"expert_gamma": 0.5}),
        arms={"luffy": Arm("dr_grpo")},
        knob=("expert_gamma", (0.1, 0.5)),
        active=("algo/expert_prob",),
        claims=(better("dr_grpo"), reaches_further("dr_grpo"), *keeps_entropy("dr_grpo")),
    ),
    "cuts": Method(
        family="sampling",
        levers={
            "baseline": "group mean, by standard deviation",
            "clip": "0.2 on both sides",
            "averaging": "tokens, then responses",
            "sampling": "*half drawn evenly from likely words",
        },
        exercises={
            "spread": Exercise(
                "medium",
                "m_v: as it is in the first w tokens; then the same for each word of S, of equal words the first ones",
                "which words an even draw may take, and that it is greedy where the policy is sure",
            ),
            "credit": SAME_CREDIT,
        },
        arms={"cuts": Arm()},
        knob=("cuts_ratio", (0.25, 0.5)),
        reward_of="responses of which a part is drawn evenly from likely words",
        claims=(
            Claim("fewer groups of equal rewards", "share of groups of equal rewards", "grpo", direction=-1),
            better("grpo"),
            Claim("not a claim: entropy, on which a replication differs", "entropy", "grpo", direction=0),
        ),
    ),
    "rlrt": Method(
        family="token weight",
        levers={
            "baseline": "group mean, by standard deviation",
            "clip": "0.2 on both sides",
            "averaging": "tokens, then responses",
            "token weight": "*tokens of right responses weigh more where a teacher doubts them",
        },
        exercises={
            "credit": Exercise(
                "medium",
                "teachers, and A'_it: GRPO's advantages, in right responses by what a teacher doubts",
                "a weight between 1 - k and 1 + k that follows two log-probabilities of one token",
            ),
        },
        tried=({"teacher_sign": -1}, {"teacher_weight": 0.0}, {"teacher_clip": 0.2}),
        arms={
            "rlrt": Arm(),
            "rlrt, reversed": Arm(flags={"teacher_sign": -1}),
        },
        knob=("teacher_weight", (0.25, 0.5)),
        active=("algo/weight_mean", "algo/taught_ratio"),
        claims=(reaches_further("grpo"), better("grpo")),
    ),
    "gxpo": Method(
        family="optimiser",
        levers={
            "baseline": "group mean, by standard deviation",
            "clip": "0.2 on both sides",
            "averaging": "tokens, then responses",
            "optimiser": "*two steps, a leap ahead, one step",
        },
        exercises={
            "lead": Exercise(
                "medium",
                "q from three points, parameter by parameter, and k: what h steps are in units of the two",
                "how two steps of an optimiser tell where more would lead, and where they tell nothing",
            ),
            "watch": Exercise(
                "hard",
                "the norm against the mean and variance of those before it, which it then joins; what ends the leaps",
                "a gate that knows its own past alone, and which norms must not become part of it",
            ),
            "credit": SAME_CREDIT,
        },
        arms={"gxpo": Arm()},
        knob=("extrapolation", (0.25, 0.5)),
        active=("algo/scale_mean",),
        claims=(better("grpo"),),
    ),
    "sent": Method(
        family="penalty",
        levers={
            "baseline": "as GRPO",
            "clip": "*0.2 on both sides",
            "averaging": "tokens",
            "sampling": "*mixed groups only, easy problems first",
            "covariance": "*the largest among sure tokens",
            "penalty": "*a KL to the initial policy on sure tokens, in two tiers",
        },
        exercises={
            "loss": Exercise(
                "hard",
                "S, Cov over S, F, and J with b_j k3_j: two selections by stable sorts, one inside the other",
                "selections through which no gradient passes, and a penalty that depends on both",
            ),
            "credit": SAME_CREDIT,
        },
        acts={"cov_ratio": 0.3},
        tried=(
            {"beta": 0.0, "cov_beta": 0.0},
            {"cov_ratio": 0.3, "beta": 0.3, "cov_beta": 0.0},
            {"low_entropy_ratio": 0.4, "cov_ratio": 0.5, "cov_beta": 0.5},
            {"clip_ratio_high": 0.4},
        ),
        needs_spread=True,  # as in KL-Cov
        masks={"high": "h"},
        statuses={"h": "sure, and of the largest covariances among sure tokens: held by the larger KL"},
        arms={
            "sent": Arm(MIXED),
            "sent, random selection": Arm(MIXED, {"random_selection": True}),
        },
        knob=("cov_ratio", (0.02, 0.1)),
        active=("algo/low_kl", "algo/high_kl"),
        reward_of="problems that come easy first",
        claims=(keeps_entropy(MIXED)[0], better(MIXED), reaches_further(MIXED)),
    ),
    "advanced": Method(
        family="controller",
        levers={
            "baseline": "as GRPO",
            "clip": "none",
            "averaging": "tokens",
            "sampling": "*mixed groups only, easy problems first",
            "covariance": "the largest",
            "penalty": "|log-ratio| of those",
            "controller": "*likely tokens follow the entropy's distance from a target",
        },
        exercises={
            "loss": Exercise(
                "hard",
                "J: kl_cov.py's loss, less alpha times the mean of r_j |A_j| over likely tokens",
                "two levers on one loss, which may pull in opposite directions",
            ),
            "credit": Exercise(
                "hard", "A, alpha of the controller, the penalty's weight", "three memories in one step"
            ),
        },
        acts={"kl_cov_ratio": 0.2, "high_prob_threshold": 0.6},
        tried=({"kp": 0.0, "ki": 0.0}, {"kl_cov_anneal": True}, {"target_entropy": 1.0, "ki": 0.5}),
        needs_spread=True,  # as in KL-Cov
        masks={"selected": "h"},
        arms={
            "advanced": Arm("kl_cov"),
            "advanced, random selection": Arm("kl_cov", {"random_selection": True}),
        },
        knob=("kl_cov_ratio", (0.02, 0.1)),
        active=("algo/selected_ratio", "algo/alpha"),
        reward_of="problems that come easy first",
        claims=(holds_target("kl_cov", 0.25), reaches_further("kl_cov"), as_good("kl_cov")),
    ),
}


def method(name: str) -> Method:
    """The record of a method; an empty one for a file of one's own."""
    return METHODS.get(name, Method())
