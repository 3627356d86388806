"""A model in the format of other programs: a folder for transformers and the servers that read such folders, nanoGPT's
ckpt.pt, or a checkpoint of the original nanochat. It is read back and compared with the model before it is kept.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

from nanochat.checkpoint.flags import ModelFlags, Style
from nanochat.config import alias, parse
from nanochat.errors import run
from nanochat.paths import base_dir, checkpoints_dir

if TYPE_CHECKING:
    from extras.export.exporter import Report
    from nanochat.checkpoint.door import Found
    from nanochat.checkpoint.manager import Loaded


@dataclass
class Flags(ModelFlags):
    """Write a model for other programs."""

    EXAMPLE: ClassVar = "--source sft:d3 --out my-model"

    format: Style = "hf"
    """hf: a folder for transformers; nanogpt: ckpt.pt; nanochat: a checkpoint of the original, January 2026;
    peft: an adapter alone"""
    out: Path | None = None
    """the folder to write; default: exports/ in the base folder"""
    dtype: Annotated[str, alias("-d")] = "float32"
    """dtype to store the weights in, for hf: float32, bfloat16 or float16"""
    overwrite: bool = False
    """replace an export for transformers that is already there"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    from extras.export import check_installed

    check_installed()
    from extras.export import adapter, exporter

    found = flags.find()
    out = flags.out or base_dir() / "exports" / f"{default_name(found)}-{flags.format}"
    exporter.check(out, flags.dtype, flags.overwrite)  # before a large model is loaded
    loaded = adapter.open_unmerged(found) if flags.format == "peft" else found.load()
    print(f"exporting {loaded}", flush=True)
    report = exporter.write(loaded, out, flags.dtype, flags.overwrite, flags.format)
    for line in report.found:
        print(f"  {line}")
    print(f"wrote {report.folder}\n\n{usage(report, loaded)}")


def default_name(found: "Found") -> str:
    """sft-d3-000700, gpt2: what the model is."""
    if found.of_stage:
        return f"{found.source}-{found.tag}-{found.step:06d}"
    return found.tag.replace("/", "--")


def usage(report: "Report", loaded: "Loaded") -> str:
    """The commands that come next."""
    from extras.export import adapter
    from nanochat import gpt2_tokenizer
    from nanochat.checkpoint import hf

    folder = shlex.quote(str(report.folder))
    if report.kind == "peft":
        return adapter.usage(report.folder, loaded)
    if report.kind == "nanogpt":
        return nanogpt_usage(folder, loaded)
    if report.kind == "classic":
        return (
            "for the original nanochat, put tokenizer.pkl and token_bytes.pt into tokenizer/ of its base folder, and\n"
            "the other two files into chatsft_checkpoints/<tag>/ (base_checkpoints/<tag>/ for a base model)"
        )
    if report.kind == hf.OWN:
        return (
            "in Python, with transformers:\n"
            f"  model = AutoModelForCausalLM.from_pretrained({str(report.folder)!r}, trust_remote_code=True)\n"
            f"  tokenizer = AutoTokenizer.from_pretrained({str(report.folder)!r}, trust_remote_code=True)\n"
            "vLLM, SGLang, llama.cpp and transformers serve do not know this architecture; the server for it is\n"
            f"  {server(folder, loaded)}"
        )
    backend = " --model-impl transformers" if report.kind == hf.PORT else ""
    commands = [
        f"transformers serve {folder}",
        f"vllm serve {folder}{backend}",
        f"python -m sglang.launch_server --model-path {folder}{backend}",
    ]
    if report.kind == "gpt2" and gpt2_tokenizer.is_gpt2s(loaded.tokenizer):  # its converter knows tokenizers one by one
        commands.append(f"python convert_hf_to_gguf.py {folder} --outfile model.gguf    # in llama.cpp's folder")
    return "other servers take it from here:\n" + "\n".join(f"  {command}" for command in commands)


def nanogpt_usage(folder: str, loaded: "Loaded") -> str:
    """The commands for a ckpt.pt. nanoGPT's sample.py knows two kinds of tokenizers, and where each lies."""
    from extras.export import originals
    from nanochat import gpt2_tokenizer

    sample = f"  python sample.py --out_dir={folder}"
    if loaded.tokenizer.pattern is None:
        place = shlex.quote(str(Path("data") / originals.dataset(loaded)))
        return f"in nanoGPT's folder:\n  mkdir -p {place} && cp {folder}/meta.pkl {place}\n{sample}"
    if gpt2_tokenizer.is_gpt2s(loaded.tokenizer):
        return f"in nanoGPT's folder:\n{sample}"
    return (
        "nanoGPT's sample.py would take this model's tokens for GPT-2's, as it knows no other tokenizer; use instead\n"
        f"  python -m scripts.sample --init_from={folder}"
    )


def server(folder: str, loaded: "Loaded") -> str:
    """The command that serves the exported model."""
    if loaded.source and loaded.folder == checkpoints_dir(loaded.source) / loaded.tag:
        tag = shlex.quote(loaded.tag)
        return f"python -m scripts.chat_web --source={loaded.source} --model_tag={tag} --step={loaded.step}"
    return f"python -m scripts.inference_server --init_from={folder}"


if __name__ == "__main__":
    run(main)
