"""A run's model as ONNX and as TorchScript, each compared with the original before it is kept.

Both take ``input``, float32 [n, channels, size, size], centred as ``common.models.resnet`` says, and give
``logits``, float32 [n, classes]; n is free. A model that pools views takes n patients [views, n, channels, size, size];
both numbers are free. Each carries the digests of the study and of ``model.safetensors``.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from common.errors import RunError, UsageError
from common.files import write_atomic
from common.models.saved import SavedModel, load_saved
from common.study import Study, canonical_json, study_from_json
from server.run_folder import RunFolder

TOLERANCE = 1e-4
"""Largest difference of a logit from the original's, relative to the largest logit (at least 1)."""
_EXAMPLES = 3
ONNX, TORCHSCRIPT = "model.onnx", "model.torchscript.pt"


@dataclass(frozen=True)
class Exported:
    """A file that was written, and its largest difference from the original as ``TOLERANCE`` measures it."""

    name: str
    difference: float


def export_model(folder: RunFolder, *, to_onnx: bool, to_torchscript: bool) -> list[Exported]:
    """Write the formats asked for beside the model. Raises UsageError without a model, RunError if one differs."""
    if not folder.model_file.exists():
        raise UsageError(f"'{folder.root}' holds no model.safetensors", "Give the folder of a run that finished")
    study = study_from_json((folder.inner / "study.json").read_text(encoding="utf-8"))
    model = load_saved(folder.model_file, study)
    if to_onnx and study.model.pooling == "gru":
        raise UsageError(
            "ONNX as torch writes it fixes the number of views of a GRU", "Export with --torchscript alone"
        )
    inputs, others = _inputs(study, _EXAMPLES), _inputs(study, _EXAMPLES + 1)
    with torch.inference_mode():
        expected = model.network(others).numpy()
    formats = [(ONNX, _to_onnx, _run_onnx)] if to_onnx else []
    formats += [(TORCHSCRIPT, _to_torchscript, _run_torchscript)] if to_torchscript else []
    done = []
    for name, make, run in formats:
        content = make(model, inputs)
        difference = _difference(run(content, others), expected)
        if not difference <= TOLERANCE:
            raise RunError(f"{name} gives logits that differ by {difference:.2g}; expected {TOLERANCE:g} at most")
        write_atomic(folder.root / name, content, mode=0o644)
        done.append(Exported(name, difference))
    return done


def _inputs(study: Study, count: int) -> Tensor:
    """Examples with the range of real ones. A model is traced with some and compared on more, as n is free."""
    example = (study.input.channels, study.input.size, study.input.size)
    shape = (count, count - 1, *example) if study.pools else (count, *example)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def _difference(found: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    if found.shape != expected.shape:
        return float("inf")
    return float(np.abs(found - expected).max() / max(1.0, float(np.abs(expected).max())))


def _about(model: SavedModel) -> str:
    return canonical_json({"study": model.study, "model_sha256": model.sha256})


def _to_onnx(model: SavedModel, inputs: Tensor) -> bytes:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it speaks of its own progress
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporter's own use of torch
            program = torch.onnx.export(
                model.network,
                (inputs,),
                dynamo=True,
                verbose=False,
                input_names=["input"],
                output_names=["logits"],
                dynamic_shapes=(_free(inputs),),
            )
    finally:
        logger.setLevel(level)
    if program is None:
        raise RunError("torch gave no ONNX program")
    proto = program.model_proto
    onnx.helper.set_model_props(proto, {"fedct": _about(model)})
    onnx.checker.check_model(proto, full_check=True)
    content: bytes = proto.SerializeToString()
    return content


def _free(inputs: Tensor) -> dict[int, Any]:
    """The sizes that are not fixed."""
    names = ("views", "n") if inputs.dim() == 5 else ("n",)
    return {side: torch.export.Dim(name, min=1) for side, name in enumerate(names)}


def _run_onnx(content: bytes, inputs: Tensor) -> NDArray[np.float32]:
    """By ONNX's own reference implementation."""
    (logits,) = ReferenceEvaluator(onnx.load_from_string(content)).run(None, {"input": inputs.numpy()})
    return np.asarray(logits, dtype=np.float32)


def _to_torchscript(model: SavedModel, inputs: Tensor) -> bytes:
    buffer = io.BytesIO()
    with _old_format():
        traced = torch.jit.trace(model.network, inputs)  # type: ignore[no-untyped-call]
        torch.jit.save(traced, buffer, _extra_files={"fedct.json": _about(model)})
    return buffer.getvalue()


def _run_torchscript(content: bytes, inputs: Tensor) -> NDArray[np.float32]:
    with _old_format():
        loaded = torch.jit.load(io.BytesIO(content))  # type: ignore[no-untyped-call]
    with torch.inference_mode():
        logits: NDArray[np.float32] = loaded(inputs).numpy()
    return logits


@contextlib.contextmanager
def _old_format() -> Iterator[None]:
    """TorchScript is what was asked for, though torch would rather have another format."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"`torch\.jit\.\w+` is deprecated")
        warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined] # of shape checks; another n is compared afterwards
        yield
