"""Distillation: a small model learns, besides the data, what a larger one of the same tokenizer predicts.

At each position the student sees not only which token came next, but how likely the teacher holds every other one
(Hinton et al. 2015). The teacher reads the same batch, without gradients and in the run's compute dtype, right before
the student does, so nothing is stored and a resumed run sees the same predictions. The formula is in
`loss.distilled_rows`.
"""

import hashlib
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat.checkpoint import door, manager
from nanochat.checkpoint.manager import LoadAs, Loaded
from nanochat.errors import UserError
from nanochat.gpt import GPT
from nanochat.loss import Soft
from nanochat.runtime import Runtime
from nanochat.tokenizer import Tokenizer
from nanochat.train.flags import TeacherFlags


@dataclass
class Teacher:
    """record: its name and the sha256 of its weights, which a resumed run must find again."""

    model: GPT
    record: dict
    weight: float
    temperature: float

    @torch.no_grad()
    def predict(self, ids: Tensor, student: GPT) -> Soft:
        """What it predicts after each of ids (B, T), the documents of a row apart where the student sees them so."""
        self.model.document_bos = student.document_bos
        x, matrix = self.model.factors(self.model.hidden(ids).flatten(0, 1))
        if missing := student.config.padded_vocab - matrix.size(0):  # rows of padding; negative where it has more
            matrix = F.pad(matrix, (0, 0, 0, missing))
        return Soft(x, matrix.to(x.dtype), self.model.config.softcap, self.temperature, self.weight)


def load(flags: TeacherFlags, tokenizer: Tokenizer, length: int, rt: Runtime) -> Teacher | None:
    """The model that --teacher names, for rows of `length` tokens; None without one.

    Raises UserError for another tokenizer, and a context that is too short.
    """
    if flags.teacher is None:
        return None
    found = door.find(flags.teacher)
    loaded = found.load(LoadAs("cpu", rt.dtype))  # as stored, so that its content has one hash on every device
    if loaded.tokenizer.hash != tokenizer.hash:
        raise UserError(
            f"--teacher {flags.teacher} has the tokenizer {loaded.tokenizer.hash[:12]} and the model to train "
            f"{tokenizer.hash[:12]}; name a checkpoint that was trained with the same tokenizer"
        )
    if length > (context := loaded.model.config.sequence_len):
        raise UserError(
            f"--teacher {flags.teacher} has a context of {context} tokens, but rows have {length}; "
            f"train with --max_seq_len={context}, or name a teacher with a longer context"
        )
    record = manager.record_of(found.meta, loaded.source, loaded.tag, loaded.step)
    if record["sha256"] is None:  # a checkpoint of another program
        record["sha256"] = _content(loaded)
    rt.print(f"teacher: {flags.teacher}, {loaded}")
    model = loaded.model.to(rt.device, rt.dtype).requires_grad_(False).eval()
    return Teacher(model, record, flags.teacher_weight, flags.teacher_temperature)


def _content(loaded: Loaded) -> str:
    """The sha256 of a model's weights as float32, in hex."""
    digest = hashlib.sha256()
    for name, tensor in loaded.model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.float().numpy().tobytes())
    return digest.hexdigest()
