"""Forms: every flag of every stage is there, and what a form comes to is what the command line reads."""

import dataclasses
import json
import os
import shlex
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extras.dashboard import forms, reach
from extras.dashboard.flags import DashboardFlags, Places
from extras.dashboard.forms import Stage, Wrong
from nanochat import config
from nanochat.web.http.flags import NetworkFlags
from scripts._dashboard import STAGES

NAMES = {stage.name: stage for stage in STAGES}
TEXTS = st.text(max_size=20) | st.sampled_from(
    ["d4", "auto", "None", "True", "--overwrite", "-1", "1e-3", "max-autotune", "a b", "../x", "sft:d4:7", "gpt2",
     "nan", "x.yaml", "--help", "=", "a\nb", "a\0b", "\ud800", "/etc/passwd", "~", "talk.jsonl", "spelling|counting"]
)  # fmt: skip
SCALARS = TEXTS | st.integers(-(10**6), 10**6) | st.floats() | st.booleans() | st.integers() | st.none()
VALUES = SCALARS | st.lists(SCALARS, max_size=3) | st.dictionaries(st.text(max_size=2), SCALARS, max_size=1)


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    """A base folder with an upload and a run, a folder of texts, and beside them what nobody may read."""
    root = tmp_path_factory.mktemp("places")
    for name in ("base/uploads/talk.jsonl", "texts/story.txt", "base/out/mine/ckpt.pt", "secret/key.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text("text", encoding="utf-8")
    (root / "texts" / "link").symlink_to(root / "secret")
    (root / "texts" / "loop").symlink_to(root / "texts" / "loop")
    (root / "base" / "base_checkpoints" / "d1").mkdir(parents=True)
    (root / "base" / "base_checkpoints" / "d1" / "meta_000004.json").write_text("{}", encoding="utf-8")
    return Places(root / "base", (root / "base" / "out",), (root / "texts",), training=True)


def command(stage: str, places: Places, **values: Any) -> forms.Command:
    return forms.command(NAMES[stage], values, places)


def refused(stage: str, places: Places, **values: Any) -> dict[str, str]:
    with pytest.raises(Wrong) as wrong:
        command(stage, places, **values)
    return wrong.value.errors


@pytest.mark.parametrize("stage", STAGES, ids=lambda stage: stage.name)
def test_every_flag_of_a_stage_is_in_its_form_with_its_help_and_default(stage: Stage, places: Places) -> None:
    made = forms.form(stage, places)
    assert made["about"] and json.loads(json.dumps(made)) == made
    assert [each["name"] for each in made["fields"]] == [entry.name for entry in dataclasses.fields(stage.flags)]
    helps = config.helps(stage.flags)
    for each, entry in zip(made["fields"], dataclasses.fields(stage.flags), strict=True):
        assert each["help"] == " ".join(helps[entry.name].split()) and each["group"]
        assert each["type"] in typing.get_args(forms.Type)
        assert (each["type"] == "choice") <= bool(each["choices"])
        standard = forms._plain(config.default(entry))
        is_word = each["type"] == "choice" and isinstance(standard, bool)
        assert each["default"] == (str(standard) if is_word else standard)
    assert any(each["front"] for each in made["fields"])


def test_a_form_offers_what_there_is(places: Places) -> None:
    fields = {each["name"]: each for each in forms.form(NAMES["chat_sft"], places)["fields"]}
    assert fields["source"]["type"] == "model" and {"base:d1", "out:mine"} <= {*fields["source"]["choices"]}
    assert fields["data_path"] | {"help": ""} == {
        "name": "data_path", "help": "", "group": "Data", "type": "file", "many": True, "default": [],
        "choices": ["talk.jsonl"], "front": True,
    }  # fmt: skip
    assert fields["compile"]["choices"] == ["True", "False", "max-autotune"] and fields["compile"]["default"] == "True"
    assert fields["device_type"]["choices"][-1] == "cpu" and fields["num_epochs"]["type"] == "float"


@given(st.sampled_from(STAGES), st.data())
def test_a_command_parses_back_to_the_flags_of_its_form(places: Places, stage: Stage, data: st.DataObject) -> None:
    """Whatever is filled in: it is refused with sentences, or the command is exactly what was filled in."""
    entries = {entry.name: entry for entry in dataclasses.fields(stage.flags)}
    values = data.draw(st.dictionaries(st.sampled_from(sorted(entries)) | st.text(max_size=3), VALUES, max_size=4))
    try:
        made = forms.command(stage, values, places)
    except Wrong as wrong:
        assert wrong.errors and all(sentence and "Traceback" not in sentence for sentence in wrong.errors.values())
        assert wrong.errors.keys() <= {*entries, ""}
        return
    words = shlex.split(str(made))
    assert words[:3] == ["python", "-m", f"scripts.{stage.name}"]
    again = config.parse(stage.flags, words[3:])
    assert again == made.flags
    for name, entry in entries.items():
        now, value = getattr(again, name), values.get(name)
        if value is None or value == "" or value == []:
            standard = reach.DEFAULTS.get(stage.name, {}).get(name)
            assert now == (config.default(entry) if standard is None else made.values[name])
        elif isinstance(value, (int, float)):
            assert now in (value, str(value), repr(value), [value], [repr(value)])
    for word in words[3:]:  # nothing outside the folders is named by a path
        path = word.partition("=")[2] or word
        if path.startswith("/"):
            roots = [places.uploads, *places.folders, *places.out_dirs]
            assert any(Path(path).is_relative_to(os.path.realpath(root)) for root in roots)


@pytest.mark.parametrize("stage, values, argv", [
    ("base_train", {"depth": 1, "compile": False, "dataset": ["a:0.7", "b:0.3"], "lr_curve": [0.5, 1]},
     "--depth=1 --no-compile --dataset=a:0.7 --dataset=b:0.3 --lr_curve=0.5 --lr_curve=1"),
    ("chat_sft", {"source": "base:d1", "device_batch_size": "auto", "compile": "max-autotune", "minutes": "2.5"},
     "--source=base:d1 --device_batch_size=auto --compile=max-autotune --minutes=2.5"),
    ("train", {"out_dir": "new", "data_path": "story.txt", "bias": True},
     "--out_dir={base}/out/new --data_path={texts}/story.txt --bias"),
    ("train", {}, "--out_dir={base}/out/out"),
    ("train", {"init_from": "out:mine", "out_dir": "mine"}, "--out_dir={base}/out/mine --init_from={base}/out/mine"),
    ("add_data", {"paths": ["story.txt", "talk.jsonl"], "name": "mine"},
     "--name=mine {texts}/story.txt {base}/uploads/talk.jsonl"),
])  # fmt: skip
def test_a_form_becomes_words(places: Places, stage: str, values: dict, argv: str) -> None:
    made = command(stage, places, **values)
    base, texts = (os.path.realpath(path) for path in (places.base, places.folders[0]))
    assert shlex.join(made.argv[1:]) == argv.format(base=base, texts=texts)


HOSTILE = [
    "/etc/passwd", "../secret/key.txt", "link/key.txt", "loop/x", "talk.jsonl\0", "~/x", ".", "a" * 5000, "\ud800",
    "http://127.0.0.1/", "--overwrite", "missing.txt", "../base/uploads/../../secret/key.txt", "talk.jsonl/../../x",
]  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("stage, name", [
    ("chat_sft", "data_path"), ("chat_sft", "source"), ("train", "data_path"), ("train", "init_from"),
    ("add_data", "paths"),
])  # fmt: skip
def test_a_path_outside_the_folders_is_refused(places: Places, stage: str, name: str, value: str) -> None:
    assert set(refused(stage, places, **{name: value})) == {name}


def test_a_refusal_does_not_tell_whether_a_file_is_there(places: Places) -> None:
    there, absent = (refused("chat_sft", places, data_path=f"../../secret/{name}.txt")["data_path"]
                     for name in ("key", "nothing"))  # fmt: skip
    assert there.replace("key", "nothing") == absent


@pytest.mark.parametrize("value", ["/etc", "../x", "../../secret", "a/../../x", ".", "x\0"])
def test_a_run_is_written_below_the_folders_for_it(places: Places, value: str) -> None:
    assert set(refused("train", places, out_dir=value)) == {"out_dir"}


@pytest.mark.parametrize("value", ["/etc/passwd", "../x", "README.md", "tests", "http://127.0.0.1/", "a b/c"])
def test_a_dataset_is_a_name_or_below_the_folders(places: Places, value: str) -> None:
    assert set(refused("train", places, dataset=value)) == {"dataset"}


@pytest.mark.parametrize("stage, values, name, sentence", [
    ("base_train", {"depth": "four"}, "depth", "four"),
    ("base_train", {"depth": 1 << 80}, "depth", "bits"),
    ("base_train", {"minutes": 2, "num_iterations": 5}, "minutes", "pass only one"),
    ("base_train", {"matrix_lr": -1}, "matrix_lr", "0 or more"),
    ("base_train", {"model_tag": "../../x"}, "model_tag", "without slashes"),
    ("base_train", {"model_tag": "None"}, "model_tag", "another name"),
    ("base_train", {"dataset": ["--overwrite"]}, "dataset", "without slashes"),
    ("base_train", {"run": "a/b"}, "run", "without slashes"),
    ("base_train", {"resume": "soon"}, "resume", "auto, never"),
    ("base_train", {"device_type": "cuda:99"}, "device_type", "available: "),
    ("base_train", {"compile": "fast"}, "compile", "max-autotune"),
    ("base_train", {"nothing": 1}, "", "GET /dashboard/forms"),
    ("chat_sft", {"source": "user/name"}, "source", "--folder"),
    ("chat_sft", {"source": "sft:../x"}, "source", "name of one folder"),
    ("chat_rl", {"temperature": 0}, "temperature", "more than 0"),
    ("train", {"n_layer": 0}, "n_layer", "1 or more"),
    ("train", {"allow_private_urls": True}, "allow_private_urls", "command line"),
    ("tok_train", {"overwrite": True}, "overwrite", "unusable"),
])  # fmt: skip
def test_what_a_stage_would_refuse_a_form_refuses(
    places: Places, stage: str, values: dict, name: str, sentence: str
) -> None:
    errors = refused(stage, places, **values)
    assert set(errors) == {name} and sentence in errors[name]


def test_a_run_that_is_shown_can_be_started_from(
    places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """scripts.train leaves its runs in the current folder by default."""
    (tmp_path / "out-poems").mkdir()
    (tmp_path / "out-poems" / "ckpt.pt").write_bytes(b"")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "ckpt.pt").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    assert "out:out-poems" in forms.models(places) and "out:outside" not in forms.models(places)
    made = command("chat_sft", places, source="out:out-poems")
    assert made.flags.source == os.path.realpath(tmp_path / "out-poems")
    assert set(refused("chat_sft", places, source="out:outside")) == {"source"}


def test_a_flag_that_nobody_has_thought_of_names_no_path(places: Places) -> None:
    @dataclass
    class Flags:
        """A stage of tomorrow."""

        recipe: str = ""
        """name of a recipe"""
        pairs: list[Path] = field(default_factory=list)
        """files of pairs"""

    tomorrow = Stage("tomorrow", "Tomorrow", Flags)
    for values in ({"recipe": "/etc/passwd"}, {"recipe": "../x"}, {"pairs": ["/etc/passwd"]}):
        with pytest.raises(Wrong):
            forms.command(tomorrow, values, places)
    assert forms.command(tomorrow, {"recipe": "tiny", "pairs": ["talk.jsonl"]}, places).flags.recipe == "tiny"


@pytest.mark.parametrize("network, flags, sentence", [
    ({"host": "0.0.0.0"}, {}, "--api_key"),
    ({"cors_origin": ["*"]}, {}, "any web site"),
    ({"cors_origin": ["https://a.example", "null"]}, {}, "any web site"),
    ({"allowed_host": ["*"]}, {}, "any web site"),
    ({}, {"folder": [Path("/nowhere/at/all")]}, "does not exist"),
    ({}, {"max_upload": 0}, "megabytes"),
    ({"host": "0.0.0.0", "api_key": "secret"}, {}, None),
    ({"cors_origin": ["https://a.example"]}, {}, None),
])  # fmt: skip
def test_training_for_everybody_needs_a_key(
    network: dict, flags: dict, sentence: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NANOCHAT_API_KEY", raising=False)
    monkeypatch.delenv("NANOGPT_API_KEY", raising=False)
    reached = NetworkFlags(**network)
    asked = DashboardFlags(allow_training=True, **flags)
    if sentence is None:
        asked.check_dashboard(reached, reached.host)
        return
    with pytest.raises(config.UserError, match=sentence):
        asked.check_dashboard(reached, reached.host)
