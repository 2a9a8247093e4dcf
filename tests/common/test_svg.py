"""Figures that any page may hold."""

from __future__ import annotations

import xml.etree.ElementTree as ET

from common import svg


def drawn(name: str) -> str:
    with svg.style():
        figure, axes = svg.new_figure(3, 2)
        axes.plot([0, 1], [0, 1], color=svg.GOOD, label=name, alpha=0.5)
        axes.fill_between([0, 1], [0, 0], [1, 1], color=svg.BAD, alpha=0.2)
        axes.set_xlabel(name, fontweight="bold")
        axes.legend(title=name)
        return svg.to_svg(figure, name)


def test_a_figure_has_no_inline_style_so_that_a_strict_policy_lets_it_through():
    root = ET.fromstring(drawn("x"))
    assert [one.tag for one in root.iter() if "style" in one.attrib or one.tag.endswith("style")] == []
    line = next(one for one in root.iter() if one.get("stroke") == "var(--good)")
    assert (line.get("fill"), line.get("stroke-opacity")) == ("none", "0.5")
    assert {one.get("font-family") for one in root.iter() if one.tag.endswith("text")} == {"var(--font)"}


def test_a_name_that_looks_like_markup_or_style_stays_a_name():
    name = '<script>alert(1)</script> style="fill: red" <b style="x">'
    root = ET.fromstring(drawn(name))
    assert root.get("aria-label") == name
    assert [one.text for one in root.iter() if one.text and "script" in one.text] == [name, name, name]
    assert not [one for one in root.iter() if one.tag.endswith("script")]


def test_no_two_elements_have_one_id():
    ids = [one.get("id") for one in ET.fromstring(drawn("x")).iter() if one.get("id")]
    assert len(ids) == len(set(ids))
