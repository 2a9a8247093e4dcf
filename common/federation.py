"""The [federation] section of a study: who takes part, for how long, and how updates become a model.

What each strategy asks of the sites, and what that costs in privacy:

========================================= ================================== =====================================
strategy                                  a site is sent / sends             privacy
========================================= ================================== =====================================
fedavg, fedavgm, fedadam, fedyogi         weights / update                   the update's own
fedprox                                   the same                           nothing more: the pull is a function of
                                                                             the received and the present weights,
                                                                             added after the noise
scaffold                                  weights and a correction / update  nothing more: the coordinator computes
                                                                             both from updates already released
median, trimmed-mean, multi-krum          weights / update                   nothing more
========================================= ================================== =====================================
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Strategy = Literal[
    "fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi", "scaffold", "median", "trimmed-mean", "multi-krum"
]
WEIGHTED = ("fedavg", "fedprox", "fedavgm", "fedadam", "fedyogi")
"""Strategies over a mean, to which sites can bring public weights."""

_SETTING = {"fedprox": "proximal_mu", "trimmed-mean": "trim", "multi-krum": "liars"}
Weight = Annotated[float, Field(gt=0, le=1e6)]


class Federation(BaseModel):
    """Who takes part and for how long. ``deadline_minutes`` bounds each round.

    ``proximal_mu`` is FedProx's mu, ``trim`` the share of sites cut at either end of each coordinate, ``liars`` how
    many sites Multi-Krum withstands; each belongs to one strategy, which needs it. ``weights``: how much a site's
    update counts in a mean, by its name; a public agreement, 1 for a site that is not named. ``update_norm``: the
    longest update (L2) that is taken. ``wire``: the type of the weights in messages.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    rounds: int = Field(ge=1, le=10_000)
    strategy: Strategy = "fedavg"
    server_learning_rate: float = Field(default=1.0, gt=0, le=100)
    proximal_mu: float | None = Field(default=None, gt=0, le=1000)
    trim: float | None = Field(default=None, gt=0, lt=0.5)
    liars: int | None = Field(default=None, ge=1, le=5000)
    weights: dict[str, Weight] = Field(default={}, max_length=10_000)
    update_norm: float | None = Field(default=None, gt=0, le=1e9)
    wire: Literal["float32", "float16"] = "float32"
    minimum_sites: int = Field(default=2, ge=1, le=10_000)
    deadline_minutes: float = Field(default=60.0, gt=0, le=60 * 24 * 14)

    @model_validator(mode="after")
    def _of_the_strategy(self) -> Federation:
        for strategy, name in _SETTING.items():
            value = getattr(self, name)
            if (value is not None) != (self.strategy == strategy):
                wanted = "needs" if value is None else "is the only one that takes"
                raise ValueError(
                    f"strategy '{strategy}' {wanted} {name} (got strategy '{self.strategy}', {name} {value})"
                )
        if self.weights and self.strategy not in WEIGHTED:
            raise ValueError(
                f"weights need a strategy over a mean, one of {', '.join(WEIGHTED)} (got '{self.strategy}')"
            )
        return self

    @model_validator(mode="after")
    def _enough_sites(self) -> Federation:
        """A robust strategy holds only among enough honest sites, so a round below that must not count."""
        needed, why = 1, ""
        if self.strategy == "median":
            needed, why = 3, "a median of fewer withstands nobody"
        elif self.strategy == "multi-krum" and self.liars:
            needed, why = 2 * self.liars + 3, f"2 * liars + 3 for liars {self.liars}"
        elif self.trim and int(self.trim * self.minimum_sites) < 1:
            raise ValueError(
                f"trim {self.trim:g} of minimum_sites {self.minimum_sites} is less than one site; expected "
                "trim * minimum_sites >= 1"
            )
        if self.minimum_sites < needed:
            raise ValueError(
                f"strategy '{self.strategy}' with minimum_sites {self.minimum_sites}: expected at least {needed} ({why})"
            )
        return self
