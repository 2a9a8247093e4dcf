"""Site folders of hospitals that exist only in a simulation."""

from __future__ import annotations

from pathlib import Path

from client.site import PolicySettings, Site, SiteConfig, create_site

# Room for many runs, all of them on the ledger; exact counts, so that a simulation can be read.
POLICY = PolicySettings(
    max_epsilon=1000,
    max_delta=1e-3,
    allow_without_privacy=True,
    evaluation="exact",
    max_steps=1_000_000_000,
    max_parameters=1_000_000_000,
    max_rounds_a_day=100_000,
)


def simulated_config(name: str, title: str = "") -> SiteConfig:
    """Settings of a simulated site."""
    return SiteConfig(name=name, title=title, simulated=True, policy=POLICY)


def create_simulated_site(folder: Path, name: str, title: str = "") -> Site:
    """Make the folder of a simulated site. Raises SiteError if it exists."""
    return create_site(folder, simulated_config(name, title))
