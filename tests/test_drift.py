"""The exported modules, the notebooks and the README say the same thing, and notebooks are committed clean."""
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent
NOTEBOOKS = sorted(p for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts)
sys.path.insert(0, str(ROOT / ".ci"))
HANDWRITTEN = "__init__.py"  # every other module of the package is exported from a notebook


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    "A copy of notebooks and package in which nbdev may write."
    folder = tmp_path_factory.mktemp("drift")
    for name in ("nbs", "mmad_nb"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints"))
    for name in ("pyproject.toml", "settings.ini", "setup.py", "README.md"):
        shutil.copy(ROOT / name, folder)
    subprocess.run(["git", "init", "-q"], cwd=folder, check=True)  # nbdev asks git for the root
    return folder


def texts(folder, pattern):
    return {str(p.relative_to(folder)): p.read_text(encoding="utf8") for p in sorted(folder.rglob(pattern))
            if not {"__pycache__", ".ipynb_checkpoints"} & set(p.parts)}


def changed(before, after):
    return [name for name in sorted(before | after) if before.get(name) != after.get(name)]


def test_modules_are_what_the_notebooks_export(copy):
    for module in (copy / "mmad_nb").rglob("*.py"):
        if module.name != HANDWRITTEN:
            module.unlink()  # a module whose notebook is gone must be noticed too
    subprocess.run([BIN / "nbdev-export"], cwd=copy, check=True, capture_output=True)
    assert changed(texts(ROOT / "mmad_nb", "*.py"), texts(copy / "mmad_nb", "*.py")) == [], "run `make export` and commit"


def test_notebooks_are_clean(copy):
    before = texts(copy / "nbs", "*.ipynb")
    subprocess.run([BIN / "nbdev-clean"], cwd=copy, check=True, capture_output=True)
    assert changed(before, texts(copy / "nbs", "*.ipynb")) == [], "run `nbdev-clean` and commit"


BY_HAND = {"collapsed": True, "jupyter": {"source_hidden": True, "outputs_hidden": False}, "tags": ["hide-input"], "editable": False,
           "deletable": False, "nbgrader": {"grade": True, "grade_id": "q1", "points": 2}, "slideshow": {"slide_type": "slide"}}


def test_metadata_set_by_hand_survives_cleaning_and_stills(copy):
    "Folded cells, tags, slides and nbgrader's marks stay; what a run or an editor leaves behind goes."
    import nbformat
    from stills import tidy
    dirt = {"execution": {"iopub.status.busy": "2026-01-01"}, "scrolled": True, "ExecuteTime": {}}
    notebook = nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_code_cell("1 + 1", metadata=BY_HAND | dirt), nbformat.v4.new_markdown_cell("text", metadata={"tags": ["answer"]} | dirt),
        nbformat.v4.new_code_cell("2", metadata={"jupyter": {"is_executing": True}})])
    file = copy / "nbs/folded.ipynb"
    nbformat.write(tidy(notebook), file)
    try:
        for clean in (False, True):
            if clean: subprocess.run([BIN / "nbdev-clean", "--fname", file], cwd=copy, check=True, capture_output=True)
            assert [cell.metadata for cell in nbformat.read(file, as_version=4).cells] == [BY_HAND, {"tags": ["answer"]}, {}]
        nbformat.write(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", metadata=BY_HAND | dirt)]), file)
        subprocess.run([BIN / "nbdev-clean", "--fname", file], cwd=copy, check=True, capture_output=True)
        assert nbformat.read(file, as_version=4).cells[0].metadata == BY_HAND
    finally: file.unlink()


def test_readme_is_the_index_notebook():
    from readme import readme
    assert (ROOT / "README.md").read_text(encoding="utf8") == readme(), "run `make export` and commit"


@pytest.mark.parametrize("path", [*NOTEBOOKS, ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / f".ci/docs/{who}.md" for who in ("student", "instructor", "researcher"))], ids=lambda p: str(p.relative_to(ROOT)))
def test_links_lead_somewhere(path):
    text = path.read_text(encoding="utf8")
    if path.suffix == ".ipynb":
        text = "\n".join("".join(c["source"]) for c in json.loads(text)["cells"] if c["cell_type"] == "markdown")
    for link in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
        on_forge = re.fullmatch(r"https://colab\.research\.google\.com/github/mmad-nb/mmad_nb/blob/main/(.+)", link)
        if on_forge:
            assert (ROOT / on_forge[1]).exists(), link
            assert path.suffix == ".md" or path.name == "index.ipynb" or (ROOT / on_forge[1]) == path, "a badge opens its own notebook"
        elif not link.startswith(("http", "attachment:")):     # a picture within the page
            assert (path.parent / link).exists(), link


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: str(p.relative_to(ROOT / "nbs")))
def test_notebook_is_fit_to_read(path):
    raw = path.read_text(encoding="utf8")
    notebook = json.loads(raw)
    head = [line for line in "".join(notebook["cells"][0]["source"]).splitlines() if line]
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(raw) < 300_000, f"{len(raw)} bytes: drop outputs"
    assert "widgets" not in notebook["metadata"], "saved widget state"
    assert head[0].startswith("# ") and head[1].startswith("> "), "first cell: a title and one sentence"
    assert len(ids) == len(set(ids)), "cell ids repeat"
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", {}):
                alt = output["metadata"].get("image/png", {}).get("alt", "")
                assert len(alt.split()) > 2 and "<Figure" not in alt, f"cell {cell['id']}: a picture without words: run `.ci/stills.py --tidy-only` on the page"
        if cell["cell_type"] == "markdown":
            assert not re.search(r"!\[\s*\]\(|<img(?![^>]+alt=\"[^\"]+\")", "".join(cell["source"])), f"cell {cell['id']}: a picture without alt text"


ROOMS = [r for r in "core data forge views features pretraining mapping prompts streams scoring detectors experiments lab exercises".split()
         if any((ROOT / "nbs" / r).glob("*.ipynb"))]
# The reading order: the tour, the rooms in theirs, and core at the end: an appendix, which no reader of a detector needs.
COURSE = [ROOT / "nbs/00_tour.ipynb", *(p for room in (*ROOMS[1:], ROOMS[0]) for p in sorted((ROOT / "nbs" / room).glob("*.ipynb")) if p in NOTEBOOKS)]


def sources(path):
    return ["".join(cell["source"]) for cell in json.loads(path.read_text(encoding="utf8"))["cells"]]


def test_every_notebook_is_on_the_road():
    assert sorted(COURSE) == [p for p in NOTEBOOKS if p.name != "index.ipynb"], "a folder of notebooks that ROOMS does not name"
    for room in ROOMS:
        numbers = [p.name[:2] for p in COURSE if p.parent.name == room]
        assert numbers == sorted(set(numbers)), f"{room}: the numbers are the reading order"     # a gap is a page to come


@pytest.mark.parametrize("path", COURSE[1:], ids=lambda p: str(p.relative_to(ROOT / "nbs")))
def test_drawing_of_the_house(path):
    "The same drawing on every page; it names the rooms that exist and marks the one we stand in."
    drawing = re.search(r"```\n(.+?)\n( *)\^ you are here\n```", sources(path)[0], re.S)
    assert drawing, "first cell: the drawing of the rooms"
    house = " -> ".join(f"[{r}: {path.stem[3:]}]" if r == path.parent.name else r for r in ROOMS)
    assert drawing[1] == house
    assert house.index("[") < len(drawing[2]) < house.index("]")


@pytest.mark.parametrize("path, after", [*zip(COURSE, [*COURSE[1:], ROOT / "nbs/index.ipynb"])], ids=lambda p: p.stem)
def test_next_leads_to_the_next_page(path, after):
    link = re.search(r"\*\*Next:\*\* \[[^\]]+\]\(([^)]+)\)\.$", sources(path)[-1])
    assert link, "the last cell ends with **Next:** [title](page)."
    assert (path.parent / link[1]).resolve() == after
