"""The package as a whole: rooms import one way, importing is quick, and the wheel is complete."""
import ast
import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ["core", "data", "forge", "views", "features", "pretraining", "mapping", "prompts", "streams", "scoring", "detectors", "experiments", "lab"]
MODULES = sorted(p for p in (ROOT / "mmad_nb").rglob("*.py") if p.parent.name in ROOMS)


def rooms_imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.ImportFrom) and node.level == 2 and node.module:
            yield node.module.split(".")[0]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("mmad_nb."):
            yield node.module.split(".")[1]


@pytest.mark.parametrize("path", MODULES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_rooms_import_from_rooms_above(path):
    here = ROOMS.index(path.parent.name)
    below = [room for room in rooms_imported(path) if ROOMS.index(room) > here]
    assert not below, f"{path.parent.name} must not import from {below}"
    assert path.parent.name != "scoring" or "detectors" not in rooms_imported(path)


def attached_later(tree):
    "Methods that are not written in their class and not by @patch: functions of a `self`, and assignments to Class.method."
    for node in tree.body:
        if isinstance(node, ast.FunctionDef) and node.args.args and node.args.args[0].arg == "self":
            if not any("patch" in ast.unparse(d) for d in node.decorator_list): yield node.name
        for target in node.targets if isinstance(node, ast.Assign) else ():
            yield from (ast.unparse(n) for n in ast.walk(target) if isinstance(n, ast.Attribute) and n.value.id[0].isupper())


@pytest.mark.parametrize("path", MODULES, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_methods_stand_in_their_class_or_use_patch(path):
    assert [*attached_later(ast.parse(path.read_text(encoding="utf8")))] == []


def python(code, **options):
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, **options)


def test_import_brings_no_heavy_library():
    heavy = "{'torch', 'timm', 'open_clip', 'k3d', 'plotly', 'matplotlib', 'sklearn', 'diffusers'}"
    assert python(f"import sys, mmad_nb; print(sorted({heavy} & set(sys.modules)))").stdout.strip() == "[]"
    assert python(f"import sys, mmad_nb.data; print(sorted({heavy} & set(sys.modules)))").stdout.strip() == "[]"


def test_promised_names():
    code = """
from mmad_nb.data import AnomalyShapeNet, Cloud, Eyecandies, MVTec3D, Real3D, Sample
from mmad_nb.forge import forge
from mmad_nb.detectors import create_detector, list_detectors, load_detector
from mmad_nb.scoring import aupro, evaluate
from mmad_nb.lab import AblationLab
print(list_detectors())
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    assert "cfm" in done.stdout


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    "A folder into which the wheel, built from a copy of the repository, was installed."
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, files):
        if (ROOT / name).exists():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", folder, source], check=True, timeout=300)
    subprocess.run([*pip, "install", "--no-deps", "--target", folder / "site", *folder.glob("*.whl")], check=True, timeout=300)
    return folder


def test_wheel_holds_samples_and_no_tests(site):
    names = zipfile.ZipFile(next(site.glob("*.whl"))).namelist()
    assert any(re.fullmatch(r"mmad_nb/data_samples/\w+/train/good/xyz/000\.tiff", n) for n in names)
    assert not [n for n in names if n.startswith(("tests/", "nbs/", "benchmarks/"))]
    assert {"mmad_nb/notebooks/00_tour.ipynb", "mmad_nb/experiments/tables/cmds.json"} <= set(names)    # for `mmad lab` and `mmad tables`
    assert not [n for n in names if ".ipynb_checkpoints" in n]


def test_installed_command(site, tmp_path):
    import os
    env = os.environ | {"PYTHONPATH": str(site / "site"), "CI": "true"}
    mmad = lambda *words: subprocess.run([sys.executable, site / "site/bin/mmad", *words], cwd=tmp_path, env=env, capture_output=True, text=True, timeout=120)
    done = mmad("lab", "--copy_only")
    assert done.returncode == 0 and (tmp_path / "mmad_notebooks/scoring/01_aupro.ipynb").is_file(), done.stderr
    assert "rope" in mmad("tables", "--paper", "text_guided", "--number", "I").stdout
    assert mmad("evaluat").returncode == 2


def test_installed_package_works_from_another_folder(site, tmp_path):
    code = """
import mmad_nb, numpy as np
from mmad_nb.data import MVTec3D
from mmad_nb.forge import sample_data
from mmad_nb.detectors import create_detector
from mmad_nb.scoring import evaluate
category = sorted(p.name for p in sample_data().iterdir() if p.is_dir())[0]
detector = create_detector("cfm", encoders="tiny", device="cpu").fit(MVTec3D(sample_data(), category, "train")[:2], epochs=1)
test = MVTec3D(sample_data(), category, "test")[:6]
maps = detector.fuse(detector.components(test))
print(mmad_nb.__file__, evaluate(maps, np.stack([s.mask for s in test])))
"""
    import os
    done = python(code, cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(site / "site"), "CI": "true"})
    assert done.returncode == 0, done.stderr[-3000:]
    assert str(site / "site") in done.stdout and "aupro@30" in done.stdout
