"""What a student meets on every page: the cell that sets up Colab, what a GPU is good for; and the short path through the course."""
import json
import re
import sys
import types

import pytest
from test_drift import COURSE, ROOT, sources

COLAB = ROOT / "nbs/00_tour.ipynb"


@pytest.mark.parametrize("path", COURSE, ids=lambda p: str(p.relative_to(ROOT / "nbs")))
def test_first_cell_and_what_it_says_of_a_gpu(path):
    "The same first cell on every page sets up Colab, and one visible line says whether a GPU helps."
    head, setup = sources(path)[:2]
    assert setup == sources(COLAB)[1], "the first code cell is that of the tour"
    assert re.search(r"\*\*(Runtime|Time)\*\*.*GPU", head, re.S), "the line **Runtime** says whether a GPU helps"


@pytest.mark.parametrize("colab", (False, True))
@pytest.mark.parametrize("installed", (False, True))
def test_first_cell_sets_up_colab(colab, installed, monkeypatch):
    "Run as IPython runs it: pip where the package is missing, Colab's widgets switched on, otherwise nothing."
    import importlib.util
    from IPython.core.inputtransformer2 import TransformerManager
    asked, shell = [], types.SimpleNamespace(run_line_magic=lambda *given: asked.append(given))
    output = types.SimpleNamespace(enable_custom_widget_manager=lambda: asked.append("widgets"))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if installed else None)
    for name in ("google", "google.colab"): monkeypatch.delitem(sys.modules, name, raising=False)
    if colab:
        monkeypatch.setitem(sys.modules, "google", types.ModuleType("google"))
        monkeypatch.setitem(sys.modules, "google.colab", types.ModuleType("google.colab"))
        sys.modules["google.colab"].output = output
    exec(TransformerManager().transform_cell(sources(COLAB)[1]), {"get_ipython": lambda: shell})
    pip = [("pip", 'install -q "mmad_nb @ git+https://github.com/mmad-nb/mmad_nb"')]
    assert asked == (pip if not installed else []) + (["widgets"] if colab else [])


# The short path: the pages in which a student meets one detector whole, and one of each other kind.

def short_path():
    "Its pages, as the index names them."
    table = next(s for s in sources(ROOT / "nbs/index.ipynb") if "## The short path" in s)
    table = table[table.index("## The short path"):].split("\n## ")[0]
    return [ROOT / "nbs" / link for link in re.findall(r"^\| \d+ \| \[[^\]]+\]\(([^)]+)\)", table, re.M)]


def test_short_path_is_one_chain():
    path = short_path()
    assert len(path) == 12 and path[0].stem == "00_tour" and path[-1].stem == "05_ablation"
    for n, page in enumerate(path):
        assert f"**Short path:** station {n + 1} of {len(path)}." in sources(page)[0]
        link = re.search(r"\*\*Next on the short path:\*\* \[[^\]]+\]\(([^)]+)\), station (\d+) of 12\.", sources(page)[-1])
        if n + 1 < len(path): assert link and (page.parent / link[1]).resolve() == path[n + 1] and int(link[2]) == n + 2, page
        else: assert link is None
    others = [page for page in COURSE if page not in path]
    assert not [page for page in others if "hort path:**" in sources(page)[0] + sources(page)[-1]]


def seen(notebook):
    "Words and lines of code that a reader sees before he opens anything."
    words = lines = 0
    for cell in notebook["cells"]:
        text = "".join(cell["source"])
        if cell["cell_type"] == "markdown": words += len(re.sub(r"<details>.*?</details>", "", text, flags=re.S).split())
        elif not cell["metadata"].get("jupyter", {}).get("source_hidden"): lines += sum(bool(line.strip()) for line in text.splitlines())
    return words, lines


@pytest.mark.parametrize("path", short_path(), ids=lambda p: p.stem)
def test_short_path_is_short(path):
    words, lines = seen(json.loads(path.read_text(encoding="utf8")))
    assert words <= 2000, f"{words} words: fold what is not needed, or cut"
    assert lines <= 350, f"{lines} lines of code: fold what is not needed"
