"""Views of a `Verdict` and of an `AuditDiff`: a terminal of 80 columns, one HTML page, Markdown for a pull request.

Each view is a module; the words that they share are in `story`. Nothing here computes: what a view shows is in the
verdict, and the JSON view is the verdict's own `to_dict`.
"""

from secondpass.evaluation.report.page import html
from secondpass.evaluation.report.pull_request import markdown
from secondpass.evaluation.report.screen import comparison, terminal
from secondpass.evaluation.report.two_audits import markdown_diff, terminal_diff

__all__ = ["comparison", "html", "markdown", "markdown_diff", "terminal", "terminal_diff"]
