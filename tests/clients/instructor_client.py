"""Instructor, which returns pydantic objects."""

import instructor
from checks import EXTRACT, KEY, check, main
from openai import OpenAI
from pydantic import BaseModel


class City(BaseModel):
    city: str


def extract(url: str, mode: instructor.Mode) -> None:
    client = instructor.from_openai(OpenAI(base_url=f"{url}/v1", api_key=KEY, max_retries=0), mode=mode)
    messages: list = [{"role": "user", "content": EXTRACT}]
    asked: dict = {"model": "gpt-4o", "response_model": City, "messages": messages, "max_retries": 1}
    assert client.chat.completions.create(**asked).city == "Rome"
    *_, last = client.chat.completions.create_partial(**asked)
    assert last.city == "Rome"


@check
def tools(url: str) -> None:
    extract(url, instructor.Mode.TOOLS)


@check
def tools_strict(url: str) -> None:
    extract(url, instructor.Mode.TOOLS_STRICT)


@check
def json_schema(url: str) -> None:
    extract(url, instructor.Mode.JSON_SCHEMA)


@check
def json(url: str) -> None:
    extract(url, instructor.Mode.JSON)


if __name__ == "__main__":
    main()
