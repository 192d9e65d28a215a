"""Builds the package from settings.ini (metadata) and mmad_nb/__init__.py (version)."""
import re
import shutil
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

here = Path(__file__).parent
ini = ConfigParser(delimiters=["="])
ini.read(here / "settings.ini", encoding="utf8")
cfg = ini["DEFAULT"]
version = re.search(r'__version__ = "(.+?)"', (here / "mmad_nb/__init__.py").read_text()).group(1)
extras = {name: cfg[name + "_requirements"].split() for name in ("lab", "test", "dev", "diffusion", "language", "course", "benchmark", "docs")}
extras["test"] += extras["diffusion"]
extras["dev"] += extras["test"] + extras["course"]


class BuildWithSamples(build_py):
    """Copies data_samples/ and nbs/ into the wheel: something to show, and something for `mmad lab`, without the repository."""
    def run(self):
        super().run()
        if not self.editable_mode:
            for folder, name in (("data_samples", "data_samples"), ("nbs", "notebooks")):
                shutil.copytree(here / folder, Path(self.build_lib) / "mmad_nb" / name, dirs_exist_ok=True,
                                ignore=shutil.ignore_patterns(".*"))


setup(
    name=cfg["name"], version=version, description=cfg["description"], keywords=cfg["keywords"].split(),
    author=cfg["author"], license=cfg["license"],
    long_description=(here / "README.md").read_text(encoding="utf8"), long_description_content_type="text/markdown",
    python_requires=">=" + cfg["min_python"], packages=find_packages(include=["mmad_nb", "mmad_nb.*"]),
    package_data={"mmad_nb": ["weights/*", "experiments/tables/*.json"]}, install_requires=cfg["requirements"].split(),
    extras_require=extras,
    entry_points={"nbdev": ["mmad_nb = mmad_nb._modidx:d"], "console_scripts": ["mmad = mmad_nb.experiments.command:main"]},
    cmdclass={"build_py": BuildWithSamples})
