"""The documentation site: written into build/docs from the notebooks as they are stored, the exported modules and .ci/docs.

    python .ci/docs.py            write the sources, let Sphinx build and check them (0 warnings), look at every link of the result
    python .ci/docs.py --sources  write the sources alone

Nothing is run: pages show the outputs that they carry. API pages come from docstrings and docments.
"""
import ast
import base64
import importlib
import inspect
import json
import posixpath
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import nbformat
from fastcore.docments import docments

ROOT = Path(__file__).parents[1]
SITE = "https://github.com/mmad-nb/mmad_nb/blob/main/"
ROOMS = "core data forge views features pretraining mapping prompts streams scoring detectors experiments lab exercises".split()
# Pages that are no notebooks, and their names in the contents; those of .ci/docs stand at the top of the site.
COPIED = {".ci/docs/student.md": "For students", ".ci/docs/instructor.md": "For instructors", ".ci/docs/researcher.md": "For researchers",
          "CONTRIBUTING.md": "Contributing", "benchmarks/README.md": "Benchmarks"}
SETTING_UP = ("#| default_exp", "# Sets up Colab")     # cells that only Colab and the export need


# Pages from notebooks

def rooms(root: Path) -> dict[str, list[Path]]:
    "The rooms that exist, each with its pages in reading order."
    pages = {room: sorted((root / "nbs" / room).glob("[0-9]*.ipynb")) for room in ROOMS}
    return {room: found for room, found in pages.items() if found}


def on_top(name: str) -> str:
    "Where the site has a file."
    return name.removeprefix(".ci/docs/")


def on_site(text: str, page: str, pages: set) -> str:
    """Markdown of `page` (a path from the root): links to files that the site does not hold lead to the repository,
    the badge is words, and links to headings lose the capitals that JupyterLab wants."""
    text = re.sub(r"\[!\[([^\]]*)\]\(https://colab[^)]*badge[^)]*\)\]", r"[\1]", text)

    def link(match):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(page), match[1]))
        if target == "README.md": target = "nbs/index.ipynb"     # which it is written from
        place = (match[2] or "").lower()
        return f"]({posixpath.relpath(on_top(target), posixpath.dirname(on_top(page)) or '.')}{place})" if target in pages else f"]({SITE}{target}{place})"
    text = re.sub(r"\]\(#[^)]+\)", lambda match: match[0].lower(), text)
    return re.sub(r"\]\((?!https?:|#|attachment:|mailto:)([^)#\s]+)(#[^)]*)?\)", link, text)


def site_page(path: Path, pages: set, folder: Path):
    "One notebook as the site shows it: plumbing behind a button, no lines for nbdev, attached pictures beside it."
    notebook, name = nbformat.read(path, as_version=4), path.relative_to(ROOT).as_posix()
    cells = []
    for cell in notebook.cells:
        if cell.source.startswith(SETTING_UP): continue
        if cell.cell_type == "markdown":
            cell.source = on_site(cell.source, name, pages)
            for title, data in cell.pop("attachments", {}).items():
                picture = folder / name.replace(".ipynb", "_" + title)
                picture.parent.mkdir(parents=True, exist_ok=True)
                picture.write_bytes(base64.b64decode(next(iter(data.values()))))
                cell.source = cell.source.replace(f"](attachment:{title})", f"]({picture.name})")
        elif cell.cell_type == "code":
            folded = cell.metadata.get("jupyter", {}).get("source_hidden") or cell.source.startswith("#| hide")
            if folded: cell.metadata["tags"] = [*cell.metadata.get("tags", ()), "hide-input"]
            cell.source = "\n".join(line for line in cell.source.splitlines() if not line.startswith("#|")).strip("\n")
        cells.append(cell)
    notebook.cells = cells
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / name)


# API pages from docments

def public(module) -> dict[str, object]:
    "What a module exports and defines itself, by name."
    return {name: thing for name in getattr(module, "__all__", ()) if getattr(thing := getattr(module, name), "__module__", module.__name__) == module.__name__}


def members(kind: type) -> dict[str, object]:
    "Public methods and properties that a class writes itself, as functions."
    found = {name: getattr(thing, "fget", None) or getattr(thing, "func", None) or getattr(thing, "__func__", thing)
             for name, thing in vars(kind).items() if not name.startswith("_")}
    return {name: thing for name, thing in found.items() if inspect.isfunction(thing)}


def same_everywhere() -> dict[str, str]:
    "Parameter -> its meaning, from the table of .ci/docs/parameters.md."
    return dict(re.findall(r"^\| `([\w.]+)` \| (.+) \|$", (ROOT / ".ci/docs/parameters.md").read_text(encoding="utf8"), re.M))


def words(thing, name: str, owner: type | None = None) -> tuple[str, dict]:
    "Docstring and docments. What a method does not say, the class above may; what nobody says is a weight's meaning, or the same everywhere."
    kinds = owner.__mro__[1:] if owner else ()
    text, meant = inspect.cleandoc(thing.__doc__ or ""), parameters(thing)
    for other in (own for kind in kinds if (own := members(kind).get(name))):
        text = text or inspect.cleandoc(other.__doc__ or "")
        for key, value in parameters(other).items():
            if key in meant: meant[key]["docment"] = meant[key]["docment"] or value["docment"]
    usual = same_everywhere()
    if isinstance(getattr(owner, "weights", None), tuple): usual |= {weight.name: weight.meaning for weight in owner.weights}   # a detector's
    for key, value in meant.items(): value["docment"] = value["docment"] or usual.get(f"{name}.{key}") or usual.get(key, "")
    return text, meant


def parameters(thing) -> dict:
    "Parameter -> its docment, annotation and default; without self."
    try: found = docments(thing, full=True)
    except (OSError, TypeError, ValueError): return {}     # no source: a builtin's signature
    return {key: value for key, value in found.items() if key not in ("self", "cls")}


def shown(value) -> str:
    "A type or a default as it is written."
    if value is inspect.Parameter.empty: return ""
    return value if isinstance(value, str) else getattr(value, "__name__", None) or repr(value)


def cell(text: str) -> str:
    return " ".join(str(text or "").split()).replace("|", "\\|")


def table(meant: dict) -> str:
    "The parameters as a table."
    rows = []
    for name, about in meant.items():
        kind = shown(about["anno"])
        default = "" if name == "return" or about["default"] is inspect.Parameter.empty else f"`{cell(repr(about['default']))}`"
        if name == "return" and not (kind or about["docment"]): continue
        rows.append(f"| {'*returns*' if name == 'return' else f'`{name}`'} | {f'`{cell(kind)}`' if kind else ''} | {default} | {cell(about['docment'])} |")
    return "\n".join(["| | type | default | meaning |", "|---|---|---|---|", *rows]) if rows else ""


def written(value, most: int = 400) -> str:
    "A constant, cut where it grows long."
    text = repr(value).replace("`", "'")
    return text if len(text) <= most else text[:most] + " ..."


def entry(title: str, thing, level: int, text: str, meant: dict) -> str:
    "One name: how it is called, what it does, what goes in and out."
    star = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    try: names = [star.get(p.kind, "") + p.name for p in inspect.signature(thing).parameters.values() if p.name not in ("self", "cls")]
    except (TypeError, ValueError): names = ["..."]     # an exception's, which Python does not tell
    return "\n\n".join(filter(None, (f"{'#' * level} {title}", f"```python\n{title.split('.')[-1]}({', '.join(names)})\n```", text, table(meant)))) + "\n"


def api_page(module, room, notebook: str) -> str:
    "Everything that one module exports."
    parts = [f"# {module.__name__}\n\n{inspect.cleandoc(module.__doc__ or '')}\n\nExplained in [{notebook}](../nbs/{notebook}).\n"]
    for name, thing in public(module).items():
        if inspect.isclass(thing):
            parts.append(entry(name, thing, 2, *words(thing, name)))
            parts += [entry(f"{name}.{key}", method, 3, *words(method, key, thing)) for key, method in members(thing).items()]
        elif callable(thing): parts.append(entry(name, thing, 2, *words(thing, name)))
        else: parts.append(f"## {name}\n\n```text\n{written(thing)}\n```\n")
        if name in getattr(room, "__all__", ()): parts[-1] += f"\n`from {room.__name__} import {name}`\n"
    return "\n".join(parts)


# The house, drawn from its imports

def imports(root: Path) -> dict[str, set[str]]:
    "Room -> the rooms that its modules import, wherever in the file."
    found = {}
    for room in ROOMS:
        for file in sorted((root / "mmad_nb" / room).glob("*.py")):
            used = found.setdefault(room, set())
            for node in ast.walk(ast.parse(file.read_text(encoding="utf8"))):
                if isinstance(node, ast.ImportFrom) and node.level == 2 and node.module: used.add(node.module.split(".")[0])
                elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mmad_nb."): used.add(node.module.split(".")[1])
    return {room: used & set(ROOMS) - {room} for room, used in found.items()}


def house(graph: dict[str, set[str]], about: dict[str, str]) -> str:
    "SVG: the rooms from the top down, an arc from each room to every room that uses it. Bold where no way round leads there too."
    step, left, width = 44, 30, 190
    rows = {room: 30 + step * k for k, room in enumerate(graph)}

    def reaches(start):
        return graph[start] | {far for near in graph[start] for far in reaches(near)}
    arcs = []
    for room, used in graph.items():
        for other in sorted(used, key=list(graph).index):
            direct = not any(other in reaches(between) for between in used - {other})
            top, bottom = rows[other], rows[room]
            reach, side = 26 + (bottom - top) * .28, left + width
            arcs.append((direct, f'<path d="M{side} {top + 5} C{side + reach:.0f} {top + 5} {side + reach:.0f} {bottom - 5} {side + 4} {bottom - 5}" '
                         f'class="{"direct" if direct else "also"}" marker-end="url(#{"direct" if direct else "also"})"/>'))
    boxes = [f'<rect x="{left}" y="{y - 15}" width="{width}" height="30" rx="6"/><text x="{left + 12}" y="{y + 5}">{room}</text>' for room, y in rows.items()]
    right = left + width + 200
    words = [f'<text x="{right}" y="{y + 5}" class="about">{about.get(room, "")}</text>' for room, y in rows.items()]
    arrow = "".join(f'<marker id="{name}" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto" markerUnits="userSpaceOnUse">'
                    f'<path d="M0 0 8 4 0 8z" class="head {name}"/></marker>' for name in ("direct", "also"))
    style = ("rect{fill:#e8f1f8;stroke:#0072b2}text{font:15px sans-serif;fill:#1a1a1a}.about{font-size:13px;fill:#555}path{fill:none}"
             ".direct{stroke:#0072b2;stroke-width:2}.also{stroke:#b5b5b5;stroke-width:1}.head.direct{fill:#0072b2}.head.also{fill:#b5b5b5}")
    height = rows[list(graph)[-1]] + 30
    return (f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 900 {height}" role="img"><title>The rooms of mmad_nb and who imports whom</title>'
            f"<style>{style}</style><defs>{arrow}</defs><rect width='100%' height='100%' style='fill:#fff;stroke:none'/>"
            + "".join(path for direct, path in sorted(arcs)) + "".join(boxes) + "".join(words) + "</svg>\n")


# All of it

def toctree(caption: str, *entries: str) -> str:
    return "```{toctree}\n:hidden:\n:caption: " + caption + "\n\n" + "\n".join(entries) + "\n```\n"


def taught(root: Path) -> dict[str, str]:
    "Room -> what one learns in it, from the table of the index."
    cells = json.loads((root / "nbs/index.ipynb").read_text(encoding="utf8"))["cells"]
    lines = "".join(next(text for c in cells if "## The long path" in (text := "".join(c["source"]))))
    return {row[1].strip(): row[3].strip() for line in lines.splitlines() if len(row := line.split("|")) == 5}


def write_sources(folder: Path, root: Path = ROOT):
    "Everything that Sphinx reads; what an earlier run left goes."
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "api").mkdir(parents=True)
    found, about = rooms(root), taught(root)
    notebooks = [root / "nbs/index.ipynb", root / "nbs/00_tour.ipynb", *(page for pages in found.values() for page in pages)]
    pages = {page.relative_to(root).as_posix() for page in notebooks} | set(COPIED)
    for page in notebooks: site_page(page, pages, folder)
    for name in COPIED:
        (folder / on_top(name)).parent.mkdir(parents=True, exist_ok=True)
        (folder / on_top(name)).write_text(on_site((root / name).read_text(encoding="utf8"), name, pages), encoding="utf8")
    modules = {}
    for room, chapters in found.items():
        for page in chapters:
            exported = re.search(r'^ *"#\| default_exp ([\w.]+)', page.read_text(encoding="utf8"), re.M)     # a line of its own: no page that speaks of it
            if not exported: continue
            name = f"mmad_nb.{exported[1]}"
            text = api_page(importlib.import_module(name), importlib.import_module(f"mmad_nb.{room}"), page.relative_to(root / "nbs").as_posix())
            (folder / f"api/{name}.md").write_text(text, encoding="utf8")
            modules.setdefault(room, []).append(name)
    lists = [f"## {room}\n\n" + "\n".join(f"- [{name}]({name}.md)" for name in names) for room, names in modules.items()]
    (folder / "api/index.md").write_text("# Every name\n\nWhat each module exports, with shapes, units and ranges. [Some parameters](parameters.md) mean the same everywhere.\n\n" + "\n\n".join(lists) + "\n\n"
                                         + toctree("Names", "parameters", *(name for names in modules.values() for name in names)), encoding="utf8")
    (folder / "house.svg").write_text(house(imports(root), {room: text.split(";")[0] for room, text in about.items()}), encoding="utf8")
    shutil.copy(root / ".ci/docs/lab.png", folder)
    shutil.copy(root / ".ci/docs/parameters.md", folder / "api")
    short = {place: [f"{title} <{on_top(name)[:-3]}>" for name, title in COPIED.items() if (on_top(name) != name) == place] for place in (True, False)}
    trees = [toctree("Start", "README <nbs/index>", "nbs/00_tour", *short[True])]
    trees += [toctree(room, *(page.relative_to(root).with_suffix("").as_posix() for page in chapters)) for room, chapters in found.items()]
    trees.append(toctree("More", "api/index", *short[False]))
    (folder / "index.md").write_text((root / ".ci/docs/index.md").read_text(encoding="utf8") + "\n" + "\n".join(trees), encoding="utf8")


class Page(HTMLParser):
    "What one built page links to, what it loads, and the places in it that can be linked to."
    def __init__(self, text):
        super().__init__()
        self.links, self.loads, self.places = [], [], {"", "top"}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        seen = dict(attributes)
        self.places.add(seen.get("id") or "")
        if tag == "a" and seen.get("href"): self.links.append(seen["href"])
        if seen.get("src"): self.loads.append(seen["src"])
        if tag == "link" and seen.get("rel") not in ("canonical", "author"): self.loads.append(seen.get("href") or "")
    handle_startendtag = handle_starttag


def wrong_links(folder: Path) -> list[str]:
    "Links within the site that lead nowhere, and anything that a page would load from elsewhere."
    pages = {path.resolve(): Page(path.read_text(encoding="utf8")) for path in folder.rglob("*.html") if "_static" not in path.parts}
    wrong = []
    for path, page in pages.items():
        name = path.relative_to(folder.resolve())
        wrong += [f"{name} loads {url}" for url in page.loads if re.match(r"(https?:)?//", url)]
        for url in page.links + page.loads:
            parts = urlsplit(url)
            if parts.scheme or parts.netloc: continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists(): wrong.append(f"{name}: no {url}")
            elif target in pages and unquote(parts.fragment) not in pages[target].places: wrong.append(f"{name}: no place {url}")
    return wrong


def main(arguments):
    sources, out = ROOT / "build/docs/source", ROOT / "build/docs"
    write_sources(sources)
    if "--sources" in arguments: return
    for builder in ("html", "linkcheck"):
        subprocess.run([sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-j", "auto", "-b", builder, "-c", ROOT / ".ci/docs", "-d", out / "doctrees",
                        sources, out / builder], check=True)
    if wrong := wrong_links(out / "html"): sys.exit("\n".join(wrong))
    print(f"read it: {(out / 'html/index.html').relative_to(ROOT)}")


if __name__ == "__main__":
    main(sys.argv[1:])
