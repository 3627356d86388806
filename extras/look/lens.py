"""The logit lens (nostalgebraist 2020): what each layer would predict if it were the last.

The residual stream after a layer goes through the model's last norm and output layer. In most models predictions form
gradually, and from some layer on stay what they are at the end.
"""

import torch

from extras.look.chapter import Chapter, heat, rounded, shown, visible
from nanochat.api import Model
from nanochat.report.card import table

SHOWN = 60  # tokens in the table


def chapter(model: Model, text: str) -> Chapter:
    """A row per token of the text: each layer's most likely next token with its probability."""
    seen = model.inspect(text, "logit_lens")
    log_probs = [logits.log_softmax(-1) for logits in seen.logit_lens]
    best = [each.max(-1) for each in log_probs]  # by layer: values and ids (T,)
    final = best[-1].indices
    same = torch.stack([each.indices == final for each in best])  # (L, T)
    settled = (len(best) - same.flip(0).int().cumprod(0).sum(0)).tolist()
    names = [visible(model.tokenizer, id) for id in seen.ids]
    head = ["after", *(f"layer {layer}" for layer in range(len(best))), "settled in"]
    rows = [[names[t], *(f"{visible(model.tokenizer, int(each.indices[t]))} {100 * float(each.values[t].exp()):.0f} %"
                         for each in best), settled[t]] for t in range(min(SHOWN, len(names)))]  # fmt: skip
    of_final = [each.gather(-1, final[:, None])[:, 0].exp() for each in log_probs]
    divergence = [(log_probs[-1].exp() * (log_probs[-1] - each)).sum(-1) for each in log_probs]  # (T,) nats
    layers = list(map(str, range(len(best))))
    picture = heat(
        "lens", "probability of the final prediction",
        torch.stack(of_final).T, names, layers, "layer", "after", most=1.0,
    )  # fmt: skip
    mean = sum(settled) / len(settled)
    words = (
        f"Each layer's most likely next token after each of {len(names)} tokens. On average the final prediction is "
        f"first in front, for good, after layer {mean:.1f} of 0 to {len(best) - 1}."
        + (f" The table has the first {SHOWN}." if len(names) > SHOWN else "")
    )
    data = {
        "tokens": seen.tokens, "ids": seen.ids, "settled": settled,
        "top": [[model.tokenizer.decode([int(id)]) for id in each.indices] for each in best],
        "probability": [rounded(each.values.exp()) for each in best],
        "probability_of_final": [rounded(each) for each in of_final],
        "kl_to_final": [rounded(each) for each in divergence],
    }  # fmt: skip
    return Chapter("Logit lens", "\n\n".join([words, table(head, rows), shown([picture])]), [picture], data)
