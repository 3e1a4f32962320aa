"""Write a checkpoint's model in the dtype that it was published in: half of the size, for serving and sharing.

    python -m benchmarks.export runs/x/checkpoints/step-000100 out/
    python -m benchmarks.export runs/x/checkpoints/step-000100 out/ --dtype float16

Training keeps float32 parameters, since most updates are smaller than bfloat16 can tell apart, and a checkpoint holds
them as they are, so that a resumed run goes on to the bit. The dtype of --model stands in the run's args.json.
"""

import json
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
import tyro
from safetensors import SafetensorError

from common import InputError, terminal
from common.arguments import exit_on_bad_input
from common.loading import load_model, load_tokenizer

Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass
class Args:
    checkpoint: tyro.conf.Positional[Path]
    """runs/x/checkpoints/step-000100"""
    out: tyro.conf.Positional[Path]
    """a new directory"""
    dtype: Literal["auto", Dtype] = "auto"
    """auto is that of the run's --model"""


def own_dtype(checkpoint: Path) -> str:
    """The dtype of the model that the run of this checkpoint began with; raises InputError if it is not known."""
    try:
        record = json.loads((checkpoint.absolute().parents[1] / "args.json").read_text())
        return {name: name for name in get_args(Dtype)}[record["digests"]["model"]["dtype"]]
    except (OSError, ValueError, KeyError, TypeError, IndexError):
        raise InputError(
            f"{checkpoint}: args.json of its run does not say which dtype --model has; use --dtype"
        ) from None


def export(checkpoint: Path, out: Path, dtype: str) -> None:
    """Write `out`, whole or not at all.

    Raises InputError for what is no model, and for a place that is taken or cannot be written.
    """
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        raise InputError(f"{out} is already there; name a new directory")
    dtype = own_dtype(checkpoint) if dtype == "auto" else dtype
    model, tokenizer = load_model(str(checkpoint)), load_tokenizer(str(checkpoint))
    place = out.resolve()
    partial = place.with_name(f".{place.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)  # of an export that was killed
        partial.mkdir(parents=True)
        model.to(getattr(torch, dtype)).save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        partial.rename(place)  # which may be an empty directory
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{out} cannot be written ({reason}); use another place") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    size = sum(path.stat().st_size for path in out.iterdir()) / 1e6
    terminal.say(f"{out}: {dtype}, {size:,.1f} MB")


if __name__ == "__main__":
    with exit_on_bad_input():
        args = tyro.cli(Args, args=sys.argv[1:])
        export(args.checkpoint, args.out, args.dtype)
