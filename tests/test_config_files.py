"""Config files: nanoGPT's, YAML and JSON; read and never run, checked against the flags, one sentence a mistake."""

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nanochat.config import alias, changes, parse, positional
from nanochat.errors import UserError


@dataclass
class Flags:
    """A script for this test."""

    out_dir: str = "out"
    """where it goes"""
    max_iters: int = 10
    """steps"""
    learning_rate: float = 1e-3
    """how fast"""
    compile: bool = True
    """use a compiler"""
    model_tag: Annotated[str | None, alias("-g")] = None
    """a name"""
    source: Literal["base", "mid"] = "mid"
    """where from"""
    data_path: list[Path] = field(default_factory=list)
    """files"""
    keep: int | None = None
    """how many"""


def put(path: Path, text: str) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return str(path)


def refused(folder: Path, text: str, name: str = "x.py") -> str:
    path = put(folder / name, text)
    with pytest.raises(UserError) as error:
        parse(Flags, [path])
    said = str(error.value)
    assert path in said and "\n" not in said
    return said.replace(path, "x")


# ---------------------------------------------------------------- what is read

NANOGPT = '''"""A docstring."""
import time
# a comment

out_dir = "out-shakespeare"
_rounds = 8
max_iters = 5 * _rounds + 2  # another
learning_rate: float = -(6e-4 / 2)
compile = False
model_tag = 'ft-' + str(time.time())
data_path = ['a', 'b']
keep = 2**5//3
'''


def test_a_file_in_nanogpts_style(tmp_path):
    flags = parse(Flags, [put(tmp_path / "x.py", NANOGPT)])
    assert (flags.out_dir, flags.max_iters, flags.learning_rate) == ("out-shakespeare", 42, -3e-4)
    assert (flags.compile, flags.data_path, flags.keep) == (False, [Path("a"), Path("b")], 10)
    assert flags.model_tag is not None and re.fullmatch(r"ft-\d+\.\d+", flags.model_tag)


@pytest.mark.parametrize("name", ["x.yaml", "x.yml", "x.json"])
def test_yaml_and_json(tmp_path, name):
    values = {"out-dir": "there", "max_iters": 1e3, "learning_rate": 2, "compile": False, "model_tag": None,
              "source": "base", "data_path": ["a"], "keep": 3}  # fmt: skip
    as_yaml = "".join(f"{key}: {json.dumps(value)}\n" for key, value in values.items())
    flags = parse(Flags, [put(tmp_path / name, json.dumps(values) if name == "x.json" else as_yaml)])
    assert flags == Flags("there", 1000, 2.0, False, None, "base", [Path("a")], 3)


def test_numbers_in_yaml_need_no_dot(tmp_path):
    flags = parse(Flags, [put(tmp_path / "x.yaml", "# comment\nlearning_rate: 3e-4\nmax_iters: 6E5\n")])
    assert (flags.learning_rate, flags.max_iters) == (3e-4, 600000)


def test_later_files_win_and_flags_win_over_files(tmp_path):
    one = put(tmp_path / "one.py", "max_iters = 1\nout_dir = 'one'\ncompile = False")
    two = put(tmp_path / "two.yaml", "max_iters: 2")
    assert parse(Flags, [one, two]) == Flags("one", 2, compile=False)
    assert parse(Flags, [two, one]).max_iters == 1
    for argv in ([one, "--max_iters=3", two], ["--max-iters", "3", one, two]):
        flags = parse(Flags, argv)
        assert (flags.max_iters, flags.out_dir) == (3, "one")
    assert parse(Flags, [one, "--compile"]).compile is True
    assert changes(parse(Flags, [two])) == {"max_iters": 2}


def test_a_word_that_belongs_to_a_flag_is_not_a_config_file(tmp_path):
    x = put(tmp_path / "x.json", '{"max_iters": 7}')
    assert parse(Flags, ["--out_dir", x]) == Flags(out_dir=x)
    assert parse(Flags, ["-g", x]).model_tag == x
    assert parse(Flags, ["--data_path", "a", x]).data_path == [Path("a"), Path(x)]
    for argv in (["--compile", x], ["--no-compile", x], ["--data_path=a", x], ["--out_dir", "y", x]):
        assert parse(Flags, argv).max_iters == 7


def test_keys_may_stand_in_sections(tmp_path):
    """As nanoLLM_gpt's files have them."""
    x = put(tmp_path / "x.yaml", "model:\n  max-iters: 4\n  keep: null\ntraining: {learning_rate: 2}\nout_dir: a\n")
    assert parse(Flags, [x]) == Flags("a", 4, 2.0)
    assert parse(Flags, [put(tmp_path / "x.json", '{"model": {"max_iters": 5}}')]).max_iters == 5


def test_a_file_may_be_named_by_a_flag_and_a_key_by_an_alias(tmp_path):
    @dataclass
    class Named:
        dataset: Annotated[str, alias("--data-path", "-d")] = "web"
        config_name: str = ""

    x = put(tmp_path / "x.yaml", "data_path: sea\n")
    for argv in (["--config", x], [f"--config={x}"], [x]):
        assert parse(Named, argv).dataset == "sea"
    assert parse(Named, ["--config", x, "--data-path", "land"]).dataset == "land"
    assert parse(Named, [put(tmp_path / "y.yaml", "data_path: null")]) == Named()
    with pytest.raises(UserError, match="dataset and data_path are the same flag"):
        parse(Named, [put(tmp_path / "z.yaml", "dataset: a\ndata_path: b")])
    with pytest.raises(UserError, match="--config names no file"):
        parse(Named, ["--config"])


def test_a_negative_number_is_the_value_of_its_flag(tmp_path):
    x = put(tmp_path / "x.py", "out_dir = 'there'")
    for number in ("-1", "-.5", "-2e3"):
        assert parse(Flags, ["--learning_rate", number, x]) == Flags("there", learning_rate=float(number))


def test_a_script_that_takes_words_by_place_keeps_them(tmp_path):
    @dataclass
    class Reads:
        paths: Annotated[list[Path], positional] = field(default_factory=list)

    x = put(tmp_path / "x.py", "paths = 3")
    assert parse(Reads, [x]).paths == [Path(x)]


def test_what_a_file_says_is_enough_for_a_flag_without_default(tmp_path):
    @dataclass
    class Needs:
        source: str
        depth: int = 2

    x = put(tmp_path / "x.json", '{"source": "sft", "depth": 3}')
    assert parse(Needs, [x]) == Needs("sft", 3)
    with pytest.raises(UserError, match="source"):
        parse(Needs, [put(tmp_path / "y.json", '{"depth": 3}')])


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    "line",
    [
        "__import__('os').mkdir('made')",
        "out_dir = __import__('os').mkdir('made')",
        "out_dir = open('made', 'w')",
        "import os",
        "import time as os",
        "out_dir = time.sleep(9)",
        "out_dir = f'{open(1)}'",
        "max_iters = [open('made', 'w') for _ in range(1)][0]",
        "if True: max_iters = 1",
        "max_iters += 1",
        "max_iters, keep = 1, 2",
        "max_iters = unknown",
        "max_iters = 9**9**9",
        "max_iters = 10**19",
        "max_iters = 1 / 0",
        "learning_rate = (-1)**0.5",
        "max_iters = 7 % 3",
        "keep = 3j",
        "out_dir = {'a': 1}",
        "exec('max_iters = 1')",
    ],
)
def test_code_is_refused_with_its_line_and_does_not_run(tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    said = refused(tmp_path / "config", f"max_iters = 2\n\n{line}\n")
    assert said.startswith("x:3: ")
    assert said.endswith("is not a plain value or arithmetic; config files are read, not run")
    assert os.listdir(tmp_path) == ["config"]


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_in_a_sentence(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("any") / "x.py"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        parse(Flags, [str(path)])
    except UserError as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("x.py", "\nmax_iter = 3", "x:2: unknown key max_iter; did you mean max_iters?"),
        ("x.yaml", "max_iter: 3", "x: unknown key max_iter; did you mean max_iters?"),
        ("x.json", '{"zebra": 3}', "x: unknown key zebra; --help lists them"),
        ("x.py", "max_iters = 'ten'", "x:1: max_iters is 'ten'; expected int"),
        ("x.py", "max_iters = 1.5", "x:1: max_iters is 1.5; expected int"),
        ("x.py", "max_iters = 9e999", "x:1: max_iters is inf; expected int"),
        ("x.py", "learning_rate = '1e-3'", "x:1: learning_rate is '1e-3'; expected float"),
        ("x.py", "out_dir = 3", "x:1: out_dir is 3; expected str"),
        ("x.py", "source = 'sft'", "x:1: source is 'sft'; expected 'base' or 'mid'"),
        ("x.py", "keep = 'all'", "x:1: keep is 'all'; expected int or None"),
        ("x.py", "data_path = 3", "x:1: data_path is 3; expected a list of a path"),
        ("x.yaml", "data_path:", "x: data_path is None; expected a list of a path"),
        ("x.json", '{"out_dir": ["' + "a" * 9999 + '"]}', "x: out_dir is ['aaa"),
        ("x.json", '{"data_path": [1]}', "x: data_path is [1]; expected a list of a path"),
        ("x.yaml", "model: {max_iter: 3}", "x: unknown key model.max_iter; did you mean max_iters?"),
        ("x.yaml", "model: {}\nzebra: {a: 1}\nb: 2", "x: unknown keys zebra.a, b; --help lists them"),
        ("x.yaml", "keep: 1\na: {keep: 2}", "x: keep and a.keep are the same flag; give only one"),
        ("x.yaml", "out_dir: {a: 1}", "x: out_dir is {'a': 1}; expected str"),
        ("x.py", "learning_rate = 1" + "0" * 400, "x:1: learning_rate is a number of 1329 bits; expected float"),
        ("x.py", "max_iters = 1" + "0" * 400, "x:1: max_iters is a number of 1329 bits; expected int"),
        ("x.py", "max_iters = 9" * 3000, "x:1 is not Python"),
        ("x.py", "a = [1]\n" + "a = [a, a]\n" * 40 + "out_dir = str(a)", "x:42: 'str(a)' is not a plain value"),
        ("x.yaml", "max_iters: !!int x", "the config file x cannot be read"),
        ("x.py", "max_iters = \n", "x:1 is not Python: invalid syntax"),
        ("x.py", "max_iters = " + "-" * 5000 + "1", "the config file x cannot be read"),
        ("x.py", "\0", "source code string cannot contain null bytes"),
        ("x.yaml", "a: 1\nb: [", "x:2 is not YAML"),
        ("x.yaml", "out_dir: !!python/object/apply:os.mkdir [x]", "x:1 is not YAML: could not determine a"),
        ("x.yaml", "a0: &a0 {b: 1}\n" + "".join(f"a{n}: &a{n} {{<<: [{f'*a{n - 1}, ' * 9}]}}\n" for n in range(1, 9)),
         "x:6 is not YAML: too many keys are merged"),
        ("x.py", "a = 'aaaa'\n" + "a = a + a\n" * 40, "x:13: 'a + a' is not a plain value"),
        ("x.yaml", "- 1", "x holds list; expected keys with their values"),
        ("x.yaml", "", "x holds NoneType; expected keys"),
        ("x.json", "{\n'a': 1}", "x:2 is not JSON"),
        ("x.json", "[" * 100_000, "the config file x cannot be read"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_sentence(tmp_path, name, text, said):
    found = refused(tmp_path, text, name)
    assert said in found and len(found) < 1000


@pytest.mark.parametrize("name, text", [
    ("x.py", "data_path = 'a'"), ("x.yaml", "data_path: a"), ("x.json", '{"data_path": "a"}'),
    ("y.yaml", "data_path: [a]"), ("z.yaml", "one: &one a\n".replace("one: ", "out_dir: ") + "data_path: *one"),
    ("s.yaml", "data:\n  data_path: a"),
])  # fmt: skip
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_list_may_be_a_single_value_and_a_file_may_begin_with_a_byte_order_mark(tmp_path, name, text, mark):
    assert parse(Flags, [put(tmp_path / name, mark + text)]).data_path == [Path("a")]


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UserError, match=r"cannot read the config file .*no\.py: No such file"):
        parse(Flags, [str(tmp_path / "no.py")])
    (tmp_path / "latin.yaml").write_bytes(b"out_dir: \xe9")
    with pytest.raises(UserError, match=r"latin\.yaml cannot be read: .*utf-8"):
        parse(Flags, [str(tmp_path / "latin.yaml")])
