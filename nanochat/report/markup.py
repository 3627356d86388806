"""HTML in which every text is escaped where it enters, whoever wrote it."""

from html import escape

from nanochat.terminal import printable

VOID = {"img", "meta"}


class Html(str):
    """Markup, made by `tag` only; any other string is text."""

    __slots__ = ()


def tag(name: str, /, *inner: str, **attributes: str | None) -> Html:
    """An element with what is in it; class_ and aria_label are its class and aria-label, and None leaves one out."""
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(printable(value))}"'
        for key, value in attributes.items() if value is not None
    )  # fmt: skip
    return Html(f"<{name}{given}>") if name in VOID else Html(f"<{name}{given}>{joined(*inner)}</{name}>")


def joined(*inner: str) -> Html:
    """Pieces of markup and text, one after the other."""
    return Html("".join(each if isinstance(each, Html) else escape(printable(each)) for each in inner))
