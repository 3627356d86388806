"""A model as a folder of transformers, which other servers read too; compared with the original before it exists.

    model_type gpt2          GPT-2's architecture
    model_type nanochat      the classic one: transformers' own port
    model_type nanochat_gpt  all others: a modelling file goes with them, and loading needs trust_remote_code=True

config.json records the whole architecture under the key "nanochat" (see `hf`), so that reading an export back gives the
model that was exported.
"""

import dataclasses
import importlib.metadata
import inspect
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from huggingface_hub import save_torch_state_dict
from safetensors import SafetensorError
from torch import Tensor

from extras.export import adapter, originals, to_transformers, tokenizer_json
from extras.export.originals import float32_state, logits_of
from nanochat import chat
from nanochat.checkpoint import gpt2, hf, manager
from nanochat.checkpoint.flags import Style
from nanochat.errors import UserError
from nanochat.paths import draft_of, write_text

if TYPE_CHECKING:
    from nanochat.gpt import GPT, GPTConfig
    from nanochat.tokenizer import Tokenizer

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
SHARD = 5 * 10**9  # bytes per file of weights, at most
MODELLING = "modeling_nanochat_gpt"
TOLERANCE = 1e-3  # of a logit
LONGEST = 600  # positions that are compared: more than the short windows of nanochat's models
GREEDY = 32
# Features that the modelling file implements with one value only.
PLAIN = {"learned_positions": False, "layer_norm": False, "bias": False, "activation": "relu2", "qk_norm": True,
         "embed_norm": True, "tied": False}  # fmt: skip
LEFT_OUT = {*PLAIN, "pad_vocab_to", "dropout"}

TEXTS = (
    "The quick brown fox's 7 tails: don't you'LL WE'VE it'S?  Two  spaces,\ttabs\t\t,\r\n\r\n   indented\n\n\n  end  ",
    "0 12 345 6789 1234567890 3.14159 ½ ٣٤٥ Ⅷ x² 1,000,000€ $5 50% #1 @you a_b-c/d\\e {}[]()<> == != && ||",
    "Žluťoučký kůň, naïve café, Straße İstanbul ﬁn; ёжик в тумане; Ελληνικά; עִבְרִית; العربية; हिन्दी; ไทย; "
    "한국어; 日本語と中文。；\u00a0\u2003\u3000 e\u0301 \u200b\ufeff ที่นี่ पेड़\u0301 \u0301a 1\u0301 ❤️a 1️⃣",
    "👩🏽‍🚀🇺🇳🫠 \x00\x07\x1b[0m \u0085\u2028 def f(x):\n\treturn x  # done\n",
    " ", "\n", "",
)  # fmt: skip
CONVERSATIONS: Sequence[Sequence[chat.Message]] = (
    [{"role": "user", "content": "Hello! How are you?"}, {"role": "assistant", "content": "Fine, thanks."}],
    [
        {"role": "system", "content": "Be brief.\n"},
        {"role": "user", "content": "  What is 12 * 7?\n"},
        {"role": "assistant", "content": [{"type": "text", "text": "It is "}, {"type": "python", "text": "12*7"},
                                          {"type": "python_output", "text": "84"}, {"type": "text", "text": "84."}]},
        {"role": "user", "content": "Danke 👋 你好"},
        {"role": "assistant", "content": "Bitte."},
    ],
)  # fmt: skip


@dataclass(frozen=True)
class Report:
    """What was written, and the results of comparing it with the model it was made from."""

    folder: Path
    kind: str  # a model_type of transformers, nanogpt or nanochat's own format ("classic")
    found: list[str]


def write(
    loaded: manager.Loaded, folder: Path, dtype: str = "float32", overwrite: bool = False, style: Style = "hf"
) -> Report:
    """Write an export, complete and verified, or nothing.

    Raises UserError for an architecture that does not fit the style, what `check` raises, a full disk, and an export
    that does not give the model's results.
    """
    folder = Path(folder).absolute()
    check(folder, dtype, overwrite)
    with draft_of(folder, lambda: check(folder, dtype, overwrite)) as draft:
        if style == "hf":
            kind = model_type(loaded.model.config)
            _write_hf(draft, loaded, DTYPES[dtype])
            found = verify(draft, loaded)
        elif style == "nanogpt":
            kind, found = "nanogpt", originals.write_nanogpt(draft, loaded)
        elif style == "peft":
            kind, found = "peft", adapter.write(draft, loaded, DTYPES[dtype])
        else:
            kind, found = "classic", originals.write_classic(draft, loaded)
    return Report(folder, kind, found)


def check(folder: Path, dtype: str, overwrite: bool) -> None:
    """Raise UserError for an unknown dtype, or a folder that is neither new, empty, nor (with overwrite) an export."""
    if dtype not in DTYPES:
        raise UserError(f"--dtype is {dtype!r}; expected one of {', '.join(DTYPES)}")
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not _is_export(folder):
        raise UserError(f"{folder} exists and is not an export for transformers; choose another --out")
    if not overwrite:
        raise UserError(f"{folder} holds an export already; choose another --out, or replace it with --overwrite")


def _is_export(folder: Path) -> bool:
    try:
        return hf.RECORD in hf.read_config(folder)
    except UserError:
        return False


def model_type(config: "GPTConfig") -> str:
    """Which of the three formats an architecture takes. Raises UserError if it fits none."""
    if gpt2.is_gpt2(config):
        return "gpt2"
    if to_transformers.in_port(config):
        return hf.PORT
    for name, value in PLAIN.items():
        if getattr(config, name) != value:
            raise UserError(
                f"this architecture is neither GPT-2's nor nanochat's: its {name} is {getattr(config, name)!r}; "
                f"an export of nanochat's needs {value!r}"
            )
    return hf.OWN


# ---------------------------------------------------------------- the files


def _write_hf(folder: Path, loaded: manager.Loaded, dtype: torch.dtype) -> None:
    config, state = _translated(loaded, dtype)
    special = tokenizer_json.special_ids(loaded.tokenizer)
    ours, version = loaded.model.config, importlib.metadata.version("transformers")
    config |= {
        # Where one is left out, transformers assumes a default id, which may be any token.
        **{f"{role}_token_id": special.get(role) for role in ("bos", "eos", "pad")},
        "dtype": str(dtype).removeprefix("torch."),
        "transformers_version": version,
        hf.RECORD: {
            "model_config": dataclasses.asdict(ours),
            "tokenizer_hash": loaded.tokenizer.hash,
            "source": loaded.source,
            "tag": loaded.tag,
            "step": loaded.step,
        },
    }
    generation: dict[str, Any] = {f"{role}_token_id": id for role, id in special.items()}
    if len(ends := list(dict.fromkeys(special[role] for role in ("eos", "bos") if role in special))) > 1:
        generation["eos_token_id"] = ends  # a reply also ends where a model would begin the next document
    write_text(folder / "config.json", json.dumps(config, indent=2))
    write_text(folder / "generation_config.json", json.dumps({**generation, "transformers_version": version}, indent=2))
    for name, content in tokenizer_json.files(loaded.tokenizer, ours.sequence_len).items():
        write_text(folder / name, content)
    if config["model_type"] == hf.OWN:
        shutil.copy(Path(__file__).with_name(f"{MODELLING}.py"), folder)
    _write_weights(folder, state)


def _translated(loaded: manager.Loaded, dtype: torch.dtype) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The architecture as config.json describes it, and the tensors to store."""
    ours = loaded.model.config
    kind = model_type(ours)
    state = {name: tensor.detach().to("cpu", dtype) for name, tensor in loaded.model.state_dict().items()}
    if kind == "gpt2":
        config, state = to_transformers.to_gpt2(ours, state)
        return {**config, "n_ctx": ours.sequence_len}, state  # for llama.cpp; transformers no longer writes it
    if kind == hf.PORT:
        return to_transformers.to_port(ours, state)
    config = {
        "model_type": hf.OWN,
        "architectures": ["NanoChatGPTForCausalLM"],
        "auto_map": {
            "AutoConfig": f"{MODELLING}.NanoChatGPTConfig",
            "AutoModelForCausalLM": f"{MODELLING}.NanoChatGPTForCausalLM",
        },
        **{name: value for name, value in dataclasses.asdict(ours).items() if name not in LEFT_OUT},
    }
    return config, to_transformers.cut(ours, state)


def _write_weights(folder: Path, state: dict[str, Tensor]) -> None:
    """model.safetensors, or several files of at most SHARD bytes and their index."""
    try:
        save_torch_state_dict(state, folder, max_shard_size=SHARD)
        for path in folder.glob("*.safetensors"):
            with open(path, "rb") as file:
                os.fsync(file.fileno())
    except (SafetensorError, OSError) as error:
        reason = "the disk is full; free some space" if "No space left" in str(error) else error
        raise UserError(f"cannot write the weights to {folder}: {reason}") from error


# ---------------------------------------------------------------- the comparison


def verify(folder: Path, loaded: manager.Loaded) -> list[str]:
    """Load an export with transformers and compare it with the model it was made from; the results, as lines.

    Both compute in float32 with the weights as stored; the effect of rounding them is reported separately. Where two
    logits are closer than the tolerance, either may be the most likely. Raises UserError, naming what differs, or if
    transformers cannot load it.
    """
    stored, config = hf.read_config(folder), loaded.model.config
    tokenizer, model = _load(folder, trusted=stored["model_type"] == hf.OWN)
    found = [_compare_texts(tokenizer, loaded.tokenizer)]
    if chat.can_chat(loaded.tokenizer):
        found.append(_compare_conversations(tokenizer, loaded.tokenizer))
    # The port does not round the rotary angles.
    theirs = dataclasses.replace(config, rope_in_bfloat16=False) if stored["model_type"] == hf.PORT else config
    exact = float32_state(loaded.model)
    rounded = {name: tensor.to(DTYPES[stored["dtype"]]).float() for name, tensor in exact.items()}
    ours = manager.build(theirs, dict(rounded), folder)
    ids = _ids(loaded.tokenizer, min(config.sequence_len, LONGEST))
    logits = logits_of(ours, ids)
    found += [_compare_logits(model, logits, ids), _compare_greedy(model, ours, ids)]
    if any(not torch.equal(rounded[name], tensor) for name, tensor in exact.items()):
        before = logits_of(manager.build(theirs, exact, folder), ids)
        distance, others = (before - logits).abs().max(), (before.argmax(-1) != logits.argmax(-1)).sum()
        found.append(
            f"rounding the weights to {stored['dtype']} moves the logits by up to {distance:.2g}: at {others} of "
            f"{ids.size(1)} positions another token is the most likely"
        )
    if theirs != config:
        distance = (logits_of(manager.build(config, rounded, folder), ids) - logits).abs().max()
        found.append(
            "transformers' port does not round the rotary angles as this model does: its logits are those of the port, "
            f"up to {distance:.3f} from the model's own"
        )
    return found


def _load(folder: Path, trusted: bool) -> tuple[Any, Any]:
    """The tokenizer and the model as transformers loads them, in float32 on the CPU.

    trusted: the folder has a file of code, which is ours. transformers runs a copy of it, deleted here.
    """
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, trust_remote_code=trusted)
        loader: Any = transformers.AutoModelForCausalLM  # its return type depends on output_loading_info
        model, loading = loader.from_pretrained(
            folder, dtype=torch.float32, trust_remote_code=trusted, output_loading_info=True
        )
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, SafetensorError) as error:
        raise _wrong(f"transformers cannot load it ({error})") from error
    for place in Path(inspect.getfile(type(model))).parents:
        if place.parent.name == "transformers_modules":
            shutil.rmtree(place, ignore_errors=True)
    for what in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        if loading[what]:
            raise _wrong(f"transformers finds {what.replace('_', ' ')}: {loading[what]}")
    return tokenizer, model.eval()


def _wrong(what: str) -> UserError:
    return UserError(f"the export is not right: {what}")


def _compare_texts(theirs: Any, ours: "Tokenizer") -> str:
    """Texts of many kinds, and one with every token as part of a longer word: whole words are found without merges."""
    if ours.pattern:
        readable = (token.decode("utf-8", "ignore") for token in ours.tokens)
        texts = [*TEXTS, "\n".join(f"{token}{token.strip()}q" for token in readable)]
    else:
        known = {token.decode("utf-8") for token in ours.tokens}
        texts = ["".join(filter(known.__contains__, text)) for text in [*TEXTS, *known]]
    for text in texts:
        ids = ours.encode(text)
        if theirs(text)["input_ids"] != ids or theirs.decode(ids) != text:
            raise _wrong(f"its tokenizer gives other ids for {text[:60]!r}")
    return f"tokenizer: the same ids for texts in many scripts, and for all {ours.first_special} tokens"


def _compare_conversations(theirs: Any, ours: "Tokenizer") -> str:
    def ids(messages: Sequence[chat.Message], reply: bool) -> list[int]:
        return theirs.apply_chat_template(messages, add_generation_prompt=reply, return_dict=True)["input_ids"]

    for messages in CONVERSATIONS:
        same = ids(messages, False) == chat.render(ours, {"messages": messages})[0]
        if not same or ids(messages[:-1], True) != chat.prompt(ours, messages[:-1]):
            raise _wrong(f"its chat template gives other ids for {messages[-2]['content']!r}")
    return f"chat template: the same ids for {len(CONVERSATIONS)} conversations, complete and as prompts"


def _compare_logits(theirs: Any, expected: Tensor, ids: Tensor) -> str:
    with torch.inference_mode():
        distance = (theirs(ids).logits.float() - expected).abs().max()
    if not distance <= TOLERANCE:
        raise _wrong(f"its logits are up to {distance:.2g} from the model's")
    return f"logits: within {distance:.1e} of the model's, with the weights as stored, at {ids.size(1)} positions"


def _compare_greedy(theirs: Any, ours: "GPT", ids: Tensor) -> str:
    """transformers' own greedy decoding, with its cache, against the model's logits for the same text."""
    count = min(GREEDY, ids.size(1) // 2)
    prompt = ids[:, :-count]
    theirs.generation_config.eos_token_id = None  # compare all of them, also beyond an end
    with torch.inference_mode():
        written = theirs.generate(prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=count)
    logits = logits_of(ours, written[:, :-1])[:, prompt.size(1) - 1 :]
    chosen = logits.gather(-1, written[:, prompt.size(1) :, None])[..., 0]
    wrong = (logits.amax(-1) - chosen > 2 * TOLERANCE).flatten().nonzero()
    if len(wrong):
        raise _wrong(f"its greedy continuation differs from token {int(wrong[0]) + 1} on")
    return f"greedy decoding: the same {logits.size(1)} tokens"


def _ids(tokenizer: "Tokenizer", count: int) -> Tensor:
    """(1, count) ids of text, all tokens among them where there is room."""
    ids = tokenizer.encode(tokenizer.decode(range(tokenizer.first_special)))
    ids = [*chat.opening(tokenizer), *ids[:: max(1, len(ids) // count)]]
    return torch.tensor([(ids * count)[:count]])
