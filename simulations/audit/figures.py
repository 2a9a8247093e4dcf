"""The figures of the audit's page, as inline SVG. Call them within ``svg.style``."""

from __future__ import annotations

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, PercentFormatter

from common import svg
from common.privacy.plan import PrivacyPlan
from simulations.audit.canaries import CanaryResult
from simulations.audit.family import event_of, trade_off
from simulations.audit.membership import Attack

_LEFT = 1e-3  # where the axis of false alarms begins


def bounds(result: CanaryResult) -> str:
    """Lower bounds as bars, beside the claim and what each amount of noise lets one expect."""
    rows = [
        ("f-DP bound", result.bounds.f_dp),
        ("Steinke et al. bound", result.bounds.steinke),
    ]
    expected = [
        ("expected of a right mechanism", result.expected),
        ("… of a quarter of the noise", result.expected_quarter),
    ]
    figure, axes = svg.new_figure(6.8, 1.9)
    for row, (_, value) in enumerate(rows):
        axes.barh(row, value, height=0.6, color=svg.BAD if value > result.claim else svg.FEDERATED)
    for row, (_, value) in enumerate(expected, start=len(rows)):
        axes.barh(row, value, height=0.6, color=svg.GONE)
    widest = max([result.claim, *(value for _, value in rows + expected)])
    for row, (_, value) in enumerate(rows + expected):
        axes.text(value + 0.008 * widest, row, f"{value:.2f}", va="center", fontsize=8, color=svg.INK)
    axes.axvline(result.claim, color=svg.INK, linewidth=1, linestyle=(0, (4, 3)))
    axes.annotate(
        f"claim: ε = {result.claim:g}",
        (result.claim, 1),
        xycoords=("data", "axes fraction"),
        xytext=(-3, 3),
        textcoords="offset points",
        ha="right",
        fontsize=8,
    )
    axes.set_yticks(range(len(rows) + 2), [name for name, _ in rows + expected])
    axes.set(xlim=(0, widest * 1.1), ylim=(len(rows) + 1.5, -0.6), xlabel="ε at least, with 95 % confidence")
    axes.tick_params(axis="y", length=0)
    return svg.to_svg(figure, "Lower bounds on epsilon from canaries, beside the claim")


def roc(bare: Attack, private: Attack, plan: PrivacyPlan) -> str:
    """ROC of membership inference on a logarithmic axis, and what the claim permits at most."""
    figure, axes = svg.new_figure(4.4, 3.6)
    grid = np.geomspace(_LEFT, 1, 100)
    axes.plot(grid, grid, color=svg.MUTED, linewidth=0.8, linestyle=(0, (3, 3)), label="guessing")
    curve = trade_off(event_of(plan))
    axes.plot(
        grid,
        [curve.most(x) for x in grid],
        color=svg.INK,
        linewidth=1,
        linestyle=(0, (4, 3)),
        label="most that the claim permits",
    )
    for attack, name, colour in ((bare, "without privacy", svg.BAD), (private, "with privacy", svg.FEDERATED)):
        false, true = attack.curve()
        axes.step(np.maximum(false, _LEFT), true, where="post", color=colour, label=f"{name}, AUC {attack.auc:.2f}")
    axes.set(xscale="log", xlim=(_LEFT, 1), ylim=(0, 1.01))
    axes.set(xlabel="strangers taken for members", ylabel="members found")
    axes.xaxis.set_major_locator(LogLocator(10))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda share, _place: f"{100 * share:g}%"))
    axes.xaxis.set_minor_locator(LogLocator(10, subs=()))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    axes.grid()
    axes.set_axisbelow(True)
    figure.legend(loc="outside lower left", ncols=2)
    return svg.to_svg(figure, "ROC of membership inference, without and with privacy")
