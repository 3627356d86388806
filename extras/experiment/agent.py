"""A loop for agents: a language model on any OpenAI-compatible server proposes the next arm of an experiment.

It gets the results so far and the flags that it may set, and answers in JSON. All that an answer can do is to name
values for those flags, or to be a recipe that is read in the sandbox (`recipes`): it never runs a command, writes a
file outside of the experiment's folder, or reaches the code that measures.
"""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from extras.experiment import problem, proposals, recipes, report, results
from extras.experiment.completions import Server
from extras.experiment.file import Arm, Experiment, load, parsed, with_arm
from extras.experiment.proposals import Ledger, Refused, Rules
from extras.experiment.report import Verdict
from extras.experiment.runs import SHARED, plan, run_missing
from extras.experiment.settings import AgentFlags
from nanochat import config_files
from nanochat.errors import UserError
from nanochat.paths import write_text

SHOWN = 2000  # characters of a refused reply that the agent gets to see again


@dataclass
class Loop:
    """An experiment that grows by an agent's arms. experiment: with the arms of earlier starts."""

    experiment: Experiment
    folder: Path
    rules: Rules
    server: Server
    problem: str = ""
    jobs: int = 1
    recipe: str = ""
    """the recipe as it lies on the disk; empty where the agent names flags"""
    ledger: Ledger = field(init=False)

    def __post_init__(self) -> None:
        self.ledger = Ledger(self.folder)

    def run(self) -> None:
        """Run, ask, run, until a limit is reached; then write down why it ended."""
        self._run([arm for arm in self.experiment.arms if arm.name not in self.ledger.results])
        while not (ended := self._limit()):
            try:
                arm = self._asked()
            except TimeoutError:
                ended = self._over
                break
            except Refused as why:
                ended = f"{self.rules.tries} replies in a row were refused, the last because {why}"
                break
            print(f"{arm.name}: {_typed(arm.flags)}", flush=True)
            self.experiment = with_arm(self.experiment, arm)
            self._run([arm])
        self.ledger.add(ended=ended)
        report.write(results.study(self.experiment, self.folder), self.folder)
        print(f"the loop has ended: {ended}; {self.folder / 'report.md'} has every proposal", flush=True)

    def _limit(self) -> str:
        """Which limit is reached; "" if none is."""
        if len(self.ledger.results) >= self.rules.max_runs:
            return f"the agent has had its {self.rules.max_runs} arms"
        is_cut = self.ledger.arms.keys() != self.ledger.results.keys()
        return self._over if is_cut or self._seconds_left() <= 0 else ""

    @property
    def _over(self) -> str:
        return f"the agent's {self.rules.max_minutes:g} minutes are over"

    def _run(self, arms: Sequence[Arm]) -> None:
        """Run arms, which failed ones are not again, and note what became of the agent's."""
        if self.rules.recipe:
            recipes.check_measuring(self.folder)
        seconds = max(1.0, self._seconds_left()) if self.ledger.arms else None
        for run in run_missing(replace(self.experiment, arms=[*arms]), self.folder, self.jobs, seconds):
            if run.arm in (SHARED, self.experiment.arms[0].name):
                raise UserError(f"{run.arm} failed, so there is nothing to compare with: {run.error}")
        study = results.study(self.experiment, self.folder)
        for verdict in report.verdicts(study):
            is_over = all(run.scores or run.error for run in study.arms[verdict.arm])
            if verdict.arm in self.ledger.arms and verdict.arm not in self.ledger.results and is_over:
                scores = _figures(study, verdict.arm)
                self.ledger.add(arm=verdict.arm, result=scores, verdict=verdict.decision, reason=verdict.reason)
                print(f"{verdict.arm}: {scores}, {verdict.decision}: {verdict.reason}", flush=True)
        report.write(study, self.folder)

    def _seconds_left(self) -> float:
        """Of max_minutes. The agent's answers and its runs count, over all starts."""
        planned = plan(self.experiment, self.folder) if self.ledger.arms else []
        spent = sum(run.record.get("seconds", 0.0) for run in planned if run.arm in self.ledger.arms)
        return 60 * self.rules.max_minutes - spent - self.ledger.seconds

    def _asked(self) -> Arm:
        """The next arm. Raises the last Refused if too many replies are, and TimeoutError when the minutes are over."""
        end = time.monotonic() + self._seconds_left()
        schema = proposals.schema(self.rules)
        messages = [
            {"role": "system", "content": system(self.rules, self._aim(), self._best_recipe()[1])},
            {"role": "user", "content": self._so_far()},
        ]
        for left in reversed(range(self.rules.tries)):
            began = time.monotonic()
            reply = self.server.reply(messages, schema, end)
            try:
                return self._taken(reply, time.monotonic() - began)
            except Refused as why:
                reply, seconds = reply[: proposals.LONGEST_REPLY], time.monotonic() - began
                self.ledger.add(reply=reply, refused=str(why), seconds=seconds)
                print(f"refused: {why}", flush=True)
                if not left:
                    raise
                messages += [
                    {"role": "assistant", "content": reply[:SHOWN] or "(nothing)"},
                    {"role": "user", "content": f"This is refused: {why}. Answer again, with one JSON object."},
                ]
        raise AssertionError("rules.tries is at least 1")

    def _taken(self, reply: str, seconds: float) -> Arm:
        """The arm that a reply proposes, noted in the ledger. Raises Refused."""
        proposal, more = proposals.read(reply, self.rules), {}
        name, flags = f"agent-{len(self.ledger.arms) + 1}", proposal.flags
        if self.rules.recipe:
            flags = recipes.plan(proposal.recipe, self.rules)
            recipes.check_measuring(self.folder)
            more["diff"] = recipes.changes(self._best_recipe()[1], proposal.recipe)
        baseline = self.experiment.arms[0]
        arm = Arm(name, {**baseline.flags, **flags})
        try:
            with_arm(self.experiment, arm)
        except UserError as error:
            raise Refused(str(error)) from None
        seed = self.experiment.seeds[0]
        new = parsed(self.experiment, arm, seed)
        if same := next((old for old in self.experiment.arms if parsed(self.experiment, old, seed) == new), None):
            raise Refused(f"this is {same.name} again; propose something that was not run yet")
        if self.rules.recipe:
            write_text(self.folder / "recipes" / f"{name}.py", proposal.recipe)
        self.ledger.add(arm=name, hypothesis=proposal.hypothesis, flags=dict(arm.flags), seconds=seconds, **more)
        return arm

    def _best_recipe(self) -> tuple[str, str]:
        """The recipe that was kept last, with the name of its arm; else the one on the disk."""
        kept = [arm for arm, line in self.ledger.results.items() if line["verdict"] == "keep"]
        if not self.rules.recipe or not kept:
            return "", self.recipe
        return kept[-1], (self.folder / "recipes" / f"{kept[-1]}.py").read_text(encoding="utf-8")

    def _aim(self) -> str:
        score, better = next(iter(self.experiment.scores.items()))
        return f"A {better} {score} is better."

    def _so_far(self) -> str:
        """The problem, and a line for each arm."""
        study = results.study(self.experiment, self.folder)
        verdicts = {verdict.arm: verdict for verdict in report.verdicts(study)}
        lines = [_line(study, arm, verdicts.get(arm), self.ledger) for arm in study.arms]
        problem = f"The problem:\n\n{self.problem.strip()}\n\n" if self.problem else ""
        common = "; ".join(f"{stage} {_typed(flags)}" for stage, flags in self.experiment.stages.items())
        return f"{problem}All arms train with: {common}\n\nThe arms so far:\n" + "\n".join(lines)


# ---------------------------------------------------------------- what the agent reads

ABOUT = """You improve how small language models are trained. Runs are short, so a better recipe soon shows. You see the
results of an experiment so far and propose its next arm: one change, or a few that belong together. Every arm starts
from the baseline, not from the arm before it. {aim}

{may}

Answer with one JSON object and nothing else: {{"hypothesis": "one sentence: what you expect, and why", {example}}}"""
FLAGS_MAY = """You may set these flags, within their bounds, and no others:
{flags}"""
RECIPE_MAY = """You edit one file, the recipe, and send its whole new text. It runs in a sandbox without files and
network; what comes out of it are FLAGS, a dict, and learning_rate(progress), a factor from 0 to {highest:g} on every
learning rate. FLAGS may have these keys, within their bounds, and no others:
{flags}

The recipe now:

{recipe}"""


def system(rules: Rules, aim: str, recipe: str) -> str:
    """The agent's instructions."""
    listed = "\n".join(f"- {name}: {bound}" for name, bound in rules.flags.items())
    if rules.recipe:
        may = RECIPE_MAY.format(flags=listed, recipe=recipe, highest=recipes.HIGHEST)
        return ABOUT.format(aim=aim, may=may, example='"recipe": "the whole file"')
    return ABOUT.format(aim=aim, may=FLAGS_MAY.format(flags=listed), example='"flags": {"name": value}')


def _line(study: results.Study, arm: str, verdict: Verdict | None, ledger: Ledger) -> str:
    what = study.flags.get(arm) or "as above"
    hypothesis = next((line["hypothesis"] for line in ledger.lines if line.get("arm") == arm and "flags" in line), "")
    said = f" -> {verdict.decision}: {verdict.reason}" if verdict else ""
    return f"- {arm} ({what}): {_figures(study, arm)}{said}" + (f" (you expected: {hypothesis})" if hypothesis else "")


def _figures(study: results.Study, arm: str) -> str:
    """The means of an arm's scores."""
    runs = study.arms[arm]
    values = {name: [run.scores[name] for run in runs if name in run.scores] for name in study.scores}
    means = [f"{name} {sum(given) / len(given):.4f}" for name, given in values.items() if given]
    return ", ".join(means) or "no result"


def _typed(flags: Any) -> str:
    return " ".join(f"{name}={value}" for name, value in flags.items() if name != recipes.CURVE)


# ---------------------------------------------------------------- how it starts


def loop(path: Path, experiment: Experiment, folder: Path, flags: AgentFlags, jobs: int = 1) -> None:
    """Have an agent propose arms for an experiment, as planned in its file.

    Raises UserError for a section `agent` that makes no sense, a server that does not answer, a recipe that changed or
    may not be run, and a baseline that fails.
    """
    rules = proposals.rules(config_files.read(path).get("agent", (None, ""))[0], path)
    rules = replace(rules, max_runs=flags.max_iterations or rules.max_runs)
    for name, bound in rules.flags.items():  # a misspelled flag is found before anything runs
        with_arm(experiment, Arm("agent-check", {name: bound.choices[0] if bound.choices else bound.low}))
    recipe = ""
    if rules.recipe:
        permit(path, flags)
        recipe = _text(path.parent / rules.recipe)
        note_baseline(recipe, rules, folder)
    experiment = proposals.extended(experiment, folder)
    key = flags.api_key or os.environ.get("OPENAI_API_KEY") or None
    server = Server(str(flags.agent), flags.agent_model or rules.model, key, rules.temperature)
    asked = _text(flags.problem) if flags.problem else ""
    Loop(experiment, folder, rules, server, asked, jobs, recipe).run()


def experiment_of(path: Path | None, flags: AgentFlags) -> tuple[Path, Experiment]:
    """The experiment's file, as it was given or as --problem and --code name it, and what it describes.

    Raises UserError where neither is given, and for flags that have no effect.
    """
    if flags.problem is not None and flags.agent is None:
        raise UserError("--problem is for an agent; add --agent with the address of a server")
    if path is not None and flags.code is None:
        return path, load(path)
    if path is not None or flags.problem is None:
        raise UserError("give either the file of an experiment, or --problem TEXT with --code nanochat or nanogpt")
    return problem.file_for(flags.code), problem.experiment_for(flags.problem, flags.code)


def permit(path: Path, flags: AgentFlags) -> None:
    """Raise UserError where code may not run."""
    from nanochat.engine.tools import permit_code

    if not flags.allow_code:
        raise UserError(
            f"{path} has the agent write code (agent.recipe); add --allow_code to run it in a sandbox, or leave "
            "agent.recipe out to have it name flags"
        )
    print(permit_code("--allow_code", flags.unsafe_code, "leave agent.recipe out of the file"))


def note_baseline(recipe: str, rules: Rules, folder: Path) -> None:
    """Write down what the recipe gives the baseline. Raises UserError for one that fails, or has changed since."""
    ledger = Ledger(folder)
    try:
        flags = recipes.plan(recipe, rules)
    except Refused as why:
        raise UserError(f"{rules.recipe} cannot be the baseline: {why}") from None
    if ledger.baseline is None:
        ledger.add(baseline=flags)
    elif ledger.baseline != flags:
        raise UserError(f"{rules.recipe} has changed since the loop began; put it back, or start over without {folder}")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read {path} ({error}); expected text in UTF-8") from None
