"Small samples for the tests of the lab."
import numpy as np

from mmad_nb.data import Sample


def make_sample(defect="good", seed=0, size=24):
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:size, :size].astype(np.float32) / 100
    xyz = np.stack([column, row, 0.5 + 0.01 * rng.random((size, size))]).astype(np.float32)
    valid = np.ones((size, size), bool)
    valid[:4] = False
    mask = np.zeros((size, size), bool)
    if defect != "good": mask[8:12, 8:12] = True
    return Sample(rng.random((3, size, size)).astype(np.float32), xyz * valid, valid, mask, "thing", defect, f"thing/test/{defect}/{seed:03d}")
