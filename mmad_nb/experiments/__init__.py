"Comparisons: who learns from what and is tested on what; the tables of the papers beside ours; and what each part is worth."
from .ablations import study, study_table
from .protocols import PROTOCOLS, RULES, Splits, Study, StudyPanel, find_layout, open_data, run_protocol, study_bars
from .published import TABLES, PublishedTable, find_tables, render, table_dots

__all__ = ["PROTOCOLS", "PublishedTable", "RULES", "Splits", "Study", "StudyPanel", "TABLES", "find_layout", "find_tables", "open_data", "render",
           "run_protocol", "study", "study_bars", "study_table", "table_dots"]
