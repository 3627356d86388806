"""The flags of scripts.experiment that are about an agent. Nothing heavy is imported here, for --help."""

from dataclasses import dataclass
from pathlib import Path


@dataclass
class AgentFlags:
    """What scripts.experiment needs to know of an agent."""

    # --- agent
    agent: str | None = None
    """have a model on an OpenAI-compatible server propose arms, such as http://localhost:8000/v1"""
    agent_model: str | None = None
    """name of that model; default: the file's, else the first that the server lists"""
    api_key: str | None = None
    """key for that server; default: the environment's OPENAI_API_KEY"""
    max_iterations: int | None = None
    """let the agent have this many arms; default: the file's max_runs"""
    problem: Path | None = None
    """text file with the problem that the agent is to solve; --code names what it improves, if no file does"""
    code: str | None = None
    """code base for --problem: nanochat (scripts.base_train) or nanogpt (scripts.train)"""
    allow_code: bool = False
    """let the agent write a recipe, where the file has agent.recipe; its code runs in a sandbox"""
    unsafe_code: bool = False
    """run that code also where this machine cannot isolate it"""
