"""Products of many pairs of matrices, by the fastest kernel there is.

Torch hands batches of float32 matrices to a library that uses half the width of some processors' vectors; the one
that makes its convolutions (oneDNN) uses all of it, and is reached by the operation that compiled networks use for
linear layers. Where it is missing, or matrices are too small to be worth a call each, the batch goes the usual way.
"""

from __future__ import annotations

import torch
from torch import Tensor

WORTH_A_CALL = 1 << 22  # multiply-adds of one product; below, a call each costs more than it saves
FAST = hasattr(torch.ops.mkldnn, "_linear_pointwise")


def products(left: Tensor, right: Tensor, out: Tensor | None = None) -> Tensor:
    """[N, o, p] = left [N, o, S] times right [N, p, S], transposed; in ``out`` if there is one."""
    if not _is_fast(left, right):
        return torch.bmm(left, right.mT, out=out)
    found = left.new_empty(len(left), left.shape[1], right.shape[1]) if out is None else out
    for one, other, room in zip(left.contiguous(), right.contiguous(), found, strict=True):
        room.copy_(torch.ops.mkldnn._linear_pointwise(one, other, None, "none", [], ""))  # noqa: SLF001 - no public name
    return found


def _is_fast(left: Tensor, right: Tensor) -> bool:
    on_cpu = FAST and left.device.type == "cpu" and left.dtype == right.dtype == torch.float32
    return on_cpu and left.shape[1] * right.shape[1] * left.shape[2] >= WORTH_A_CALL
