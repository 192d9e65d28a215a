"A cloud seen from many sides: cameras, pictures, and the way between points and pixels."
from .project import average_views, back_project, on_grid, smooth_points
from .render import Cameras, Views, create_cameras, render

__all__ = ["Cameras", "Views", "average_views", "back_project", "create_cameras", "on_grid", "render", "smooth_points"]
