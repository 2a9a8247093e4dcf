"""The study report: a page, a model card and a table on the terminal, all from ``Results``."""

from server.report.card import model_card
from server.report.page import render_report
from server.report.table import summary_table

__all__ = ["model_card", "render_report", "summary_table"]
