"""Report: a scene as one HTML file that opens offline; it reads no file but its own assets."""

from __future__ import annotations

from medcam.views.report.index import IndexEntry, index_entry, write_index
from medcam.views.report.page import render_report, write_report

__all__ = [
    "IndexEntry",
    "index_entry",
    "render_report",
    "write_index",
    "write_report",
]
