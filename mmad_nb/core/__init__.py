"What every stage leans on: device, seeds, progress, files that are whole or absent, errors that help, answers that are checked. (The training loop needs torch: `mmad_nb.core.training`.)"
from .questions import check
from .runtime import DataError, DiskCache, MmadError, WeightsError, cache_dir, pick_device, png_bytes, progress, seed_everything, unknown_name, written_beside
from .widgets import described, patient_widgets

__all__ = ["DataError", "DiskCache", "MmadError", "WeightsError", "cache_dir", "check", "described", "patient_widgets", "pick_device", "png_bytes", "progress", "seed_everything",
           "unknown_name", "written_beside"]

patient_widgets()   # in a notebook: before the first plot is made
