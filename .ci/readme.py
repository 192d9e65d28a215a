"""Write README.md from nbs/index.ipynb: its markdown, code and printed output, without the cells marked #| hide."""
from pathlib import Path

import nbformat

root = Path(__file__).parents[1]


def cell_text(cell) -> str:
    if cell.cell_type == "markdown":
        return cell.source
    if cell.source.startswith("#| hide"):
        return ""
    printed = "".join(o.text for o in cell.outputs if o.output_type == "stream").rstrip()
    return f"```python\n{cell.source}\n```" + (f"\n\n```text\n{printed}\n```" if printed else "")


def readme() -> str:
    cells = nbformat.read(root / "nbs/index.ipynb", as_version=4).cells
    return "\n\n".join(filter(None, map(cell_text, cells))) + "\n"


if __name__ == "__main__":
    (root / "README.md").write_text(readme(), encoding="utf8")
