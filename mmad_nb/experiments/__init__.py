"Comparisons: who learns from what and is tested on what; the tables of the papers beside ours; what each part is worth. (The command is `mmad_nb.experiments.command`.)"
from .ablations import compare, comparison_table, difference, difference_picture, difference_table, sweep_figure
from .dual_stream import compare_fusions, lambda_rows, pro_figure
from .grid import Grid, grid_study
from .protocols import PROTOCOLS, RULES, Splits, Study, StudyPanel, find_layout, load_study, open_data, run_protocol, study_bars
from .published import TABLES, PublishedTable, find_tables, render, table_dots
from .zero_shot import COMPONENT_ROWS, FAULT_ROWS, WORDS_ROWS, step_table, sweep_rows

__all__ = ["COMPONENT_ROWS", "FAULT_ROWS", "Grid", "PROTOCOLS", "PublishedTable", "RULES", "Splits", "Study", "StudyPanel", "TABLES", "WORDS_ROWS", "compare", "compare_fusions", "comparison_table", "difference",
           "difference_picture", "difference_table", "find_layout", "find_tables", "grid_study", "lambda_rows", "load_study", "open_data", "pro_figure", "render", "run_protocol", "step_table", "study_bars", "sweep_figure", "sweep_rows", "table_dots"]
