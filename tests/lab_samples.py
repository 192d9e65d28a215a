"Small samples for the tests of the lab."
import numpy as np
import torch

from mmad_nb.data import Cloud, Sample


def make_sample(defect="good", seed=0, size=24):
    rng = np.random.default_rng(seed)
    row, column = np.mgrid[:size, :size].astype(np.float32) / 100
    xyz = np.stack([column, row, 0.5 + 0.01 * rng.random((size, size))]).astype(np.float32)
    valid = np.ones((size, size), bool)
    valid[:4] = False
    mask = np.zeros((size, size), bool)
    if defect != "good": mask[8:12, 8:12] = True
    return Sample(rng.random((3, size, size)).astype(np.float32), xyz * valid, valid, mask, "thing", defect, f"thing/test/{defect}/{seed:03d}")


def make_cloud(defect="good", seed=0, points=100):
    rng = np.random.default_rng(seed)
    labels = np.zeros(points, bool)
    if defect != "good": labels[3:9] = True
    return Cloud(rng.random((points, 3)).astype(np.float32), labels=labels, category="thing", defect=defect, id=f"thing/{defect}/{seed}")


class CloudFake:
    "A detector of clouds by contract alone: flat components, a list of fused scores, one image score a cloud."
    weights = ()
    def __init__(self, weights=(), seed=0): self.weights, self.seed, self.runs = weights, seed, 0

    def components(self, clouds):
        self.runs += 1
        rng = torch.Generator().manual_seed(self.seed)
        truth = torch.from_numpy(np.concatenate([c.labels for c in clouds])).float()
        noise = torch.rand((2, len(truth)), generator=rng)
        return {"rgb": noise[0], "xyz": noise[1] + 2 * truth}

    def fuse(self, components, alpha=0.5): return (1 - alpha) * components["rgb"] + alpha * components["xyz"]
    def image_scores(self, maps): return torch.stack([scores.amax() for scores in maps])
