"""What is in a recorded dataset and what is wrong with it, as tables, figures and JSON."""

from data.inspection.checks import Problem
from data.inspection.figures import write_figures
from data.inspection.problems import find_problems
from data.inspection.summary import Summary, summarise

__all__ = ["Problem", "Summary", "find_problems", "summarise", "write_figures"]
