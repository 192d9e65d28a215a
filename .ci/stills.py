"""Run notebooks in place and keep of their outputs what a page without a kernel can show.

    python .ci/stills.py nbs/scoring/01_aupro.ipynb ...     run, then tidy
    python .ci/stills.py --tidy-only nbs/...                tidy alone

Text and PNG pictures stay (pictures are reduced to 800 pixels of width and 256 dithered colours, or to 128 plain ones where the page would grow too
large, those first that show it least); live widgets, which would be megabytes and show nothing without a kernel, are dropped. Pictures get a text for those who do not see them (alt.py). Every notebook must stay under 300 kB.
"""
import base64
import io
import os
import sys
import tempfile
import time
from pathlib import Path

import nbformat
import numpy as np
from alt import alt_text
from nbclient import NotebookClient
from PIL import Image, ImageFilter

LIVE = ("application/vnd.jupyter.widget-view+json", "application/vnd.plotly.v1+json", "application/javascript")
# Of a cell's metadata this stays, as in pyproject.toml: what people set by hand, and what slides and nbgrader need.
CELL_KEYS = {"collapsed", "jupyter", "tags", "nbgrader", "slideshow", "editable", "deletable"}
FOLDED = {"source_hidden", "outputs_hidden"}   # of its key `jupyter`
MAX_BYTES = 300_000
SPARE = 10_000       # bytes that pictures leave for later changes of the text
MAX_WIDTH = 800


def smaller(png: str, colors: int = 256, dither: bool = True) -> str:
    "The same picture, not too wide and with few colours; base64 in, base64 out."
    picture = Image.open(io.BytesIO(base64.b64decode(png)))
    if picture.mode == "P" and picture.width <= MAX_WIDTH: return png   # reduced before: it stays to the bit
    picture = picture.convert("RGB")
    if picture.width > MAX_WIDTH:
        picture = picture.resize((MAX_WIDTH, round(picture.height * MAX_WIDTH / picture.width)), Image.Resampling.LANCZOS)
    # MAXCOVERAGE keeps rare colours, such as the outline of a defect; k-means then settles the palette
    reduced = picture.quantize(colors, Image.Quantize.MAXCOVERAGE, kmeans=1)
    paper, palette = reduced.getpixel((0, 0)), reduced.getpalette()
    palette[3 * paper:3 * paper + 3] = picture.getpixel((0, 0))
    reduced.putpalette(palette)
    if dither: reduced = picture.quantize(palette=reduced, dither=Image.Dither.FLOYDSTEINBERG)   # no bands in what is smooth
    # white paper stays white: finding the nearest colour is not exact in Pillow
    blank = (np.asarray(picture) == picture.getpixel((0, 0))).all(-1)
    reduced.paste(paper, mask=Image.fromarray(blank))
    return min(packed(reduced), packed(picture), key=len)


def packed(picture: Image.Image) -> str:
    "PNG as base64."
    out = io.BytesIO()
    picture.save(out, "PNG", optimize=True)
    return base64.b64encode(out.getvalue()).decode()


def bands(small: str, png: str) -> float:
    "How far a reduced picture is from the raw one on the average of a few pixels, as the eye sees it: large where bands are."
    pair = [Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB") for text in (small, png)]
    small, raw = (np.asarray(p.resize(pair[0].size).filter(ImageFilter.BoxBlur(4)), float) for p in pair)
    return float(abs(small - raw).mean())


def reduce_pictures(notebook):
    "All pictures of a page smaller, in place: 128 colours, and as long as the page has room smooth where it matters most."
    pictures = [o.data for cell in notebook.cells for o in cell.get("outputs", []) if "image/png" in o.get("data", {})]
    changes = []
    for data in pictures:
        raw = data["image/png"]
        data["image/png"], smooth = smaller(raw, 128, False), smaller(raw)
        changes.append((bands(data["image/png"], raw), data, smooth))
    size = len(nbformat.writes(notebook).encode())
    for _, data, smooth in sorted(changes, key=lambda change: -change[0]):
        grown = size + len(smooth) - len(data["image/png"])
        if grown <= MAX_BYTES - SPARE: data["image/png"], size = smooth, grown


def keep(output) -> bool:
    "Whether an output says something on a page that has no kernel behind it."
    if output.output_type == "stream":
        return output.name == "stdout"
    return not any(kind in output.get("data", {}) for kind in LIVE)


def joined(outputs: list) -> list:
    "The outputs with each run of printed text as one: where the kernel cuts it changes from run to run."
    result = []
    for output in outputs:
        if result and output.output_type == result[-1].output_type == "stream":
            result[-1].text += output.text
        else:
            result.append(output)
    return result


def kept(metadata: dict) -> dict:
    "Of a cell's metadata what was set by hand, not what a run or an editor leaves behind."
    result = {key: value for key, value in metadata.items() if key in CELL_KEYS}
    if "jupyter" in result: result["jupyter"] = {key: value for key, value in result["jupyter"].items() if key in FOLDED}
    return {key: value for key, value in result.items() if value != {}}


def tidy(notebook):
    "Drop what changes from run to run or shows nothing without a kernel, in place."
    for name in set(notebook.metadata) - {"kernelspec", "accelerator", "colab"}:
        del notebook.metadata[name]
    for place, cell in enumerate(notebook.cells):
        cell.metadata = kept(cell.metadata)
        if cell.cell_type != "code":
            continue
        cell.execution_count = None
        cell.outputs = joined([o for o in cell.outputs if keep(o)])
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = None
            if output.get("metadata"):
                output.metadata = {}
            if "image/png" in output.get("data", {}):
                output.metadata = {"image/png": {"alt": alt_text(notebook.cells, place)}}
    reduce_pictures(notebook)
    return notebook


def main(arguments):
    run = "--tidy-only" not in arguments
    for path in (Path(a) for a in arguments if not a.startswith("--")):
        notebook, start = nbformat.read(path, as_version=4), time.time()
        if run:
            with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as scratch:   # what the page writes goes with it
                os.environ["TMPDIR"] = scratch
                NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
        nbformat.write(tidy(notebook), path)
        size = path.stat().st_size
        print(f"{path}: {size / 1000:.0f} kB, {time.time() - start:.0f} s" + ("  TOO LARGE" if size > MAX_BYTES else ""))


if __name__ == "__main__":
    main(sys.argv[1:])
