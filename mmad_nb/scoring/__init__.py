"Fusion of component maps, and exact metrics of the result."
from .aupro import aupro, pro_curve
from .evaluate import LIMITS, Metrics, auroc, average_precision, evaluate, f1_max, roc_curve
from .evaluator import AnomalyMetrics, Evaluator
from .fusion import BLUR, RULES, SCALES, SCORES, FusionPanel, box_blur, fuse_maps, image_score, scale_maps
from .groups import Grouped, GroupEvaluator, kinds
from .intervals import Bootstrap, Draws
from .sweep import Sweep, Turns

__all__ = ["AnomalyMetrics", "BLUR", "Bootstrap", "Draws", "Evaluator", "FusionPanel", "GroupEvaluator", "Grouped", "LIMITS", "Metrics", "RULES", "SCALES", "SCORES", "Sweep", "Turns", "aupro", "auroc",
           "average_precision", "box_blur", "evaluate", "f1_max", "fuse_maps", "image_score", "kinds", "pro_curve", "roc_curve", "scale_maps"]
