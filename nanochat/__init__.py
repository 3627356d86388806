"""nanochat as a library: `nanochat.open`, `nanochat.prepare_data`, `nanochat.serve`. See nanochat/api.py.

Mistakes raise `nanochat.UserError`, whose text says what is wrong and what to do.

What stands here is imported when it is first asked for, so that importing any part of nanochat costs that part only.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nanochat.api import Model, open, prepare_data, serve
    from nanochat.errors import UserError

__all__ = ["Model", "UserError", "open", "prepare_data", "serve"]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "UserError":  # available without loading torch
        from nanochat.errors import UserError

        return UserError
    from nanochat import api

    return getattr(api, name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
