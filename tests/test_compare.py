"""Comparing runs that exist."""

import json
import shutil

import pytest

from nanochat.errors import UserError
from scripts import compare


def test_runs_that_exist_are_compared(world, base, tmp_path, capsys):
    folder = world("mid").parent.parent / "base_checkpoints" / "d1"
    other = shutil.copytree(folder, tmp_path / "other")
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    better = [row | {"val_bpb": row["val_bpb"] / 2} if "val_bpb" in row else row for row in rows]
    (other / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in better), encoding="utf-8")
    compare.main(["ours=base:d1,base:d1", f"other={other},{folder}", "--axis=steps", "--score", "val_bpb", "loss",
                  f"--out={tmp_path / 'out'}"])  # fmt: skip
    assert "other: " in capsys.readouterr().out
    report = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert "| ours " in report and "| other " in report and "loss (lower is better)" in report
    assert (tmp_path / "out" / "loss_curves.svg").exists()


@pytest.mark.parametrize(
    "argv, told",
    [
        (["base:d1"], "one arm cannot be compared"),
        (["base:d1", "base:d9"], "the run base:d9 has no"),
        (["base:d1", "base:d1"], "two arms are called base:d1"),
        (["base:d1", "b=base:d1", "--score=fun"], "has no fun; there are: loss"),
        (["base:d1", "b=base:d1", "--p=0"], "--p is 0"),
    ],
)
def test_what_cannot_be_compared_is_one_sentence(world, argv, told):
    world("mid")
    with pytest.raises(UserError, match=told):
        compare.main(argv)
