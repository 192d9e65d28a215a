"""Kept settings: nothing is lost, files belong to a detector and samples, code runs as it stands, and the panel says what is wrong."""
import csv
import gc
import json
import math
import weakref
from dataclasses import replace
from html import unescape

import ipywidgets as W
import numpy as np
import pytest
import torch
from lab_samples import CloudFake, make_cloud, make_sample

from mmad_nb.core import DataError
from mmad_nb.detectors import Weight, create_detector
from mmad_nb.experiments import load_study
from mmad_nb.lab import kept as K
from mmad_nb.lab.figures import widgets_in
from mmad_nb.lab.kept import KeptRow, KeptSettings, KeptTable, Origin, as_code, code_html, code_of, free_name, free_row, live, live_number
from mmad_nb.scoring import evaluate

SAMPLES = [make_sample("good"), make_sample("dent", 1), make_sample("dent", 2)]
NUMBERS = {"image_auroc": 0.1 + 0.2, "pixel_auroc": 0.75, "aupro@30": float("nan")}


class Fake:
    "A detector by contract, with something learned and options."
    weights = (Weight("rule", "", "add", choices=("add", "max")), Weight("alpha", "α", .5), Weight("k", "k", 1, choices=(1, 3, None, (1, 2))))
    name = "fake"
    def __init__(self, learned=1., **options): self.learned, self.options = learned, {"seed": 3, "passes": 8, **options}
    def config(self): return {"detector": self.name, **self.options}
    def fingerprints(self): return {"image": "aa" * 8}
    def state(self): return {"w": torch.tensor(self.learned)}

    def components(self, samples):
        maps = lambda part: torch.stack([torch.from_numpy(s.rgb[part] + s.mask) for s in samples]) * self.learned
        return {"rgb": maps(0), "xyz": maps(1)}

    def fuse(self, components, rule="add", alpha=.5, k=1):
        a, b = (1 - alpha) * components["rgb"], alpha * components["xyz"]
        return (a + b if rule == "add" else torch.maximum(a, b)) * (3 if k == 3 else 1)

    def image_scores(self, maps): return maps.amax((1, 2))


class Careful(Fake):
    "Its image scores look at the components and at a weight, too."
    def image_scores(self, maps, components, alpha=.5, **rest): return maps.amax((1, 2)) + alpha * components["xyz"].mean((1, 2))


@pytest.fixture
def kept(): return KeptSettings(Fake(), SAMPLES)


# ---- rows

def test_all_weights_are_kept_and_numbers_become_pythons_own(kept):
    row = kept.keep("one", {"alpha": np.float32(.25), "k": np.int64(3)}, {"image_auroc": np.float64(.5), "aupro@30": torch.tensor(.25)})
    assert row.weights == {"rule": "add", "alpha": .25, "k": 3}
    assert [type(v) for v in row.weights.values()] == [str, float, int] and [type(v) for v in row.metrics.values()] == [float, float]
    assert row.versions["torch"] == torch.__version__.split("+")[0] or row.versions["torch"] in torch.__version__
    given = {"alpha": .5}
    kept.keep("two", given, NUMBERS)
    given["alpha"] = .9
    assert kept["two"].weights["alpha"] == .5


@pytest.mark.parametrize("weights, metrics, more, match", [
    ({"alhpa": 1}, NUMBERS, {}, "Did you mean 'alpha'"), ({"alpha": 2}, NUMBERS, {}, "from 0 to 1"), ({"alpha": math.nan}, NUMBERS, {}, "from 0 to 1"),
    ({"rule": "mean"}, NUMBERS, {}, "rule 'mean'"), ({}, {}, {}, "metrics by name"), ({}, None, {}, "metrics by name"), ({}, {"a": "x"}, {}, "a number"),
    ({}, {"a": True}, {}, "a number"), ({}, {"a": math.inf}, {}, "a number"), ({}, NUMBERS, {"report": NUMBERS}, "report=samples"),
    ({}, NUMBERS, {"intervals": {"nope": (0, 1)}}, "nope"), ({}, NUMBERS, {"intervals": {"image_auroc": (.9, .1)}}, "low, high")])
def test_what_is_refused_changes_nothing(kept, weights, metrics, more, match):
    with pytest.raises(DataError, match=match): kept.keep("row", weights, metrics, **more)
    assert kept.rows == () and not kept.past


@pytest.mark.parametrize("name", ["one", " one ", "   ", "a" * 81, "two\nlines", 7, "a, report"])
def test_names(kept, name):
    kept.keep("one", {}, NUMBERS)
    with pytest.raises(DataError): kept.keep(name, {}, NUMBERS)
    kept.keep("two", {}, NUMBERS)
    with pytest.raises(DataError): kept.rename("two", name)
    assert [row.name for row in kept] == ["one", "two"]
    assert kept.rename("one", "one ").name == "one"                           # its own name is free for itself


def test_free_names():
    assert free_row([]) == "row 1" and free_row(["x"]) == "row 2" and free_row(["row 3", "a"]) == "row 4"
    assert free_row(["a"], "a") == "a (2)" and free_row(["a", "a (2)"], "a") == "a (3)" and free_row(["b"], "a") == "a"


def test_undo_takes_back_each_step_in_turn(kept, tmp_path):
    states = [kept.rows]
    for step in (lambda: kept.keep("a", {}, NUMBERS), lambda: kept.keep("b", {"alpha": .1}, NUMBERS), lambda: kept.rename("a", "c"), lambda: kept.delete("c")):
        step()
        states.append(kept.rows)
    other = KeptSettings(Fake(), SAMPLES)
    other.keep("z", {"alpha": .9}, NUMBERS)
    kept.load(other.save(tmp_path / "z.json"))
    assert [row.name for row in kept] == ["b", "z"]
    said = []
    for state in states[::-1]:
        said.append(kept.undo())
        assert kept.rows == state
    assert said == ["load 'z.json'", "delete 'c'", "rename 'a'", "keep 'b'", "keep 'a'"]
    with pytest.raises(DataError, match="nothing that was done"): kept.undo()


def test_delete_and_undo_keep_the_order(kept):
    for name in "abc": kept.keep(name, {}, NUMBERS)
    kept.delete("b")
    assert [row.name for row in kept] == ["a", "c"]
    kept.undo()
    assert [row.name for row in kept] == ["a", "b", "c"]
    with pytest.raises(DataError, match="Did you mean|Pick"): kept.delete("d")


# ---- origins

def test_an_origin_knows_every_change():
    here = K.origin_of(Fake(), SAMPLES)
    mask = SAMPLES[1].mask.copy()
    mask[0, 0] = True
    changed = {"detector: ": K.origin_of(type("Other", (Fake,), {"name": "other"})(), SAMPLES), "option passes: 4 there, 8 here": K.origin_of(Fake(passes=4), SAMPLES),
               "option new: 1 there, None here": K.origin_of(Fake(new=1), SAMPLES), "option passes: 2 there": K.origin_of(Fake(2., passes=2), SAMPLES), "learned": K.origin_of(Fake(2.), SAMPLES),
               "encoder image": K.origin_of(type("Other", (Fake,), {"fingerprints": lambda self: {"image": "bb"}})(), SAMPLES),
               "only here 1": K.origin_of(Fake(), SAMPLES[1:]), "only there 1": K.origin_of(Fake(), [*SAMPLES, make_sample("good", 9)]),
               "content is not": K.origin_of(Fake(), [SAMPLES[0], replace(SAMPLES[1], mask=mask), SAMPLES[2]]),
               "reported samples": K.origin_of(Fake(), SAMPLES, report=[make_sample("good", 9)])}
    for words, there in changed.items():
        found = K.origin_differences(there, here)
        assert len(found) == 1 and words in found[0], (words, found)
    assert K.origin_differences(K.origin_of(Fake(), SAMPLES[::-1]), here) == []
    assert here == K.origin_of(Fake(), [make_sample("good"), make_sample("dent", 1), make_sample("dent", 2)])


def test_normals_and_colours_of_clouds_count():
    cloud = make_cloud("dent", 1)
    colored = replace(cloud, colors=np.zeros((100, 3), np.float32))
    assert K.content_of(cloud) != K.content_of(colored) != K.content_of(replace(cloud, normals=np.zeros((100, 3), np.float32)))


def test_split_and_title():
    told = K.set_of(SAMPLES)
    assert (told["split"], told["categories"], told["kinds"], K.title_of(told)) == ("test", ["thing"], {"dent": 2, "good": 1}, "3 samples of thing (test)")
    assert K.set_of([replace(SAMPLES[0], id="x")])["split"] == "" and K.set_of(None) is None
    assert K.set_of([SAMPLES[0], replace(SAMPLES[1], id="thing/validation/dent/001")])["split"] == ""
    assert K.title_of(K.set_of([replace(SAMPLES[0], id="x")])) == "1 sample of thing"


def test_the_detector_is_what_it_was_when_the_numbers_were_made(kept, tmp_path):
    "Trained once more after the lab was opened, it is another one; the file says the first."
    kept.detector.learned = 5.
    kept.keep("a", {}, NUMBERS)
    assert KeptSettings(Fake(5.), SAMPLES).load(kept.save(tmp_path / "a.json")).count("OTHER DATA") == 1
    assert "OTHER" not in KeptSettings(Fake(), SAMPLES).load(tmp_path / "a.json")


def test_what_cannot_be_kept_from():
    with pytest.raises(DataError, match="^samples"): KeptSettings(Fake(), [])
    with pytest.raises(DataError, match="^samples"): KeptSettings(Fake(), None)
    with pytest.raises(DataError, match="Call fit"): KeptSettings(create_detector("cfm", device="cpu"), SAMPLES)


# ---- files

def full(report=True):
    kept = KeptSettings(Fake(), SAMPLES, report=[make_sample("good", 7), make_sample("dent", 8)] if report else None, title="three | things")
    kept.keep("a|b", {"alpha": .1, "k": (1, 2)}, NUMBERS, NUMBERS if report else None, {"image_auroc": (.2, .4)}, note='say "this", and | that')
    kept.keep(None, {"rule": "max", "k": None}, {**NUMBERS, "extra": 1.0})
    kept.keep("trained", {"k": 3, "alpha": 0}, NUMBERS, NUMBERS if report else None)
    return kept


def test_made_saved_reloaded_and_equal(tmp_path):
    kept = full()
    path = kept.save(tmp_path / "kept.json")
    again = full().__class__(Fake(), SAMPLES[::-1], report=[make_sample("dent", 8), make_sample("good", 7)])
    assert "3 of 3 rows" in again.load(path) and "OTHER" not in again.load(path)
    assert again.rows == kept.rows and [row.weights["k"] for row in again] == [(1, 2), None, 3]
    assert [type(row.weights["alpha"]) for row in again] == [float, float, int] and math.isnan(again["a|b"].report["aupro@30"])
    assert "NaN" not in path.read_text() and json.loads(path.read_text())["records"][0]["metrics"]["exact"]["aupro@30"] is None
    second = again.save(path)
    one, two = (json.loads(p.read_text()) for p in (path, second))
    assert second.name == "kept-2.json" and one["records"] == two["records"] and one["settings"] == two["settings"]


def test_equality_sees_every_part():
    row = full()["a|b"]
    for part, value in dict(name="x", weights={}, metrics={}, report={}, intervals={}, note="", versions={}, origin=Origin({}, {})).items():
        assert replace(row, **{part: value}) != row, part
    assert replace(row) == row and row != "a|b"


def test_any_reader_of_studies_reads_it(tmp_path):
    study = load_study(full().save(tmp_path / "kept.json"))
    text = study.table(["image_auroc"])
    assert "lab: fake on three | things" in text and "seed 3" in text
    assert [line.split("  ")[0] for line in text.splitlines()[3:]] == ["a|b thing", "a|b mean", "a|b, report thing", "a|b, report mean", "row 2 thing", "row 2 mean",
                                                                  "trained thing", "trained mean", "trained, report thing", "trained, report mean"]
    assert study.csv() and study.markdown()
    assert study.data["samples"]["split"] == "test" and study.settings["stands_on"] == {"image": "aa" * 8} and study.settings["detector"]["passes"] == 8


def test_rows_of_other_data_are_seen_and_never_mixed(tmp_path, kept):
    path = full(False).save(tmp_path / "a")
    assert path.name == "a.json"
    other = KeptSettings(Fake(2.), SAMPLES[1:])
    told = other.load(path)
    assert "OF OTHER DATA" in told and "learned" in told and "only there 1" in told
    with pytest.raises(DataError, match="of other data alone"): other.save(tmp_path / "b.json")
    assert not list(tmp_path.glob("b*"))
    other.keep("mine", {"alpha": .1}, {"image_auroc": .4})
    assert [row.name for row in other.own()] == ["mine"]
    saved = other.save(tmp_path / "b.json")
    assert {record["row"] for record in load_study(saved).records} == {"mine"}
    table = other.compare("a|b", "mine")
    assert [row[3] for row in table.rows] == ["equal", "equal", "other", "other samples", "other samples", "other samples"] and "for 'mine'" in table.caption
    assert "of other data" in other.table().head and other.table().rows[-1][-1] == "" and "learned" in other.table().rows[0][-1]
    read = list(csv.DictReader(other.csv().splitlines()))
    assert [bool(row["of other data"]) for row in read] == [True, True, True, False]
    same = KeptSettings(Fake(2.), SAMPLES)                                     # another training on the same samples: that may be compared
    same.load(path), same.keep("mine", {"alpha": .1}, {"image_auroc": .4})
    assert same.compare("a|b", "mine").rows[3][3] == "+0.100 ▲ bigger" and "learned" in same.compare("a|b", "mine").caption


def test_other_reported_samples_make_other_reports(tmp_path):
    path = full().save(tmp_path / "a.json")
    other = KeptSettings(Fake(), SAMPLES, report=[make_sample("dent", 9)])
    assert "reported samples" in other.load(path)
    other.keep("mine", {}, NUMBERS, NUMBERS)
    cells = {row[0]: row[3] for row in other.compare("a|b", "mine").rows}
    assert cells["image AUROC"] == "equal" and cells["report: image AUROC"] == "other samples" and [row.name for row in other.own()] == ["mine"]


def test_the_same_rows_are_taken_once_and_others_of_the_name_get_a_number(tmp_path, kept):
    path = full(False).save(tmp_path / "a.json")
    kept.keep("trained", {"alpha": .7}, NUMBERS)
    kept.load(path)
    assert [row.name for row in kept] == ["trained", "a|b", "row 2", "trained (2)"]
    before = kept.rows
    assert "0 of 3 rows" in kept.load(path) and kept.rows == before
    kept.rename("a|b", "mine")
    assert "0 of 3 rows" in kept.load(path)


def test_weights_that_the_detector_does_not_take_make_a_row_foreign(tmp_path, kept):
    path = full(False).save(tmp_path / "a.json")
    content = json.loads(path.read_text())
    content["records"][0]["weights"]["alpha"] = 7
    content["records"][1]["weights"]["beta"] = 1
    path.write_text(json.dumps(content))
    kept.load(path)
    assert "from 0 to 1" in kept.differences("a|b")[0] and "beta" in kept.differences("row 2")[0] and kept.differences("trained") == []


def test_other_versions_are_said(tmp_path, kept):
    path = full(False).save(tmp_path / "a.json")
    content = json.loads(path.read_text())
    content["versions"][0]["torch"] = "1.0"
    path.write_text(json.dumps(content))
    told = kept.load(path)
    assert "OTHER" not in told and "torch 1.0 there" in told
    kept.keep("now", {}, NUMBERS)
    study = load_study(kept.save(tmp_path / "b.json"))
    assert len(study.versions) == 2 and [record["versions"] for record in study.records] == [0, 0, 0, 1]
    assert "other versions" in kept.compare("row 2", "now").caption


@pytest.mark.parametrize("break_it", [
    lambda c: c.pop("records"), lambda c: c.update(new=1), lambda c: c["records"][0].pop("weights"), lambda c: c["records"][0].update(versions=9),
    lambda c: c["records"][0].update(metrics=[]), lambda c: c["records"][0].update(row="row 2"), lambda c: c.update(settings=[]),
    lambda c: c["settings"].update(protocol="unified"), lambda c: c.update(format="x"), lambda c: c.update(records=[7]), lambda c: c.update(data={"samples": 3}),
    lambda c: c["records"][0]["metrics"]["exact"].update(image_auroc="x"), lambda c: c["records"][0].update(weights=3), lambda c: c["settings"].pop("detector"),
    lambda c: c["records"][0].update(of="report"), lambda c: c["data"]["samples"].update(ids=None, fingerprint="")])
def test_damaged_files(tmp_path, kept, break_it):
    path = full(False).save(tmp_path / "a.json")
    content = json.loads(path.read_text())
    break_it(content)
    path.write_text(json.dumps(content))
    kept.keep("mine", {}, NUMBERS)
    with pytest.raises(DataError): kept.load(path)
    assert [row.name for row in kept] == ["mine"] and len(kept.past) == 1


def test_intervals_of_what_is_undefined_are_left_out(tmp_path, kept):
    row = kept.keep("a", {}, NUMBERS, intervals={"aupro@30": (math.nan, math.nan), "image_auroc": (np.float32(.25), .5)})
    assert row.intervals == {"image_auroc": (.25, .5)}
    again = KeptSettings(Fake(), SAMPLES)
    again.load(kept.save(tmp_path / "a.json"))
    assert again.rows == kept.rows


def test_files_that_are_none(tmp_path, kept):
    for content in (b"", b"{", b"\xff\xfe", b"[]", b"3"):
        (tmp_path / "a.json").write_bytes(content)
        with pytest.raises(DataError, match="a.json"): kept.load(tmp_path / "a.json")
    for path in (tmp_path, tmp_path / "b.json"):
        with pytest.raises(DataError): kept.load(path)
    with pytest.raises(DataError, match="no row"): kept.save(tmp_path / "c.json")
    with pytest.raises(DataError, match="no row"): kept.write(tmp_path / "c.csv")
    kept.keep("a", {}, NUMBERS)
    with pytest.raises(DataError, match="a folder"): kept.save(tmp_path)
    with pytest.raises(DataError, match=".csv or .md"): kept.write(tmp_path / "c.txt")


def test_free_name(tmp_path):
    path = tmp_path / "a.json"
    assert free_name(path) == path
    path.write_text("x"), (tmp_path / "a-2.json").symlink_to(tmp_path / "nowhere")
    assert free_name(path).name == "a-3.json" and free_name(tmp_path / "gear 0.5", ".json").name == "gear 0.5.json"


def test_csv_has_all_digits_and_markdown_says_what_it_is_of(tmp_path):
    kept = full()
    text = kept.write(tmp_path / "a.csv").read_text(encoding="utf8")
    rows = list(csv.DictReader(text.splitlines()))
    assert float(rows[0]["image_auroc"]) == 0.1 + 0.2 and rows[0]["aupro@30"] == "" and rows[0]["note"] == 'say "this", and | that'
    assert (rows[0]["image_auroc low"], rows[1]["image_auroc low"], rows[0]["report pixel_auroc"], rows[1]["report pixel_auroc"]) == ("0.2", "", "0.75", "")
    assert (rows[1]["extra"], rows[0]["extra"], rows[0]["detector"], rows[0]["seed"], rows[0]["data"]) == ("1.0", "", "fake", "3", "three | things")
    again = kept.write(tmp_path / "a.csv")
    assert again.name == "a-2.csv" and again.read_text(encoding="utf8") == text
    lines = kept.write(tmp_path / "a.md").read_text(encoding="utf8").splitlines()
    head = next(line for line in lines if line.startswith("|"))
    body = [line for line in lines if line.startswith("| a\\|b")]
    assert "fake" in lines[0] and "passes=8" in lines[0] and "seed=3" in lines[0] and kept.origin.data["samples"]["fingerprint"] in "".join(lines)
    assert len(body) == 1 and body[0].replace("\\|", "").count("|") == head.count("|") and "0.300 (0.200 to 0.400)" in body[0] and "undefined" in body[0]


# ---- tables

def test_a_table_for_eyes_and_for_screen_readers():
    table = full().table(["image_auroc", "extra"])
    html = table.html("row 2")
    assert table.head[:6] == ("", "rule", "α", "k", "image AUROC", "EXTRA") and [row[5] for row in table.rows] == ["–", "1.000", "–"]
    assert html.count("scope='row'") == 3 and html.count("aria-current=true") == 1 and "▶ row 2" in html and html.count("scope='col'") == len(table.head)
    assert "&quot;this&quot;" in html and "<script" not in K.Table(("<script>",), (("<script>",),), "<script>").html()
    clouds = KeptSettings(CloudFake(Fake.weights), [make_cloud(), make_cloud("dent", 1)])
    clouds.keep(None, {}, {"image_auroc": 1.})
    assert "object AUROC" in clouds.table().head and clouds.compare("row 1", clouds.keep(None, {}, {"image_auroc": .5}).name).rows[3][0] == "object AUROC"


def test_a_comparison_says_bigger_and_smaller_in_words():
    kept = full()
    cells = {row[0]: row[1:] for row in kept.compare("a|b", "trained").rows}
    assert cells["α"] == ("0.1", "0", "-0.100 ▼ smaller") and cells["k"] == ("(1, 2)", "3", "other") and cells["rule"][2] == "equal"
    assert cells["AUPRO to 30 %"] == ("undefined", "undefined", "") and cells["image AUROC"][0] == "0.300 (0.200 to 0.400)"
    assert cells["report: image AUROC"] == ("0.300", "0.300", "equal")                          # intervals are of the samples, not of the report
    assert cells["report: pixel AUROC"] == ("0.750", "0.750", "equal") and {row[0]: row for row in kept.compare("a|b", "row 2").rows}["EXTRA"][1:] == ("–", "1.000", "")
    assert K.difference_text(.5, .8, (.4, .6), (.7, .9)) == "+0.300 ▲ bigger" and "covered" in K.difference_text(.5, .8, (.4, .9), (.7, .9))
    assert "covered" in K.difference_text(.5, .8, (.4, .6), (.45, .9)) and "covered" not in K.difference_text(.5, .8, (.4, .9))
    with pytest.raises(DataError): kept.compare("a|b", "nope")


# ---- code

class Owner:
    def __init__(self, detector, samples): self.detector, self.samples = detector, list(samples)


class Listed(CloudFake):
    def fuse(self, components, alpha=.5): return list(super().fuse(components, alpha).split(100))


def run(code, names):
    names = dict(names)
    exec(code, names)
    return names


@pytest.mark.parametrize("detector, samples", [(Fake(), SAMPLES), (Careful(), SAMPLES), (Listed((Weight("alpha", "α", .5),)), [make_cloud(), make_cloud("dent", 1)])])
@pytest.mark.parametrize("named", [True, False])
def test_the_cell_runs_as_it_stands(detector, samples, named, capsys):
    owner = Owner(detector, samples)
    weights = {"alpha": np.float64(.3)}
    names = {"mine": detector, "these": samples} if named else {"np": 3, "evaluate": 4}
    code = code_of(owner, weights, names=names)
    found = run(code, names)
    parts = detector.components(samples)
    maps = detector.fuse(parts, alpha=.3)
    scores = detector.image_scores(maps, parts, alpha=.3) if isinstance(detector, Careful) else detector.image_scores(maps)
    torch.testing.assert_close(found["maps"], maps), torch.testing.assert_close(found["scores"], scores)
    masks = [s.labels for s in samples] if hasattr(samples[0], "labels") else np.stack([s.mask for s in samples])
    assert capsys.readouterr().out.strip() == str(evaluate(maps, masks, scores)).strip()
    assert ("mine.components(these)" in code) == named and ("live(" in code) == (not named) and "alpha=0.3)" in code


def test_names_are_found_by_identity():
    detector, owner = Fake(), None
    owner = Owner(detector, SAMPLES)
    twin = [replace(s) for s in SAMPLES]                                       # equal, and not the same
    find = lambda **names: code_of(owner, {}, names=names).split("parts = ")[1].split("\n")[0]
    assert find(d=detector, s=SAMPLES) == "d.components(s)" and find(d=detector, s=tuple(SAMPLES)) == "d.components(s)"
    number = live_number(owner)
    assert find(d=detector, s=twin) == f"d.components(panel_{number}.samples)" and find(d=Fake(), s=SAMPLES) == f"panel_{number}.detector.components(s)"
    assert find(d=detector, s=SAMPLES[:2]) == find(d=detector, s=SAMPLES[::-1]) == f"d.components(panel_{number}.samples)"
    assert find(_d=detector, __=SAMPLES, d=detector, s=SAMPLES, samples=SAMPLES, detector=detector) == "detector.components(samples)"
    assert find(**{"not a name": detector, "_": detector, "s": SAMPLES}) == f"panel_{number}.detector.components(s)"
    data = type("Data", (), {"__getitem__": lambda self, i: SAMPLES[i], "__len__": lambda self: 3})()
    assert "these)" in code_of(owner, {}, given=data, names={"d": detector, "these": data}).split("\n")[3] or "d.components(these)" in code_of(owner, {}, given=data, names={"d": detector, "these": data})


def test_live_holds_nothing_alive():
    owner = Owner(Fake(), SAMPLES)
    number = live_number(owner)
    assert live(number) is owner and live_number(owner) == number and live_number(other := Owner(Fake(), SAMPLES)) != number
    found = weakref.ref(owner)
    del owner
    gc.collect()
    assert found() is None and live_number(other) != number
    with pytest.raises(DataError, match="it is gone"): live(number)


def test_names_of_a_notebook():
    from IPython.core.interactiveshell import InteractiveShell
    shell = InteractiveShell.instance()
    try:
        assert K.user_names() is shell.user_ns
        shell.user_ns.update(mine=Fake(), these=SAMPLES)
        result = shell.run_cell(code_of(Owner(shell.user_ns["mine"], SAMPLES), {"alpha": .2}))
        assert result.success and shell.user_ns["maps"].shape == (3, 24, 24)
        result = shell.run_cell(code_of(owner := Owner(Fake(2.), SAMPLES[1:]), {"alpha": .2}))
        assert result.success and shell.user_ns["maps"].shape == (2, 24, 24) and owner
    finally: InteractiveShell.clear_instance()
    assert K.user_names() == {}


def test_the_copy_button_is_one_line_of_script_and_the_code_is_text():
    html = code_html('print("<b>" & 1)')
    assert "&lt;b&gt;&quot; &amp; 1" in html and html.count("<button") == 1 and ">copy the code</button>" in html and "role='status'" in html and "navigator.clipboard" in html
    onclick = html.split('onclick="')[1].split('"')[0]
    assert onclick == K.COPY and "\n" not in onclick and all(onclick.count(a) == onclick.count(b) for a, b in ("{}", "()"))


# ---- the panel

class Sliders:
    "Stands for the lab: owns the panel, and is called by it."
    def __init__(self, folder):
        self.setting, self.set = {"rule": "add", "alpha": .3, "k": 1}, []
        self.table = KeptTable(KeptSettings(Fake(), SAMPLES), self.present, self.choose, folder)

    def present(self): return self.setting, NUMBERS
    def choose(self, weights): self.set.append(weights)


def press(table, *names):
    for name in names: table.buttons[name].click()
    return unescape(table.message.value)


@pytest.fixture
def sliders(tmp_path): return Sliders(tmp_path)


def test_the_panel_from_the_first_row_to_the_last(sliders, tmp_path):
    table = sliders.table
    assert "Nothing is kept yet" in table.table.value and table.list.value is None
    assert "kept as row 1" in press(table, "keep") and "▶ row 1" in table.table.value
    sliders.setting = {"rule": "max", "alpha": .75, "k": 3}
    table.name.value = " second "
    assert "kept as second" in press(table, "keep") and table.name.value == "" and table.list.value == "second" and sliders.set == []
    table.list.value = "row 1"
    assert sliders.set == [{"rule": "add", "alpha": .3, "k": 1}] and "▶ row 1" in table.table.value
    press(table, "set sliders")
    assert len(sliders.set) == 2
    assert table.other.value == "second" and "row 1 against second" in press(table, "compare") and "smaller" in table.beside.value
    table.name.value = "first"
    assert "row 1 is now first" in press(table, "rename") and table.list.value == "first" and [o[1] for o in table.list.options] == ["first", "second"]
    assert "undo brings it back" in press(table, "delete") and table.list.value is None and "undone: delete" in press(table, "undo") and table.list.value == "first"
    assert [row.name for row in table.kept] == ["first", "second"] and len(sliders.set) == 2
    table.file.value = "study"
    assert "2 rows saved" in press(table, "save") and "study-2.json" in press(table, "save")
    assert [o[0] for o in table.files.options] == ["choose a file", "study-2.json", "study.json"]
    table.files.value = "study-2.json"
    assert table.file.value == "study-2.json" and "0 of 2 rows loaded" in press(table, "load")
    assert "study-2.csv" in press(table, "CSV") and "study-2.md" in press(table, "Markdown") and (tmp_path / "study-2.csv").is_file() and (tmp_path / "study-2.md").is_file()


def test_the_panel_says_what_is_wrong(sliders, tmp_path):
    table = sliders.table
    for name, words in {"rename": "no row is chosen", "delete": "no row is chosen", "set sliders": "no row is chosen", "compare": "compare with", "undo": "nothing that was done",
                        "save": "no row", "CSV": "no row", "load": "no such file"}.items():
        assert words in press(table, name) and "role='alert'" in table.message.value, name
    press(table, "keep")
    assert "role='status'" in table.message.value
    table.name.value = "row 1"
    assert "a row of this name" in press(table, "keep") and table.name.value == "row 1"      # what was typed stays
    table.file.value = " "
    assert "the name of a file" in press(table, "save")
    table.list.value = "row 1"
    assert "Choose another row" in press(table, "compare")
    sliders.setting = {"alpha": "<b>"}
    table.name.value = ""
    assert "'<b>'" in press(table, "keep") and "<b>" not in table.message.value and len(table.kept) == 1


def test_a_fault_of_the_program_is_said_and_raised(sliders):
    sliders.table.choose = lambda weights: 1 / 0
    press(sliders.table, "keep")
    with pytest.raises(ZeroDivisionError): sliders.table._guarded(sliders.table.use)
    assert "ZeroDivisionError" in sliders.table.message.value


def test_rows_of_other_data_in_the_panel(sliders, tmp_path):
    other = KeptSettings(Fake(2.), SAMPLES)
    other.keep("theirs", {"alpha": .9}, NUMBERS)
    other.save(tmp_path / "theirs.json")
    table = sliders.table
    table.file.value = "theirs.json"
    assert "OF OTHER DATA" in press(table, "load") and "role='alert'" in table.message.value and "(of other data)" in table.list.options[0][0]
    table.list.value = "theirs"
    assert sliders.set[-1]["alpha"] == .9 and "of other data" in table.message.value           # the sliders may take it; the numbers are not theirs
    press(table, "keep")
    assert "1 row saved" in press(table, "save") and "1 of other data stay" in table.message.value
    strange = KeptSettings(CloudFake((Weight("beta", "β", .5),)), SAMPLES)
    strange.keep("strange", {}, NUMBERS)
    table.file.value = strange.save(tmp_path / "strange.json").name
    press(table, "load")
    before = len(sliders.set)
    table.list.value = "strange"
    assert "weight 'beta'" in unescape(table.message.value) and "of another detector" in table.message.value and len(sliders.set) == before and "▶ strange" in table.table.value


def test_every_control_has_a_name(sliders):
    controls = [w for w in widgets_in(sliders.table.box) if isinstance(w, (W.Button, W.Text, W.Dropdown, W.Select))]
    assert not any(w.continuous_update for w in controls if isinstance(w, W.Text))          # a click overtakes what is still being typed
    assert len(controls) == 15 and all(w.description for w in controls) and all(w.tooltip for w in controls if isinstance(w, W.Button))


def test_nothing_keeps_the_lab_or_the_panel_alive(tmp_path):
    sliders = Sliders(tmp_path)
    press(sliders.table, "keep")
    parts = widgets_in(sliders.table.box)
    closed, gone = [part.comm for part in parts], [weakref.ref(sliders), weakref.ref(sliders.table)]
    assert all(comm is not None for comm in closed)
    del sliders
    gc.collect()
    assert [r() for r in gone] == [None, None] and all(part.comm is None for part in parts)


def test_a_table_that_is_held_does_not_hold_its_lab(tmp_path):
    sliders = Sliders(tmp_path)
    table, gone = sliders.table, weakref.ref(sliders)
    press(table, "keep")
    del sliders
    assert gone() is None                                                     # at once: there is no circle
    assert "a lab that is gone" in press(table, "keep") and "are set" in press(table, "set sliders") and len(table.kept) == 1


def test_keys_stay_in_the_panel(sliders):
    "What the one line does is looked at in a browser; here: it is in the panel, and it is one attribute without quotes of its own."
    assert K.own_keys() in sliders.table.box.children[-1].value and '"' not in K.OWN_KEYS and K.OWN_KEYS.count("{") == K.OWN_KEYS.count("}")


# ---- within categories and kinds of defects

def grouped():
    kept = KeptSettings(Fake(), SAMPLES)
    kept.keep("a", {"alpha": .25}, NUMBERS, groups={"dent": {"image_auroc": .1 + .2, "aupro@30": float("nan")}, "thing/hole": {"image_auroc": .5}})
    kept.keep("b", {}, NUMBERS)
    return kept


def test_groups_are_saved_reloaded_and_equal(tmp_path):
    kept, again = grouped(), KeptSettings(Fake(), SAMPLES)
    again.load(kept.save(tmp_path / "kept.json"))
    assert again.rows == kept.rows and again["a"].groups["dent"]["image_auroc"] == .1 + .2 and math.isnan(again["a"].groups["dent"]["aupro@30"])
    assert again["b"].groups == {} and replace(kept["a"], groups={}) != kept["a"]


def test_files_without_groups_still_load(tmp_path):
    path = grouped().save(tmp_path / "kept.json")
    content = json.loads(path.read_text(encoding="utf8"))
    for record in content["records"]: del record["groups"]          # as files were before
    path.write_text(json.dumps(content), encoding="utf8")
    again = KeptSettings(Fake(), SAMPLES)
    assert "2 of 2 rows" in again.load(path) and again["a"].groups == {} and again["a"] == replace(grouped()["a"], groups={})


def test_groups_in_tables_and_files(tmp_path):
    kept = grouped()
    assert [row[:3] for row in kept.within().rows] == [("a", "dent", "0.300"), ("a", "thing/hole", "0.500")] and kept.within().rows[1][3] == "–"
    assert kept.within(["b"]).rows == ()
    rows = list(csv.DictReader(kept.csv().splitlines()))
    assert float(rows[0]["dent: image_auroc"]) == .1 + .2 and rows[0]["dent: aupro@30"] == "" and rows[1]["thing/hole: image_auroc"] == ""
    assert "| a | thing/hole | 0.500 |" in kept.markdown() and "thing/hole" not in repr(kept)
    panel = KeptTable(kept, lambda: ({}, NUMBERS), folder=tmp_path)
    panel.list.value = "a"
    assert "<details>" in panel.table.value and "thing/hole" in panel.table.value
    panel.list.value = "b"
    assert "<details>" not in panel.table.value


@pytest.mark.parametrize("groups, match", [([1], "each category or kind"), ({"dent": {}}, "group 'dent'"), ({"dent": {"x": "y"}}, "group 'dent', 'x'")])
def test_bad_groups_are_refused(kept, groups, match):
    with pytest.raises(DataError, match=match): kept.keep(None, {}, NUMBERS, groups=groups)
    assert len(kept) == 0
