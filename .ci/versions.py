"""The three sets of versions on which everything runs, from settings.ini and Colab's list.

    python .ci/versions.py pins oldest      constraints for pip: newest (none), oldest or colab
    python .ci/versions.py python oldest    a Python for it; where the wanted one is not found, this one, and a word about it
    python .ci/versions.py table oldest     what was wanted and what is installed beside this Python (-: not needed), and the disk
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
from configparser import ConfigParser
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

NEEDED = 3   # GB that the tests' own files take at most, with room to spare
PYTHON = {"oldest": "3.10", "colab": "3.13"}
# Colab's published set of 2026-08-19, as far as this package or a kernel meets it.
# Not in it: open_clip, k3d, jupyterlab. Its plotly 5.24.1 is older than the one we ask for: installing us replaces it.
COLAB = """torch 2.11.0, torchvision 0.26.0, numpy 2.1.3, scipy 1.16.3, scikit-learn 1.6.1, matplotlib 3.10.0, pillow 11.3.0, ipywidgets 7.7.1,
ipykernel 6.17.1, ipython 7.34.0, notebook 6.5.7, traitlets 5.7.1, jupyterlab_widgets 3.0.16, plotly 5.24.1, anywidget 0.9.21, timm 1.0.28,
diffusers 0.39.0, peft 0.20.0, transformers 5.15.0, accelerate 1.14.0, safetensors 0.8.0, huggingface_hub 1.27.0, tifffile 2026.8.16,
fastcore 2.2.12, tqdm 4.67.3, pyyaml 6.0.3"""


def declared() -> dict[str, str]:
    "Lower bounds of settings.ini: of what the package requires, and of what its tests do."
    ini = ConfigParser(delimiters=["="])
    ini.read(Path(__file__).parents[1] / "settings.ini", encoding="utf8")
    names = " ".join(ini["DEFAULT"][kind + "requirements"] for kind in ("", "test_", "diffusion_"))
    return dict(requirement.split(">=") for requirement in names.split())


def wanted(kind: str) -> dict[str, str]:
    "Name -> version."
    return {"newest": {}, "oldest": declared(), "colab": dict(item.split() for item in COLAB.split(","))}[kind]


def numbers(text: str) -> tuple:
    return tuple(map(int, re.findall(r"\d+", text)))


def pins(kind: str):
    "Oldest: exactly the bounds. Colab: the nearest below that installs on this Python, unless we ask for more than Colab has."
    for name, number in wanted(kind).items():
        if kind == "oldest": print(f"{name}=={number}")
        elif numbers(number) >= numbers(declared().get(name, "0")): print(f"{name}<={number}")


def python(kind: str):
    "Look on the PATH and among pyenv's versions."
    number = PYTHON[kind]
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for candidate in (shutil.which(f"python{number}"), *sorted(pyenv.glob(f"{number}.*/bin/python"))):
        # pyenv's shims are on the PATH for versions that are switched off, too: ask
        if candidate and subprocess.run([candidate, "-c", "import venv"], capture_output=True).returncode == 0:
            return print(candidate)
    print(f"no Python {number} here: {kind} takes {sys.version.split()[0]}", file=sys.stderr)
    print(sys.executable)


def table(kind: str):
    "Printed, with a star where the two differ."
    if kind != "newest": print(f"{kind}: Python {sys.version.split()[0]} (wanted {PYTHON[kind]})")
    for name, number in wanted(kind).items():
        try: found = version(name)
        except PackageNotFoundError: found = "-"
        same = found == "-" or numbers(found)[:len(numbers(number))] == numbers(number)
        print(f"    {name:20} wanted {number:12} installed {found}" + ("" if same else "   *"))
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free / 1e9
    print(f"{folder}: {free:.0f} GB free" + ("" if free > NEEDED else f". The tests need {NEEDED}: set TMPDIR to a folder with more"))


if __name__ == "__main__":
    {"pins": pins, "python": python, "table": table}[sys.argv[1]](sys.argv[2])
