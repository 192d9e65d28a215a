"""The documentation site, as far as it can be judged without Sphinx: `make docs` builds it and checks every link."""
import base64
import importlib
import inspect
import io
import re
import sys
from pathlib import Path

import nbformat
import pytest

pytest.importorskip("nbdev", reason="the site is made with the versions of development, which have nbdev")
ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / ".ci"))
import docs  # noqa: E402


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    folder = tmp_path_factory.mktemp("docs") / "source"
    docs.write_sources(folder)
    return folder


def listed(text):
    "What the toctrees of a page name."
    trees = re.findall(r"```\{toctree\}\n.+?\n\n(.+?)\n```", text, re.S)
    return [re.sub(r".+<(.+)>", r"\1", line) for tree in trees for line in tree.splitlines()]


def test_every_notebook_is_in_the_contents_once(sources):
    named = listed((sources / "index.md").read_text())
    notebooks = [p.relative_to(ROOT).with_suffix("").as_posix() for p in (ROOT / "nbs").rglob("*.ipynb") if ".ipynb_checkpoints" not in p.parts]
    assert sorted(n for n in named if n.startswith("nbs/")) == sorted(notebooks)
    assert {"api/index", "CONTRIBUTING", "benchmarks/README", "student", "instructor", "researcher"} <= set(named)
    assert all((sources / f"{name}.md").exists() or (sources / f"{name}.ipynb").exists() for name in named)
    modules = [name for name in listed((sources / "api/index.md").read_text()) if name != "parameters"]
    assert sorted(modules) == sorted(p.stem for p in sources.glob("api/mmad_nb.*.md"))


def test_pages_keep_code_and_outputs_and_lose_what_only_nbdev_needs(sources):
    name = "nbs/scoring/01_aupro.ipynb"
    page, source = (nbformat.read(folder / name, as_version=4) for folder in (sources, ROOT))
    pictures = lambda notebook: [o.data["image/png"] for c in notebook.cells for o in c.get("outputs", ()) if "image/png" in o.get("data", {})]
    assert pictures(page) == pictures(source) != []
    text = "\n".join(cell.source for cell in page.cells)
    assert "def label_regions(" in text and "#|" not in text and "%pip" not in text and "colab-badge" not in text
    hidden = [cell for cell in page.cells if "hide-input" in cell.metadata.get("tags", ())]
    assert any("import matplotlib" in cell.source for cell in hidden) and not any("def label_regions(" in cell.source for cell in hidden)


def test_attached_pictures_lie_beside_their_page(sources):
    page = nbformat.read(sources / "nbs/data/06_roads.ipynb", as_version=4)
    link = re.search(r"!\[[^\]]+\]\(([^)]+roads\.jpg)\)", "\n".join(cell.source for cell in page.cells))
    assert (sources / "nbs/data" / link[1]).read_bytes()[:2] == b"\xff\xd8"


def test_links_lead_to_pages_of_the_site_or_to_the_repository():
    pages = {"nbs/a/01_x.ipynb", "nbs/b/02_y.ipynb"}
    move = lambda text: docs.on_site(text, "nbs/a/01_x.ipynb", pages)
    assert move("[y](../b/02_y.ipynb)") == "[y](../b/02_y.ipynb)"
    assert move("[y](../b/02_y.ipynb#The-End)") == "[y](../b/02_y.ipynb#the-end)" and move("[here](#The-End)") == "[here](#the-end)"
    assert move("[f](../../benchmarks/aupro.py)") == f"[f]({docs.SITE}benchmarks/aupro.py)"
    assert docs.on_site("[y](../../nbs/b/02_y.ipynb) [r](../../README.md)", ".ci/docs/student.md", pages | {"nbs/index.ipynb"}) == "[y](nbs/b/02_y.ipynb) [r](nbs/index.ipynb)"
    assert docs.on_site("[s](../.ci/docs/student.md)", "nbs/index.ipynb", {".ci/docs/student.md"}) == "[s](../student.md)"
    assert move("[w](https://a.org/B#C)") == "[w](https://a.org/B#C)"
    assert move("[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://x)") == "[Open in Colab](https://x)"


def public_things():
    for room in docs.rooms(ROOT):
        try: module = importlib.import_module(f"mmad_nb.{room}")
        except ModuleNotFoundError: continue     # exercises export nothing
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.isclass(thing):
                yield from ((room, thing.__module__, f"{name}.{key}", method, thing) for key, method in docs.members(thing).items())
            if callable(thing): yield room, thing.__module__, name, thing, None


def test_every_public_name_says_what_it_does_and_what_its_parameters_are():
    silent = []
    for _, module, name, thing, owner in public_things():
        text, meant = docs.words(thing, name.split(".")[-1], owner)
        silent += [f"{module}.{name}: no docstring"] if not text else []
        silent += [f"{module}.{name}: {key} has no docment" for key, about in meant.items() if key != "return" and not about["docment"]]
    assert silent == [], "write a docment, or a row in .ci/docs/parameters.md where it means the same everywhere"


def test_every_public_name_has_an_entry_with_its_parameters(sources):
    for room, module, name, thing, owner in public_things():
        text = (sources / f"api/{module}.md").read_text()
        assert re.search(rf"^##+ {re.escape(name)}$", text, re.M), (module, name)
        if not owner: assert re.search(rf"^`from mmad_nb\.\w+ import {name}`$", text, re.M), (module, name)
    text = (sources / "api/mmad_nb.scoring.aupro.md").read_text()
    assert '| `mode` | `str` | `\'exact\'` | "exact", or "legacy-100" / "legacy-99" for comparison with papers |' in text


def test_words_are_inherited_and_then_taken_from_the_table():
    class Above:
        def f(self, a,  # (N,) from above
              seed=0):
            "Above."

    class Below(Above):
        def f(self, a, seed=0): return a
    text, meant = docs.words(Below.f, "f", Below)
    assert text == "Above." and meant["a"]["docment"] == "(N,) from above" and meant["seed"]["docment"] == "the same seed gives the same result"


def test_the_table_of_parameters_has_no_row_that_nobody_uses():
    used = {key for *_, name, thing, owner in public_things() for parameter in docs.parameters(thing) for key in (parameter, f"{name.split('.')[-1]}.{parameter}")}
    assert set(docs.same_everywhere()) <= used


def test_the_house_is_drawn_from_its_imports():
    graph = docs.imports(ROOT)
    assert list(graph) == [room for room in docs.ROOMS if room in graph] and "scoring" in graph["lab"] and graph["core"] == set()
    assert all(docs.ROOMS.index(used) < docs.ROOMS.index(room) for room in graph for used in graph[room])
    picture = docs.house({"a": set(), "b": {"a"}, "c": {"a", "b"}}, {"b": "second"})
    assert picture.count('class="direct"') == 2 and picture.count('class="also"') == 1     # c reaches a through b
    assert ">second</text>" in picture and "<title>" in picture


def test_a_broken_link_and_a_foreign_script_are_found(tmp_path):
    (tmp_path / "a.html").write_text('<a href="b.html#there">x</a><a href="b.html#gone">y</a><a href="c.html">z</a><a href="https://w.org">w</a>'
                                     '<script src="https://cdn.org/x.js"></script><img src="d.png">')
    (tmp_path / "b.html").write_text('<p id="there">')
    assert docs.wrong_links(tmp_path) == ["a.html loads https://cdn.org/x.js", "a.html: no place b.html#gone", "a.html: no c.html", "a.html: no d.png"]


def cells(*texts):
    return [nbformat.v4.new_code_cell(text[1:]) if text.startswith("%") else nbformat.v4.new_markdown_cell(text) for text in texts]


def test_a_picture_is_put_into_words_from_its_page():
    from alt import alt_text
    code = '%ax.plot(x)\nax.set(xlabel="false $\\\\alpha$", title=f"loss of {name}")\nfig.colorbar(shown, label="mm")'
    page = cells("# Title\n> One.", "## Blur it\nFirst sentence of the text. Below stands what a blur of `3` pixels does:", code)
    assert alt_text(page, 2) == "Blur it. Curves: false α; loss of ... Below stands what a blur of 3 pixels does."
    page += cells("Is it nice? The left curve is the **sharp** one. More is said here and not needed.\n<details>no picture</details>")
    assert alt_text(page, 2).endswith("loss of ... The left curve is the sharp one.")        # a comment goes before an announcement
    page[3].source = "## Another thing\nIt shows nothing of that picture."
    assert alt_text(page, 2).endswith("a blur of 3 pixels does.")
    page[2].source = "#| fig-alt: Two curves that cross\nplot()"
    assert alt_text(page, 2) == "Two curves that cross"
    long = cells("## " + "very " * 200 + "long", "%show()")
    assert len(alt_text(long, 1)) <= 300 and alt_text(long, 1).endswith("very ...")


def test_stills_write_the_words_and_leave_reduced_pictures_alone():
    from PIL import Image
    from stills import smaller, tidy

    def png(mode):
        out = io.BytesIO()
        Image.radial_gradient("L").convert("RGB").convert(mode).save(out, "PNG")
        return base64.b64encode(out.getvalue()).decode()
    once = smaller(png("RGB"))
    assert smaller(once) == once
    page = nbformat.v4.new_notebook(cells=cells("## A ball\nThe picture shows a ball that is lit from above.", "%ball"))
    page.cells[1].outputs = [nbformat.v4.new_output("display_data", {"image/png": once, "text/plain": "<Figure>"}, metadata={"image/png": {"width": 3}})]
    assert tidy(page).cells[1].outputs[0].metadata == {"image/png": {"alt": "A ball. Picture. The picture shows a ball that is lit from above."}}


def test_stills_are_small_and_smooth():
    import numpy as np
    from PIL import Image, ImageFilter
    from stills import MAX_WIDTH, smaller

    def png(picture):
        out = io.BytesIO(); picture.save(out, "PNG")
        return base64.b64encode(out.getvalue()).decode()
    unpacked = lambda text: Image.open(io.BytesIO(base64.b64decode(text)))
    y, x = np.mgrid[:300, :300] / 299
    ramp = np.stack([252 * x, 252 * y, 252 * x * y], -1)                # far more than 256 colours
    ramp += np.random.default_rng(0).integers(0, 3, ramp.shape)         # and a grain, which costs bytes
    ramp[:20] = 255                                                     # paper
    ramp[150, 10:14] = 0, 255, 255                                      # an outline in a colour of its own
    picture = Image.fromarray(ramp.astype(np.uint8))
    soft = lambda p: np.asarray(p.convert("RGB").filter(ImageFilter.BoxBlur(4)), float)[30:140]
    off = {}
    for way in ((256, True), (128, False)):
        small = smaller(png(picture), *way)
        assert len(small) < .8 * len(png(picture)) and unpacked(small).mode == "P"
        assert len(unpacked(small).getcolors()) <= way[0]
        again = np.asarray(unpacked(small).convert("RGB"), int)
        assert (again[:20] == 255).all() and abs(again[150, 10:14] - (0, 255, 255)).max() < 40
        off[way] = abs(soft(unpacked(small)) - soft(picture)).mean()
    assert off[256, True] < .5 * off[128, False]                        # no bands: right on the average of a few pixels
    ball, light = np.full((300, 300, 3), 255.), np.clip(1 - 6 * ((x - .5) ** 2 + (y - .5) ** 2), 0, 1)[..., None] ** .5
    ball = np.where(light > 0, light * (230, 153, 77), ball) + np.random.default_rng(0).integers(-1, 1, (300, 300, 3)) * (light > 0)
    soft_rim = Image.fromarray(ball.clip(0, 255).astype(np.uint8)).resize((150, 150), Image.Resampling.LANCZOS).resize((300, 300))
    again = np.asarray(unpacked(smaller(png(soft_rim))).convert("RGB"))
    assert unpacked(smaller(png(soft_rim))).mode == "P" and (again[:20] == 255).all()    # white, though the rim is nearly white
    wide = Image.new("RGB", (2 * MAX_WIDTH, 100), "white")
    wide.paste("red", (0, 0, MAX_WIDTH, 100))
    assert unpacked(smaller(png(wide))).size == (MAX_WIDTH, 50)


def test_stills_are_smooth_where_the_page_has_room(monkeypatch):
    import numpy as np
    import stills
    from PIL import Image

    def output(soft):
        out, (y, x), grain = io.BytesIO(), np.mgrid[:200, :200], np.random.default_rng(0).integers(0, 8, (200, 200, 3))
        flat = np.stack([x // 50 * 50, y // 50 * 50, 0 * x], -1)
        Image.fromarray(((np.stack([x, y, x * y / 200], -1) if soft else flat) + grain).astype(np.uint8)).save(out, "PNG")
        return nbformat.v4.new_output("display_data", {"image/png": base64.b64encode(out.getvalue()).decode()})

    def colors():
        page = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1", outputs=[output(False), output(True)])])
        stills.reduce_pictures(page)
        pngs = [o.data["image/png"] for o in page.cells[0].outputs]
        return [len(Image.open(io.BytesIO(base64.b64decode(png))).getcolors()) > 128 for png in pngs], len(nbformat.writes(page))
    both, size = colors()
    assert both == [True, True]
    monkeypatch.setattr(stills, "MAX_BYTES", size - 1 + stills.SPARE)
    assert colors()[0] == [False, True]                                 # the one with bands comes first
    monkeypatch.setattr(stills, "MAX_BYTES", 0)
    assert colors()[0] == [False, False]


def test_every_word_is_in_the_dictionary_or_in_the_list():
    pytest.importorskip("spylls", reason="pip install spylls")
    import spelling
    assert spelling.unknown(spelling.texts()) == {}, "mend it, or add it to .ci/words.txt"


def test_spelling_looks_at_prose_docstrings_and_comments_alone():
    import spelling
    assert spelling.prose("A **w**ord, `kode`, $\\alhpa$ and [a link](http://x.org/misspeled) of\n```\nkode\n```\n").split() == "A word, , and [a link of".split()
    source = '#| hide\n%pip install kode\ndef f(kode):  # a coment\n    "A docstrng."\n    return "txet"'
    assert "coment" in spelling.comments(source) and "docstrng" in spelling.comments(source)
    assert not {"kode", "txet", "hide"} & set(spelling.comments(source).split())
    pytest.importorskip("spylls", reason="pip install spylls")
    found = spelling.unknown([("here", "The colour of a speling eror in CFM and create_model, AUPRO's and x.kode, beside neighbors and gray."), ("there", "speling")])
    assert found == {"speling": ["here", "there"], "eror": ["here"], "neighbors": ["here (American)"], "gray": ["here (American)"]}


# What nbs/core/06_words.ipynb calls by another name. Where a page quotes a paper or a file's name it may stand: name page and cell here.
NOT_OURS = r"\b(back-?bones?|hyper-?parameters?|ground.truth|heat ?maps?|depth images?|range images?|(RGB|colou?r) images?|point-clouds?|(defect|anomaly)-free|feature vectors?|nominal samples?)\b"
QUOTED = {"data/03_datasets c86e18ca", "data/05_clouds 46890c83", "forge/02_defects 273209c5", "forge/05_forge_clouds 7a493e62", "core/06_words d0c00004"}


def test_pages_use_the_words_of_the_glossary():
    found = []
    for path in sorted((ROOT / "nbs").rglob("*.ipynb")):
        page = path.relative_to(ROOT / "nbs").with_suffix("").as_posix()
        for cell in nbformat.read(path, as_version=4).cells:
            text = re.sub(r"`[^`]+`", "", cell.source) if cell.cell_type == "markdown" else ""
            found += [(f"{page} {cell.id}", match[0]) for match in re.finditer(NOT_OURS, text, re.I) if f"{page} {cell.id}" not in QUOTED]
    assert found == [], "nbs/core/06_words.ipynb has the house's word"
