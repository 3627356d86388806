"""Recipes that an agent writes: what they say, read off in the sandbox, and proof that nothing else was changed.

A recipe is Python with FLAGS, a dict, and where it wants learning_rate(progress), a function. It runs in a process of
its own that has no files, network or other processes and little time; all that comes out are flags and numbers.
"""

import difflib
import json
import math
from pathlib import Path
from typing import Any

from extras.experiment.proposals import Refused, Rules, check
from nanochat import sandbox
from nanochat.errors import UserError, shown
from nanochat.paths import read_json, sha256, write_text

CURVE = "lr_curve"
POINTS = 51  # of the learning rate; between them it is a line
HIGHEST = 10.0  # factor on a learning rate
SECONDS = 10.0
MEASURING = "measuring.json"
ROOT = Path(__file__).resolve().parent.parent.parent
ROOMS = ("nanochat", "scripts", "tasks", "extras")
TAIL = f"""
import json as _json
_curve = [learning_rate(n / {POINTS - 1}) for n in range({POINTS})] if "learning_rate" in globals() else []
print("\\n" + _json.dumps({{"flags": FLAGS, "curve": _curve}}))
"""


def plan(recipe: str, rules: Rules) -> dict[str, Any]:
    """The flags that a recipe comes to. Raises Refused for one that fails, takes too long, or is out of bounds."""
    done = sandbox.run(recipe + TAIL, seconds=SECONDS)
    if not done.ok:
        raise Refused(f"the recipe fails: {done.error[:300]}")
    try:
        said = json.loads(done.stdout.strip().splitlines()[-1])
        flags, curve = dict(said["flags"]), said["curve"]
    except (ValueError, LookupError, TypeError):
        raise Refused("FLAGS is not a dict of plain values, or the recipe prints on its last line") from None
    check(flags, rules)
    for factor in curve:
        is_number = isinstance(factor, (int, float)) and not isinstance(factor, bool)
        if not is_number or not 0 <= factor <= HIGHEST:
            raise Refused(f"learning_rate returns {shown(factor)[:60]}; expected a number from 0 to {HIGHEST:g}")
    if curve and math.isclose(max(curve), 0):
        raise Refused("learning_rate is always 0; expected factors around 1")
    return {**flags, **({CURVE: [round(factor, 6) for factor in curve]} if curve else {})}


def changes(old: str, new: str) -> str:
    """What differs between two recipes, as a unified diff without its header."""
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=1)
    return "\n".join(line for line in lines if not line.startswith(("---", "+++")))


def check_measuring(folder: Path) -> None:
    """Note the checksums of all code that trains and measures, or compare with those noted at the first call.

    Raises UserError, naming a file, if one differs: results from before and after could not be compared.
    """
    paths = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))
    now = {path.relative_to(ROOT).as_posix(): sha256(path) for path in paths}
    noted = folder / MEASURING
    if not noted.exists():
        write_text(noted, json.dumps(now, indent=1) + "\n")
        return
    before = read_json(noted)
    if changed := [name for name in sorted({*before, *now}) if before.get(name) != now.get(name)]:
        raise UserError(
            f"{changed[0]} has changed since this loop began, so its results cannot be compared any more; put it back, "
            f"or start over in another folder than {folder}"
        )
