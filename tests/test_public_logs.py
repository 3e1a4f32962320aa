"""The law on public logs: how a log is read, what is kept of it, and the page from what is kept."""

import csv
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks import RESULTS, public_logs
from benchmarks.public_logs import Args, fit, read_log, read_table, thinned

ROWS = 120
STEPS = np.arange(ROWS)
ENTROPY = 0.8 * 0.97**STEPS
REWARD = 1.1 - 0.5 * np.exp(ENTROPY)


def write_csv(path: Path, rows: int = ROWS, column: str = "reward") -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["step", "length", "entropy", column])
        writer.writerow([-1, 7, "", 0.3])  # an evaluation before training
        writer.writerows(zip(STEPS[:rows], STEPS[:rows], ENTROPY[:rows], REWARD[:rows], strict=True))


def test_both_forms_of_a_log(tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv")
    lines = ["Training from scratch", "step:0 - val/test_score/x:0.31"]
    for number, name in enumerate(("entropy_loss", "entropy")):  # the name before and after a change of verl
        words = (
            f" - actor/{name}:{0.5 - number / 10} - actor/entropy_coeff:9 - critic/score/mean:0.25 - critic/score/max:1"
        )
        lines.append(f"(TaskRunner pid=7) step:{number + 1} - global_seqlen/min:17{words}")
    lines += ["[prompt] step: 3 of 4", "step:3 - actor/entropy_loss:nan - critic/score/mean:0.5"]
    (tmp_path / "b.log").write_text("\n".join(lines))
    table, console = read_log(tmp_path / "a.csv"), read_log(tmp_path / "b.log")
    assert table["step"].tolist() == STEPS.tolist() and table["reward"] == pytest.approx(REWARD)
    assert {k: v.tolist() for k, v in console.items()} == {"step": [1, 2], "entropy": [0.5, 0.4], "reward": [0.25] * 2}
    write_csv(tmp_path / "c.csv", column="score")
    assert len(read_log(tmp_path / "c.csv")["step"]) == 0


def test_fit_finds_the_law_and_says_how_well_a_line_does() -> None:
    first, second = fit("x", {"step": STEPS, "entropy": ENTROPY, "reward": REWARD})
    assert (first["share"], second["share"], first["rows"]) == (0.15, 0.36, ROWS)
    for row in (first, second):
        assert (row["a"], row["b"], row["ceiling"]) == pytest.approx((0.5, 1.1, 0.6))
        assert row["law"] == pytest.approx(row["measured"]) and row["r2_line"] < row["r2_exp"] == pytest.approx(1)


def test_what_is_kept_are_means_of_stretches() -> None:
    log = {"step": STEPS, "entropy": STEPS / 1.0, "reward": 2.0 * STEPS}
    rows = thinned("x", log)
    assert len(rows) == public_logs.SHOWN
    assert rows[0] == {"name": "x", "step": 1, "entropy": 0.5, "reward": 1} and rows[-1]["step"] == ROWS - 1
    assert len(thinned("x", {key: column[:9] for key, column in log.items()})) == 9


def test_a_folder_of_logs(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    """Known ones in their group, unknown ones in theirs, short ones left out; the page again from what was kept."""
    logs, out = tmp_path / "logs", tmp_path / "out"
    logs.mkdir()
    out.mkdir()
    shutil.copy(RESULTS / "public_logs" / "sources.csv", out)
    write_csv(logs / "grpo_deepseek_7b_gsm8k.csv")
    write_csv(logs / "mine.csv", 40)
    write_csv(logs / "short.csv", 19)
    public_logs.main(Args(logs=logs, out=out))
    assert "left out: short.csv has 19 rows" in capsys.readouterr().out
    text = (out / "RESULTS.md").read_text()
    assert "Batches of hundreds of responses:" in text and "Logs without a line in sources.csv:" in text
    assert "| mine | 40 | 1.00, " in text and "verl_training_log" in text and "gemma" not in text
    (out / "fits.png").unlink()
    public_logs.main(Args(out=out))
    assert (out / "RESULTS.md").read_text() == text and (out / "fits.png").exists()
    (tmp_path / "none").mkdir()
    with pytest.raises(SystemExit, match="no log in"):
        public_logs.main(Args(logs=tmp_path / "none", out=out))


def test_page_is_that_of_the_kept_tables() -> None:
    kept = RESULTS / "public_logs"
    assert public_logs.page(*public_logs.load(kept)) == (kept / "RESULTS.md").read_text()
    names = {name: {row["name"] for row in read_table(kept / f"{name}.csv")} for name in ("fits", "series")}
    with (kept / "sources.csv").open(newline="") as file:
        sources = {row["name"] for row in csv.DictReader(file)}
    assert names["fits"] == names["series"] == sources


@pytest.mark.skipif("PUBLIC_LOGS" not in os.environ, reason="PUBLIC_LOGS names no folder of the real logs")
def test_the_real_logs_give_the_kept_fits(tmp_path: Path) -> None:
    public_logs.read_logs(Path(os.environ["PUBLIC_LOGS"]), tmp_path)
    for name in ("fits.csv", "series.csv"):
        assert (tmp_path / name).read_text() == (RESULTS / "public_logs" / name).read_text()
