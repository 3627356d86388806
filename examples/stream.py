"""Stream an answer from a nanochat server with OpenAI's client, token by token, with how sure the model was.

    uv run python -m scripts.chat_web &
    uv pip install openai
    uv run python examples/stream.py "Where does Mira live?"
"""

import argparse
import math

from openai import OpenAI


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Stream an answer from a nanochat server with OpenAI's client.")
    parser.add_argument("question")
    parser.add_argument("--base_url", default="http://localhost:8000/v1")
    parser.add_argument("--api_key", default="-")
    args = parser.parse_args(argv)

    client = OpenAI(base_url=args.base_url, api_key=args.api_key)
    model = client.models.list().data[0].id
    stream = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": args.question}], stream=True, logprobs=True, max_tokens=100
    )
    for chunk in stream:
        for choice in chunk.choices:
            for token in choice.logprobs.content or [] if choice.logprobs else []:
                print(f"{token.token!r:>16}  {100 * math.exp(token.logprob):5.1f} %")


if __name__ == "__main__":
    main()
