"""Run the tour without a browser and print what it prints, the metric table last."""
from pathlib import Path

import nbformat
from nbclient import NotebookClient

path = Path(__file__).parents[1] / "nbs/00_tour.ipynb"
notebook = nbformat.read(path, as_version=4)
NotebookClient(notebook, timeout=600, resources={"metadata": {"path": str(path.parent)}}).execute()
for cell in notebook.cells:
    for output in cell.get("outputs", []):
        if output.output_type == "stream" and output.name == "stdout":
            print(output.text, end="")
