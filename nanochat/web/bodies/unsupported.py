"""Fields of other servers' APIs that would change a reply in a way this server does not know.

A request that sets one to a value with an effect is refused; unknown fields without one are ignored.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from nanochat.web.errors import bad_request

OFF = (0, False, "", [], {})


class Field(NamedTuple):
    without_effect: tuple[Any, ...] = OFF
    """values that change nothing"""
    instead: str = "leave it out"


SAMPLERS = "use top_k, top_p and min_p"
FIELDS = {
    # vLLM
    "use_beam_search": Field(), "length_penalty": Field((1,)), "early_stopping": Field(), "watermarking": Field(),
    "logits_processors": Field(), "return_tokens_as_token_ids": Field(), "skip_special_tokens": Field((True,)),
    "prompt_logprobs": Field((), "use echo and logprobs at /v1/completions"),
    "logprob_token_ids": Field(OFF, "use top_logprobs"), "return_token_ids": Field(OFF, "use /tokenize"),
    "truncate_prompt_tokens": Field((), "use truncation"), "prompt_embeds": Field(OFF, "use prompt"),
    "bad_words": Field(OFF, "use logit_bias"), "allowed_token_ids": Field(OFF, "use logit_bias"),
    "structural_tag": Field(OFF, "use grammar or tools"), "guided_decoding": Field(OFF, "use structured_outputs"),
    "chat_template": Field(OFF, "the model has its own"), "documents": Field(OFF, "write them into a message"),
    "echo": Field(OFF, "put the last message before the reply yourself"),
    # llama.cpp
    "n_probs": Field(OFF, "use logprobs"), "post_sampling_probs": Field(), "n_keep": Field((0, -1)), "lora": Field(),
    "grammar_lazy": Field(OFF, "use grammar, which holds from the first token on"),
    "typical_p": Field((0, 1), SAMPLERS), "tfs_z": Field((0, 1), SAMPLERS), "top_n_sigma": Field((0, -1), SAMPLERS),
    "dynatemp_range": Field(OFF, SAMPLERS), "xtc_probability": Field(OFF, SAMPLERS), "mirostat": Field(OFF, SAMPLERS),
    "samplers": Field(OFF, SAMPLERS), "adaptive_target": Field((0, -1), SAMPLERS),
    "dry_multiplier": Field(OFF, "use repetition_penalty"),
    # transformers and the programs around it
    "typical": Field((0, 1), SAMPLERS), "tfs": Field((0, 1), SAMPLERS), "top_a": Field(OFF, SAMPLERS),
    "epsilon_cutoff": Field(OFF, SAMPLERS), "eta_cutoff": Field(OFF, SAMPLERS), "penalty_alpha": Field(OFF, SAMPLERS),
    "smoothing_factor": Field(OFF, SAMPLERS), "mirostat_mode": Field(OFF, SAMPLERS),
    "dynamic_temperature": Field(OFF, SAMPLERS), "num_beams": Field((0, 1)), "guidance_scale": Field((0, 1)),
    "negative_prompt": Field(), "do_sample": Field((True,), "use temperature 0"),
    "no_repeat_ngram_size": Field(OFF, "use repetition_penalty"),
    "encoder_repetition_penalty": Field((1,), "use repetition_penalty"),
    "ban_eos_token": Field(OFF, "use ignore_eos"), "min_length": Field(OFF, "use min_tokens"),
    "max_new_tokens": Field((), "use max_tokens"), "max_length": Field((), "use max_tokens"),
    "stop_sequences": Field(OFF, "use stop"), "grammar_string": Field(OFF, "use grammar"),
    "custom_token_bans": Field(OFF, "use logit_bias"), "banned_strings": Field(OFF, "use logit_bias"),
    # Anthropic and OpenAI
    "system": Field(OFF, "use a message with the role system"), "audio": Field(OFF, "the models here write text"),
    "modalities": Field((["text"], []), "the models here write text"),
    "web_search_options": Field((), "the models here read the messages only"),
}  # fmt: skip
# What the last tokens are that penalties count over: here all of the prompt and the reply.
WINDOWS = ("repeat_last_n", "repetition_penalty_range")


def check(extra: Mapping[str, Any], penalties: bool) -> None:
    """Raise ApiError for the first of the fields beyond a body's own that would have an effect.

    penalties: whether the body has any for repetitions.
    """
    for name, value in extra.items():
        field = FIELDS.get(name)
        if name in WINDOWS and penalties:
            field = Field((-1,), "penalties count over all of the prompt and the reply")
        if field is not None and value not in field.without_effect:
            raise bad_request(f"{name} is not supported here; {field.instead}", name, "unsupported_parameter")
