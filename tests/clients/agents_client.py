"""Other frameworks, one check each: what they send to any server that speaks OpenAI's API."""

import asyncio

from checks import EXTRACT, HELLO, KEY, REPORT, SAID, SUNNY, WEATHER, check, main


@check
def smolagents(url: str) -> None:
    """The agent runs until the model calls its tool final_answer."""
    from smolagents import OpenAIModel, ToolCallingAgent, tool

    asked = []

    @tool
    def get_weather(city: str) -> str:
        """Weather of a city

        Args:
            city: its name
        """
        asked.append(city)
        return SUNNY

    model = OpenAIModel("gpt-4o", api_base=f"{url}/v1", api_key=KEY)
    agent = ToolCallingAgent(tools=[get_weather], model=model, verbosity_level=0)
    assert agent.run(WEATHER) == "Rome" and asked == ["Rome"]


@check
def haystack(url: str) -> None:
    from haystack.components.generators.chat import OpenAIChatGenerator
    from haystack.dataclasses import ChatMessage
    from haystack.tools import tool
    from haystack.utils import Secret

    @tool
    def get_weather(city: str) -> str:
        """Weather of a city"""
        return SUNNY

    asker = OpenAIChatGenerator(Secret.from_token(KEY), model="gpt-4o", api_base_url=f"{url}/v1", tools=[get_weather])
    assert asker.run([ChatMessage.from_user(HELLO)])["replies"][0].text == SAID
    question = ChatMessage.from_user(WEATHER)
    called = asker.run([question])["replies"][0]
    assert called.tool_calls[0].arguments == {"city": "Rome"}
    answer = ChatMessage.from_tool(SUNNY, origin=called.tool_calls[0])
    assert asker.run([question, called, answer])["replies"][0].text == REPORT


@check
def dspy(url: str) -> None:
    """Its own layout of a reply is beyond the model; it asks again, with a JSON schema."""
    import dspy

    with dspy.context(lm=dspy.LM("openai/gpt-4o", api_base=f"{url}/v1", api_key=KEY, cache=False)):
        assert dspy.Predict("question -> answer")(question=EXTRACT).answer == "Rome"


@check
def autogen(url: str) -> None:
    from autogen_agentchat.agents import AssistantAgent
    from autogen_ext.models.openai import OpenAIChatCompletionClient

    async def get_weather(city: str) -> str:
        """Weather of a city"""
        return SUNNY

    async def run() -> str:
        about: dict = {"vision": False, "function_calling": True, "json_output": True, "structured_output": True}
        client = OpenAIChatCompletionClient(
            model="bot", base_url=f"{url}/v1", api_key=KEY, model_info={**about, "family": "unknown"}
        )
        agent = AssistantAgent("bot", client, tools=[get_weather], reflect_on_tool_use=True, model_client_stream=True)
        return (await agent.run(task=WEATHER)).messages[-1].content

    assert asyncio.run(run()) == REPORT


if __name__ == "__main__":
    main()
