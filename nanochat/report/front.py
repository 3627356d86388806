"""The front of the card's page: what the run reached, as a name, figures, bars, a curve and conversations."""

from collections.abc import Callable, Sequence

from nanochat.report import facts
from nanochat.report.curves import Picture
from nanochat.report.facts import Sample, Score, Sections
from nanochat.report.markup import Html, joined, tag
from nanochat.report.page import inlined

SHARED = "report.png"  # beside the page
SIZE = (1200, 630)  # of that picture, as sites show it
ROLES = {"user": "You", "assistant": "Model", "system": "Instruction"}


def front(found: Sections, loss: Picture | None, price: float | None) -> tuple[Html, list[str]]:
    """The front, and the names of the parts that could not be read.

    loss: the curve of all stages, where there is one.
    """
    parts: dict[str, Callable[[], Html]] = {
        "the heading": lambda: _heading(found),
        "the figures": lambda: _figures(found, price),
        "Accuracy": lambda: _accuracy(found),
        "Loss": lambda: _loss(loss),
        "Conversations": lambda: _conversations(facts.shown_samples(found)),
        "What each task asks": lambda: _tasks(found),
    }
    made, unreadable = [], []
    for title, part in parts.items():
        try:
            made.append(part())
        except facts.UNREADABLE:
            unreadable.append(title)
    if unreadable:
        made.append(tag("p", f"Left out, as another version wrote a section: {', '.join(unreadable)}.", class_="note"))
    return joined(*made), unreadable


def head(found: Sections) -> Html:
    """What a site that is given the page's address shows of it, with the picture beside the page."""
    try:
        title, description = f"{facts.name(found)}: nanochat report card", facts.sentence(found)
    except facts.UNREADABLE:
        title, description = "nanochat report card", ""
    width, height = map(str, SIZE)
    told = {
        "og:type": "article", "og:title": title, "og:description": description, "og:image": SHARED,
        "og:image:type": "image/png", "og:image:width": width, "og:image:height": height,
        "og:image:alt": f"{title}. {description}", "twitter:card": "summary_large_image",
    }  # fmt: skip
    named = [tag("meta", name="description", content=description)]
    return joined(tag("title", title), *named, *(tag("meta", property=key, content=told[key]) for key in told))


def _heading(found: Sections) -> Html:
    written = facts.date(found)
    when = tag("time", facts.day(written), datetime=f"{written:%Y-%m-%d}") if written else Html()
    model = next((found[stage] for stage in reversed(facts.TRAINING) if found.get(stage, {}).get("step")), {})
    about = [f"step {int(model['step']):,}"] if model else []
    about += [*facts.other_scores(found), facts.commits(found)]
    return tag(
        "header",
        tag("p", "nanochat report card", class_="kicker"),
        tag("h1", facts.name(found)),
        tag("p", when, " · " if written else "", " · ".join(about), class_="about"),
        tag("p", facts.sentence(found), class_="lead"),
    )


def _figures(found: Sections, price: float | None) -> Html:
    shown = (
        tag("div", tag("dt", figure.label), tag("dd", figure.value or "–", class_="value"), tag("dd", figure.note))
        for figure in facts.figures(found, price)
    )
    return tag("dl", *shown, class_="figures")


def _section(title: str, *inner: Html) -> Html:
    return tag("section", tag("h2", title), *inner)


# ---------------------------------------------------------------- accuracy


def _accuracy(found: Sections) -> Html:
    by_task = facts.scores(found)
    if not by_task:
        return Html()
    stages = {score.stage for own in by_task.values() for score in own}
    in_order = [label for label in facts.CHAT_EVALS.values() if label in stages]
    groups = [_rows(task, own, len(in_order) > 1) for task, own in by_task.items()]
    stage, average = facts.mean(found)
    notes = ["The line across the end of a bar is its 95 % interval (Wilson)."]
    if missing := facts.not_graded(found):
        notes.append(f"Not graded: {', '.join(missing)}.")
    if average is not None:
        groups.append(_rows("mean", [Score(stage, average, 0)], len(in_order) > 1, "mean"))
    legend = f"Held-out questions answered correctly, by {' and '.join(in_order)}"
    table = tag("table", tag("caption", legend), *groups, class_="bars")
    return _section("Accuracy", table, tag("p", " ".join(notes), class_="note"))


def _rows(task: str, own: Sequence[Score], several: bool, kind: str | None = None) -> Html:
    """A row per stage, together in a body of the table; the task's name stands beside all of them."""
    rows = []
    for i, score in enumerate(own):
        name = [tag("th", task, scope="rowgroup", rowspan=str(len(own)))] if i == 0 else []
        stage = [tag("td", score.stage, class_="stage")] if several else []
        rows.append(tag("tr", *name, *stage, tag("td", _bar(score), class_="bar"), tag("td", *_in_numbers(score))))
    return tag("tbody", *rows, class_=kind)


def _bar(score: Score) -> Html:
    filled = tag("i", class_=f"filled {score.stage}", style=f"width:{score.fraction:.2%}")
    if score.interval is None:
        return tag("span", filled, class_="track", aria_hidden="true")
    low, high = score.interval
    whisker = tag("i", class_="whisker", style=f"left:{low:.2%};width:{high - low:.2%}")
    return tag("span", filled, whisker, class_="track", aria_hidden="true")


def _in_numbers(score: Score) -> list[Html]:
    known = [tag("strong", f"{100 * score.fraction:.1f} %")]
    if score.interval is not None:
        low, high = (100 * bound for bound in score.interval)
        known.append(tag("small", f" {low:.0f}–{high:.0f}"))
    return known + ([tag("small", f" of {score.n:,}")] if score.n else [])


# ---------------------------------------------------------------- the curve


def _loss(picture: Picture | None) -> Html:
    if picture is None:
        return Html()
    note = (
        "Each stage counts its own tokens, and fine-tuning only the assistant's, so the levels of two stages cannot be "
        "compared. Time is that of the steps, without evaluations and breaks."
    )
    image = tag("img", src=inlined(picture.svg), alt=picture.text)
    scrolls = tag("div", image, class_="table wide", role="group", tabindex="0", aria_label="Curve")
    return _section("Loss", scrolls, tag("p", note, class_="note"))


# ---------------------------------------------------------------- conversations


def _conversations(shown: Sequence[Sample]) -> Html:
    if not shown:
        return Html()
    talks = (tag("article", tag("h3", sample.task or "conversation", _verdict(sample)), *map(_bubble, sample.messages),
                 _expected(sample), class_="talk") for sample in shown)  # fmt: skip
    note = "The first question of a task each, not chosen by its answer."
    return _section("Conversations", tag("div", *talks, class_="talks"), tag("p", note, class_="note"))


def _verdict(sample: Sample) -> Html:
    if sample.right is None:
        return Html()
    verdict = "right" if sample.right else "wrong"
    return tag("span", verdict, class_=f"verdict {verdict}")


def _expected(sample: Sample) -> Html:
    if sample.right is not False or sample.expected is None:
        return Html()
    return tag("p", f"expected: {_visible(sample.expected)}", class_="note")


def _visible(message: str | list) -> str:
    """The text of a message without its calculations."""
    if not isinstance(message, list):
        return str(message)
    return "".join(str(part["text"]) for part in message if part["type"] == "text").strip()


def _bubble(message: dict) -> Html:
    role, written = str(message["role"]), message["content"]
    parts = written if isinstance(written, list) else [{"type": "text", "text": str(written)}]
    who = tag("span", f"{ROLES.get(role, role)}: ", class_="visually-hidden")
    return tag("p", who, *_pieces(parts), class_=f"bubble {role if role in ROLES else 'other'}")


def _pieces(parts: Sequence[dict]) -> list[Html]:
    """Text, and every call of the calculator with its result as one piece."""
    made: list[Html] = []
    for part in parts:
        text = str(part["text"])
        if part["type"] == "python":
            made.append(tag("span", tag("small", "calculator "), tag("code", text), class_="tool"))
        elif part["type"] == "python_output":
            made.append(tag("span", "= ", tag("code", text), class_="tool"))
        elif text:
            made.append(joined(text))
    return made


def _tasks(found: Sections) -> Html:
    """What each task asks, with its first question and what the model answered."""
    examples = {sample.task: sample for sample in facts.samples(found) if sample.task}
    known = {task: text for task, text in facts.asks(found).items() if text or task in examples}
    if not known:
        return Html()
    cards = (_task(task, text, examples.get(task)) for task, text in known.items())
    return _section("What each task asks", tag("div", *cards, class_="tasks"))


def _task(task: str, asks: str, sample: Sample | None) -> Html:
    if sample is None:
        return tag("article", tag("h3", task), tag("p", asks))
    lines = [
        tag("p", f"{ROLES.get(str(message['role']), str(message['role']))}: ", tag("q", _visible(message["content"])))
        for message in sample.messages
    ]
    return tag("article", tag("h3", task, _verdict(sample)), tag("p", asks), tag("div", *lines, _expected(sample)))
