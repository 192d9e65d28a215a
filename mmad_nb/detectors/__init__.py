"Detectors: assembled from the stages, side by side behind one interface."
from .base import (Chosen, Components, Detector, Option, Weight, WeightPanel, by_category, create_detector, list_detectors, load_detector,
                   register, weight_control)
from .align3d import Align3D
from .frozen import PairDetector, Stage
from .gs_clip import GSCLIP
from .cfm import CFM
from .cmds import CMDS
from .mcl import MCL
from .memory_bank import MemoryBank
from .mutual import Mutual
from .per_category import PerCategory, evaluate_each, evaluate_maps, mean_metrics
from .pointad import PointAD
from .text_guided import TextGuided

__all__ = ["Align3D", "CFM", "CMDS", "Chosen", "Components", "Detector", "GSCLIP", "MCL", "MemoryBank", "Mutual", "Option", "PairDetector", "PerCategory", "PointAD", "Stage", "TextGuided", "Weight",
           "WeightPanel", "by_category", "create_detector", "evaluate_each", "evaluate_maps", "list_detectors", "load_detector",
           "mean_metrics", "register", "weight_control"]
