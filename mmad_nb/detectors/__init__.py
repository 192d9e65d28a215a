"Detectors: assembled from the stages, side by side behind one interface."
from .base import Components, Detector, Weight, WeightPanel, create_detector, list_detectors, load_detector, register, weight_control
from .cfm import CFM

__all__ = ["CFM", "Components", "Detector", "Weight", "WeightPanel", "create_detector", "list_detectors", "load_detector", "register", "weight_control"]
