"Comparisons: the tables of the papers beside ours, and what each part is worth."
from .ablations import study, study_table
from .published import TABLES, measured

__all__ = ["TABLES", "measured", "study", "study_table"]
