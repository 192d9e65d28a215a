"Detectors: assembled from the stages, side by side behind one interface."
from .base import Components, Detector, Weight, WeightPanel, create_detector, list_detectors, load_detector, register, weight_control
from .cfm import CFM
from .memory_bank import MemoryBank
from .text_guided import TextGuided
from .per_category import PerCategory, by_category, evaluate_each, evaluate_maps, mean_metrics

__all__ = ["CFM", "Components", "Detector", "MemoryBank", "PerCategory", "TextGuided", "Weight", "WeightPanel", "by_category", "create_detector", "evaluate_each", "evaluate_maps", "list_detectors", "load_detector",
           "mean_metrics", "register", "weight_control"]
