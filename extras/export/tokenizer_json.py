"""A tokenizer and its conversations in the files of transformers: tokenizer.json, its settings, a chat template.

There, text that spells a special token becomes that token, as in every tokenizer of transformers, unless it is called
with split_special_tokens=True.
"""

import json
import math
from collections.abc import Sequence

import tokenizers
from tokenizers import decoders, pre_tokenizers
from tokenizers.models import BPE, WordLevel

from nanochat import chat
from nanochat.errors import UserError
from nanochat.foreign_tokenizers import byte_characters
from nanochat.tokenizer import Tokenizer

CHARACTER = "[\\s\\S]"


def files(tokenizer: Tokenizer, max_length: int) -> dict[str, str]:
    """File names and contents; max_length is the model's context. Raises UserError for what cannot be written so."""
    made = _byte_level(tokenizer, tokenizer.pattern) if tokenizer.pattern else _characters(tokenizer)
    made.add_special_tokens([tokenizers.AddedToken(name, normalized=False) for name in tokenizer.specials])
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_length,
        "clean_up_tokenization_spaces": False,
        **{f"{role}_token": tokenizer.decode([id]) for role, id in special_ids(tokenizer).items()},
    }
    written = {"tokenizer.json": made.to_str(pretty=True), "tokenizer_config.json": json.dumps(settings, indent=2)}
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
{%- set state = namespace(before='', turn='user') -%}
{{- BOS -}}
{%- for message in messages -%}
  {%- if message.role == 'system' and loop.first -%}
    {%- if not words(message.content) -%}
    {%- elif SYSTEM -%}
      {{- SYSTEM ~ words(message.content) ~ END_SYSTEM -}}
    {%- else -%}{#- a tokenizer without a system role has the first user say it -#}
      {%- set state.before = words(message.content) ~ '\\n\\n' -%}
    {%- endif -%}
  {%- elif message.role != state.turn -%}
    {{- raise_exception('it is the turn of the ' ~ state.turn ~ ', not of the ' ~ message.role) -}}
  {%- elif message.role == 'user' -%}
    {{- USER ~ state.before ~ words(message.content) ~ END_USER -}}
    {%- set state.before = '' -%}
    {%- set state.turn = 'assistant' -%}
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
    {%- set state.turn = 'user' -%}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- ASSISTANT -}}{%- endif -%}
"""


def _byte_level(tokenizer: Tokenizer, pattern: str) -> tokenizers.Tokenizer:
    characters = byte_characters()
    spelled = [_spelled(token, characters) for token in tokenizer.tokens]
    if taken := set(spelled) & tokenizer.specials.keys():
        raise UserError(f"the tokenizer has {min(taken)} as text and as a special token; transformers cannot have both")
    made = tokenizers.Tokenizer(
        BPE(
            vocab={token: id for id, token in enumerate(spelled)},
            merges=[(_spelled(first, characters), _spelled(second, characters)) for first, second in merges(tokenizer)],
            ignore_merges=True,  # look a whole word up in the vocabulary before merging
        )
    )
    split = pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="isolated")
    bytewise = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.pre_tokenizer = pre_tokenizers.Sequence([split, bytewise])  # type: ignore[assignment]
    made.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    return made


def _spelled(token: bytes, characters: Sequence[str]) -> str:
    """A token's bytes with a printable character for each."""
    return "".join(characters[byte] for byte in token)


def _characters(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """One id a character; a character without one is an error there as it is here."""
    made = tokenizers.Tokenizer(WordLevel({token.decode("utf-8"): id for id, token in enumerate(tokenizer.tokens)}, ""))
    made.pre_tokenizer = pre_tokenizers.Split(tokenizers.Regex(CHARACTER), behavior="isolated")  # type: ignore[assignment]
    made.decoder = decoders.Fuse()  # type: ignore[assignment]
    return made


def _parts(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes] | None:
    """The last two parts of a token when its bytes are merged, the lowest rank first and of these the leftmost."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        rank, i = min((ranks.get(parts[i] + parts[i + 1], math.inf), i) for i in range(len(parts) - 1))
        if rank == math.inf:
            return None
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
    return parts[0], parts[1]
