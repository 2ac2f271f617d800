"""Puts recipes/ and launch/ into the package when a wheel is built; all else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class WithRecipes(build_py):
    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for name in ("recipes", "launch"):
                shutil.copytree(name, Path(self.build_lib) / "rlhf_e2h" / name, dirs_exist_ok=True)


setup(cmdclass={"build_py": WithRecipes})
