"""PointAD and GS-CLIP by the zero-shot protocols on forged copies of all four layouts, printed beside their published tables; the rows of GS-CLIP's ablations."""
import pytest
from layouts import write_clouds, write_eyecandies, write_mvtec

from mmad_nb.experiments import find_tables, load_study, render
from mmad_nb.experiments.command import main
from mmad_nb.experiments.published import columns

SMALL = {"pointad": "epochs=1,views=2", "gs_clip": "epochs=1,synergy_epochs=1,views=2"}


def mvtec(root):
    for category in ("carrot", "bagel"): write_mvtec(root, category, counts=(("train/good", 1), ("test/good", 1), ("test/hole", 1)))
    return root


def eyecandies(root):
    for category in ("Confetto", "CandyCane"): write_eyecandies(root, category, (64, 64), 1, (("good", False), ("bumps", True)), ball=True)
    return root


def real3d(root):
    for category in ("shell", "airplane"): write_clouds(root, category, ["1_prototype"], {"2_good": None, "3_bulge_cut": "3_bulge_cut"}, count=1100)
    return root


def shapenet(root):
    for category in ("bag0", "bowl0"):
        write_clouds(root, category, [f"{category}_template0"], {f"{category}_positive0": None, f"{category}_bulge0": f"{category}_bulge0"}, "GT", ",", count=1100)
    return root


LAYOUTS = {"mvtec": (mvtec, "carrot", "bagel"), "eyecandies": (eyecandies, "Confetto", "CandyCane"), "real3d": (real3d, "shell", "airplane"),
           "shapenet": (shapenet, "bag0", "bowl0")}


@pytest.fixture(scope="module")
def data(tmp_path_factory): return {name: write(tmp_path_factory.mktemp(name)) for name, (write, *_) in LAYOUTS.items()}


def evaluate(detector, layout, data, out, *more, protocol="one-vs-rest", options="photo=false"):
    return main(["evaluate", "--data", str(data[layout]), "--detector", detector, "--protocol", protocol, "--train_on", LAYOUTS[layout][1], "--size", "64",
                 "--options", f"{SMALL[detector]},{options}", "--rule", "clip-200", "--out", str(out), "--device", "cpu", *more])


def printed(capsys, out, paper):
    "Tables of a paper: title -> lines."
    assert main(["tables", "--out", str(out), "--paper", paper]) == 0
    blocks = capsys.readouterr().out.split(f"**{paper}, Table ")[1:]
    return {block.splitlines()[0].split("**")[0]: block.splitlines() for block in blocks}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_all_layouts_stand_beside_the_published_tables(tmp_path, data, capsys, layout):
    _, learned, tested = LAYOUTS[layout]
    for detector in SMALL:
        assert evaluate(detector, layout, data, tmp_path) == 0, capsys.readouterr()
        head = capsys.readouterr().out
        assert "clip-200" in head and all(name in head for name in ("O-AUROC", "O-AP", "P-AUROC", "P-PRO")) and "aupro" not in head.lower().replace("aupro (p-pro)", "")
        assert f"trained on {learned} {tested}" in head
        study = load_study(tmp_path / f"{detector}-one-vs-rest-{layout}.json")
        assert [r["category"] for r in study.records] == [tested]                     # never the class that it was trained on
        found = study.records[0]["metrics"]["clip-200"]
        assert 0 <= found["image_auroc"] <= 1 and 0 <= found["pixel_auroc"] <= 1
        assert ("aupro@30" in found) == (layout in ("mvtec", "eyecandies"))           # points of clouds have no regions
    tables = printed(capsys, tmp_path, "gs_clip")
    main_table = next(lines for title, lines in tables.items() if title.startswith("main"))
    head, row = (next(line for line in main_table if line.startswith(start)) for start in ("| one-vs-rest", f"| {tested}"))
    for title in ("| PointAD |", "| GS-CLIP |", "**pointad, measured**", "**gs_clip, measured**"): assert title in head
    assert row.count("|") == head.count("|") and len(find_tables(key="gs_clip", number="main", dataset=layout)[0].metrics) == row.split("|")[4].count("/") + 1
    assert any(line.startswith("| average of 1 ") for line in main_table)             # one class of many is no average
    assert any("synergy_epochs=1" in line for line in main_table if line.startswith("gs_clip:"))
    assert ("ablation: MVTec 3D-AD, parts of the method" in tables) == (layout == "mvtec")
    if layout != "shapenet": assert any("pointad, measured" in "".join(lines) for lines in printed(capsys, tmp_path, "pointad").values())


def test_learned_on_one_data_set_and_tested_on_others(tmp_path, data, capsys):
    for other in ("eyecandies", "real3d"):
        assert evaluate("pointad", "mvtec", data, tmp_path, "--test_data", str(data[other]), protocol="cross-dataset") == 0, capsys.readouterr()
        assert f"MVTec 3D-AD to {'Eyecandies' if other == 'eyecandies' else 'Real3D-AD'}" in capsys.readouterr().out
    tables = printed(capsys, tmp_path, "pointad")
    assert set(tables) == {"cross-dataset: MVTec 3D-AD to Eyecandies, points alone", "cross-dataset: MVTec 3D-AD to Real3D-AD"}
    for title, category in (("Eyecandies, points alone", "CandyCane"), ("Real3D-AD", "airplane")):
        lines = tables[f"cross-dataset: MVTec 3D-AD to {title}"]
        assert any(line.startswith(f"| {category} |") for line in lines) and "pointad, measured" in "".join(lines)
    study = load_study(tmp_path / "pointad-cross-dataset-mvtec-real3d.json")
    backwards = find_tables(key="pointad", number="one-vs-rest", dataset="mvtec")[0]
    assert list(columns(backwards, [study])) == ["PointAD"]                           # not what it was tested on


def test_points_alone_do_not_stand_beside_the_photo(tmp_path, data, capsys):
    for name, more in (("alone", ()), ("both", ("--weights", "rgb=0.5"))):
        assert evaluate("pointad", "mvtec", data, tmp_path / name, *more, options="photo=" + ("false" if name == "alone" else "true")) == 0
    assert evaluate("pointad", "mvtec", data, tmp_path / "zero", "--weights", "rgb=0", options="photo=true") == 0
    capsys.readouterr()
    for name, wanted in (("alone", "points alone"), ("both", "points and photo"), ("zero", "points alone")):
        assert [title for title in printed(capsys, tmp_path / name, "pointad")] == [f"one-vs-rest{', RGB' * (name == 'both')}: MVTec 3D-AD, {wanted}"]
