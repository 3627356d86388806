"""What a GPU must compute: plain functions of a device, which `test_gpu` runs under pytest and `dev.gpu_check` without.

Each raises AssertionError where the device is wrong, and NotHere where it cannot be checked on this machine. They need
torch and numpy only. On a CPU they check the same functions against the same references, in float32.
"""

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from nanochat import fp8, scaling
from nanochat.attention import PAGE, attend, attend_paged, documents_in
from nanochat.data.batch import Batch
from nanochat.engine.engine import Engine
from nanochat.engine.request import Request
from nanochat.errors import UserError
from nanochat.gpt import GPT, GPTConfig
from nanochat.optim import Optimizer, Rates, parameter_groups

WINDOWS = (0, 1, 37, 64, 190)


class NotHere(Exception):
    """Why something cannot be checked or measured on this machine."""


def dtype_on(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def tolerance(device: torch.device) -> float:
    """By how much of their norm numbers may be off. In bfloat16 on a CPU these checks are off by half of it at most."""
    return 2e-2 if device.type == "cuda" else 1e-4


def assert_near(found: Tensor, expected: Tensor, most: float, what: str) -> None:
    found, expected = found.detach().double().cpu(), expected.detach().double().cpu()
    off = float((found - expected).norm() / expected.norm().clamp_min(1e-12))
    assert off <= most, f"{what}: off by {off:.2e} of its norm; at most {most:.0e} is expected"


def small_model(seed: int = 0, **changes: object) -> GPT:
    """Two layers with a window, in float32 on the CPU, in which no matrix is zero."""
    torch.manual_seed(seed)
    config = replace(scaling.config_from_depth(2, 300, 256), short_window=48, **changes)  # type: ignore[arg-type]
    model = GPT(config)
    for parameter in model.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.03)
    return model


def on(model: GPT, device: torch.device, dtype: torch.dtype | None = None) -> GPT:
    """A copy on the device, which computes in the device's dtype or in the given one; the weights stay float32."""
    with torch.device("meta"):
        copied = GPT(model.config, dtype or dtype_on(device))
    weights = {name: weight.to(device, copy=True) for name, weight in model.state_dict().items()}
    copied.load_state_dict(weights, assign=True)
    return copied


def some_batch(config: GPTConfig, device: torch.device, rows: int = 4, length: int = 256) -> Batch:
    ids = torch.randint(0, config.vocab_size, (rows, length + 1), generator=torch.Generator().manual_seed(1))
    inputs, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    return Batch(inputs, targets, torch.ones(inputs.shape), 0.0, {}).to(device)


def loss_of(model: GPT, batch: Batch) -> Tensor:
    return model.loss(model.hidden(batch.inputs), batch.targets, batch.weights, batch.trained)


def optimizer_of(model: GPT) -> Optimizer:
    return Optimizer(*parameter_groups(model, 0.3, 0.008, 0.02, 0.5, 0.28))


def copied(saved: dict) -> dict:
    """An optimizer's state that the next step does not change."""
    state = {name: {key: buffer.clone() for key, buffer in own.items()} for name, own in saved["state"].items()}
    return {**saved, "state": state}


# ---------------------------------------------------------------- attention


def exact_attention(q: Tensor, k: Tensor, v: Tensor, window: int) -> Tensor:
    """Written out, in float64 on the CPU. (B, T, H, d) and (B, T, K, d) -> (B, T, H, d)."""
    q, k, v = (x.double().cpu().transpose(1, 2) for x in (q, k, v))
    k, v = (x.repeat_interleave(q.size(1) // x.size(1), dim=1) for x in (k, v))
    distance = torch.arange(q.size(2))[:, None] - torch.arange(q.size(2))
    sees = (distance >= 0) & (distance <= window) if window else distance >= 0
    scores = (q @ k.mT / q.size(-1) ** 0.5).masked_fill(~sees, -torch.inf)
    return (scores.softmax(dim=-1) @ v).transpose(1, 2)


def heads(device: torch.device, T: int, H: int, K: int, B: int = 2, d: int = 64) -> list[Tensor]:
    torch.manual_seed(T + H + K)
    drawn = [torch.randn(B, T, n, d) for n in (H, K, K)]
    return [x.to(device, dtype_on(device)).requires_grad_() for x in drawn]


def attention_and_its_gradient(device: torch.device) -> None:
    """With and without windows, grouped heads and odd lengths, against attention written out in float64."""
    for T, H, K in ((192, 4, 4), (191, 4, 2)):
        for window in WINDOWS:
            inputs = heads(device, T, H, K)
            exact = [x.detach().double().cpu().requires_grad_() for x in inputs]
            above = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(2))
            y, expected = attend(*inputs, window), exact_attention(*exact, window)
            y.backward(above.to(y))
            expected.backward(above.to(y.dtype).double())
            what = f"attention, T={T} H={H} K={K} window={window}"
            assert_near(y, expected, tolerance(device), what)
            for name, mine, theirs in zip("qkv", inputs, exact, strict=True):
                assert mine.grad is not None and theirs.grad is not None
                assert_near(mine.grad, theirs.grad, tolerance(device), f"{what}, gradient of {name}")


def attention_to_pages(device: torch.device) -> None:
    """Attention to pages in any order is attention to whole rows, for pieces of prompts and for single tokens."""
    T, H, K, d = 2 * PAGE - 40, 4, 2, 64
    q, k, v = (x.detach() for x in heads(device, T, H, K, d=d))
    pages = torch.zeros(2, 6, PAGE, K, d, device=device, dtype=q.dtype)
    places = ((4, 1), (0, 3))
    table = torch.tensor(places, device=device, dtype=torch.int32)
    lengths = [T, T - 133]
    for row, n in enumerate(lengths):
        for page, start in zip(places[row], range(0, n, PAGE), strict=True):
            stop = min(n, start + PAGE)
            pages[0, page, : stop - start], pages[1, page, : stop - start] = k[row, start:stop], v[row, start:stop]
    for counts in ((1, 1), (70, 3)):
        new = torch.cat([q[row, n - count : n] for row, (n, count) in enumerate(zip(lengths, counts, strict=True))])
        first = torch.tensor([0, counts[0], sum(counts)], device=device, dtype=torch.int32)
        seen = torch.tensor(lengths, device=device, dtype=torch.int32)
        for window in (0, 100):
            y = attend_paged(new, first, max(counts), pages[0], pages[1], table, seen, window)
            done = 0
            for row, (n, count) in enumerate(zip(lengths, counts, strict=True)):
                expected = exact_attention(q[row : row + 1, :n], k[row : row + 1, :n], v[row : row + 1, :n], window)
                what = f"attention to pages, row {row}, {count} queries, window={window}"
                assert_near(y[done : done + count], expected[0, n - count :], tolerance(device), what)
                done += count


def documents_apart(device: torch.device) -> None:
    """Documents that are packed into rows, empty ones at their ends, against attention within each by itself."""
    T, separator = 192, 7
    begins = ((0, 100, 101, 150), (0, 192 - 5))
    ids = torch.zeros(2, T, dtype=torch.int64)
    for row, places in enumerate(begins):
        ids[row, list(places)] = separator
    documents = documents_in(ids.to(device), separator)
    for window in (0, 50):
        inputs = heads(device, T, 4, 2)
        exact = [x.detach().double().cpu().requires_grad_() for x in inputs]
        above = torch.randn(inputs[0].shape, generator=torch.Generator().manual_seed(6))
        y = attend(*inputs, window, 0.0, documents)
        y.backward(above.to(y))
        expected = torch.cat([
            torch.cat([exact_attention(*(x[row : row + 1, first:end] for x in exact), window)
                       for first, end in zip(places, [*places[1:], T], strict=True)], dim=1)
            for row, places in enumerate(begins)
        ])  # fmt: skip
        expected.backward(above.to(y.dtype).double())
        assert_near(y, expected, tolerance(device), f"attention within documents, window={window}")
        for name, mine, theirs in zip("qkv", inputs, exact, strict=True):
            assert mine.grad is not None and theirs.grad is not None
            assert_near(mine.grad, theirs.grad, tolerance(device), f"within documents, window={window}, of {name}")


# ---------------------------------------------------------------- a training step


def the_loss_in_chunks(device: torch.device) -> None:
    """The fused loss and its gradients, against all logits at once."""
    model = on(small_model(), device)
    batch = some_batch(model.config, device)
    loss_of(model, batch).backward()
    fused = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    logits = model(batch.inputs)
    assert logits.dtype == torch.float32
    loss = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="sum")
    loss.backward()
    with torch.no_grad():
        assert_near(loss_of(model, batch), loss, tolerance(device) / 10, "the loss")
    for name, parameter in model.named_parameters():
        if parameter.ndim == 2:
            assert parameter.grad is not None
            assert_near(fused[name], parameter.grad, tolerance(device), f"gradient of {name}")


def gradients_as_on_the_cpu(device: torch.device) -> None:
    """Loss and gradients beside those that the CPU computes in float32."""
    model = small_model()
    there = on(model, device)
    losses = []
    for one in (model, there):
        loss = loss_of(one, some_batch(one.config, one.device)) / 1024
        loss.backward()
        losses.append(loss)
    assert_near(losses[1], losses[0], tolerance(device) / 10, "the loss")
    for (name, here), far in zip(model.named_parameters(), there.parameters(), strict=True):
        assert here.grad is not None and far.grad is not None, name
        if here.ndim == 2 and here.size(0) > 16:  # gates and scalars have sums of few bits
            assert_near(far.grad, here.grad, 2 * tolerance(device), f"gradient of {name}")


def optimizer_as_on_the_cpu(device: torch.device) -> None:
    """The weights after two steps with the same gradients, beside those that the CPU computes in float32."""
    model = small_model()
    there = on(model, device, torch.float32)
    draw = torch.Generator().manual_seed(5)
    gradients = [[torch.randn(p.shape, generator=draw) for p in model.parameters()] for _ in range(2)]
    for one in (model, there):
        optimizer = optimizer_of(one)
        for number in range(2):
            step_with(one, optimizer, gradients[number])
    for (name, here), far in zip(model.named_parameters(), there.parameters(), strict=True):
        by_muon = name.startswith("transformer.h.") and device.type == "cuda"  # whose products are bfloat16 there
        assert_near(far, here, 2e-2 if by_muon else 1e-5, f"{name} after two steps")


def step_with(model: GPT, optimizer: Optimizer, gradients: list[Tensor]) -> None:
    optimizer.zero_grad()
    for parameter, gradient in zip(model.parameters(), gradients, strict=True):
        parameter.grad = gradient.to(parameter.device, copy=True)
    optimizer.reduce()
    optimizer.step(Rates())
    optimizer.wait()


def a_bad_step_changes_nothing(device: torch.device) -> None:
    """A step whose gradient is not finite is skipped on the device: weights and state stay as they are."""
    model = on(small_model(), device)
    optimizer = optimizer_of(model)
    batch = some_batch(model.config, device)
    skipped = torch.zeros((), dtype=torch.bool, device=device)
    for skip in (False, True):
        optimizer.zero_grad()
        with optimizer.reducing():
            (loss_of(model, batch) * (torch.inf if skip else 1.0)).backward()
        norm = optimizer.reduce()
        skipped = ~norm.isfinite()
        before = [parameter.detach().clone() for parameter in model.parameters()]
        state = copied(optimizer.state_dict())
        optimizer.step(Rates(), None, skipped)
        optimizer.wait()
        same = [torch.equal(now, then) for now, then in zip(model.parameters(), before, strict=True)]
        assert all(same) if skip else not any(same), f"skipped: {skip}, parameters that stayed: {sum(same)}"
    assert bool(skipped)
    after = optimizer.state_dict()
    assert int(after["steps"]) == int(state["steps"]) == 1
    for name, buffers in after["state"].items():
        for key, buffer in buffers.items():
            assert torch.equal(buffer, state["state"][name][key]), f"{key} of {name} changed in a step that was skipped"


def an_optimizer_resumes(device: torch.device) -> None:
    """The state saved and loaded continues as if nothing had happened."""
    model = on(small_model(), device)
    optimizer = optimizer_of(model)
    draw = torch.Generator().manual_seed(3)
    first, second = ([torch.randn(p.shape, generator=draw) for p in model.parameters()] for _ in range(2))
    step_with(model, optimizer, first)
    other = on(model, device)
    loaded = optimizer_of(other)
    loaded.load_state_dict(copied(optimizer.state_dict()))
    step_with(model, optimizer, second)
    step_with(other, loaded, second)
    for (name, here), there in zip(model.named_parameters(), other.parameters(), strict=True):
        assert_near(there, here, 1e-6, f"{name} after resuming")


def compiled_as_eager(device: torch.device) -> None:
    """The compiled trunk gives the loss and the gradients of the eager one."""
    if device.type == "cpu":
        raise NotHere("compiled kernels are checked on a GPU; on a CPU the tests of training compile")
    eager = on(small_model(), device)
    compiled, batch = on(eager, device), some_batch(eager.config, device)
    hidden = torch.compile(compiled.hidden, dynamic=False)
    loss_of(eager, batch).backward()
    compiled.loss(hidden(batch.inputs), batch.targets, batch.weights).backward()
    for (name, here), there in zip(eager.named_parameters(), compiled.parameters(), strict=True):
        if here.ndim == 2 and here.grad is not None and there.grad is not None:
            assert_near(there.grad, here.grad, tolerance(device), f"compiled gradient of {name}")


def a_step_waits_for_nothing(device: torch.device) -> None:
    """No operation of a step makes the host wait for the GPU."""
    if device.type != "cuda":
        raise NotHere("only a GPU computes while the program continues")
    model = on(small_model(), device)
    optimizer, batch = optimizer_of(model), some_batch(model.config, device)
    for number in range(3):
        torch.cuda.set_sync_debug_mode("error" if number else "default")  # the first step makes buffers and kernels
        try:
            loss = loss_of(model, batch)
            with optimizer.reducing():
                loss.backward()
            norm = optimizer.reduce()
            optimizer.step(Rates(), 1 / norm.clamp_min(1), ~norm.isfinite())
            optimizer.zero_grad()
        finally:
            torch.cuda.set_sync_debug_mode("default")


def float8_products(device: torch.device) -> None:
    """A model converted to float8 has nearly the loss and the gradients of the one in 16 bits."""
    plain = on(small_model(), device)
    converted, batch = on(plain, device), some_batch(plain.config, device)
    try:
        fp8.convert(converted, device, emulate=device.type == "cpu")
    except UserError as error:
        raise NotHere(str(error)) from None
    losses = []
    for model in (plain, converted):
        loss = loss_of(model, batch)
        loss.backward()
        losses.append(loss)
    assert_near(losses[1], losses[0], 1e-2, "the loss in float8")
    for (name, here), there in zip(plain.named_parameters(), converted.named_parameters(), strict=True):
        if ".h." in name and "gate" not in name:
            assert here.grad is not None and there[1].grad is not None
            assert_near(there[1].grad, here.grad, 0.25, f"float8 gradient of {name}")


# ---------------------------------------------------------------- generating


def prompts_for(config: GPTConfig) -> list[list[int]]:
    draw = torch.Generator().manual_seed(4)
    return [torch.randint(0, config.vocab_size, (n,), generator=draw).tolist() for n in (3, 70, 130, 31)]


def replies_follow_the_model(device: torch.device) -> None:
    """Greedy tokens of the Engine are the likeliest of the model that reads everything anew, or tie with it."""
    model = on(small_model(), device)
    requests = [Request(prompt, max_tokens=12, temperature=0.0) for prompt in prompts_for(model.config)]
    for request, reply in zip(requests, Engine(model, slots=4, paged=True).generate(requests), strict=True):
        ids = torch.tensor([request.prompt + reply.tokens], device=device)
        with torch.no_grad():
            logits = model(ids[:, :-1])[0, len(request.prompt) - 1 :]
        behind = logits.max(dim=-1).values - logits.gather(1, ids[0, len(request.prompt) :, None])[:, 0]
        assert behind.max() <= 10 * tolerance(device), f"a token is {float(behind.max()):.3f} behind the likeliest"
        assert len(reply.tokens) == 12


def replies_do_not_depend_on_the_batch(device: torch.device) -> None:
    """With one size of pass, a request alone and among others gets the same sampled tokens."""
    model = on(small_model(), device)
    requests = [Request(p, max_tokens=12, temperature=1.0, seed=i) for i, p in enumerate(prompts_for(model.config))]
    together = Engine(model, slots=4, paged=True, buckets=[4]).generate(requests)
    for request, reply in zip(requests, together, strict=True):
        alone = Engine(model, slots=4, paged=True, buckets=[4]).generate([request])[0]
        assert alone.tokens == reply.tokens, f"prompt of {len(request.prompt)} tokens"


CHECKS: tuple[Callable[[torch.device], None], ...] = (
    attention_and_its_gradient, attention_to_pages, documents_apart, the_loss_in_chunks, gradients_as_on_the_cpu,
    optimizer_as_on_the_cpu, a_bad_step_changes_nothing, an_optimizer_resumes, compiled_as_eager,
    a_step_waits_for_nothing, float8_products, replies_follow_the_model, replies_do_not_depend_on_the_batch,
)  # fmt: skip
