"""A model in the format of other programs: a folder for transformers and the servers that read such folders, nanoGPT's
ckpt.pt, or a checkpoint of the original nanochat. What is written is read back and compared with the model first.
"""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from nanochat.checkpoint import export, foreign, hf, manager
from nanochat.config import UserError, alias, parse, run
from nanochat.paths import SOURCES, base_dir


@dataclass
class Flags:
    """Write a model for other programs."""

    source: Annotated[str, alias("-i")] = "sft"
    """base, mid, sft or rl; or a folder, a ckpt.pt, gpt2, gpt2-medium, gpt2-large, gpt2-xl, a repository (user/name)"""
    tag: Annotated[str | None, alias("-g")] = None
    """which model of the stage; default: the largest"""
    step: Annotated[int | None, alias("-s")] = None
    """which of its checkpoints; default: the last"""
    format: export.Style = "hf"
    """hf: a folder for transformers; nanogpt: ckpt.pt; nanochat: a checkpoint of the original, January 2026"""
    out: Path | None = None
    """the folder to write; default: exports/ in the base folder"""
    dtype: Annotated[str, alias("-d")] = "float32"
    """of the weights that hf stores: float32, bfloat16 or float16"""
    softcap: float | None = None
    """for checkpoints of the original that do not record it"""
    overwrite: bool = False
    """replace an export for transformers that is already there"""


def main(argv: Sequence[str] | None = None) -> None:
    flags = parse(Flags, argv)
    loaded = load(flags)
    print(f"exporting {loaded}")
    out = flags.out or base_dir() / "exports" / default_name(flags, loaded)
    stage = flags.source if flags.source in SOURCES else ""
    report = export.write(loaded, out, flags.dtype, flags.overwrite, stage, flags.format)
    for line in report.found:
        print(f"  {line}")
    print(f"wrote {report.folder}\n\n{usage(report)}")


def load(flags: Flags) -> manager.Loaded:
    """The model that --source, --tag and --step mean, as it is stored, on the CPU."""
    if flags.source in SOURCES:
        return manager.load(flags.source, flags.tag, flags.step, softcap=flags.softcap)
    if flags.tag is not None:
        raise UserError(f"--tag is for {', '.join(SOURCES)}; --source {flags.source} names its model by itself")
    if flags.step is not None:
        return foreign.load_path(Path(flags.source), step=flags.step, softcap=flags.softcap)
    return foreign.load(flags.source, softcap=flags.softcap)


def default_name(flags: Flags, loaded: manager.Loaded) -> str:
    """sft-d4-000700-hf, gpt2-hf: what the model is, and what it is written for."""
    tag = loaded.tag.replace("/", "--")
    name = f"{flags.source}-{tag}-{loaded.step:06d}" if flags.source in SOURCES else tag
    return f"{name}-{flags.format}"


def usage(report: export.Report) -> str:
    """The commands that come next."""
    folder = shlex.quote(str(report.folder))
    if report.kind == "nanogpt":
        return f"in nanoGPT's folder:\n  python sample.py --out_dir={folder}"
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
            "  python -m scripts.chat_web"
        )
    backend = " --model-impl transformers" if report.kind == hf.PORT else ""
    commands = [
        f"transformers serve {folder}",
        f"vllm serve {folder}{backend}",
        f"python -m sglang.launch_server --model-path {folder}{backend}",
    ]
    if report.kind == "gpt2":
        commands.append(f"python convert_hf_to_gguf.py {folder} --outfile model.gguf    # in llama.cpp's folder")
    return "other servers take it from here:\n" + "\n".join(f"  {command}" for command in commands)


if __name__ == "__main__":
    run(main)
