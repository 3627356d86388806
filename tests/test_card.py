"""The report card of a run that took place: three trained stages, two of them graded by chat_eval."""

import re
import xml.etree.ElementTree as ElementTree

import stages

from nanochat.report import card
from nanochat.report.sections import folder
from scripts import chat_eval
from tests.test_accuracy import Sums


def test_the_card_of_a_real_run(world, base, monkeypatch, capsys):
    world("sft")  # whose base and mid models are trained
    stages.train("sft", stages.flags("sft", base))
    monkeypatch.setattr(chat_eval, "tasks", lambda names, meta: [Sums(6)])
    for source in ("mid", "sft"):
        chat_eval.main(["-i", source, "--dtype=float32", "--device_type=cpu", "-m=8"])
    text, page = card.build(price=2.0), (folder() / "report.html").read_text(encoding="utf-8")
    assert "**d1 · SFT · " in text and "<h1>d1 · SFT</h1>" in page and "Not graded: base." in page
    bars = re.findall(r'class="filled (\w+)"', page)
    assert bars == ["mid", "SFT", "SFT"]  # one of each stage, and the mean
    assert page.count('class="whisker"') == 2
    whole = ElementTree.fromstring((folder() / "loss.svg").read_text(encoding="utf-8"))
    said = [each.text for each in whole.iter("{http://www.w3.org/2000/svg}text")]
    assert {"base_train", "mid_train", "chat_sft", "minute of training"} <= {*said}
    assert '<article class="talk"><h3>sums<span class="verdict ' in page and "0?</p>" in page
    assert re.search(r'<dt>cost</dt><dd class="value">\$0\.0\d</dd><dd>at \$2\.00 an hour</dd>', page)
