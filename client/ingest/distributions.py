"""How the accepted series differ: spacing, thickness, vendor, kernel, HU.

Text of a header is mapped to closed lists before it is counted: a scanner's operator can type a name into
any of them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from client.ingest.geometry import Series

VENDORS = {
    "Siemens": ("SIEMENS",),
    "GE": ("GE ", "GENERAL ELECTRIC", "GEMS"),
    "Philips": ("PHILIPS", "MARCONI", "PICKER", "ELSCINT"),
    "Canon/Toshiba": ("CANON", "TOSHIBA"),
    "Hitachi/Fujifilm": ("HITACHI", "FUJIFILM"),
    "United Imaging": ("UIH", "UNITED IMAGING"),
    "Neusoft": ("NEUSOFT", "NMS"),
}
"""How Manufacturer begins, by the name that is shown."""
OTHER, UNKNOWN = "other", "not given"
_KERNEL_WORDS = (
    "STANDARD|STND|SOFT|DETAIL|BONE|BONEPLUS|EDGE|LUNG|CHST|CHEST|BODY|HEAD|BRAIN|SHARP|SMOOTH|ULTRA|"
    "HD STND|HD SOFT|HD BONE|HD DETAIL|SMOOTH SHARP|NORMAL|MEDIUM|CONVKERNEL"
)
KERNEL = re.compile(
    rf"({_KERNEL_WORDS}"
    r"|[BHTUDIJASCQ][a-z]?\d{2}[a-z]?(\\[1-5])?"  # Siemens: B30f, Br40d\3, I31f\2
    r"|FC\d{2}"  # Canon/Toshiba
    r"|[A-EL]|[YUEL][A-E]"  # Philips: B, YA, EC
    r"|F\d{2}|[BHC]_(V?SOFT|V?SHARP|SMOOTH)_[ABC])",  # Neusoft; United Imaging: B_SOFT_B
)
"""Codes of reconstruction kernels that vendors use; what does not match whole is shown as ``other``."""


def distributions(
    series: Sequence[Series], hu_edges: NDArray[np.integer[Any]], hu_counts: NDArray[np.int64]
) -> dict[str, Any]:
    """The report's ``distributions``: series by value, and voxels by HU.

    ``hu_edges`` [n + 1]: limits of the bins in HU; ``hu_counts`` [n].
    """
    first = [one.headers[0] for one in series]
    return {
        "spacing_mm": _by_millimetres(header.spacing[0] for header in first),
        "slice_spacing_mm": _by_millimetres(one.slice_spacing for one in series),
        "thickness_mm": _by_millimetres(header.thickness for header in first),
        "vendor": _by_count(vendor(header.vendor) for header in first),
        "kernel": _by_count(kernel(header.kernel) for header in first),
        "hu": {
            "edges": hu_edges.tolist(),
            "counts": hu_counts.tolist(),
        },
    }


def vendor(manufacturer: str) -> str:
    """The vendor of the closed list that ``manufacturer`` begins like."""
    text = f"{manufacturer.strip().upper()} "
    if not text.strip():
        return UNKNOWN
    return next((name for name, starts in VENDORS.items() if text.startswith(starts)), OTHER)


def kernel(convolution_kernel: str) -> str:
    """The kernel if it is one of the vendors' codes."""
    text = convolution_kernel.strip()
    if not text:
        return UNKNOWN
    return text if KERNEL.fullmatch(text) else OTHER


def _by_millimetres(values: Iterable[float]) -> dict[str, int]:
    """Counts by value, rounded to 0.1 mm, in order; 0 stands for a header that does not say."""
    counts = Counter(round(value, 1) for value in values)
    return {f"{value:.1f}" if value > 0 else UNKNOWN: counts[value] for value in sorted(counts)}


def _by_count(values: Iterable[str]) -> dict[str, int]:
    return dict(sorted(Counter(values).items(), key=lambda item: (-item[1], item[0])))
