"""A tokenizer and its conversations in the files of transformers: tokenizer.json, its settings, a chat template.

In them text that spells a special token does become that token, as with every tokenizer of transformers, unless
split_special_tokens=True is asked for.
"""

import json
import math
from typing import Any

from nanochat import chat
from nanochat.errors import UserError
from nanochat.foreign_tokenizers import byte_characters
from nanochat.tokenizer import Tokenizer

CHARACTER = "[\\s\\S]"


def files(tokenizer: Tokenizer, max_length: int) -> dict[str, str]:
    """File names and contents. max_length is the model's context. Raises UserError for what cannot be written so."""
    written = {
        "tokenizer.json": json.dumps(_tokenizer(tokenizer), ensure_ascii=False, indent=1),
        "tokenizer_config.json": json.dumps(
            {
                "tokenizer_class": "PreTrainedTokenizerFast",
                "model_max_length": max_length,
                "clean_up_tokenization_spaces": False,
                **{f"{role}_token": tokenizer.decode([id]) for role, id in special_ids(tokenizer).items()},
            },
            indent=2,
        ),
    }
    if chat.can_chat(tokenizer):
        written["chat_template.jinja"] = chat_template(tokenizer)
    return written


def special_ids(tokenizer: Tokenizer) -> dict[str, int]:
    """The ids that stand for bos, eos and pad: for GPT-2 one is both ends; a character tokenizer has none of them."""
    if not tokenizer.specials:
        return {}
    if not tokenizer.has_special(chat.ASSISTANT_END):
        return {"bos": tokenizer.bos, "eos": tokenizer.bos}
    end = tokenizer.special(chat.ASSISTANT_END)
    return {"bos": tokenizer.bos, "eos": end, "pad": end}


def merges(tokenizer: Tokenizer) -> list[tuple[bytes, bytes]]:
    """The two parts of each token that is reached by merging, in the order of the ids.

    Merging is deterministic, so a token always comes from the same two parts, whatever stands around it: those that
    are left of its own bytes before the last merge. A token that merging does not reach is only ever found whole.
    """
    ranks = {token: rank for rank, token in enumerate(tokenizer.tokens)}
    return [pair for token in tokenizer.tokens if len(token) > 1 and (pair := _parts(token, ranks))]


def chat_template(tokenizer: Tokenizer) -> str:
    """`chat.render` and `chat.prompt` as a Jinja template; contents may also be lists of {"type": "text", "text"}."""
    names = {
        "BOS": chat.BOS, "USER": chat.USER_START, "END_USER": chat.USER_END, "ASSISTANT": chat.ASSISTANT_START,
        "END_ASSISTANT": chat.ASSISTANT_END, "PYTHON": chat.PYTHON_START, "END_PYTHON": chat.PYTHON_END,
        "OUTPUT": chat.OUTPUT_START, "END_OUTPUT": chat.OUTPUT_END, "SYSTEM": "", "END_SYSTEM": "",
    }  # fmt: skip
    if tokenizer.has_special(chat.SYSTEM_START):
        names |= {"SYSTEM": chat.SYSTEM_START, "END_SYSTEM": chat.SYSTEM_END}
    return "".join(f"{{%- set {name} = '{token}' -%}}\n" for name, token in names.items()) + _TEMPLATE


_TEMPLATE = """\
{%- macro words(content) -%}
  {%- if content is string -%}{{- content -}}
  {%- else -%}{%- for part in content -%}{{- part.text -}}{%- endfor -%}
  {%- endif -%}
{%- endmacro -%}
{%- set said = namespace(before='', turn='user') -%}
{{- BOS -}}
{%- for message in messages -%}
  {%- if message.role == 'system' and loop.first -%}
    {%- if not words(message.content) -%}
    {%- elif SYSTEM -%}
      {{- SYSTEM ~ words(message.content) ~ END_SYSTEM -}}
    {%- else -%}{#- a tokenizer without a system role has the first user say it -#}
      {%- set said.before = words(message.content) ~ '\\n\\n' -%}
    {%- endif -%}
  {%- elif message.role != said.turn -%}
    {{- raise_exception('it is the turn of the ' ~ said.turn ~ ', not of the ' ~ message.role) -}}
  {%- elif message.role == 'user' -%}
    {{- USER ~ said.before ~ words(message.content) ~ END_USER -}}
    {%- set said.before = '' -%}
    {%- set said.turn = 'assistant' -%}
  {%- else -%}
    {{- ASSISTANT -}}
    {%- if message.content is string -%}
      {{- message.content -}}
    {%- else -%}
      {%- for part in message.content -%}
        {%- if part.type == 'python' -%}{{- PYTHON ~ part.text ~ END_PYTHON -}}
        {%- elif part.type == 'python_output' -%}{{- OUTPUT ~ part.text ~ END_OUTPUT -}}
        {%- else -%}{{- part.text -}}
        {%- endif -%}
      {%- endfor -%}
    {%- endif -%}
    {{- END_ASSISTANT -}}
    {%- set said.turn = 'user' -%}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- ASSISTANT -}}{%- endif -%}
"""


def _tokenizer(tokenizer: Tokenizer) -> dict[str, Any]:
    """The content of tokenizer.json."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": id, "content": name, **flags} for name, id in tokenizer.specials.items()],
        "normalizer": None,
        "post_processor": None,
        **(_byte_level(tokenizer, tokenizer.pattern) if tokenizer.pattern else _characters(tokenizer)),
    }


def _byte_level(tokenizer: Tokenizer, pattern: str) -> dict[str, Any]:
    characters = byte_characters()
    spelled = ["".join(characters[byte] for byte in token) for token in tokenizer.tokens]
    if taken := set(spelled) & tokenizer.specials.keys():
        raise UserError(f"the tokenizer has {min(taken)} as text and as a special token; transformers cannot have both")
    pairs = (("".join(characters[byte] for byte in part) for part in pair) for pair in merges(tokenizer))
    bytewise = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    return {
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
                bytewise,
            ],
        },
        "decoder": bytewise,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": True,  # what is a token as a whole is that token
            "vocab": {token: id for id, token in enumerate(spelled)},
            "merges": [" ".join(pair) for pair in pairs],
        },
    }


def _characters(tokenizer: Tokenizer) -> dict[str, Any]:
    """One id a character; a character without one is an error there as it is here."""
    vocab = {token.decode("utf-8"): id for id, token in enumerate(tokenizer.tokens)}
    return {
        "pre_tokenizer": {"type": "Split", "pattern": {"Regex": CHARACTER}, "behavior": "Isolated", "invert": False},
        "decoder": {"type": "Fuse"},
        "model": {"type": "WordLevel", "vocab": vocab, "unk_token": ""},
    }


def _parts(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes] | None:
    """The last two parts of a token when its bytes are merged, the lowest rank first and of these the leftmost."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        rank, i = min((ranks.get(parts[i] + parts[i + 1], math.inf), i) for i in range(len(parts) - 1))
        if rank == math.inf:
            return None
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts[0], parts[1]
