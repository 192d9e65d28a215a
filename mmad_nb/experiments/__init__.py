"Comparisons: who learns from what and is tested on what; the tables of the papers beside ours; what each part is worth. (The command is `mmad_nb.experiments.command`.)"
from .ablations import compare, comparison_table, difference, difference_picture, difference_table
from .dual_stream import compare_fusions, lambda_figure, lambda_rows, pro_figure
from .protocols import PROTOCOLS, RULES, Splits, Study, StudyPanel, find_layout, open_data, run_protocol, study_bars
from .published import TABLES, PublishedTable, find_tables, render, table_dots

__all__ = ["PROTOCOLS", "PublishedTable", "RULES", "Splits", "Study", "StudyPanel", "TABLES", "compare", "compare_fusions", "comparison_table", "difference",
           "difference_picture", "difference_table", "find_layout", "find_tables", "lambda_figure", "lambda_rows", "open_data", "pro_figure", "render", "run_protocol", "study_bars", "table_dots"]
