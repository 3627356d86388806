"""What the scripts beside this file share: each asks a running server as the users of one library do.

    python tests/clients/litellm_client.py http://127.0.0.1:8000

prints a line of JSON for every check: its name, and what went wrong or null. The server serves the model of
tests/obedient.py, whose replies the checks know.
"""

import json
import sys
import traceback

KEY = "a key"
HELLO = "Hello!"  # answered by SAID
SAID = "Good morning"
WEATHER = "What is the weather?"  # answered by a call of get_weather("Rome"), where there are tools
SUNNY = "sunny"  # the tool's output, answered by REPORT
REPORT = "It is sunny outside"
EXTRACT = "Please extract"  # answered by EXTRACTED
EXTRACTED = {"city": "Rome"}
STORY = "Once"  # continued by TALE
TALE = " upon a time"
PARAMETERS = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
ABOUT_TOOL = {"name": "get_weather", "description": "Weather of a city", "parameters": PARAMETERS}
TOOLS = [{"type": "function", "function": ABOUT_TOOL}]

checks = []


def check(function):
    """Register a check: it takes the address of the server."""
    checks.append(function)
    return function


def main() -> None:
    url = sys.argv[1]
    for each in checks:
        try:
            each(url)
            error = None
        except Exception:
            error = traceback.format_exc()
        print(json.dumps({"check": each.__name__, "error": error}), flush=True)
