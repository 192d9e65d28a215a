"nbgrader's settings for the course; .ci/course.py copies this file beside source/ and release/."
c = get_config()  # noqa: F821 (nbgrader defines it)
c.CourseDirectory.course_id = "mmad_nb"
c.Execute.timeout = 300                              # seconds for each cell: an endless loop is interrupted, and its question has 0 points. (The project's cells fit detectors.)
c.Execute.startup_timeout, c.Execute.iopub_timeout = 300, 60   # seconds for the machine, not for the student: nbgrader's own break on a busy one
c.Execute.skip_cells_with_tag = "panel"              # widgets are for people; a graded run leaves them out
c.ClearSolutions.code_stub = {"python": "pass   # your answer"}   # an open question stops nothing: the notebook still runs to its end
