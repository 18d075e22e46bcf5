"""One case, one HTML file: the image in its planes, its maps over it, scores and provenance."""

from __future__ import annotations

from medcam.views.report.index import IndexEntry, index_entry, write_index
from medcam.views.report.maps import report_maps
from medcam.views.report.page import render_report, write_report
from medcam.views.report.values import ReportCase, ReportMap

__all__ = [
    "IndexEntry",
    "ReportCase",
    "ReportMap",
    "index_entry",
    "render_report",
    "report_maps",
    "write_index",
    "write_report",
]
