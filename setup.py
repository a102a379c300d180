"""Puts the shipped weights into built packages; everything else about the package is in pyproject.toml."""

from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

WEIGHTS = "weights/flare-small.safetensors"


class BuildWithWeights(build_py):
    """Copies the weights from the top of the checkout into the package, where an installed program looks for them."""

    def run(self):
        """Build as usual; an editable install reads the weights in the checkout."""
        super().run()
        if not self.editable_mode:
            target = Path(self.build_lib, "flarecli", WEIGHTS)
            self.mkpath(str(target.parent))
            self.copy_file(WEIGHTS, str(target))

    def get_source_files(self):
        """What a source archive holds."""
        return [*super().get_source_files(), WEIGHTS]


setup(cmdclass={"build_py": BuildWithWeights})
