"""``audit.html``: one self-contained page about an audit.

The page loads nothing and has no script; its content security policy forbids the rest. The pictures on it are of
synthetic patients.
"""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING

from markupsafe import Markup
from PIL import Image

from common import svg
from common.pages import page_environment
from simulations.audit import figures
from simulations.audit.checks import PARTS
from simulations.audit.family import event_of, trade_off
from simulations.audit.membership import RATES

if TYPE_CHECKING:
    from simulations.audit.inversion import Picture
    from simulations.audit.run import Audit


METHOD = (
    "Likelihood-ratio attack (Carlini et al. 2022) on the final model: the confidence for a patient is compared with "
    "that of other models that were trained with and without the patient."
)


def page(found: Audit) -> str:
    """The page as text."""
    environment = page_environment("simulations.audit")
    attacks = found.attacks
    with svg.style():
        drawn = {
            "bounds": figures.bounds(found.canaries),
            "roc": figures.roc(attacks.bare, attacks.private, attacks.plan),
        }
    return environment.get_template("audit.html.j2").render(
        audit=found,
        style=Markup(page_environment("server.report").get_template("style.css.j2").render()),  # noqa: S704 - ours
        parts=[(PARTS[name], [c for c in found.checks if c.part == name]) for name in PARTS],
        verdict=verdict(found),
        keys=key_figures(found),
        members=int(attacks.private.members.sum()),
        rates=rates(found),
        method=METHOD,
        figures={name: Markup(text) for name, text in drawn.items()},  # noqa: S704 - made by svg.to_svg
        pictures=pictures(found),
        facts=facts(found),
        limits=limits(found),
    )


def verdict(found: Audit) -> str:
    """The outcome in one sentence."""
    plan = found.plan
    claim = f"epsilon {plan.epsilon:g} at delta {plan.delta:g} for one patient"
    if found.passed:
        return (
            f"Nothing was found that speaks against the claim of {claim}. An audit can refute a claim and never prove it: "
            f"the proof is the account, and the audit looks for mistakes in what was built."
        )
    return f"The claim of {claim} does not hold for this release: {'; '.join(found.failures())}."


def key_figures(found: Audit) -> list[tuple[str, str, str]]:
    """Name, value and explanation of what a reader looks for first."""
    result, attacks = found.canaries, found.attacks
    inversion = attacks.inversion
    return [
        ("Claim", f"ε = {result.claim:g}", f"at delta {result.delta:g}, for one patient"),
        ("Proved by canaries", f"ε ≥ {result.bounds.highest:.2f}", "with 95 % confidence; must not exceed the claim"),
        ("Membership AUC", f"{attacks.private.auc:.2f}", f"{attacks.bare.auc:.2f} without privacy; 0.5 is guessing"),
        (
            "Inverted picture",
            f"{inversion.correlation_private:.2f}",
            f"correlation with the patient's; {inversion.correlation_bare:.2f} without privacy",
        ),
    ]


def rates(found: Audit) -> list[tuple[str, str, str, str]]:
    """For each rate of false alarms: the rate, what was found without and with privacy, what the claim permits."""
    attacks = found.attacks
    curve = trade_off(event_of(attacks.plan))
    count = int(attacks.private.members.sum())
    return [
        (
            f"{100 * rate:g} %",
            f"{100 * attacks.bare.found(rate)[0] / count:.1f} %",
            f"{100 * attacks.private.found(rate)[0] / count:.1f} %",
            f"{100 * curve.most(rate):.0f} %",
        )
        for rate in RATES
    ]


def pictures(found: Audit) -> list[tuple[str, str, str]]:
    """Title, caption and data URI of each picture of the inversion."""
    inversion = found.attacks.inversion
    rows = (
        ("The synthetic patient", "what the hospital keeps", inversion.original),
        ("Recovered without privacy", _likeness(inversion.correlation_bare, inversion.similarity_bare), inversion.bare),
        (
            "Recovered with privacy",
            _likeness(inversion.correlation_private, inversion.similarity_private),
            inversion.private,
        ),
    )
    return [(title, caption, _data_uri(picture)) for title, caption, picture in rows]


def _likeness(correlation: float, similarity: float) -> str:
    return f"correlation {correlation:.2f}, similarity {similarity:.2f}"


def facts(found: Audit) -> list[tuple[str, str]]:
    """What was audited, as headings and texts."""
    plan, small = found.plan, found.attacks.study
    return [
        ("Claim", f"({plan.epsilon:g}, {plan.delta:g})-differential privacy for one patient, added or removed, by PLD"),
        (
            "Mechanism",
            (
                f"{plan.rounds * plan.steps_per_round} steps in {plan.rounds} rounds; each patient drawn with chance "
                f"{plan.sampling_rate:g}; clip {plan.clip:g}; noise multiplier {plan.sigma:.4g}"
            ),
        ),
        ("Network", f"{found.study.model.name}, trained: {found.study.model.trainable}, from random weights"),
        ("Patients", f"{found.attacks.patients} synthetic ones, made and ingested for this audit; no hospital's"),
        (
            "Attacked models",
            (
                f"{small.model.name} at {small.input.size} pixels, {small.total_steps} steps, "
                f"{found.attacks.patients // 2} members each, noise multiplier {found.attacks.plan.sigma:.4g}"
            ),
        ),
        ("Study digest", found.study.digest),
        ("Time", f"{found.finished:%Y-%m-%d %H:%M:%S} UTC, {found.seconds:.0f} s"),
    ]


def limits(found: Audit) -> list[str]:
    """What passing does not say."""
    result = found.canaries
    lines = [
        (
            "Passing is no proof. The lower bound is what this attack could show; the truth lies between it and the claim, "
            "or above both if there is a mistake that no check looks at."
        ),
        (
            "The f-DP bound speaks of mechanisms like the study's that differ in their noise; the bound of Steinke et al. "
            "assumes nothing, and is lower for it."
        ),
        "Canaries use a linear network, for which they are easiest to find; the study's own network is covered by the replay.",
        "The network starts from random weights; the study's initial weights are public, and privacy holds for any.",
        (
            "Inversion is shown on a network whose first layer sees every pixel, the worst there is. That other attacks on "
            "the study's own network fail too is not shown, and follows from the claim alone."
        ),
    ]
    if not result.has_power:
        lines.insert(
            0,
            f"With {result.canaries} canaries, a quarter of the noise would be expected to show epsilon "
            f"{result.expected_quarter:.1f}, below the claim of {result.claim:g}: the canaries alone could not refute it. "
            "More canaries can.",
        )
    return lines


def _data_uri(picture: Picture) -> str:
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"
