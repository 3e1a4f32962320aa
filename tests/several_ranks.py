"""Run scripts one after another in the processes that torchrun has started: starting them is what takes time.

    torchrun --nproc-per-node 2 tests/several_ranks.py commands.json

The file holds a list of commands, each a script of algos/ and its flags. Exit status: that of the first that fails.
"""

import json
import runpy
import sys
from functools import cache
from pathlib import Path

import torch.distributed as dist

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common import basics, ranks, records, tasks  # noqa: E402


def go_on(status: int = 0) -> None:
    """Instead of leaving, at the end of a script."""
    if status:
        raise SystemExit(status)


records.draw_curves = lambda *_: None
tasks.load_problems = cache(tasks.load_problems)
stop, leave = ranks.stop, ranks.leave
ranks.stop, ranks.leave = dist.barrier, go_on  # the ranks stay together

for name, *flags in json.loads(Path(sys.argv[1]).read_text()):
    basics.warn_once.cache_clear()
    sys.argv = [f"{name}.py", *flags]
    runpy.run_path(str(ROOT / "algos" / f"{name}.py"), run_name="__main__")
ranks.stop = stop
leave()
