"Comparisons: who learns from what and is tested on what; the tables of the papers beside ours; what each part is worth. (The command is `mmad_nb.experiments.command`.)"
from .ablations import compare, comparison_table, difference, difference_picture, difference_table
from .protocols import PROTOCOLS, RULES, Splits, Study, StudyPanel, find_layout, open_data, run_protocol, study_bars
from .published import TABLES, PublishedTable, find_tables, render, table_dots

__all__ = ["PROTOCOLS", "PublishedTable", "RULES", "Splits", "Study", "StudyPanel", "TABLES", "compare", "comparison_table", "difference",
           "difference_picture", "difference_table", "find_layout", "find_tables", "open_data", "render", "run_protocol", "study_bars", "table_dots"]
