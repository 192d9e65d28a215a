"""Write README.md from nbs/index.ipynb: its markdown, code and printed output, without the cells marked #| hide."""
import posixpath
import re
from pathlib import Path

import nbformat

root = Path(__file__).parents[1]


def from_root(link: re.Match) -> str:
    "A link as it reads from the repository's root instead of from nbs/."
    return "](" + posixpath.normpath(posixpath.join("nbs", link[1])) + ")"


def cell_text(cell) -> str:
    "One cell as Markdown."
    if cell.cell_type == "markdown":
        return re.sub(r"\]\((?!http|#)([^)]+)\)", from_root, cell.source)
    if cell.source.startswith("#| hide"):
        return ""
    printed = "".join(o.text for o in cell.outputs if o.output_type == "stream").rstrip()
    return f"```python\n{cell.source}\n```" + (f"\n\n```text\n{printed}\n```" if printed else "")


def readme() -> str:
    "The whole README."
    cells = nbformat.read(root / "nbs/index.ipynb", as_version=4).cells
    return "\n\n".join(filter(None, map(cell_text, cells))) + "\n"


if __name__ == "__main__":
    (root / "README.md").write_text(readme(), encoding="utf8")
