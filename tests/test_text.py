"""From events to text: nothing is lost, nothing comes early, nothing of a stop string is seen."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat import chat
from nanochat.engine.request import Event, Scored
from nanochat.engine.text import ReplyText, TextChunk, TokenLogprob, merged
from nanochat.errors import UserError
from nanochat.tokenizer import Tokenizer

# Any Unicode but lone surrogates, which no UTF-8 holds; small alphabets make stop strings overlap with themselves.
texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60) | st.text("ab\n é🙂", max_size=60)
stops = st.lists(st.text("ab\n é🙂", min_size=1, max_size=4), max_size=3)


def told(reply: ReplyText, ids: list[int], finish: str | None = "stop") -> list[str]:
    """What every event shows, the last of which ends the reply."""
    events = [Event(1, id) for id in ids] + ([Event(1, None, finish=finish)] if finish else [])  # type: ignore[arg-type]
    return ["".join(piece.text for piece in reply.add(event)) for event in events]


def cut(text: str, stop: list[str]) -> str:
    """The text before the stop string that is the first to be complete."""
    for end in range(len(text) + 1):
        starts = [end - len(each) for each in stop if text[:end].endswith(each)]
        if starts:
            return text[: min(starts)]
    return text


@given(texts)
def test_a_stream_joined_is_the_whole_text_and_no_character_comes_in_parts(tokenizer: Tokenizer, text: str) -> None:
    shown = told(ReplyText(tokenizer), tokenizer.encode(text))
    assert "".join(shown) == text
    assert "".join(shown).count("\ufffd") == text.count("\ufffd")


@given(st.lists(st.integers(0, 319), max_size=60))
def test_any_tokens_at_all_give_the_parts_that_chat_gives(tokenizer: Tokenizer, ids: list[int]) -> None:
    ends = chat.stop_ids(tokenizer)
    ids = [id for id in ids if id not in ends]  # the Engine ends a reply there
    reply = ReplyText(tokenizer)
    told(reply, ids)
    assert reply.text == chat.reply_text(tokenizer, ids)
    known = {*range(tokenizer.bos), *chat.tool_ids(tokenizer)}
    ids = [id for id in ids if id in known]  # of tokens that do not belong in a reply, chat makes parts of their own
    reply = ReplyText(tokenizer)
    told(reply, ids)
    expected = merged(TextChunk(part["type"], part["text"]) for part in chat.reply_parts(tokenizer, ids))
    assert merged(reply.chunks) == expected


@given(st.lists(st.integers(0, 308), max_size=60))
def test_bytes_that_are_no_utf8_are_replaced_as_when_they_come_at_once(tokenizer: Tokenizer, ids: list[int]) -> None:
    assert "".join(told(ReplyText(tokenizer, parts=False), ids)) == tokenizer.decode(ids, cut_off=True)


@given(texts, st.lists(st.integers(128, 255), max_size=3), st.integers(0, 400), st.sampled_from(["length", "stop"]))
def test_a_reply_cut_anywhere_is_the_beginning_of_the_whole_text(
    tokenizer: Tokenizer, text: str, odd: list[int], end: int, finish: str
) -> None:
    raw = (text.encode() + bytes(odd) + text.encode())[:end]
    ids = [tokenizer.tokens.index(bytes([byte])) for byte in raw]
    for parts in (True, False):
        reply = ReplyText(tokenizer, parts=parts)
        shown = "".join(told(reply, ids, finish))
        assert shown == reply.text == tokenizer.decode(ids, cut_off=True)
        if not odd:
            assert shown == raw.decode(errors="ignore")  # only the character that was cut is missing


@given(texts, stops, st.data())
def test_nothing_of_a_stop_string_is_shown_and_nothing_else_is_eaten(
    tokenizer: Tokenizer, text: str, stop: list[str], data: st.DataObject
) -> None:
    if data.draw(st.booleans()):  # bytes one by one: the stop string is spread over as many tokens as can be
        ids = list(itertools.chain.from_iterable(tokenizer.encode(chr(c)) for c in map(ord, text)))
    else:
        ids = tokenizer.encode(text)
    reply = ReplyText(tokenizer, stop)
    shown = told(reply, ids)
    assert "".join(shown) == cut(text, stop)
    assert (reply.stop_string is not None) == any(each in text for each in stop)
    assert reply.finish == "stop"


@given(texts, stops)
def test_text_is_held_back_only_while_it_may_become_a_stop_string(
    tokenizer: Tokenizer, text: str, stop: list[str]
) -> None:
    reply = ReplyText(tokenizer, stop)
    ids = tokenizer.encode(text)
    for n, id in enumerate(ids, 1):
        reply.add(Event(1, id))
        if reply.finish:
            break
        whole = tokenizer.decode_bytes(ids[:n]).decode("utf-8", errors="ignore")  # without the unfinished character
        held = whole[len(reply.text) :]
        assert held == "" or any(each.startswith(held) for each in stop)


def test_a_stop_string_that_does_not_come_is_shown_at_the_end(tokenizer: Tokenizer) -> None:
    reply = ReplyText(tokenizer, ["END"])
    assert told(reply, tokenizer.encode("the EN"), "length")[-1].endswith("EN")
    assert reply.text == "the EN" and reply.finish == "length" and reply.stop_string is None


def test_after_a_stop_string_nothing_counts(tokenizer: Tokenizer) -> None:
    reply = ReplyText(tokenizer, ["b"])
    told(reply, tokenizer.encode("aXbYc"), None)
    before = tokenizer.encode("aXb")
    assert reply.text == "aX" and reply.finish == "stop" and reply.sampled == len(before)
    assert reply.add(Event(1, None, finish="cancelled")) == [] and reply.finish == "stop"


def test_an_unfinished_character_is_left_out_at_the_end_and_marked_elsewhere(tokenizer: Tokenizer) -> None:
    smile = list("🙂".encode())
    assert told(ReplyText(tokenizer), [*smile, *smile[:2]], "length") == ["", "", "", "🙂", "", "", ""]
    assert told(ReplyText(tokenizer), [*smile[:2], 97, *smile[:2]], "stop") == ["", "", "\ufffda", "", "", ""]
    call = chat.tool_ids(tokenizer).python_start
    reply = ReplyText(tokenizer)
    assert told(reply, [*smile[:2], call, 97, *smile[:2]], "length")[2] == "\ufffd"
    assert reply.chunks[-1] == ("python", "a")


def test_stop_strings_wait_for_the_least_number_of_tokens(tokenizer: Tokenizer) -> None:
    ids = [tokenizer.tokens.index(bytes([byte])) for byte in b"aXbXcX"]
    for least, expected in ((0, "a"), (1, "a"), (2, "aXb"), (3, "aXb"), (4, "aXbXc"), (6, "aXbXcX")):
        reply = ReplyText(tokenizer, ["X"], min_tokens=least)
        assert "".join(told(reply, ids)) == expected, least


def test_what_ended_a_reply_is_shown_where_that_is_wanted(tokenizer: Tokenizer) -> None:
    reply = ReplyText(tokenizer, ["END"], show_stop=True)
    assert "".join(told(reply, tokenizer.encode("the END of"), None)) == "the END" and reply.finish == "stop"
    ids = tokenizer.encode("x.")
    for shown, end, expected in ((True, ids[1], "x."), (False, ids[1], "x"), (True, tokenizer.bos, "x")):
        reply = ReplyText(tokenizer, show_stop=shown)
        reply.add(Event(1, ids[0]))
        reply.add(Event(1, None, finish="stop", stop_id=end))
        assert reply.text == expected


def test_tool_calls_come_whole_and_hide_no_stop_string(tokenizer: Tokenizer) -> None:
    marks = chat.tool_ids(tokenizer)
    reply = ReplyText(tokenizer, ["no", "2"])
    call = [marks.python_start, *tokenizer.encode("1+1"), marks.python_end]
    output = [marks.output_start, *tokenizer.encode("2"), marks.output_end]
    told(reply, [*tokenizer.encode("n"), *call, *output, *tokenizer.encode("ow")])
    assert reply.chunks == [("text", "n"), ("python", "1+1"), ("python_output", "2"), ("text", "o"), ("text", "w")]
    assert merged(reply.chunks)[-1] == ("text", "ow") and reply.stop_string is None


def test_an_open_tool_call_is_told_at_the_end(tokenizer: Tokenizer) -> None:
    reply = ReplyText(tokenizer)
    told(reply, [chat.tool_ids(tokenizer).python_start, *tokenizer.encode("1+")], "length")
    assert reply.chunks == [("python", "1+")]


def test_tokens_are_counted_as_the_model_was_asked_for_them(tokenizer: Tokenizer) -> None:
    reply = ReplyText(tokenizer)
    reply.add(Event(1, 65, cached=4))
    reply.add(Event(1, 66, forced=True))
    reply.add(Event(1, None, finish="stop", stop_id=tokenizer.bos))
    assert (reply.sampled, reply.cached) == (2, 4)


@given(texts, stops)
def test_log_probabilities_belong_to_the_text_that_is_shown(tokenizer: Tokenizer, text: str, stop: list[str]) -> None:
    reply = ReplyText(tokenizer, stop)
    ids = tokenizer.encode(text)
    seen: list[TokenLogprob] = []
    for n, id in enumerate(ids):
        reply.add(Event(1, id, scored=Scored(-float(n), ())))
        seen += reply.pop_logprobs()
        assert all(token.start < len(reply.text) for token in seen)
    reply.add(Event(1, None, finish="stop"))
    seen += reply.pop_logprobs()
    assert seen == reply.logprobs
    assert [token.id for token in seen] == ids[: len(seen)]
    shown = tokenizer.decode_bytes(token.id for token in seen).decode("utf-8", "replace")
    assert shown.startswith(reply.text)  # the last token may hold the first characters of a stop string besides
    if reply.stop_string is None:
        assert len(seen) == len(ids)


def test_parts_need_a_tokenizer_with_tool_tokens() -> None:
    plain = Tokenizer({bytes([byte]): byte for byte in range(256)}, [chat.BOS])
    with pytest.raises(UserError, match="special token"):
        ReplyText(plain)
    reply = ReplyText(plain, parts=False)
    assert "".join(told(reply, plain.encode("ab") + [plain.bos])) == "ab"
