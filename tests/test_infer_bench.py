"""The benchmark of the Engine measures what it says; how fast that is, no test asks."""

import json
from pathlib import Path

import gpt2s
import pytest
import torch

from nanochat import errors
from nanochat.engine.cpu_weights import pack
from nanochat.errors import UserError
from nanochat.gpt import GPT
from nanochat.scaling import config_from_depth
from scripts import infer_bench

TINY = ["--depth=1", "--vocab_size=300", "--max_seq_len=64", "--prompt_tokens=8", "--tokens=4", "--repeats=1",
        "--device_type=cpu"]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_the_last_line_is_json(dtype: str, capsys: pytest.CaptureFixture[str]) -> None:
    infer_bench.main([*TINY, f"--dtype={dtype}", "--batch_sizes", "1", "3"])
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert said["dtype"] == dtype and said["bandwidth_gb_per_second"] > 0
    assert [row["batch"] for row in said["rows"]] == [1, 3]
    assert all(row["tok_per_second"] > 0 and row["first_token_ms"] > 0 for row in said["rows"])


def test_any_model_is_measured_by_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "letters"
    folder.mkdir()
    gpt2s.write_nanogpt(folder, "abcdefgh")  # a vocabulary smaller than a byte
    gpt2s.write_gpt2(tmp_path / "gpt2")
    small = ["--prompt_tokens=8", "--tokens=4", "--repeats=1", "--device_type=cpu", "--batch_sizes=2"]
    for name in (str(folder / "ckpt.pt"), str(tmp_path / "gpt2")):
        infer_bench.main(["--init_from", name, *small])
        said = capsys.readouterr().out
        assert str(Path(name)).removesuffix("/ckpt.pt") in said
        assert json.loads(said.splitlines()[-1])["rows"][0]["batch"] == 2
    for name in ("nosuch", "sft:d4"):
        with pytest.raises(UserError, match="there is no model 'nosuch'; expected|no sft checkpoint"):
            infer_bench.main([f"--source={name}", *small])


@pytest.mark.parametrize("int8", [False, True])
def test_bytes_read_are_those_of_the_matrices(int8: bool) -> None:
    model = GPT(config_from_depth(2, 300, 64), torch.bfloat16).to(torch.bfloat16)
    sizes = {name: p.numel() for name, p in model.named_parameters() if p.ndim == 2}
    looked_up = ("wte", "embeds", "bigram")
    matrices = sum(size for name, size in sizes.items() if not any(word in name for word in looked_up))
    gates = sum(size for name, size in sizes.items() if "gate" in name)
    assert infer_bench.bytes_read(model) == 2 * matrices
    pack(model, int8)
    assert infer_bench.bytes_read(model) == (matrices - gates if int8 else 2 * (matrices - gates)) + 2 * gates


@pytest.mark.parametrize(
    "more, said",
    [(["--tokens=1"], "--tokens is 1"), (["--batch_sizes", "0"], "--batch_sizes"),
     (["--tokens=60"], "exceed the context"), (["--dtype=int4"], "int4")],
)  # fmt: skip
def test_mistakes(more: list[str], said: str, base, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        errors.run(lambda: infer_bench.main([*TINY, *more]))
    assert stop.value.code == 2
    assert said in capsys.readouterr().err
