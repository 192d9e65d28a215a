"Fusion of component maps, and exact metrics of the result."
from .aupro import aupro, pro_curve
from .evaluate import Metrics, auroc, average_precision, evaluate

__all__ = ["Metrics", "aupro", "auroc", "average_precision", "evaluate", "pro_curve"]
