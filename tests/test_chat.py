import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat import chat
from nanochat.chat import check, prefilled_prompt, prompt, render, reply_parts, reply_text
from nanochat.errors import UserError
from nanochat.tokenizer import Tokenizer

USER = {"role": "user", "content": "What is 12 + 30?"}
ANSWER = {"role": "assistant", "content": "It is 42."}
SYSTEM = {"role": "system", "content": "Be brief."}
TOOL = {
    "role": "assistant",
    "content": [
        {"type": "text", "text": "Let me see. "},
        {"type": "python", "text": "12 + 30"},
        {"type": "python_output", "text": "42"},
        {"type": "text", "text": "It is 42."},
    ],
}


def talk(*messages) -> dict:
    return {"messages": list(messages)}


@pytest.fixture(scope="session")
def old(tokenizer) -> Tokenizer:
    """A tokenizer without a system role, as the released ones."""
    return Tokenizer({token: rank for rank, token in enumerate(tokenizer.tokens)}, chat.SPECIALS[:9])


def learnt(tokenizer, conversation) -> str:
    ids, mask = render(tokenizer, conversation)
    return tokenizer.decode([id for id, m in zip(ids, mask, strict=True) if m])


def test_the_order_of_the_specials_is_the_format():
    names = "bos user_start user_end assistant_start assistant_end python_start python_end output_start output_end"
    assert [f"<|{name}|>" for name in [*names.split(), "system_start", "system_end"]] == chat.SPECIALS


def test_what_is_said_and_what_is_learnt(tokenizer):
    conversation = talk(USER, TOOL, USER, ANSWER)
    ids, mask = render(tokenizer, conversation)
    assert tokenizer.decode(ids) == (
        "<|bos|><|user_start|>What is 12 + 30?<|user_end|><|assistant_start|>Let me see. <|python_start|>12 + 30"
        "<|python_end|><|output_start|>42<|output_end|>It is 42.<|assistant_end|>"
        "<|user_start|>What is 12 + 30?<|user_end|><|assistant_start|>It is 42.<|assistant_end|>"
    )
    assert len(ids) == len(mask)
    assert learnt(tokenizer, conversation) == (
        "Let me see. <|python_start|>12 + 30<|python_end|>It is 42.<|assistant_end|>It is 42.<|assistant_end|>"
    )


def test_a_system_message_has_a_role_of_its_own(tokenizer):
    conversation = talk(SYSTEM, USER, ANSWER)
    ids, _ = render(tokenizer, conversation)
    assert tokenizer.decode(ids).startswith("<|bos|><|system_start|>Be brief.<|system_end|><|user_start|>What")
    assert learnt(tokenizer, conversation) == "It is 42.<|assistant_end|>"


def test_an_old_tokenizer_has_it_told_by_the_user(old):
    conversation = talk(SYSTEM, USER, ANSWER)
    ids, _ = render(old, conversation)
    assert old.decode(ids).startswith("<|bos|><|user_start|>Be brief.\n\nWhat is 12 + 30?<|user_end|>")
    assert conversation == talk(SYSTEM, USER, ANSWER)  # and the conversation stays as it was


def test_an_empty_system_message_is_none(tokenizer, old):
    for each in (tokenizer, old):
        assert render(each, talk({**SYSTEM, "content": ""}, USER, ANSWER)) == render(each, talk(USER, ANSWER))


def test_a_prompt_ends_where_the_assistant_begins(tokenizer):
    whole, _ = render(tokenizer, talk(SYSTEM, USER, TOOL, USER, ANSWER))
    asked = prompt(tokenizer, [SYSTEM, USER, TOOL, USER])
    assert whole[: len(asked)] == asked
    assert asked[-1] == tokenizer.special("<|assistant_start|>")
    assert tokenizer.decode(whole[len(asked) :]) == "It is 42.<|assistant_end|>"
    with pytest.raises(ValueError, match="no question to answer"):
        prompt(tokenizer, [USER, ANSWER])


@given(st.data())
def test_text_in_any_role_stays_text(tokenizer, data):
    text = st.lists(st.sampled_from([*chat.SPECIALS, "<|assistant_", "start|>", " hi", ""])).map("".join)
    parts = st.lists(st.fixed_dictionaries({"type": st.sampled_from(chat.PART_TYPES), "text": text}))
    messages = [
        {"role": "system", "content": data.draw(text)},
        {"role": "user", "content": data.draw(text)},
        {"role": "assistant", "content": data.draw(parts | text)},
    ]
    ids, mask = render(tokenizer, talk(*messages))
    count = {name: ids.count(tokenizer.special(name)) for name in chat.SPECIALS}
    content = messages[2]["content"]
    types = [part["type"] for part in content] if isinstance(content, list) else []
    assert count["<|bos|>"] == count["<|user_end|>"] == count["<|assistant_start|>"] == count["<|assistant_end|>"] == 1
    assert count["<|system_start|>"] == (messages[0]["content"] != "")
    assert count["<|python_start|>"] == types.count("python")
    assert count["<|output_end|>"] == types.count("python_output")
    assert mask[-1] == 1


def test_what_does_not_fit_is_left_out_by_whole_turns(tokenizer):
    conversation = talk(SYSTEM, USER, ANSWER, USER, TOOL, USER, ANSWER)
    ends = [len(render(tokenizer, talk(*conversation["messages"][:n]))[0]) for n in (3, 5, 7)]
    whole, mask = render(tokenizer, conversation)
    for limit in range(1, len(whole) + 3):
        fitting = [end for end in ends if end <= limit]
        expected = (whole[: fitting[-1]], mask[: fitting[-1]]) if fitting else None
        assert render(tokenizer, conversation, max_tokens=limit) == expected
    assert whole[ends[0] - 1] == tokenizer.special("<|assistant_end|>")


def test_an_unanswered_question_is_left_out_with_its_turn(tokenizer):
    whole, mask = render(tokenizer, talk(USER, ANSWER, USER))
    answered, _ = render(tokenizer, talk(USER, ANSWER))
    assert tokenizer.decode(whole).endswith("<|user_end|>")
    assert mask[len(answered) :] == [0] * (len(whole) - len(answered))
    assert render(tokenizer, talk(USER, ANSWER, USER), len(whole)) == (whole, mask)
    assert render(tokenizer, talk(USER, ANSWER, USER), len(whole) - 1) == (answered, mask[: len(answered)])


WRONG = [
    ([], "object with messages, not a list"),
    ({}, "no messages"),
    ({"messages": "hello"}, "must be a list, not a string"),
    ({"messages": []}, "there are no messages"),
    (talk("hello"), "message 1 must be an object"),
    (talk({"role": "user"}), "message 1 has no content"),
    (talk({"content": "x"}), "message 1 has no role"),
    (talk({"role": "tool", "content": "x"}), "unknown role 'tool'"),
    (talk({"role": ["user"], "content": "x"}), "unknown role"),
    (talk(USER, USER, ANSWER), r"message 2 \(user\): here it is the assistant's turn"),
    (talk(USER, ANSWER, ANSWER), r"message 3 \(assistant\): here it is the user's turn"),
    (talk(USER, SYSTEM, ANSWER), r"message 2 \(system\): only the first"),
    (talk({"role": "user", "content": None}, ANSWER), "must be a string, not null"),
    (talk({"role": "user", "content": [{"type": "text", "text": "x"}]}, ANSWER), "must be a string, not a list"),
    (talk(USER, {"role": "assistant", "content": 42}), "a string or a list of parts, not a number"),
    (talk(USER, {"role": "assistant", "content": ["x"]}), "part 1 must be an object with type and text"),
    (talk(USER, {"role": "assistant", "content": [{"type": "text"}]}), "part 1 must be an object"),
    (talk(USER, {"role": "assistant", "content": [{"type": "image", "text": "x"}]}), "unknown type 'image'"),
    (talk(USER, {"role": "assistant", "content": [{"type": "text", "text": 1}]}), "text of part 1 must be a string"),
]


@pytest.mark.parametrize(("conversation", "reason"), WRONG)
def test_what_is_no_conversation_has_a_reason(tokenizer, conversation, reason):
    for use in (check, lambda conversation: render(tokenizer, conversation)):
        with pytest.raises(ValueError, match=reason) as refusal:
            use(conversation)
        assert "\n" not in str(refusal.value)
    if isinstance(conversation, dict) and "messages" in conversation:
        with pytest.raises(ValueError, match=reason):
            prompt(tokenizer, conversation["messages"])


UNTAUGHT = [  # they can be answered but not trained on
    (talk(SYSTEM), "only a system message"),
    (talk(SYSTEM, ANSWER, USER), r"message 2 \(assistant\): here it is the user's turn"),
    (talk(ANSWER, USER), r"message 1 \(assistant\): here it is the user's turn"),
]


@pytest.mark.parametrize(("conversation", "reason"), UNTAUGHT)
def test_a_greeting_and_a_lone_system_message_are_answered_but_not_learnt_from(tokenizer, old, conversation, reason):
    for use in (check, lambda conversation: render(tokenizer, conversation)):
        with pytest.raises(ValueError, match=reason):
            use(conversation)
    for each in (tokenizer, old):
        asked = each.decode(prompt(each, conversation["messages"]))
        assert asked.endswith("<|assistant_start|>") and "<|assistant_end|><|assistant_start|>" not in asked
        places = [asked.index(message["content"]) for message in conversation["messages"]]
        assert places == sorted(places) and ("<|system_start|>" in asked) <= each.has_special("<|system_start|>")


def test_a_last_message_of_the_assistant_is_continued(tokenizer):
    whole, _ = render(tokenizer, talk(SYSTEM, USER, TOOL))
    assert prefilled_prompt(tokenizer, [SYSTEM, USER, TOOL]) == whole[:-1]
    assert tokenizer.decode(prefilled_prompt(tokenizer, [ANSWER])) == "<|bos|><|assistant_start|>It is 42."


@pytest.mark.parametrize(
    ("conversation", "reason"),
    [
        (talk(USER), "the last message must be the assistant's"),
        (talk(USER, ANSWER, USER), "the last message must be the assistant's"),
        (talk(USER, {"role": "assistant", "content": ""}), r"message 2 \(assistant\) is empty"),
        (talk(USER, {"role": "assistant", "content": []}), r"message 2 \(assistant\) is empty"),
        (talk(USER, {"role": "assistant", "content": " \n"}, USER, ANSWER), r"message 2 \(assistant\) is empty"),
    ],
)
def test_what_teaches_nothing_can_be_rendered_but_not_learnt_from(tokenizer, conversation, reason):
    render(tokenizer, conversation)
    with pytest.raises(ValueError, match=reason):
        check(conversation)


@pytest.mark.parametrize(
    "conversation",
    [
        talk(USER, ANSWER),
        talk(SYSTEM, USER, TOOL, USER, ANSWER),
        talk({"role": "user", "content": ""}, ANSWER),
        talk({**SYSTEM, "content": ""}, USER, ANSWER),
        {**talk({**USER, "name": "Ada"}, ANSWER), "source": "a book"},
    ],
)
def test_what_is_a_conversation_passes(conversation):
    check(conversation)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.sampled_from(["user", "assistant", "text"]),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["messages", "role", "content", "type", "text"]), inner, max_size=3),
    max_leaves=12,
)


@given(JSON | JSON.map(lambda value: {"messages": value}))
def test_any_json_is_a_conversation_or_has_a_reason(tokenizer, value):
    try:
        check(value)
    except ValueError as error:
        assert type(error) is ValueError
        assert str(error)
    else:
        assert len(render(tokenizer, value)[0]) > 4


def test_a_reply_comes_apart_as_it_was_put_together(tokenizer):
    ids, _ = render(tokenizer, talk(USER, TOOL))
    reply = ids[len(prompt(tokenizer, [USER])) :]
    assert reply_parts(tokenizer, reply) == TOOL["content"]
    assert reply_text(tokenizer, reply) == "Let me see. It is 42."
    assert reply_text(tokenizer, [*reply, *tokenizer.encode("never heard")]) == "Let me see. It is 42."


def test_a_broken_reply_still_has_parts(tokenizer):
    say = tokenizer.encode
    tools = chat.tool_ids(tokenizer)
    assert reply_parts(tokenizer, []) == []
    assert reply_parts(tokenizer, [tools.python_start, *say("1 +")]) == [{"type": "python", "text": "1 +"}]
    assert reply_parts(tokenizer, [tools.python_end, *say("so"), tools.output_end]) == [{"type": "text", "text": "so"}]
    assert reply_parts(tokenizer, [tools.python_start, tools.python_end]) == [{"type": "python", "text": ""}]
    assert reply_text(tokenizer, [*say("a"), tokenizer.special("<|user_start|>"), *say("b")]) == "ab"


def test_a_tokenizer_that_is_not_for_chat_is_refused(tokenizer):
    plain = Tokenizer({token: rank for rank, token in enumerate(tokenizer.tokens)}, ["<|endoftext|>"])
    assert chat.stop_ids(plain) == {plain.bos}
    for use in (lambda: render(plain, talk(USER, ANSWER)), lambda: prompt(plain, [USER]), lambda: chat.tool_ids(plain)):
        with pytest.raises(UserError, match="no special token"):
            use()


FIXTURES = Path(__file__).resolve().parents[2] / "shared" / "fixtures"


@pytest.mark.skipif(not FIXTURES.is_dir(), reason=f"the originals' renderings are not at {FIXTURES}")
@pytest.mark.parametrize("generation", ["classic", "modern"])
def test_released_tokenizers_render_as_upstream_did(generation):
    tokenizer = Tokenizer.load(FIXTURES / generation / "tokenizer")
    expected = json.loads((FIXTURES / generation / "expected.json").read_text(encoding="utf-8"))["tokenizer"]
    assert len(expected["render"]) >= 9
    for case in expected["render"]:
        ids, mask = render(tokenizer, case["conversation"])
        limit = case["max_tokens"]  # upstream cuts there, in the middle of a turn
        assert (ids[:limit], mask[:limit]) == (case["ids"], case["mask"]), case["name"]
    for case in expected["render_for_completion"]:
        assert prompt(tokenizer, case["conversation"]["messages"][:-1]) == case["ids"], case["name"]
