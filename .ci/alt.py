"""Words for stored pictures, for readers who do not see them: taken from the page around each picture.

A line `#| fig-alt: ...` in the cell says it better where the page does not. .ci/stills.py writes the words into the output's metadata, where nbconvert
and the documentation site look for them.
"""
import ast
import re

LABELS = {"set_title", "suptitle", "title", "set_xlabel", "set_ylabel", "xlabel", "ylabel", "set_label"}   # calls and keywords of matplotlib
KINDS = {"imshow": "Pictures", "plot": "Curves", "step": "Curves", "scatter": "Dots", "bar": "Bars", "barh": "Bars", "hist": "Bars", "boxplot": "Bars"}
MOST = 300                                                                                                 # characters
POINTS = r"\b(below|picture|pictures|shows?|figure|see|left|right|top|bottom|rows?|columns?|curves?|colours?|drawn|plot)\b"


def plain(markdown: str) -> str:
    "Text without markup, headings, tables, quotations, code blocks and answers that are folded."
    text = re.sub(r"```.*?```|<details>.*?</details>|<[^>]+>|\$\$.*?\$\$", " ", markdown, flags=re.S)
    text = re.sub(r"^(#+ |\||>).*$", "", text, flags=re.M)
    text = re.sub(r"^ *(?:[-*]|\d+\.) +", "", text, flags=re.M)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    for name, sign in {"alpha": "α", "beta": "β", "gamma": "γ", "lambda": "λ", "eta": "η", "sigma": "σ", "varphi": "φ", "theta": "θ", "psi": "ψ", "Psi": "Ψ", "pm": "±",
                       "cdot": "·", "times": "×", "le": "≤", "ge": "≥", "tau": "τ", "omega": "ω", "Delta": "Δ", "ldots": "...", "dots": "..."}.items():
        text = re.sub(rf"\\{name}(?![a-zA-Z])", sign, text)
    text = re.sub(r"\\(?:mathrm|text|mathbf|hat|bar|tilde|widehat)\b|\\[,;! ]|\\(?:left|right|big|Big)\b|[{}$*`]", "", text)
    return " ".join(text.split())


def sentences(markdown: str) -> list[str]:
    "The sentences of a cell; formulas with commands that nobody would read aloud leave theirs out."
    found = re.split(r"(?<=[.!?:])\s+(?=[A-Z(])", plain(markdown))
    return [s for s in found if len(s.split()) > 4 and "\\" not in s and not s.endswith("?") and not s.startswith(("Try this", "The next cell", "("))]


def written(node) -> str:
    "A string of the source; what is put in when it runs becomes dots."
    if isinstance(node, ast.Constant) and isinstance(node.value, str): return node.value
    return "".join(part.value if isinstance(part, ast.Constant) else "..." for part in node.values) if isinstance(node, ast.JoinedStr) else ""


def labels(source: str) -> list[str]:
    "Titles and names of axes, in the order in which the code has them."
    try: tree = ast.parse("\n".join(line for line in source.splitlines() if not line.lstrip().startswith(("%", "!"))))
    except SyntaxError: return []
    found = []
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
        texts = call.args[:1] if name in LABELS else []
        texts = texts + [keyword.value for keyword in call.keywords if keyword.arg in LABELS]
        found += [(text.lineno, text.col_offset, " ".join(written(text).split())) for text in texts]
    return list(dict.fromkeys(text for *_, text in sorted(found) if re.search(r"\w", text.replace("...", ""))))


def cut(text: str, most: int = MOST) -> str:
    "At the end of a word."
    return text if len(text) <= most else text[:most - 3].rsplit(" ", 1)[0].rstrip(" ,;:(") + " ..."


def alt_text(cells: list, place: int) -> str:
    "What the pictures of the cell at `place` show: the section, titles and axes, and what the page says right before or after."
    given = re.search(r"^#\| fig-alt: *(.+)$", cells[place].source, re.M)
    if given: return given[1].strip()
    before = [cell.source for cell in cells[:place] if cell.cell_type == "markdown"]
    headings = [line.lstrip("# ") for source in before for line in re.sub(r"```.*?```", "", source, flags=re.S).splitlines() if re.match(r"#+ ", line)]
    after = cells[place + 1].source if place + 1 < len(cells) and cells[place + 1].cell_type == "markdown" else ""
    said = sentences(after) if after and not after.startswith("#") else []
    told = sentences(before[-1]) if before else []
    # what comments on a picture first; else the last word before it, which announces it, and the first one after
    best = [s for s in said[:3] if re.search(POINTS, s)][:1] or [s for s in told[-2:] if re.search(POINTS, s)][-1:]
    words = best or told[-1:] + said[:1]
    source = cells[place].source
    kind = next((word for name, word in KINDS.items() if f".{name}(" in source), "Picture")
    parts = [plain(headings[-1].replace("#", "")) if headings else "", f"{kind}: {cut(plain('; '.join(labels(source))), 140)}", *words]
    return cut(" ".join(part if part.endswith((".", "!", "?")) else part.rstrip(" :,;") + "." for part in parts if part))
