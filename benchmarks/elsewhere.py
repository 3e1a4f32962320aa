"""Methods of the literature that have no file here, with the reason, and who else has those that do.

The gallery makes two pages of this: "Left out, and why" and "Method x framework".
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Absent:
    """Methods without a file of their own: what stands in their place, or why there is none."""

    names: str
    said: str  # flags of our files between backticks
    arxiv: tuple[str, ...] = ()


# What a flag of a file does, so that it needs no file.
BY_FLAG = (
    Absent("Fixed entropy bonus", "`grpo.py --entropy-coef`"),
    Absent("KL to the initial policy", "`grpo.py --beta`"),
    Absent("PSR, NSR, REINFORCE", "`nsr.py --positive-weight`, `nsr.py --negative-weight`", ("2506.01347",)),
    Absent("RAFT++", "`reinforce_rej.py --wrong-reward 0`", ("2504.11343",)),
    Absent("RLSD", "`rlrt.py --teacher-sign -1`"),
    Absent("BroRL", "`prorl.py --num-generations 512`"),
    Absent("EARL", "`forking_tokens.py --entropy-scope response`"),
    Absent(
        "Clipping alone moves entropy",
        "`grpo.py --reward-mode random` with `--clip-ratio-low 0.2 --clip-ratio-high 0.28`, and the other way round",
        ("2509.26114",),
    ),
    Absent(
        "Groups split over minibatches",
        "`grpo.py --minibatch-split rows` or `balanced`; the flag is in every file",
        ("2605.08666",),
    ),
)
LEFT_OUT = (
    Absent(
        "PAPO's entropy polarity",
        "its weights are not published; its measure is `grpo.py --polarity`, a flag of every file",
        ("2605.11775",),
    ),
    Absent(
        "GCPO, SPS, OGER, IMAX",
        "no formula that could be followed",
        ("2605.11461", "2604.16995", "2604.18530", "2605.08817"),
    ),
    Absent(
        "AEnt, SIREN, SimKO",
        "a gradient through a truncated entropy or the top words' ratios, which `backward` does not take",
        ("2509.03493", "2509.25133"),
    ),
    Absent(
        "TIP",
        "distillation: it needs a teacher's distribution; its half about entropy is `forking_tokens.py`",
        ("2604.14084",),
    ),
    Absent("Vocabulary dropout", "self-play of two models", ("2604.03472",)),
    Absent("Fast-Slow", "prompts that evolve", ("2605.12484",)),
    Absent("LongAct", "updates of a few weights alone, how few is not said", ("2604.14922",)),
    Absent("StraTA", "credit for agents, level by level", ("2605.06642",)),
    Absent(
        "Mid-training", "training before RL: a recipe for data, whose result `grpo.py --model` takes", ("2605.08472",)
    ),
)

FRAMEWORKS = tuple("TRL verl SkyRL prime-rl slime OpenRLHF ROLL NeMo-RL AReaL ms-swift Trinity-RFT".split())
READ = "August 2026; TRL 1.16 and verl 0.9.1 later"
MARKS = {"C": "in the code", "S": "in the code, with a script for it"}


@dataclass(frozen=True)
class Elsewhere:
    """A method, and the frameworks whose code has it."""

    name: str
    files: tuple[str, ...]  # of ours
    code: str = ""  # frameworks that have it in their code
    script: str = ""  # and those that have a script for it besides
    found: dict[str, str] = field(init=False)  # framework -> key of MARKS

    def __post_init__(self) -> None:
        found = dict.fromkeys(self.code.split(), "C") | dict.fromkeys(self.script.split(), "S")
        object.__setattr__(self, "found", found)


ELSEWHERE = (
    Elsewhere("GRPO, clip-higher", ("grpo",), " ".join(FRAMEWORKS)),
    Elsewhere("Dynamic sampling", ("dapo",), "SkyRL prime-rl slime OpenRLHF ROLL NeMo-RL AReaL ms-swift", "verl"),
    Elsewhere("Dr. GRPO", ("dr_grpo",), "TRL verl SkyRL OpenRLHF NeMo-RL AReaL ms-swift"),
    Elsewhere("GSPO", ("gspo",), "TRL verl SkyRL slime OpenRLHF NeMo-RL AReaL ms-swift Trinity-RFT"),
    Elsewhere("CISPO", ("cispo",), "TRL verl SkyRL slime ROLL NeMo-RL ms-swift Trinity-RFT"),
    Elsewhere("SAPO", ("sapo",), "TRL verl SkyRL AReaL ms-swift Trinity-RFT"),
    Elsewhere("GMPO", ("gmpo",), "TRL verl"),
    Elsewhere("DPPO", ("dppo",), "verl SkyRL prime-rl"),
    Elsewhere("MaxRL", ("maxrl",), "prime-rl", "SkyRL"),
    Elsewhere("OPO", ("opo",), "verl"),
    Elsewhere("Clip-Cov, KL-Cov", ("clip_cov", "kl_cov"), script="verl SkyRL"),
    Elsewhere("Forking tokens", ("forking_tokens",), "TRL ms-swift"),
    Elsewhere("Adaptive entropy bonus (Skywork-OR1)", ("skywork",), "TRL"),
    Elsewhere("Clip_B, Clip_V", ("clip_b", "clip_v"), script="Trinity-RFT"),
)
