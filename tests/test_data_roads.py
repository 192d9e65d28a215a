"""Roads: the published layout made anew in small, the five real frames where they are, and bad input."""
import numpy as np
import pytest
from layouts import write_roads
from PIL import Image
from real_data import shared
from test_data_datasets import says

from mmad_nb.data import Roads
from mmad_nb.data.roads import EXCLUDED, RoadPanel, road_frames, road_xyz


@pytest.fixture
def root(tmp_path):
    return write_roads(tmp_path / "roads")


def small(root, split, **options):
    return Roads(root, split, **{"size": None, "side": 30, "step": 15, **options})


def test_crops_are_cut_from_the_same_place(root):
    for sample, entry in zip(data := small(root, "test"), data.entries):
        row, column = entry.corner
        box = np.s_[row:row + 30, column:column + 30]
        folder = root / "dataset2"
        name = entry.files["rgb"].name
        numbers = np.asarray(Image.open(folder / "disp_tg" / name))[box]
        photo = np.asarray(Image.open(folder / "rgb" / name))[box]
        label = np.asarray(Image.open(folder / "label" / name))[box]
        np.testing.assert_array_equal(sample.mask, label[..., 0] == 153)
        np.testing.assert_array_equal(sample.valid, numbers > 0)
        np.testing.assert_allclose(sample.rgb.transpose(1, 2, 0) * 255, photo, atol=1e-3)
        np.testing.assert_allclose(sample.xyz[2][sample.valid], 0.55 - 0.05 * numbers[numbers > 0] / 65535, atol=1e-6)
        assert sample.anomalous == sample.mask.any() and (sample.mask.mean() >= 0.01 or not sample.anomalous)
    assert any(entry.corner == (0, 0) for entry in data.entries) and not data[0].valid[5, 5]


def test_train_is_good_and_no_frame_is_in_two_splits(root):
    splits = {name: small(root, name) for name in ("train", "validation", "test")}
    numbers = {name: {entry.files["rgb"].stem for entry in data.entries} for name, data in splits.items()}
    assert numbers == {"train": {"01", "02"}, "validation": {"03"}, "test": {"04", "05"}}
    assert set(splits["train"].defects) == {"good"} and not any(sample.mask.any() for sample in splits["train"])
    for name in ("validation", "test"): assert set(splits[name].defects) == {"good", "pothole"}
    ids = [entry.id for data in splits.values() for entry in data.entries]
    assert len(ids) == len(set(ids)) and ids[0] == "road/train/good/dataset2-01-0000-0000"


def test_a_sliver_of_a_pothole_is_left_out(root):
    def count(least): return len(small(root, "test", least=least))
    assert count(1e-9) > count(0.3)
    assert all(sample.mask.mean() >= 0.3 or not sample.anomalous for sample in small(root, "test", least=0.3))


def test_each_data_set_is_split_by_itself_and_excluded_frames_are_left_out(tmp_path):
    write_roads(tmp_path, range(1, 11), "dataset1"), write_roads(tmp_path, range(4, 17), "dataset2")
    frames = road_frames(tmp_path)
    assert [int(files["rgb"].stem) for files in frames["dataset2"]] == [4, 5, 9, 10, 11, 12, 16]    # without 6, 7, 8, 13, 14, 15
    assert len(frames["dataset1"]) == 10 and len(EXCLUDED["dataset2"]) == 12
    train = small(tmp_path, "train")
    assert {entry.files["rgb"].parts[-3] for entry in train.entries} == {"dataset1", "dataset2"}
    assert [len(found) for found in train.frames.values()] == [4, 3]


def test_prepared_samples(root):
    sample = small(root, "test", size=56, width=0.3, relief=0.1)[0]
    assert sample.size == (56, 56) and np.ptp(sample.xyz[0]) == pytest.approx(0.3 * 29 / 30, rel=1e-4)
    assert 0.5 <= sample.xyz[2][sample.valid].min() and sample.xyz[2].max() <= 0.6
    xyz, valid = road_xyz(np.array([[0, 65535]]), 2)
    assert valid.tolist() == [[False, True]] and xyz[:, 0, 0].tolist() == [0, 0, 0] and xyz[2, 0, 1] == 0.5


def test_bad_roads(root, tmp_path):
    says(lambda: Roads(root, "tset"), "Did you mean 'test'?")
    says(lambda: Roads(None), "root", "NoneType")
    says(lambda: Roads(tmp_path / "nowhere"), "nowhere", "Clone github.com")
    says(lambda: Roads(root / "dataset2"), "dataset1, dataset2, dataset3 with folders")
    says(lambda: small(root, "test", side=61), "side", "at most 60")
    says(lambda: small(root, "test", side=0), "side 0")
    says(lambda: small(root, "test", least="x"), "least x")
    says(lambda: small(write_roads(tmp_path / "two", (1, 2)), "validation"), "no crop of 30 pixels in split 'validation'")
    (root / "dataset2/disp_tg/02.png").unlink()
    says(lambda: Roads(root), "frame 02 without its disparity")


def test_bad_frames(root):
    path = root / "dataset2/disp_tg/04.png"
    Image.fromarray(np.zeros((60, 90), np.uint8)).save(path)
    says(lambda: small(root, "test")[0], "disp_tg/04.png", "16 bits")
    Image.fromarray(np.ones((60, 80), np.uint16)).save(path)
    says(lambda: small(root, "test")[0], "disp_tg/04.png", "60 x 80", "60 x 90 as in")
    Image.fromarray(np.zeros((60, 90), np.uint16)).save(path)
    says(lambda: small(root, "test")[0], "disp_tg/04.png", "no measured pixel")


def test_a_changed_file_is_read_again(root):
    data = small(root, "test")
    before = data[0].rgb.copy()
    Image.fromarray(np.full((60, 90, 3), 7, np.uint8)).save(root / "dataset2/rgb/04.png")
    assert (data[0].rgb != before).any() and data[0].rgb.max() == np.float32(7 / 255)


def test_the_panel_counts_what_the_reader_reads(root):
    panel = RoadPanel(root, 30)
    panel.frame.value = 3                                           # frame 04, the first of the test
    entries = [entry for entry in small(root, "test").entries if entry.files["rgb"].stem == "04"]
    assert panel.counts["good"] == sum(entry.defect == "good" for entry in entries)
    assert panel.counts["pothole"] == sum(entry.defect == "pothole" for entry in entries)


def test_real_roads():
    root = shared("roads")
    train, test = Roads(root), Roads(root, "test")
    assert len(train) >= 10 and set(train.defects) == {"good"} and {"good", "pothole"} == set(test.defects)
    pothole = test[test.defects.index("pothole")]
    assert pothole.size == (224, 224) and pothole.valid.mean() > 0.99 and 0.01 <= pothole.mask.mean() < 0.9
    deep, road = (pothole.xyz[2][where & pothole.valid].mean() for where in (pothole.mask, ~pothole.mask))
    assert deep > road + 0.003, "a pothole lies lower, which is further from the camera"
