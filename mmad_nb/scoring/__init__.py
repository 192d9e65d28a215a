"Fusion of component maps, and exact metrics of the result."
from .aupro import aupro, pro_curve
from .evaluate import LIMITS, Metrics, auroc, average_precision, evaluate, f1_max, roc_curve
from .evaluator import AnomalyMetrics, Evaluator
from .fusion import BLUR, RULES, SCALES, SCORES, FusionPanel, box_blur, fuse_maps, image_score, scale_maps
from .groups import Grouped, GroupEvaluator, kinds
from .intervals import Bootstrap, Draws
from .sweep import Sweep, Turns
from .thresholds import Confusion, best_threshold, cheapest_threshold, confusion, pr_curve, threshold_at_rate

__all__ = ["AnomalyMetrics", "BLUR", "Bootstrap", "Confusion", "Draws", "Evaluator", "FusionPanel", "GroupEvaluator", "Grouped", "LIMITS", "Metrics",
           "RULES", "SCALES", "SCORES", "Sweep", "Turns", "aupro", "auroc", "average_precision", "best_threshold", "box_blur", "cheapest_threshold",
           "confusion", "evaluate", "f1_max", "fuse_maps", "image_score", "kinds", "pr_curve", "pro_curve", "roc_curve", "scale_maps",
           "threshold_at_rate"]
