"What makes results visible: figures for paper and for the mouse, and the lab in which a detector's weights are sliders."
from .ablation import Ablation, AblationLab, ablate
from .explorer import Explorer, rank_map
from .inside import attention, attention_map, embed, scatter_figure, scatter_still, token_colours
from .figures import (cloud_plot, cloud_still, curve_plot, overlay, score_limits, show_components, show_curves, show_maps, show_sample)
from .kept import KeptSettings, KeptTable
from .picking import Picked, PointPicker
from .sweeps import HeatMap, SweepCurve, SweepLab, TrainingGrid

__all__ = ["Ablation", "AblationLab", "Explorer", "HeatMap", "KeptSettings", "KeptTable", "Picked", "PointPicker", "SweepCurve", "SweepLab", "TrainingGrid", "ablate", "attention", "attention_map", "embed", "scatter_figure", "scatter_still", "token_colours",
           "cloud_plot", "cloud_still", "curve_plot", "overlay", "rank_map", "score_limits", "show_components", "show_curves", "show_maps",
           "show_sample"]
