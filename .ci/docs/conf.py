"""How Sphinx builds the site; .ci/docs.py writes the sources beforehand and calls it."""
import re
from importlib.metadata import files
from pathlib import Path

project, author, language = "mmad_nb", "The mmad_nb team", "en"
copyright = "The mmad_nb team. Code: Apache-2.0"
version = release = re.search(r'__version__ = "(.+?)"', (Path(__file__).parents[2] / "mmad_nb/__init__.py").read_text())[1]
extensions = ["myst_nb"]
exclude_patterns = []
nb_execution_mode = "off"                     # the pages carry their outputs
nb_merge_streams = True
nb_ipywidgets_js = {}                         # no live widget is stored, so nothing is fetched for them
nb_mime_priority_overrides = [("html", "text/html", 5)]
myst_enable_extensions = ["dollarmath", "amsmath", "attrs_block"]
myst_heading_anchors = 4
myst_update_mathjax = False
suppress_warnings = ["mystnb.unknown_mime_type"]

html_theme = "sphinx_book_theme"
html_title = "mmad_nb"
html_theme_options = {"use_download_button": False, "show_toc_level": 2, "home_page_in_toc": True}
html_show_sourcelink = False
html_copy_source = False

# MathJax in one file from a package, so that formulas are drawn without a network.
html_static_path = [str(Path(next(f for f in files("sphinx-mathjax-offline") if f.name == "tex-svg.js").locate()))]
mathjax_path = "tex-svg.js"
mathjax3_config = {"tex": {"inlineMath": [["\\(", "\\)"]], "displayMath": [["\\[", "\\]"]]}}

# Links to the world are listed in linkcheck/output.txt; whether they answer is not ours to promise.
linkcheck_ignore = [r"https?://"]
