"""The course labs: nbgrader makes the student's version of them and grades it, and what a lab says of itself is true.

nbgrader needs newer versions of Python's notebook tools than the oldest and Colab's sets have: it belongs to the extra `dev`.
"""
import json
import re
import sys
from importlib.util import find_spec
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).parents[1]
LABS = sorted((ROOT / "nbs/exercises").glob("*.ipynb"))
sys.path.insert(0, str(ROOT / ".ci"))
# where the other development tools are, nbgrader must be as well
needs_nbgrader = pytest.mark.skipif(not find_spec("nbgrader") and not find_spec("nbdev"), reason="nbgrader is not part of this set of versions")
LIMIT = 30   # seconds for a cell of the endless submission: the test takes as long. Its other cells take none to speak of


def cells(path):
    return nbformat.read(path, as_version=4).cells


def marks(cell):
    return cell.metadata.get("nbgrader", {})


def by_id(notebook):
    return {marks(cell)["grade_id"]: cell for cell in notebook.cells if marks(cell)}


# --- how an answer is compared -----------------------------------------------------------------------------------------------------------

def test_answers_agree_or_not():
    import numpy as np
    import torch
    from mmad_nb.core.questions import same
    assert same(1.0, 1.5, tolerance=.5) and same(np.inf, np.inf) and same(torch.ones(2, requires_grad=True), [1, 1])
    assert same({"a", "b"}, {"b", "a"}) and same({"x": [1]}, {"x": [1]}) and same(None, None)
    assert not same([1, 2], [1, 3]) and not same({"a"}, ["a"]) and same("a", np.array(["a"])) is False and not same(None, 0)


def test_each_likely_wrong_answer_has_its_own_hint(capsys):
    from mmad_nb.core import check
    hints = [(30., "that is the sum."), (.1, "the other way up."), (lambda x: x < 0, "a length is not negative.")]

    def told(answer, right=10.):
        assert check(answer, right, hints if right == 10. else (), tolerance=.01) is False
        return capsys.readouterr().out
    assert told(30.004) == "Hint: that is the sum.\n" and told(.1) == "Hint: the other way up.\n" and told(-4) == "Hint: a length is not negative.\n"
    assert "smallest case" in told(11) and told(None) == told(...) == "Still open.\n"
    assert "a number is wanted here; yours is a set" in told({"a"}) and "a set is wanted here; yours is numbers of shape (1,)" in told([4], {"a"})
    assert "yours is a truth value" in told(True) and "shape (2,)" in told([1, 2])


# --- each lab by itself ------------------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("path", LABS, ids=lambda p: p.stem)
def test_lab_says_its_minutes_and_points(path):
    "The title cell names the sums; each question's heading names its own; and its graded cells add up to them."
    page = cells(path)
    minutes, points = map(int, re.search(r"\*\*Time\*\* (\d+) minutes, (\d+) points", page[0].source).groups())
    asked, spent, question = {}, 0, None
    for cell in page:
        if cell.cell_type == "markdown":
            for heading in re.findall(r"^## .*$", cell.source, re.M):
                said = re.search(r"\((\d+) minutes(?:, (\d+) points?)?\)", heading)
                question = heading if said and said[2] else None
                spent += int(said[1]) if said else 0
                if question: asked[question] = [int(said[2]), 0]
        if marks(cell).get("points"): asked[question][1] += marks(cell)["points"]
    assert all(said == real for said, real in asked.values()), asked
    assert sum(said for said, _ in asked.values()) == points
    assert spent == minutes, f"the questions take {spent} minutes together"


@pytest.mark.parametrize("path", LABS, ids=lambda p: p.stem)
def test_graded_cells_are_folded_named_and_free_of_widgets(path):
    page = cells(path)
    names = [marks(cell)["grade_id"] for cell in page if marks(cell)]
    assert len(names) == len(set(names))
    for cell in page:
        if cell.cell_type != "code": continue
        panel = re.search(r"ipywidgets|Panel|AblationLab|\.box\b|cloud_plot", cell.source)
        assert bool(panel) == ("panel" in cell.metadata.get("tags", [])), f"widgets stand in cells tagged `panel`, nothing else does: {cell.source}"
        assert not (panel and marks(cell))
        inside = "BEGIN SOLUTION" in cell.source
        assert inside == bool(marks(cell).get("solution")), f"a solution without its region, or a region without the mark: {cell.source}"
        if inside or marks(cell).get("grade"): assert cell.metadata["jupyter"]["source_hidden"], f"not folded: {cell.source}"
        if marks(cell).get("grade") and not marks(cell).get("solution"):
            assert marks(cell)["locked"] and "check(" in cell.source.split("### BEGIN HIDDEN TESTS")[0], "students see what is checked"
            assert "assert" in cell.source, "nothing here takes a point away"


# --- through nbgrader --------------------------------------------------------------------------------------------------------------------

def nbgrader(folder, *arguments):
    from course import nbgrader
    done = nbgrader(folder, *arguments, capture_output=True, text=True, timeout=900,
                    env={"PYTHONPATH": str(ROOT), "JUPYTER_CONFIG_DIR": str(folder / "config")})
    assert done.returncode == 0, done.stdout + done.stderr


# what a student might write in place of an answer's solution
WRONG = {"capture_1": "share = 1 - bagel.valid.mean()", "capture_2": "depth = bagel.xyz[2].mean()",
         "capture_3": "def moved(damaged, flawless): return np.linalg.norm(damaged.xyz - flawless.xyz, axis=0)[damaged.mask & damaged.valid & flawless.valid].mean()",
         "capture_4": "colour_ratio, depth_ratio = 3, 1e4"}
ENDLESS = {"bug_padding": "def to_square(rgb, xyz, mask):\n    while True: pass"}


def hand_in(folder, lab, student, answers):
    "The released page with `answers`, code by the name of the cell, in the folder where nbgrader looks for it."
    page = nbformat.read(folder / f"release/{lab}/{lab}.ipynb", as_version=4)
    for name, text in answers.items(): by_id(page)[name].source = text
    (folder / "submitted" / student / lab).mkdir(parents=True)
    nbformat.write(page, folder / "submitted" / student / lab / f"{lab}.ipynb")


def solutions(folder, lab):
    source = by_id(nbformat.read(folder / f"source/{lab}/{lab}.ipynb", as_version=4))
    return {name: cell.source for name, cell in source.items() if marks(cell)["solution"]}


@pytest.fixture(scope="module")
def course(tmp_path_factory):
    "The first lab, released to three students, handed in and graded. (Where nbgrader is missing beside nbdev this is an error, not a skip.)"
    from course import write_source
    folder = tmp_path_factory.mktemp("course")
    write_source(folder, [ROOT / "nbs/exercises/01_capture.ipynb", ROOT / "nbs/exercises/09_project.ipynb"])
    for lab in ("01_capture", "09_project"): nbgrader(folder, "generate_assignment", lab)
    right = solutions(folder, "01_capture")
    for student, answers in {"right": right, "wrong": right | WRONG, "empty": {}}.items(): hand_in(folder, "01_capture", student, answers)
    nbgrader(folder, "autograde", "01_capture", "--Execute.timeout=600")     # a busy machine may take long
    return folder


@pytest.fixture(scope="module")
def endless(tmp_path_factory):
    "Three questions that need numpy alone, as a lab of their own; one answer never ends."
    from course import write_source
    folder = tmp_path_factory.mktemp("endless")
    pages = [nbformat.read(ROOT / f"nbs/exercises/{name}.ipynb", as_version=4) for name in ("07_detectors", "08_find_the_bug")]
    asked = {name: cell for page in pages for name, cell in by_id(page).items()}
    names = [name + end for name in ("bug_leak", "bug_padding", "detectors_4") for end in ("", "_check")]
    short = nbformat.v4.new_notebook(metadata=pages[0].metadata, cells=[
        nbformat.v4.new_markdown_cell("# Three questions"), nbformat.v4.new_code_cell("import numpy as np\nfrom mmad_nb.core import check"), *(asked[name] for name in names)])
    nbformat.write(short, folder / "short.ipynb")
    write_source(folder, [folder / "short.ipynb"])
    nbgrader(folder, "generate_assignment", "short")
    hand_in(folder, "short", "endless", solutions(folder, "short") | ENDLESS)
    nbgrader(folder, "autograde", "short", f"--Execute.timeout={LIMIT}")
    return folder


def graded(folder, student, lab="01_capture"):
    return nbformat.read(folder / "autograded" / student / lab / f"{lab}.ipynb", as_version=4)


def score(folder, student, lab="01_capture"):
    "Points of each graded cell."
    from nbgrader.api import Gradebook
    with Gradebook(f"sqlite:///{folder / 'gradebook.db'}", "mmad_nb") as book:
        notebook = book.find_submission_notebook(lab, lab, student)
        return {grade.name: grade.score for grade in notebook.grades}


def said(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


def test_a_cell_may_take_five_minutes():
    "As the project's page says; nbgrader knows the setting by this name."
    from traitlets.config.loader import PyFileConfigLoader
    settings = PyFileConfigLoader(str(ROOT / ".ci/nbgrader_config.py")).load_config()
    assert settings.Execute.timeout == 300
    assert "Each cell may take five minutes when it is graded" in cells(ROOT / "nbs/exercises/09_project.ipynb")[0].source
    if find_spec("nbgrader"):
        from nbgrader.preprocessors import Execute
        assert Execute(config=settings).timeout == 300


@pytest.mark.parametrize("kind", ["number", "float32", "tensor", "tensor (1,)"])
def test_a_threshold_is_judged_by_its_value_alone(kind, capsys):
    "Whoever works in torch keeps the threshold as a tensor. By hand: at 0.2 nothing is missed; at 0.7 one part is, which costs 5."
    import numpy as np
    import torch
    from mmad_nb.core import check
    scores = np.array([.1, .7, .2, .9], np.float32)                    # good, damaged, damaged, damaged
    detector = type("Detector", (), {"fuse": lambda self, parts: parts, "image_scores": lambda self, maps: maps})()
    judge = by_id(nbformat.read(ROOT / "nbs/exercises/09_project.ipynb", as_version=4))["project_4_check"].source

    def told(threshold, expected):
        known = dict(np=np, check=check, detector=detector, bad_of=lambda samples: np.array([False, True, True, True]), validation=None, parts=scores,
                     weights={}, alarm=10, miss=5, threshold=threshold, expected=expected)
        try: exec(judge, known)
        except AssertionError: pass
        return known["ok"], capsys.readouterr().out
    as_kind = {"number": float, "float32": np.float32, "tensor": torch.tensor, "tensor (1,)": lambda x: torch.tensor([x])}[kind]
    assert told(as_kind(float(scores[2])), 0) == (True, "Yes.\n")
    assert told(as_kind(float(scores[1])), 5) == (False, "Hint: another threshold costs less. Try every score that occurs.\n")
    assert "is not what this threshold costs" in told(as_kind(float(scores[1])), 0)[1]


@needs_nbgrader
def test_students_get_no_solution(course):
    text = (course / "release/01_capture/01_capture.ipynb").read_text(encoding="utf8")
    for hidden in ("SOLUTION", "HIDDEN", "assert", "its solutions, folded", "Open in Colab", "](../"): assert hidden not in text
    page = by_id(nbformat.read(course / "release/01_capture/01_capture.ipynb", as_version=4))
    assert page["capture_1"].source == "share = None      # a number from 0 to 1\npass   # your answer"
    assert "source_hidden" not in json.dumps(page["capture_1"].metadata) and not any(cell.get("outputs") for cell in page.values())


@needs_nbgrader
def test_a_person_reads_the_reasons_of_the_project(course):
    "Its marking scheme stays with the instructor."
    released, source = (by_id(nbformat.read(course / kind / "09_project/09_project.ipynb", as_version=4)) for kind in ("release", "source"))
    essays = [name for name, cell in source.items() if cell.cell_type == "markdown"]
    assert len(essays) == 3 and all("Marks:" in source[name].source and released[name].source == "YOUR ANSWER HERE" for name in essays)
    assert "SOLUTION" not in str(released) and "HIDDEN" not in str(released)


@needs_nbgrader
def test_a_right_submission_has_all_points(course):
    assert score(course, "right") == {"capture_1_check": 2, "capture_2_check": 2, "capture_3_check": 3, "capture_4_check": 3}


@needs_nbgrader
def test_wrong_answers_have_no_points_and_each_its_hint(course):
    assert set(score(course, "wrong").values()) == {0}
    page = by_id(graded(course, "wrong"))
    assert "NOT measured" in said(page["capture_1_check"])
    assert "empty pixels" in said(page["capture_2_check"])
    assert "millimetres are wanted" in said(page["capture_3_check"])


@needs_nbgrader
def test_an_empty_submission_runs_to_its_end(course):
    "Nothing fails but the hidden tests."
    assert set(score(course, "empty").values()) == {0}
    page = graded(course, "empty")
    failed = [marks(cell).get("grade_id") for cell in page.cells if any(o.output_type == "error" for o in cell.get("outputs", []))]
    assert failed == ["capture_1_check", "capture_2_check", "capture_3_check", "capture_4_check"]
    assert said(by_id(page)["capture_1_check"]) == "Still open.\n"


@needs_nbgrader
def test_an_endless_answer_costs_its_own_points_alone(endless):
    assert score(endless, "endless", "short") == {"bug_leak_check": 3, "bug_padding_check": 0, "detectors_4_check": 5}
    assert by_id(graded(endless, "endless", "short"))["bug_padding_check"].outputs[-1].ename in ("KeyboardInterrupt", "CellTimeoutError")


@needs_nbgrader
def test_panels_are_left_out_of_a_graded_run(course):
    panels = [cell for cell in graded(course, "right").cells if "panel = " in cell.source]
    assert panels and not any(cell.outputs for cell in panels)
