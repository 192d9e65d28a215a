"""Numbers in prose come from cells: each one with a decimal point is in the output or the code of its page, or in the table that the text names."""
import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
NUMBER = re.compile(r"(?<![\w.,/^{:-])[-+\u2212]?\d+\.\d+(?![\w]*\.\d)(?!\w)")
# Worked by hand or quoted as code; names of versions, papers and licences are no results.
BY_HAND = re.compile(r"```.*?```|\$\$.*?\$\$|\$[^$\n]*\$|`[^`\n]*`", re.S)
NAMES = re.compile(r"\]\([^)]*\)|arXiv[^\n]*|\b(?:version|[Ss]ections?|Tables?|Figures?|Python|torch|JupyterLab|ipywidgets|plotly|CC|Apache|equations?|Eqs?\.|\u00a7)[ -]?[\d.]+")
PUBLISHED = re.compile(r"\b(?:papers?|published|Tables?|Figures?)\b")


def numbers_in(text):
    return [float(word) for word in re.findall(r"-?(?:\d+\.\d*|\.\d+|\d+)(?:e[-+]?\d+)?", text) if len(word) < 25]


def shown(cells):
    "All numbers that the code, its outputs and the formulas of a page hold."
    texts = []
    for cell in cells:
        source = "".join(cell["source"])
        texts.append(source if cell["cell_type"] == "code" else " ".join(BY_HAND.findall(source)))
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            texts += ["".join(output.get("text", "")), "".join(data.get("text/plain", "")), re.sub("<[^>]+>", " ", "".join(data.get("text/html", "")))]
    return numbers_in(" ".join(texts))


def is_one_of(word, known, units=(1, 100, .01)):
    "Is the number of the text one of these, rounded, perhaps in per cent?"
    value, places = abs(float(word.replace("\u2212", "-"))), len(word.split(".")[1])
    return any(abs(value - abs(number) * unit) <= .5001 * 10 ** -places for number in known for unit in units)


def unknown(cells, measured, published):
    "Numbers in prose that the page does not show: (cell id, number)."
    known, lost = shown(cells), []
    for cell in cells:
        if cell["cell_type"] != "markdown": continue
        source = "".join(cell["source"])
        tables = (measured if "benchmarks/" in source else []) + (published if PUBLISHED.search(source) else [])
        words = NUMBER.findall(NAMES.sub("]", BY_HAND.sub("", source)))
        lost += [(cell["id"], word) for word in words if not is_one_of(word, known, (1, 100, .01, 1000, .001)) and not is_one_of(word, tables)]
    return lost


@pytest.fixture(scope="module")
def tables():
    "Numbers of our own measurements and of the papers' tables."
    return (numbers_in((ROOT / "benchmarks/README.md").read_text(encoding="utf8")),
            numbers_in(" ".join(path.read_text(encoding="utf8") for path in (ROOT / "mmad_nb/experiments/tables").glob("*.json"))))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: str(p.relative_to(ROOT / "nbs")))
def test_numbers_in_prose_come_from_cells(path, tables):
    assert unknown(json.loads(path.read_text(encoding="utf8"))["cells"], *tables) == [], "let a cell print it, say it in words, or link benchmarks/README.md"


def test_a_number_that_drifted_is_found():
    code = {"cell_type": "code", "id": "a", "source": "x = 3", "outputs": [{"text": ["AUROC 0.8929 or 12.5 s\n"]}]}
    text = lambda source: {"cell_type": "markdown", "id": "b", "source": source}
    for source in ("It is 0.893.", "It is 89.29 %.", "About 12.5.", "Half: $0.5$, `0.7`.", "torch 2.6, Section 3.1, arXiv 2605.05850", "No number, or 12."):
        assert unknown([code, text(source)], [], []) == [], source
    for source in ("It is 0.894.", "It is 89.4 %.", "It was \u22120.2 before."):
        assert len(unknown([code, text(source)], [], [])) == 1, source
    assert unknown([text("0.71 ([measured](../benchmarks/README.md))")], [.71], []) == []
    assert unknown([text("0.71 in the paper")], [], [71.]) == [] and unknown([text("0.71")], [.71], [.71]) == [("b", "0.71")]
