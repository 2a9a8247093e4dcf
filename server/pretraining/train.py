"""Pretraining on random-process images: the network learns to tell the numbers that made a scene.

It sees no patient and no photograph, downloads nothing and costs no privacy. Of a network trained so,
the body becomes a study's initial weights; the centre of its features, and the matrix that
whitens them, are those of other scenes. A run that was broken off goes on where it stood: step ``i`` draws its scenes from
(seed, i) alone, and weights and optimizer are kept beside the result every ``_KEEP`` steps.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import DataError
from common.files import write_atomic
from common.models.resnet import INPUT_MEAN, INPUT_SCALE, build_model
from common.models.weights import save_weights
from common.study import NEIGHBOURS, Study, canonical_json
from server.pretraining.scenes import FACTS, draw_scenes

PATCH = 32
"""Pixels a side of the scenes learnt from; the network takes any size, and a patch costs a quarter of 64."""
BATCH = 64
RATE, WARM, DECAY = 2e-3, 200, 0.05
"""AdamW at a rate that rises over the first ``WARM`` steps and stays: features that have settled on the facts serve others worse."""
MEASURED = 1024
"""Scenes from which mean and deviation of the facts are taken."""
SPREAD = 4096
"""Scenes of the study's size from which centre and covariance of the features are taken."""
SHRINK = 0.003
"""Share of the mean variance that is added in every direction: none is blown up because scenes hardly stir it."""
_KEEP = 200
_RULER, _SIZED = 2**63, 2**63 + 1  # draws apart from those of any step

Progress = Callable[[int, int, str], None]


def pretrain(study: Study, out: Path, *, images: int, seed: int, progress: Progress) -> str:
    """Write weights for ``study``'s network and input to ``out`` (safetensors); returns the file's SHA-256.

    Learns from ``images`` scenes, rounded up to batches of ``BATCH``. The same seed gives the same scenes
    everywhere; weights agree to the last bit only on like machines. Raises DataError when ``out`` can't be
    written, StudyError as ``build_model`` does.
    """
    if not out.parent.is_dir():
        raise DataError(f"folder '{out.parent}' does not exist", "Make it, or give --out another path")
    learner, optimizer = _learner(study, seed)
    steps, partial = math.ceil(images / BATCH), out.with_name(f"{out.name}.partial")
    identity = _identity(study, images, seed)
    done, loss = _resume(partial, identity, learner, optimizer), 0.0
    mean, deviation = _ruler(seed)
    for step in range(done + 1, steps + 1):
        inputs, facts = _batch(study, BATCH, PATCH, seed, step)
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, step / WARM)
        optimizer.zero_grad(set_to_none=True)
        error = F.mse_loss(learner(inputs), (facts - mean) / deviation)
        torch.autograd.backward(error)
        optimizer.step()
        loss = float(error.detach()) if step == done + 1 else 0.98 * loss + 0.02 * float(error.detach())
        progress(step * BATCH, steps * BATCH, f"unexplained {loss:.2f}")
        if step % _KEEP == 0 and step < steps:
            _keep(partial, identity, step, learner, optimizer)
    _whiten(learner, study, seed)
    body = nn.ModuleDict({name: part for name, part in learner.named_children() if name != "fc"})
    digest = save_weights(out, body, {"pretrained": "random-process scenes", "images": str(images), "seed": str(seed)})
    partial.unlink(missing_ok=True)
    return digest


def _learner(study: Study, seed: int) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The study's network with a head for the facts, all of it trained."""
    whole = study.model_copy(update={"model": study.model.model_copy(update={"trainable": "all"})})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_model(whole)
        model.fc = nn.Linear(model.get_parameter("avgpool.centre").numel(), len(FACTS))
    trained = [p for p in model.parameters() if p.requires_grad]
    return model.train(), torch.optim.AdamW(trained, lr=RATE, weight_decay=DECAY, fused=True)


def _batch(study: Study, count: int, size: int, seed: int, draw: int) -> tuple[Tensor, Tensor]:
    """Input [count, channels, size, size] and facts of draw number ``draw``: each window sees its own contrast."""
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, draw], dtype=np.uint64)))
    scenes = draw_scenes(count, size, rng)
    windows = study.input.channels // NEIGHBOURS
    gain = torch.from_numpy(rng.uniform(0.75, 1.25, (count, windows, 1, 1, 1)).astype(np.float32))
    seen = (scenes.images.unsqueeze(1) * gain).flatten(1, 2)
    return (seen - INPUT_MEAN) / INPUT_SCALE, scenes.facts


def _ruler(seed: int) -> tuple[Tensor, Tensor]:
    """Mean and deviation of each fact, from scenes that no step sees."""
    rng = np.random.Generator(np.random.Philox(key=np.array([seed, _RULER], dtype=np.uint64)))
    facts = draw_scenes(MEASURED, PATCH, rng).facts
    return facts.mean(0), facts.std(0)


@torch.no_grad()
def _whiten(model: nn.Module, study: Study, seed: int) -> None:
    """Centre and whiten the features so that those of scenes have mean 0 and together mean square 1 at most."""
    model.eval()
    model.fc = nn.Identity()
    draws = (_batch(study, BATCH, study.input.size, seed, _SIZED + number) for number in range(SPREAD // BATCH))
    features = torch.cat([model(inputs) for inputs, _ in draws]).double()
    model.get_parameter("avgpool.centre").copy_(features.mean(0))
    model.get_parameter("avgpool.whiten").copy_(whitening(features))


def whitening(features: Tensor) -> Tensor:
    """The symmetric matrix [c, c] that makes the covariance of ``features`` [n, c] the identity over c.

    The covariance is shrunk towards a multiple of the identity first (``SHRINK``; Ledoit and Wolf 2004), so
    that fewer features than c, or ones that never vary, do no harm.
    """
    variance, directions = torch.linalg.eigh(features.T.cov())
    scale = (variance.clamp_min(0) + SHRINK * variance.mean()).rsqrt() / math.sqrt(len(variance))
    matrix: Tensor = (directions * scale) @ directions.T
    return matrix


def _identity(study: Study, images: int, seed: int) -> str:
    """What a run that goes on must share with the one that was broken off."""
    settings = [study.model.name, study.input.channels, study.input.size, images, seed, PATCH, BATCH, RATE, WARM, DECAY]
    return hashlib.sha256(canonical_json(settings).encode()).hexdigest()


def _keep(path: Path, identity: str, step: int, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in moments.items()}
    write_atomic(path, safetensors.torch.save(tensors, {"identity": identity, "step": str(step)}))


def _resume(path: Path, identity: str, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Load what ``_keep`` left and return its step; 0 where there is nothing that fits."""
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("identity") != identity:
                return 0
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (OSError, safetensors.SafetensorError):
        return 0
    model.load_state_dict({k.removeprefix("model."): v for k, v in tensors.items() if k.startswith("model.")})
    state = optimizer.state_dict()
    for name, value in tensors.items():
        kind, index, *rest = name.split(".")
        if kind == "optimizer":
            state["state"].setdefault(int(index), {})[rest[0]] = value
    optimizer.load_state_dict(state)
    return int(metadata["step"])
