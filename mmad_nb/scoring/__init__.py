"Fusion of component maps, and exact metrics of the result."
from .aupro import aupro, pro_curve
from .evaluate import Metrics, auroc, average_precision, evaluate
from .fusion import BLUR, RULES, SCALES, SCORES, FusionPanel, box_blur, fuse_maps, image_score, scale_maps

__all__ = ["BLUR", "FusionPanel", "Metrics", "RULES", "SCALES", "SCORES", "aupro", "auroc", "average_precision", "box_blur", "evaluate",
           "fuse_maps", "image_score", "pro_curve", "scale_maps"]
