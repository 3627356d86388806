"""A conversation in a few lines, without a server.

    uv run python examples/chat.py sft "Where does Mira live?" "And what is her job?"

The first argument names a model as everywhere: sft, sft:d3, a folder, user/name.
"""

import sys

import nanochat


def main(argv: list[str] | None = None) -> None:
    given = sys.argv[1:] if argv is None else argv
    if len(given) < 2:
        sys.exit(__doc__)
    name, *questions = given
    model = nanochat.open(name)
    messages = []
    for question in questions:
        messages.append({"role": "user", "content": question})
        answer = model.chat(messages, max_tokens=100, temperature=0)
        messages.append({"role": "assistant", "content": answer})
        print(f"you: {question}\nmodel: {answer}\n")


if __name__ == "__main__":
    main()
