"""Training one network: a loop that can be stopped, resumed and spread over processes, and its optimizer."""

from __future__ import annotations

import copy
import os
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.multiprocessing.spawn import spawn
from torch.utils.data import DataLoader, Dataset

Draw = Callable[[np.random.Generator], Any]
"""What a step learns from: a named tuple of tensors in host memory, or None, of which there may be any."""
Loss = Callable[[Any], Tensor]
"""Of what was drawn, brought to the device; a stage that draws as it goes is given the generator itself."""

WARM_UP = 100  # steps
EMA_SHARE = 0.002  # of the newest weights in their running average; more at first, when they change fast
SAVE_EVERY = 60.0  # seconds
WARM_CALLS = 3  # before a recording, which must not be the first to need something


@dataclass(frozen=True)
class Run:
    """How long to train, where, and with whom."""

    work: Path
    minutes: float | None = None
    steps: int | None = None
    cooldown: bool = False
    """Let the learning rate fall to zero during this run; the result is kept apart, training may go on."""
    device: str = "cpu"
    seed: int = 0
    batch: int | None = None
    """Samples a step in each process; None is the stage's own size."""
    rate: float | None = None
    """Learning rate; None is the stage's own."""
    crop: int = 64
    """Pixels of the side of what the VAE learns from."""
    rank: int = 0
    processes: int = 1

    def path(self, name: str) -> Path:
        return self.work / f"{name}.pt"


def in_half(device: str) -> bool:
    """Whether bfloat16 is quicker there; a CPU without instructions for it takes ten times as long."""
    return device != "cpu" or torch.backends.cpu.get_cpu_capability() not in ("DEFAULT", "NO AVX", "AVX2")


def autocast(device: str) -> torch.autocast:
    """bfloat16 where it is quicker."""
    return torch.autocast(device, torch.bfloat16, enabled=in_half(device))


class Muon(torch.optim.Optimizer):
    """Momentum, with every matrix of updates made orthogonal (Jordan et al., 2024) by Newton-Schulz
    iteration.

    Convolutions count as matrices of (out, everything else). The update is scaled to the size of AdamW's, so
    that both take the same learning rates. Matrices of the same shape are handled together, which is what
    costs little.
    """

    def __init__(self, params: Iterable[nn.Parameter], lr: float, momentum: float = 0.95) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            shapes = defaultdict(list)
            for param in group["params"]:
                if param.grad is not None:
                    shapes[param.flatten(1).shape].append(param)
            for shape, params in shapes.items():
                averages = [self.state[p].setdefault("average", torch.zeros_like(p)) for p in params]
                grads = [param.grad for param in params]
                torch._foreach_lerp_(averages, grads, 1 - group["momentum"])
                ahead = torch._foreach_lerp(grads, averages, group["momentum"])
                updates = orthogonalize(torch.stack([each.flatten(1) for each in ahead]))
                changes = [each.view_as(param) for each, param in zip(updates, params, strict=True)]
                torch._foreach_add_(params, changes, alpha=-0.2 * max(shape) ** 0.5 * group["lr"])


def orthogonalize(matrices: Tensor) -> Tensor:
    """Bring all singular values of (count, rows, columns) matrices near 1.

    Wide matrices, as those of convolutions: the iteration x <- p(x x') x runs on the small square x x' alone,
    which commutes with all that is made of it, and the factors are collected; that needs float32.
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices
    x = x / (x.flatten(1).norm(dim=1)[:, None, None] + 1e-7)
    if 2 * x.shape[1] <= x.shape[2]:
        square = x @ x.mT
        identity = torch.eye(square.shape[1], dtype=x.dtype, device=x.device)
        product = identity
        for _ in range(5):
            factor = torch.baddbmm(square, square, square, beta=-4.7750, alpha=2.0315) + 3.4445 * identity
            product = factor @ product
            square = factor @ square @ factor
        x = product @ x
    else:
        x = x.bfloat16() if in_half(x.device.type) else x
        for _ in range(5):
            square = x @ x.mT
            factor = torch.baddbmm(square, square, square, beta=-4.7750, alpha=2.0315)
            x = torch.baddbmm(x, factor, x, beta=3.4445)
        x = x.to(matrices.dtype)
    return x.mT if tall else x


def optimizers(network: nn.Module, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside a network, AdamW for embeddings, biases, norms, first and last layers."""
    tables = {id(module.weight) for module in network.modules() if isinstance(module, nn.Embedding)}
    trained = [param for param in network.parameters() if param.requires_grad]
    inner = [p for p in trained if p.ndim >= 2 and min(p.shape[:2]) >= 16 and id(p) not in tables]
    chosen = {id(param) for param in inner}
    outer = [param for param in trained if id(param) not in chosen]
    adam = torch.optim.AdamW(outer, rate, betas=(0.9, 0.99), weight_decay=0.0)
    return [Muon(inner, rate), adam] if inner else [adam]  # a LoRA's matrices are all too narrow


def fit(
    name: str, network: nn.Module, loss: Loss, run: Run, *, rate: float, draw: Draw | None = None
) -> None:
    """Train `network` by `loss(draw(rng))` and keep it in `work/NAME.pt`, from where the next run goes on.

    A step's random draws depend on (seed, process, step) alone, so a resumed run is the run that was not
    stopped. The rate is constant after the warm-up; the running average (EMA) is what is exported. A cooled
    run starts from NAME.pt and goes to NAME.cooled.pt.

    With ``draw``, on CUDA, other processes draw ahead, and the passes of each form of batch are recorded
    once: launching them one by one takes longer than what they do.
    """
    rate = run.rate or rate
    network.to(run.device).train()
    ema = copy.deepcopy(network)
    averaged: list[Tensor] = list(ema.parameters())
    followed: list[Tensor] = list(network.parameters())
    optims = optimizers(network, rate)
    params = [param for param in network.parameters() if param.requires_grad]
    first, seconds, began = 0, 0.0, 0
    if run.path(name).exists():
        state = torch.load(run.path(name), map_location=run.device, weights_only=True)
        network.load_state_dict(state["network"])
        ema.load_state_dict(state["ema"])
        first, seconds = state["step"], state["seconds"]
        if state["optimizers"]:
            for optim, saved in zip(optims, state["optimizers"], strict=True):
                optim.load_state_dict(saved)
        else:  # weights that were restored: the optimizers begin anew
            began = first
    elif run.cooldown:
        raise SystemExit(f"{run.path(name)} is missing: train before cooling down")
    if run.cooldown and not (run.minutes or run.steps):
        raise SystemExit("--cooldown needs --minutes or --steps: the learning rate falls to zero over these")
    passes = _Recorded(loss, params) if draw and run.device == "cuda" else partial(_passes, loss)
    batches = _drawn(draw, run, first)
    if draw and run.device not in ("cpu", "cuda"):  # recorded passes bring them over themselves
        batches = (_brought(batch, run.device) for batch in batches)
    started = saved_at = shown_at = time.monotonic()
    step, shown = first, torch.zeros(())
    progress = 0.0  # 0..1, the same in all processes
    with _Stop() as stop:
        while progress < 1:
            fall = 1 - progress if run.cooldown else 1.0
            for optim in optims:
                optim.param_groups[0]["lr"] = rate * fall * min(1.0, (step + 1 - began) / WARM_UP)
            batch = next(batches)
            for optim in optims:
                optim.zero_grad()
            value = passes(batch)
            step += 1
            elapsed = time.monotonic() - started
            limits = [
                elapsed / 60 / run.minutes if run.minutes else 0.0,
                (step - first) / run.steps if run.steps else 0.0,
            ]
            reached = _share(params, min(1.0, max(limits)), run)
            progress = 1.0 if reached >= 1 or _any(stop.asked, run) else reached
            for optim in optims:
                optim.step()
            with torch.no_grad():
                shown = shown.to(value).lerp(value, 0.05 if step > first + 1 else 1.0)
                torch._foreach_lerp_(averaged, followed, max(EMA_SHARE, 10 / (step + 10)))
            now = time.monotonic()
            if run.rank == 0 and (progress >= 1 or now - shown_at > 10 or step == first + 10):
                pace = (step - first) / (now - started)
                print(
                    f"{name} step {step} loss {shown.item():.4f} {pace * 60:.0f} steps/min "
                    f"{(seconds + now - started) / 60:.1f} min",
                    flush=True,
                )
                shown_at = now
            if run.rank == 0 and (progress >= 1 or now - saved_at > SAVE_EVERY):
                saved_at = now
                for average, buffer in zip(ema.buffers(), network.buffers(), strict=True):
                    average.copy_(buffer)  # of batch norms; they are averages already
                if run.cooldown and reached >= 1:
                    ema.load_state_dict(network.state_dict())
                if reached >= 1 or not run.cooldown:  # a cooldown cut short is worth nothing
                    state = {
                        "network": network.state_dict(),
                        "ema": ema.state_dict(),
                        "step": step,
                        "optimizers": [optim.state_dict() for optim in optims],
                        "seconds": seconds + now - started,
                        "batch": run.batch,
                        "processes": run.processes,
                    }
                    save(state, run.path(f"{name}.cooled" if run.cooldown else name))


def _passes(loss: Loss, batch: Any) -> Tensor:
    """The loss of a batch; its gradients are then those of the parameters."""
    value = loss(batch)
    value.backward()  # type: ignore[no-untyped-call]
    return value.detach()


def _brought(batch: Any, device: str) -> Any:
    """A batch on the device."""
    return type(batch)(*(None if part is None else part.to(device) for part in batch))


class _Recorded:
    """The same on CUDA, replayed from a graph that is recorded for each form of batch."""

    def __init__(self, loss: Loss, params: list[nn.Parameter]) -> None:
        self.loss, self.params = loss, params
        self.known: dict[Any, tuple[Any, Any, Tensor, list[Tensor | None]]] = {}
        self.before = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def __call__(self, batch: Any) -> Tensor:
        form = tuple(None if part is None else part.shape for part in batch)
        if form not in self.known:
            self.known[form] = self._record(batch)
        held, graph, value, grads = self.known[form]
        for into, part in zip(held, batch, strict=True):
            if part is not None:
                into.copy_(part, non_blocking=True)
        self.before.synchronize()  # the device is at most a step behind
        self.before.record()
        graph.replay()
        for param, grad in zip(self.params, grads, strict=True):
            param.grad = grad
        return value

    def _record(self, batch: Any) -> tuple[Any, Any, Tensor, list[Tensor | None]]:
        held = _brought(batch, "cuda")
        aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(WARM_CALLS):
                self._forget()
                _passes(self.loss, held)
        torch.cuda.current_stream().wait_stream(aside)
        self._forget()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # others pin memory meanwhile
            value = _passes(self.loss, held)
        return held, graph, value, [param.grad for param in self.params]

    def _forget(self) -> None:
        for param in self.params:
            param.grad = None


class _Draws(Dataset[Any]):
    """What each step draws, by its number."""

    def __init__(self, draw: Draw, run: Run) -> None:
        self.draw, self.run = draw, run

    def __getitem__(self, step: int) -> Any:
        rng = np.random.default_rng((self.run.seed, self.run.rank, step))
        torch.manual_seed(int(rng.integers(2**62)))
        return self.draw(rng)


def _drawn(draw: Draw | None, run: Run, first: int) -> Iterator[Any]:
    """What is drawn for step ``first`` and on; on CUDA, by as many processes as there are other cores."""
    ahead = draw is not None and run.device == "cuda"
    workers = max(1, len(os.sched_getaffinity(0)) - 1) if ahead else 0
    return iter(
        DataLoader(
            _Draws(draw or (lambda rng: rng), run),
            batch_size=None,
            sampler=count(first),
            num_workers=workers,
            multiprocessing_context="fork" if ahead else None,
            pin_memory=ahead,
        )
    )


def _share(params: list[nn.Parameter], progress: float, run: Run) -> float:
    """Average the gradients of all processes; the largest progress counts for all."""
    if run.processes == 1:
        return progress
    has = torch.tensor([float(param.grad is not None) for param in params])
    dist.all_reduce(has, dist.ReduceOp.MAX)  # what one process drew may not use all that another's does
    grads = []
    for param in (param for param, some in zip(params, has.tolist(), strict=True) if some):
        if param.grad is None:
            param.grad = torch.zeros_like(param)
        grads.append(param.grad)
    flat = torch.cat([grad.flatten() for grad in grads]).cpu()
    dist.all_reduce(flat)
    start = 0
    for grad in grads:
        grad.copy_(flat[start : start + grad.numel()].view_as(grad) / run.processes)
        start += grad.numel()
    return _furthest(progress)


def _furthest(progress: float) -> float:
    """The largest number that any process has."""
    furthest = torch.tensor([progress])
    dist.all_reduce(furthest, dist.ReduceOp.MAX)
    return float(furthest)


def _any(asked: bool, run: Run) -> bool:
    """Whether any process was asked to stop."""
    return asked if run.processes == 1 else _furthest(float(asked)) > 0


class _Stop:
    """Within this context SIGTERM and Ctrl-C only ask: training then saves what it has."""

    def __enter__(self) -> _Stop:
        self.asked = False
        self.before = {number: signal.signal(number, self._ask) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _ask(self, number: int, frame: object) -> None:
        self.asked = True


def spread(work: Callable[..., object], args: tuple[Any, ...], processes: int) -> None:
    """Call ``work(rank, *args)`` in so many processes. SIGTERM asks each of them to stop."""
    context: Any = spawn(work, args, processes, join=False)  # type: ignore[no-untyped-call]
    before = signal.signal(signal.SIGTERM, lambda *_: [each.terminate() for each in context.processes])
    try:
        while not context.join():
            pass
    finally:
        signal.signal(signal.SIGTERM, before)


def save(state: object, path: Path) -> None:
    """Write a file that is either the old one or the new one, whatever happens."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def load_weights(network: nn.Module, run: Run, name: str) -> int:
    """Load the averaged (or cooled) weights that have seen most steps; returns these steps."""
    states = [
        torch.load(path, map_location=run.device, weights_only=True)
        for path in (run.path(name), run.path(f"{name}.cooled"))
        if path.exists()
    ]
    if not states:
        sys.exit(f"{run.path(name)} is missing: run the stage '{name}' first")
    best = max(states, key=lambda state: int(state["step"]))
    network.load_state_dict(best["ema"])
    network.to(run.device).eval()
    return int(best["step"])
