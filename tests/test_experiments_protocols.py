"""Protocols from data sets on disk: layouts, what is refused, a killed study that goes on, two processes that give the table of one."""
import json
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts import write_clouds, write_eyecandies, write_mvtec
from PIL import Image

from mmad_nb.core.runtime import DataError
from mmad_nb.detectors.base import Components, Detector, register
from mmad_nb.experiments.protocols import (Splits, Study, cross_dataset, find_layout, fingerprint, open_data, per_class, record_of,
                                           run_protocol)


@register("dark_spots")
class DarkSpots(Detector):
    "Learns nothing but how often it was asked to: dark is strange. `stop` counts the tests until a power cut."
    defaults = {"seed": 0, "gain": 1.0}
    fits, stop, seen = 0, None, []

    def fit(self, samples, checkpoint=None, cache=None, accelerator=None):
        type(self).fits += 1
        type(self).seen = [samples[i] for i in range(len(samples))]
        self.fitted = True
        return self

    def components(self, samples, cache=None):
        if DarkSpots.stop is not None:
            DarkSpots.stop -= 1
            if DarkSpots.stop < 0: raise KeyboardInterrupt
        maps = torch.stack([torch.from_numpy(1 - sample.rgb.mean(0)) for sample in samples]).float() * self.options["gain"]
        return Components({"dark": maps + .01 * self.options["seed"] * maps.roll(3, 2)}, torch.ones_like(maps, dtype=torch.bool))

    def combine(self, components): return components["dark"]
    def state(self): return {"nothing": torch.zeros(1)}
    def load_state(self, state): assert list(state) == ["nothing"]


@register("blind_spots")
class BlindSpots(DarkSpots):
    learns_from = "unlabelled"


@register("spots_with_labels")
class SpotsWithLabels(DarkSpots):
    defaults = {}
    learns_from = "labelled"

    def components(self, samples, cache=None):
        maps = torch.stack([torch.from_numpy(1 - sample.rgb.mean(0)) for sample in samples]).float()
        return Components({"dark": maps}, torch.ones_like(maps, dtype=torch.bool))


@pytest.fixture(autouse=True)
def fresh():
    DarkSpots.fits, DarkSpots.stop = 0, None


@pytest.fixture()
def mvtec(tmp_path):
    for category in ("bagel", "cable_gland", "tire"): write_mvtec(tmp_path / "mvtec", category)
    return tmp_path / "mvtec"


def small(root): return open_data(root, size=48, remove_plane=False)


def test_layouts_are_recognised(tmp_path, mvtec):
    assert find_layout(mvtec) == "mvtec"
    assert find_layout(write_eyecandies(tmp_path / "candies")) == "eyecandies"
    assert find_layout(write_clouds(tmp_path / "toys", "shell", ["shell_template1"], {"shell_good1": None})) == "real3d"
    assert find_layout(write_clouds(tmp_path / "cad", "ashtray0", ["ashtray0_template0"], {"ashtray0_positive0": None}, gt="GT")) == "shapenet"
    with pytest.raises(DataError, match="no such folder"): find_layout(tmp_path / "nowhere")
    assert open_data(tmp_path / "toys").title == "Real3D-AD" and len(open_data(tmp_path / "candies").test) == 3


def test_a_folder_without_training_split_serves_zero_shot_alone(mvtec, tmp_path):
    import shutil
    for category in mvtec.iterdir(): shutil.rmtree(category / "train")
    data = small(mvtec)
    assert data.train is None
    with pytest.raises(DataError, match="no training split"): run_protocol("unified", "dark_spots", data)
    study = run_protocol("one-vs-rest", "spots_with_labels", data, train_on="tire")
    assert study.every("category") == ["bagel", "cable_gland"]


def test_a_killed_study_goes_on(mvtec, tmp_path):
    whole = run_protocol("per-class", "dark_spots", small(mvtec), seeds=(0, 1), path=tmp_path / "whole.json")
    assert DarkSpots.fits == 6 and len(whole.records) == 6 and not (tmp_path / "whole.unfinished").exists()
    DarkSpots.fits, DarkSpots.stop = 0, 3
    with pytest.raises(KeyboardInterrupt):
        run_protocol("per-class", "dark_spots", small(mvtec), seeds=(0, 1), path=tmp_path / "cut.json")
    assert DarkSpots.fits == 4 and len(Study.load(tmp_path / "cut.json").records) == 3
    DarkSpots.fits, DarkSpots.stop = 0, None
    again = run_protocol("per-class", "dark_spots", small(mvtec), seeds=(0, 1), path=tmp_path / "cut.json")
    assert DarkSpots.fits == 2                            # the fourth had been trained, though not tested
    assert again.table() == whole.table() == Study.load(tmp_path / "cut.json").table()
    assert not list(tmp_path.glob("*.unfinished"))


def test_seeds_and_shots_are_added(mvtec, tmp_path):
    path = tmp_path / "few.json"
    run_protocol("few-shot", "dark_spots", small(mvtec), shots=1, path=path)
    study = run_protocol("few-shot", "dark_spots", small(mvtec), shots=(1, 2), seeds=(0, 1), path=path)
    assert DarkSpots.fits == 12 and study.every("group") == ["1-shot", "2-shot"]
    assert study.spread("pixel_auroc", group="2-shot").count == 2


def test_other_settings_and_other_data_are_refused(mvtec, tmp_path):
    path = tmp_path / "study.json"
    run_protocol("unified", "dark_spots", small(mvtec), path=path)
    kept = path.read_bytes()
    with pytest.raises(DataError, match="other settings.*gain"): run_protocol("unified", "dark_spots", small(mvtec), path=path, gain=2.0)
    with pytest.raises(DataError, match="other settings.*protocol"): run_protocol("per-class", "dark_spots", small(mvtec), path=path)
    photo = mvtec / "tire/test/good/rgb/000.png"
    Image.fromarray(255 - np.asarray(Image.open(photo))).save(photo)
    with pytest.raises(DataError, match="other data.*test"): run_protocol("unified", "dark_spots", small(mvtec), path=path)
    assert path.read_bytes() == kept


@pytest.mark.parametrize("text, message", [("{", "not JSON"), ("[]", "something else"), ('{"format": "mmad_nb study 0"}', "something else")])
def test_a_file_that_is_no_study(tmp_path, text, message):
    (tmp_path / "study.json").write_text(text)
    with pytest.raises(DataError, match=message): Study.load(tmp_path / "study.json")


def test_the_file_is_plain_json_without_nan(mvtec, tmp_path):
    data = small(mvtec)
    good = [sample for sample in data.test if not sample.anomalous]
    study = run_protocol("unified", "dark_spots", Splits(list(data.train), good), path=tmp_path / "study.json")
    content = json.loads((tmp_path / "study.json").read_text(), parse_constant=lambda name: pytest.fail(name))
    assert content["records"][0]["metrics"]["exact"]["image_auroc"] is None and content["versions"][0]["torch"]
    assert Study.load(tmp_path / "study.json").table() == study.table()


def test_unlabelled_means_without_labels(mvtec):
    run_protocol("per-class", "blind_spots", small(mvtec))
    assert [(sample.mask, sample.defect, sample.id) for sample in BlindSpots.seen] == [(None, "unknown", f"tire/{i}") for i in range(4)]
    with pytest.raises(DataError, match="learns from unlabelled samples.*take per-class"): run_protocol("unified", "blind_spots", small(mvtec))


def test_a_detector_that_learns_nothing_is_tested_per_class(mvtec, tmp_path):
    @register("plain_spots")
    class PlainSpots(Detector):
        learns_from = "nothing"
        def maps_of(self, networks, sample, features): return {"dark": torch.from_numpy(1 - sample.rgb.mean(0))}
        def combine(self, components): return components["dark"]

    study = run_protocol("per-class", "plain_spots", small(mvtec), path=tmp_path / "study.json")
    assert [(r["trained_on"], r["megabytes"]) for r in study.records] == [("nothing", 0.0)] * 3


def test_other_weights_of_the_encoders_are_other_settings(mvtec, tmp_path, monkeypatch):
    run_protocol("unified", "dark_spots", small(mvtec), path=tmp_path / "study.json")
    monkeypatch.setattr(DarkSpots, "fingerprints", lambda self: {"eye": "another"})
    with pytest.raises(DataError, match="other settings.*stands_on"): run_protocol("unified", "dark_spots", small(mvtec), path=tmp_path / "study.json")


def test_seeds_of_a_detector_without_chance(mvtec):
    with pytest.raises(DataError, match="nothing to do with chance"):
        run_protocol("one-vs-rest", "spots_with_labels", small(mvtec), train_on="tire", seeds=(0, 1))
    with pytest.raises(DataError, match="seeds: found none"): run_protocol("unified", "dark_spots", small(mvtec), seeds=())


def test_zero_shot_protocols_keep_categories_apart_across_spellings(mvtec, tmp_path):
    candies = write_eyecandies(tmp_path / "candies", "CableGland")
    with pytest.raises(DataError, match="'CableGland': found it is in both"): cross_dataset(small(mvtec), test_data=candies, train_on="cable_gland")
    tasks = cross_dataset(small(mvtec), test_data=candies, train_on=("bagel", "tire"))
    assert [(task.group, list(task.test)) for task in tasks] == [("trained on bagel", ["CableGland"]), ("trained on tire", ["CableGland"])]
    with pytest.raises(DataError, match="no test_data"): cross_dataset(small(mvtec), train_on="bagel")
    with pytest.raises(DataError, match="Did you mean 'bagel'"): run_protocol("one-vs-rest", "spots_with_labels", small(mvtec), train_on="bagle")


def test_weights_are_checked_before_the_training(mvtec):
    with pytest.raises(DataError, match="weight 'alhpa'"): run_protocol("unified", "dark_spots", small(mvtec), weights={"alhpa": 1})
    assert DarkSpots.fits == 0


def test_clouds_have_point_metrics_and_no_aupro():
    from mmad_nb.data import Cloud
    rng = np.random.default_rng(0)
    labels = [np.zeros(50, bool), np.zeros(70, bool), np.arange(60) < 9, np.arange(40) < 5]
    clouds = [Cloud(rng.normal(size=(len(bad), 3)).astype(np.float32), labels=bad, category="shell", defect="sink" if bad.any() else "good",
                    id=f"shell/{i}") for i, bad in enumerate(labels)]

    class PerPoint(Detector):
        def components(self, samples, cache=None): return samples
        def fuse(self, components): return [torch.from_numpy(rng.random(len(cloud)) + cloud.labels).float() for cloud in components]
        def image_scores(self, maps): return torch.stack([values.max() for values in maps])

    record = record_of(PerPoint(), clouds, {})
    assert record["metrics"]["exact"] == dict.fromkeys(("image_auroc", "image_ap", "image_f1", "pixel_auroc", "pixel_ap", "pixel_f1"), 1.0)
    assert record["samples"] == {"good": 2, "sink": 2} and record["defects"]["sink"]["pixel_auroc"] == 1


def test_options_that_nobody_knows(mvtec):
    with pytest.raises(DataError, match="option 'gian'.*Did you mean 'gain'"): run_protocol("unified", "dark_spots", small(mvtec), gian=2)
    with pytest.raises(DataError, match="protocol 'unify'.*Did you mean 'unified'"): run_protocol("unify", "dark_spots", small(mvtec))
    with pytest.raises(DataError, match="option 'shots'"): run_protocol("unified", "dark_spots", small(mvtec), shots=2)


def test_a_defect_with_an_empty_mask_is_defective(mvtec):
    samples = list(per_class(small(mvtec))[0].test["bagel"])
    hidden = [replace(sample, mask=np.zeros_like(sample.mask)) if sample.defect == "stain" else sample for sample in samples]
    assert [sample.defect for sample in hidden] == ["good", "hole", "hole", "stain"]
    detector = DarkSpots().fit([])
    detector.image_scores = lambda maps: torch.tensor([1., 2., 3., 0.])
    seen, masked = (record_of(detector, pile, {}) for pile in (samples, hidden))
    assert seen["samples"] == masked["samples"] == {"good": 1, "hole": 2, "stain": 1}
    for record in (seen, masked):
        assert record["metrics"]["exact"]["image_auroc"] == pytest.approx(2 / 3, abs=1e-6)      # by masks it would be 1
        assert record["defects"]["stain"]["image_auroc"] == 0
    assert seen["metrics"]["exact"]["pixel_auroc"] != masked["metrics"]["exact"]["pixel_auroc"]


def test_fingerprint_sees_every_number_in_memory(mvtec):
    sample = small(mvtec).test[0]
    moved = replace(sample, xyz=sample.xyz + np.float32(1e-4) * sample.valid)
    assert len({fingerprint([s]) for s in (sample, moved, replace(sample, mask=~sample.mask), replace(sample, defect="hole"))}) == 4


def test_two_processes_give_the_study_of_one(mvtec, tmp_path):
    one = run_protocol("unified", "dark_spots", small(mvtec), seeds=(0, 1), path=tmp_path / "one.json")
    script = f"""
        import sys
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import torch; torch.set_num_threads(1)
        from accelerate import Accelerator
        from test_experiments_protocols import run_protocol, small
        accelerator = Accelerator(cpu=True)
        assert accelerator.num_processes == 2
        run_protocol("unified", "dark_spots", small({str(mvtec)!r}), seeds=(0, 1), path={str(tmp_path / "two.json")!r}, accelerator=accelerator)
        accelerator.wait_for_everyone(); accelerator.end_training()   # a process that just stops may abort over its open connections
    """
    (tmp_path / "script.py").write_text(textwrap.dedent(script))
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", str(tmp_path / "script.py")],
                          capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr[-3000:]
    two = Study.load(tmp_path / "two.json")
    assert two.table() == one.table() and len(two.records) == 6 and not list(tmp_path.glob("*.unfinished"))


def test_metrics_go_to_the_trackers(mvtec):
    class Accelerator:
        process_index, num_processes, is_main_process = 0, 1, True
        def __init__(self): self.logged = {}
        def log(self, values, step): self.logged[step] = values

    accelerator = Accelerator()
    study = run_protocol("per-class", "dark_spots", small(mvtec), device="cpu", accelerator=accelerator)
    assert len(accelerator.logged) == len(study.records) == 3
    for step, record in enumerate(study.records, 1):
        assert accelerator.logged[step][f"{record['category']}/image_auroc"] == record["metrics"]["exact"]["image_auroc"]
