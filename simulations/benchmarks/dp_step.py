"""Time and memory of one private step, over a plain step and over Opacus.

Every method has a process of its own, started afresh, so that its peak memory is its own. All hold the
same network and the same batch, and take their steps in turn: what else the machine does meets them all.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
import torch.nn.functional as F
from opacus import GradSampleModule
from opacus.grad_sample import GradSampleModuleFastGradientClipping
from opacus.optimizers import DPOptimizer, DPOptimizerFastGradientClipping
from opacus.utils.fast_gradient_clipping_utils import DPLossFastGradientClipping
from torch import Tensor, nn

from client.training.dp_step import PrivateStepper
from client.training.ghost import CLIP_SLACK, GhostGradients
from client.training.randomness import Keystream, add_noise
from common.flower_env import TRAINING
from common.models.resnet import build_model
from common.privacy.plan import PrivacyPlan
from common.study import parse_study

SIGMA, CLIP, RATE, WARM_UP = 1.0, 1.0, 1e-6, 2

Step = Callable[[], None]
Problem = tuple[nn.Module, Tensor, Tensor]


def measure(arch: str, size: int, batch: int, repeats: int, threads: int, *, opacus: bool = True) -> dict[str, Any]:
    """Median seconds and peak memory of steps on ``batch`` patients, one image of ``size`` pixels each.

    ``ratio_to_*``: our step's median time over that of a plain step and of Opacus's two modes, noise and
    update included. ``peak_memory_ratio``: peak resident memory of our process over that of the plain
    one; ``peak_growth_ratio``: the same above what each held before its first step.
    ``max_relative_error``: the largest distance, over parameters, of our clipped sum from that of Opacus
    ``hooks``, whose gradients of each example are clipped and summed in float64 (its own float32 norms are
    off by some 2e-5), relative to the length that the sum would have were these gradients at right angles:
    where they cancel, the sum is next to nothing. ``noise_seconds``: the part of our step that draws
    noise.

    ``processor_ratio_to_plain``: the same ratio in processor time, of the least step of each. With one thread it holds on a
    machine that other work keeps busy too, where the time on the clock says more of that work than of the step.
    Without ``opacus`` its ratios and the error are left out. All methods have the settings of a process that trains
    (``common.flower_env``), which make each of them faster.
    """
    with ExitStack() as stack, tempfile.TemporaryDirectory() as folder, patch.dict(os.environ, TRAINING):
        methods = [m for m in STEPS if opacus or not m.startswith("opacus")]
        workers = {m: _Worker(stack, m, (arch, size, batch), threads, Path(folder)) for m in methods}
        for _ in range(repeats):
            for worker in workers.values():
                worker.step()
        found = {method: worker.finish() for method, worker in workers.items()}
        error = {"max_relative_error": _largest_error(Path(folder))} if opacus else {}
    seconds = {method: statistics.median(worker.seconds) for method, worker in workers.items()}
    processor = {method: min(worker.processor) for method, worker in workers.items()}
    ours, plain = found["fedct"], found["plain"]
    return {
        "arch": arch,
        "size": size,
        "batch": batch,
        "threads": ours["threads"],
        "seconds": seconds,
        "noise_seconds": ours["noise_seconds"],
        "processor_seconds": processor,
        "processor_ratio_to_plain": processor["fedct"] / processor["plain"],
        "peak_gb": {method: values["peak"] / 1e9 for method, values in found.items()},
        **{f"ratio_to_{method}": seconds["fedct"] / seconds[method] for method in methods if method != "fedct"},
        "peak_memory_ratio": ours["peak"] / plain["peak"],
        "peak_growth_ratio": (ours["peak"] - ours["idle"]) / (plain["peak"] - plain["idle"]),
        **error,
    }


class _Worker:
    """A process that takes steps of one method when asked."""

    def __init__(self, stack: ExitStack, method: str, shape: tuple[str, int, int], threads: int, folder: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.seconds: list[float] = []
        self.processor: list[float] = []
        self._pipe, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, method, shape, threads, folder), daemon=True)
        process.start()
        theirs.close()
        stack.callback(process.join)
        stack.callback(self._pipe.close)
        self._pipe.recv()

    def step(self) -> None:
        self._pipe.send("step")
        clock, processor = self._pipe.recv()
        self.seconds.append(clock)
        self.processor.append(processor)

    def finish(self) -> dict[str, Any]:
        self._pipe.send("finish")
        found: dict[str, Any] = self._pipe.recv()
        return found


def _serve(pipe: Connection, method: str, shape: tuple[str, int, int], threads: int, folder: Path) -> None:
    torch.set_num_threads(threads)
    warnings.filterwarnings("ignore", message="Full backward hook is firing", category=UserWarning)
    model, inputs, labels = problem(*shape)
    idle = _memory("VmRSS")
    step = STEPS[method](model, inputs, labels)
    for _ in range(WARM_UP):
        step()
    pipe.send("ready")
    while pipe.recv() == "step":
        clock, processor = time.perf_counter(), time.process_time()
        step()
        pipe.send((time.perf_counter() - clock, time.process_time() - processor))
    found: dict[str, float] = {"peak": _memory("VmHWM"), "idle": idle, "threads": torch.get_num_threads()}
    if method in SUMS:
        np.savez(folder / method, *[total.numpy() for total in SUMS[method](*problem(*shape))])
    if method == "fedct":
        found["noise_seconds"] = _noise_seconds(model)
    pipe.send(found)


def problem(arch: str, size: int, batch: int) -> Problem:
    """The network and the batch that all methods share."""
    study = parse_study(
        {
            "format": 1,
            "name": "dp-step",
            "task": {"classes": ["a", "b"]},
            "input": {"windows": [{"low": -200, "high": 800}], "spacing_mm": 2.0, "size": size},
            "model": {"name": arch},
            "training": {"learning_rate": RATE, "local_steps": 1, "batch_patients": batch},
            "privacy": {"unit": "off"},
            "federation": {"rounds": 1},
        }
    )
    torch.manual_seed(0)
    inputs = torch.randn(batch, study.input.channels, size, size)
    return build_model(study).train(), inputs, torch.arange(batch) % 2


def _plain(model: nn.Module, inputs: Tensor, labels: Tensor) -> Step:
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(F.cross_entropy(model(inputs), labels))
        optimizer.step()

    return step


def _fedct(model: nn.Module, inputs: Tensor, labels: Tensor) -> Step:
    plan = PrivacyPlan(
        sigma=SIGMA,
        sampling_rate=1.0,
        clip=CLIP,
        steps_per_round=1,
        rounds=1,
        denominator=len(inputs),
        epsilon=8.0,
        delta=1e-3,
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    stepper = PrivateStepper(model, optimizer, plan, 1, lambda some: (inputs[: len(some)], labels[: len(some)]))
    everyone = list(np.arange(len(inputs))[:, None])
    return lambda: stepper.step(everyone)


def _opacus_hooks(model: nn.Module, inputs: Tensor, labels: Tensor) -> Step:
    module = GradSampleModule(model, loss_reduction="sum")
    optimizer = _opacus_optimizer(DPOptimizer, model, len(inputs))

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(F.cross_entropy(module(inputs), labels, reduction="sum"))
        optimizer.step()

    return step


def _opacus_ghost(model: nn.Module, inputs: Tensor, labels: Tensor) -> Step:
    module = GradSampleModuleFastGradientClipping(model, max_grad_norm=CLIP, use_ghost_clipping=True)
    optimizer = _opacus_optimizer(DPOptimizerFastGradientClipping, model, len(inputs))
    criterion = DPLossFastGradientClipping(module, optimizer, nn.CrossEntropyLoss())

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        criterion(module(inputs), labels).backward()
        optimizer.step()

    return step


def _opacus_optimizer(kind: Any, model: nn.Module, batch: int) -> Any:
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    return kind(optimizer, noise_multiplier=SIGMA, max_grad_norm=CLIP, expected_batch_size=batch)


def ghost_sums(model: nn.Module, inputs: Tensor, labels: Tensor) -> list[Tensor]:
    """The sum of clipped gradients of each parameter, by our step."""
    GhostGradients(model).clipped_sum(
        inputs, labels, 1, CLIP, lambda logits, wanted: F.cross_entropy(logits, wanted, reduction="sum")
    )
    return [p.grad for p in model.parameters() if p.grad is not None]


def hooks_sums(model: nn.Module, inputs: Tensor, labels: Tensor) -> list[Tensor]:
    """The same of Opacus ``hooks``, clipped and summed in float64; then the scale of each sum."""
    module = GradSampleModule(model, loss_reduction="sum")
    torch.autograd.backward(F.cross_entropy(module(inputs), labels, reduction="sum"))
    trained = [p for p in model.parameters() if p.requires_grad]
    own = [vars(p)["grad_sample"].flatten(1) for p in trained]
    squares = [torch.linalg.vector_norm(g, dim=1, dtype=torch.float64).square() for g in own]
    factors = (CLIP / (torch.stack(squares).sum(0).sqrt() + CLIP_SLACK)).clamp(max=1.0)
    scales = [(factors.square() @ square).sqrt() for square in squares]
    return [(factors @ g.double()).view_as(p) for g, p in zip(own, trained, strict=True)] + scales


STEPS: dict[str, Callable[[nn.Module, Tensor, Tensor], Step]] = {
    "plain": _plain,
    "fedct": _fedct,
    "opacus_hooks": _opacus_hooks,
    "opacus_ghost": _opacus_ghost,
}
SUMS = {"fedct": ghost_sums, "opacus_hooks": hooks_sums}


def _largest_error(folder: Path) -> float:
    with np.load(folder / "fedct.npz") as ours, np.load(folder / "opacus_hooks.npz") as theirs:
        sums, both = list(ours.values()), list(theirs.values())
        triples = zip(sums, both[: len(sums)], both[len(sums) :], strict=True)
        return max(float(np.linalg.norm(one - other) / scale) for one, other, scale in triples)


def _noise_seconds(model: nn.Module) -> float:
    stream, seconds = Keystream.secret(), []
    totals = [p.detach() for p in model.parameters() if p.requires_grad]
    for _ in range(3):
        started = time.perf_counter()
        add_noise(totals, SIGMA * CLIP, stream)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _memory(field: str) -> int:
    """Bytes of this process: VmRSS now, VmHWM at its peak."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise OSError(f"/proc/self/status has no {field}")
