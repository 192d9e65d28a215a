"""Words of pages, docstrings and comments that no dictionary knows.

    python .ci/spelling.py            print them, with the places

The dictionary is that of spylls (Hunspell's American one); words.txt beside this file has what the field and British spelling add, and AMERICAN what is not written here.
"""
import ast
import io
import re
import sys
import tokenize
from collections import defaultdict
from functools import lru_cache
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[1]
TEXTS = ("README.md", "CONTRIBUTING.md", "benchmarks/README.md", *(f".ci/docs/{name}.md" for name in ("index", "parameters", "student", "instructor", "researcher")))
# What the dictionary takes and this project spells the British way.
AMERICAN = re.compile(r"(?i)\b(un|multi|re|dis)?(colou?r(?<!our)|gray|neighbor|center|behavior|meter(?!s? per)|fiber|favor|artifact|analyze|catalog|license(?=s? (of|for|from)\b)|modeling|labeled|labeling|"
                      r"(normal|initial|optim|quant|general|visual|regular|summar|recogn|organ|minim|maxim|random|real|special)iz)\w*")


def prose(markdown: str) -> str:
    "Markdown without code, formulas, addresses and tags."
    text = re.sub(r"```.*?```|\$\$.*?\$\$|`[^`\n]+`|\$[^$\n]+\$|<[^>\n]+>|\]\([^)]*\)|https?://\S+|&\w+;", " ", markdown, flags=re.S)
    text = text.replace("**", "")     # **A**rea is one word
    return re.sub(r"\S+\.(?:py|ipynb|md|txt|pth|json|safetensors|npz?|tiff|png|org|com|io)\b|\S*[/\\@]\S*", " ", text)


def comments(source: str) -> str:
    "Docstrings and comments of a cell, without what they quote as code."
    lines = "\n".join("" if line.lstrip().startswith(("%", "!", "#|")) else line for line in source.splitlines())
    try: tree, tokens = ast.parse(lines), list(tokenize.generate_tokens(io.StringIO(lines).readline))
    except (SyntaxError, tokenize.TokenError): return ""
    nodes = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
    return "\n".join([ast.get_docstring(node) or "" for node in nodes] + [t.string for t in tokens if t.type == tokenize.COMMENT])


def texts(root: Path = ROOT):
    "Pairs of a place and its prose."
    for path in sorted((root / "nbs").rglob("*.ipynb")):
        if ".ipynb_checkpoints" in path.parts: continue
        for cell in nbformat.read(path, as_version=4).cells:
            yield (f"{path.relative_to(root)} {cell.id}", prose(cell.source if cell.cell_type == "markdown" else comments(cell.source)))
    for name in TEXTS: yield name, prose((root / name).read_text(encoding="utf8"))


def known_words() -> set[str]:
    "The words of words.txt."
    lines = (ROOT / ".ci/words.txt").read_text(encoding="utf8").splitlines()
    return {word for line in lines if not line.startswith("#") for word in line.split()}


def unknown(pairs) -> dict[str, list[str]]:
    "Word -> where it stands."
    import spylls.hunspell
    files = Path(spylls.hunspell.__file__).parent / "data/en/en_US"
    lookup, known, found = lru_cache(None)(spylls.hunspell.Dictionary.from_files(str(files)).lookup), known_words(), defaultdict(list)
    for place, text in pairs:
        # a word: letters only, at most its first one large; names like create_model, ViT, CFM are none
        for word in re.findall(r"(?<![\w.'’])[A-Za-z]?[a-z]+(?:['’][a-z]+)?(?![\w'’]|\.\w)", text):
            word = word.replace("’", "'")
            if len(word) > 1 and not {word, word.lower(), word.removesuffix("'s")} & known and not lookup(word): found[word].append(place)
        for match in AMERICAN.finditer(text):
            if match[0].lower() not in known and match[0] not in known: found[match[0]].append(f"{place} (American)")
    return found


if __name__ == "__main__":
    found = unknown(texts())
    for word in sorted(found, key=lambda word: (-len(found[word]), word)): print(f"{word:24}{len(found[word]):4}  {found[word][0]}")
    sys.exit(bool(found))
