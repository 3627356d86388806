"""`llm`, the command line program: models in its extra-openai-models.yaml, chats, completions, schemas and tools."""

import json
import tempfile
from pathlib import Path

from checks import EXTRACT, HELLO, KEY, REPORT, SAID, STORY, TALE, WEATHER, check, main
from click.testing import CliRunner
from llm.cli import cli

TOOL = '''
def get_weather(city: str) -> str:
    """Weather of a city"""
    return "sunny"
'''


def llm(url: str, *arguments: str) -> str:
    models = f"""
- model_id: bot
  model_name: bot
  api_base: "{url}/v1"
  api_key_name: bot
  supports_tools: true
  supports_schema: true
- {{model_id: base, model_name: base, api_base: "{url}/v1", api_key_name: bot, completion: true}}
"""
    with tempfile.TemporaryDirectory() as home:
        (Path(home) / "extra-openai-models.yaml").write_text(models)
        (Path(home) / "keys.json").write_text(json.dumps({"bot": KEY}))
        done = CliRunner(env={"LLM_USER_PATH": home}).invoke(cli, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.output.strip("\n")


@check
def prompt(url: str) -> None:
    assert llm(url, "-m", "bot", "-s", "Be brief.", HELLO) == SAID


@check
def completion(url: str) -> None:
    assert llm(url, "-m", "base", STORY) == TALE


@check
def schema(url: str) -> None:
    assert json.loads(llm(url, "-m", "bot", "--schema", "city, people int", EXTRACT))["city"] == "Rome"


@check
def tools(url: str) -> None:
    assert llm(url, "-m", "bot", "--functions", TOOL, WEATHER) == REPORT


if __name__ == "__main__":
    main()
