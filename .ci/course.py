"""Make a course that nbgrader can hand out and grade, from the pages in nbs/exercises: each page is one assignment.

    python .ci/course.py [FOLDER]     FOLDER/source and FOLDER/release; without a name: course

A page in the repository is what nbgrader calls source: solutions, hidden tests and points stand in it. Copied, its solution
cells are unfolded and its links lead to the repository; nbgrader's generate_assignment makes the student's version of it.
FOLDER keeps the gradebook, so it is never emptied: run this again after a page has changed.
"""
import os
import posixpath
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[1]
ONLINE = "https://github.com/mmad-nb/mmad_nb/blob/main/"


def online(link: re.Match) -> str:
    "A link between pages as it reads outside the repository."
    return f"]({ONLINE}{posixpath.normpath(posixpath.join('nbs/exercises', link[1]))})"


def as_source(page):
    "The page as nbgrader's source, in place: solutions unfolded, no badge (it opens the page with its solutions), links that lead somewhere."
    for cell in page.cells:
        if cell.cell_type == "markdown":
            text = re.sub(r"\[!\[Open in Colab.*\n\n", "", cell.source).replace("This page holds its solutions, folded. ", "")
            cell.source = re.sub(r"\]\((?!http|#|attachment:)([^)]+)\)", online, text)
        elif cell.metadata.get("nbgrader", {}).get("solution"): cell.metadata.pop("jupyter", None)
    return page


def points(page) -> float:
    return sum(cell.metadata.get("nbgrader", {}).get("points", 0) for cell in page.cells)


def write_source(folder: Path, pages: list[Path]):
    "One assignment for each page, and nbgrader's settings."
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / ".ci/nbgrader_config.py", folder)
    for path in pages:
        page = as_source(nbformat.read(path, as_version=4))
        (folder / "source" / path.stem).mkdir(parents=True, exist_ok=True)
        nbformat.write(page, folder / "source" / path.stem / path.name)
        minutes = re.search(r"\*\*Time\*\* (\d+) minutes", page.cells[0].source)
        print(f"{path.stem:20} {minutes[1] if minutes else '-':>4} minutes {points(page):4g} points")


def nbgrader(folder: Path, *arguments, **settings):
    "Run nbgrader in `folder`; it calls alembic, which stands beside this Python, by name."
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = os.environ | {"PATH": path} | settings.pop("env", {})
    return subprocess.run([sys.executable, "-m", "nbgrader", *arguments], cwd=folder, env=environment, **settings)


def main(folder: Path):
    pages = sorted((ROOT / "nbs/exercises").glob("*.ipynb"))
    write_source(folder, pages)
    for page in pages: nbgrader(folder, "generate_assignment", page.stem, "--force", check=True)
    print(f"instructor: {folder / 'source'}   students: {folder / 'release'}")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else "course").resolve())
