"""Folders of transformers: their settings, and their weights in every layout. test_parity.py compares the logits."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from extras.export import to_transformers
from nanochat.checkpoint import hf
from nanochat.errors import UserError

transformers = pytest.importorskip("transformers")


def port(folder: Path, **changes: object):
    """A folder that transformers wrote, and its model, every weight of which matters."""
    torch.manual_seed(0)
    shape = {
        "vocab_size": 50, "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 3, "initializer_range": 0.3,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 24, "pad_token_id": None,
    }  # fmt: skip
    model = transformers.NanoChatForCausalLM(transformers.NanoChatConfig(**{**shape, **changes})).eval()
    model.save_pretrained(folder)
    return model


def change_config(folder: Path, **changes: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


# ---------------------------------------------------------------- the port


def test_its_names_and_settings_come_back(tmp_path: Path) -> None:
    port(tmp_path, final_logit_softcapping=None, rms_norm_eps=1e-5)
    config, state = hf.read(tmp_path)
    settings, tensors = to_transformers.to_port(config, state)
    stored = load_file(tmp_path / "model.safetensors")
    said = hf.read_config(tmp_path)
    assert tensors.keys() == stored.keys()
    assert all(torch.equal(tensors[name], stored[name]) for name in stored)
    assert {name: said[name] for name in settings} == settings


def test_a_transformers_of_before_rope_parameters_is_read_by_its_rope_theta(tmp_path: Path) -> None:
    port(tmp_path)
    change_config(tmp_path, rope_parameters=None, rope_theta=777.0)
    assert hf.read(tmp_path)[0].rope_base == 777.0


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"model_type": "llama"}, "model_type 'llama'; expected 'gpt2' or 'nanochat'"),
        ({"model_type": "nanochat_gpt"}, "lost its key 'nanochat'"),
        ({"attention_bias": True}, "attention_bias is True"),
        ({"hidden_act": "silu"}, "hidden_act is 'silu'"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings is True"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling is"),
        ({"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope_type is 'yarn'"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "partial_rotary_factor is 0.5"),
        ({"intermediate_size": 100}, "intermediate_size is 100; only models with 128"),
        ({"head_dim": 16}, "head_dim is 16; only models with 8"),
        ({"num_attention_heads": 5}, "n_head 5 does not divide n_embd 32"),
        ({"num_key_value_heads": 3}, "n_kv_head 3 does not divide n_head 4"),
        ({"vocab_size": "50"}, "vocab_size is '50', expected a value such as"),
        ({"hidden_size": None}, "does not describe a model that can be built"),
        ({"nanochat": {"model_config": {"wings": 2}}}, "is of another version"),
        ({"nanochat": 3}, "is of another version"),
    ],
    ids=str,
)
def test_what_the_forward_does_not_know_is_refused_by_name(changes: dict, said: str, tmp_path: Path) -> None:
    port(tmp_path)
    change_config(tmp_path, **changes)
    with pytest.raises(UserError, match=said) as refused:
        hf.read(tmp_path)
    assert str(tmp_path / "config.json") in str(refused.value)


def test_a_config_that_is_missing_or_no_object_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="config.json is of a model_type None"):
        hf.read(tmp_path)
    (tmp_path / "config.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(UserError, match="config.json is damaged: it does not hold a JSON object"):
        hf.read(tmp_path)


# ---------------------------------------------------------------- weights in every layout


STATE = {f"layer.{i}.weight": torch.arange(i, i + 6.0).view(2, 3) for i in range(4)}


def write_index(path: Path, places: dict[str, str]) -> None:
    path.write_text(json.dumps({"metadata": {"total_size": 96}, "weight_map": places}), encoding="utf-8")


def in_one(folder: Path) -> None:
    save_file(STATE, folder / "model.safetensors")


def in_two(folder: Path, save: Callable = save_file, stem: str = "model", ending: str = "safetensors") -> None:
    places = {name: f"{stem}-{1 + (name in list(STATE)[2:])}.{ending}" for name in STATE}
    for file in set(places.values()):
        save({name: STATE[name] for name in STATE if places[name] == file}, folder / file)
    write_index(folder / f"{stem}.{ending}.index.json", places)


def bin_in_one(folder: Path) -> None:
    torch.save(STATE, folder / "pytorch_model.bin")


def old_bin(folder: Path) -> None:
    torch.save(STATE, folder / "pytorch_model.bin", _use_new_zipfile_serialization=False)


def bin_in_two(folder: Path) -> None:
    in_two(folder, torch.save, "pytorch_model", "bin")


@pytest.mark.parametrize("write", [in_one, in_two, bin_in_one, old_bin, bin_in_two])
def test_every_layout_holds_the_same_tensors(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path)
    found = hf.tensors(tmp_path)
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], STATE[name]) for name in STATE)


def test_safetensors_are_preferred_to_a_bin(tmp_path: Path) -> None:
    in_one(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"not looked at")
    assert hf.tensors(tmp_path).keys() == STATE.keys()


def cut_short(folder: Path) -> None:
    in_one(folder)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-4])


def garbled_bin(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"garbage")


def another_object(folder: Path) -> None:
    torch.save({"weight": 3}, folder / "pytorch_model.bin")


def lost_half(folder: Path) -> None:
    in_two(folder)
    (folder / "model-2.safetensors").unlink()


def lost_tensor(folder: Path) -> None:
    in_two(folder)
    save_file({"layer.2.weight": torch.zeros(1)}, folder / "model-2.safetensors")


def outside(folder: Path) -> None:
    write_index(folder / "model.safetensors.index.json", {"weight": "../elsewhere.safetensors"})


def no_map(folder: Path) -> None:
    (folder / "model.safetensors.index.json").write_text("{}", encoding="utf-8")


@pytest.mark.parametrize(
    "spoil, said",
    [
        (lambda folder: None, "has no weights; expected one of model.safetensors"),
        (cut_short, "model.safetensors is damaged"),
        (garbled_bin, "pytorch_model.bin cannot be read as a torch file"),
        (another_object, "pytorch_model.bin is not a list of named tensors"),
        (lost_half, "model-2.safetensors is missing"),
        (lost_tensor, "lists layer.3.weight, which model-2.safetensors does not hold"),
        (outside, "names '../elsewhere.safetensors', which is not a file beside it"),
        (no_map, "model.safetensors.index.json has no weight_map"),
    ],
)
def test_weights_that_cannot_be_read_are_named(spoil: Callable[[Path], None], said: str, tmp_path: Path) -> None:
    spoil(tmp_path)
    with pytest.raises(UserError, match=said):
        hf.tensors(tmp_path)


