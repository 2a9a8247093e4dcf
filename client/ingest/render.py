"""What a process does with one series: read its pixels, check that they are CT, make the planes."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from client.ingest.frames import PixelsUnreadable
from client.ingest.planes import Aligned, Lattice, PlanePlan, sample, slices_needed, windowed
from client.ingest.plausibility import implausible
from client.ingest.records import Reason
from client.ingest.select import Chosen
from client.ingest.volume import WHOLE, Slice, read_volume
from common.study import Input, Study


@dataclass(frozen=True)
class RenderJob:
    """All that a process needs to make the planes of one series.

    ``slices``: the slices that are needed, ``lattice`` where these lie.
    """

    root: Path
    slices: tuple[Slice, ...]
    lattice: Lattice
    plan: PlanePlan
    wanted: Input


@dataclass(frozen=True)
class Rendered:
    """``planes``: uint8 [planes, windows, size, size]. ``histogram``: counts of HU in the bins of
    ``plausibility``, int64 [BINS], of a regular sample of the slices read.
    """

    planes: NDArray[np.uint8]
    histogram: NDArray[np.int64]


@dataclass(frozen=True)
class Unusable:
    """Why the pixels of a series make no planes."""

    reason: Reason
    detail: str = ""


def render_job(root: Path, chosen: Chosen, study: Study) -> RenderJob:
    """The job of one series, cut to the slices that its planes touch."""
    first, end = slices_needed(chosen.series, chosen.plan)
    slices = tuple(Slice(header.path, header.frame, header.pixels) for header in chosen.series.headers[first:end])
    return RenderJob(root, slices, Lattice.of(chosen.series).cut(first, end), chosen.plan, study.input)


def make_planes(job: RenderJob) -> Rendered | Unusable:
    """The planes of one series, or why there are none. One slice with text drawn into it refuses the series."""
    try:
        aligned = Aligned.of(job.lattice, job.plan)
        part = WHOLE if aligned is None else aligned.part
        volume = read_volume(job.root, job.slices, job.lattice.rows, job.lattice.columns, part)
    except PixelsUnreadable:
        return Unusable(Reason.PIXELS_UNREADABLE)
    wrong = implausible(volume.histogram)
    if wrong is not None:
        return Unusable(Reason.IMPLAUSIBLE_HU, wrong)
    if volume.written:
        return Unusable(Reason.BURNED_IN_TEXT, f"{volume.written} of {len(job.slices)} slices read")
    hounsfield = volume.hounsfield
    planes = sample(hounsfield, job.lattice, job.plan) if aligned is None else aligned.sampled(hounsfield)
    return Rendered(windowed(planes, job.plan, job.wanted), volume.histogram)
