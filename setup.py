"""Everything that can be said in pyproject.toml stands there. This adds the cluster profiles, which people edit in
jobs/profiles: a wheel carries them beside the code that reads them, as pipeline/cluster/profiles."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

PROFILES = Path("jobs") / "profiles"
INSTALLED_PROFILES = Path("pipeline") / "cluster" / "profiles"


class BuildWithProfiles(build_py):
    """The usual build, and the profiles; an editable install reads them where they are."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return
        folder = Path(self.build_lib) / INSTALLED_PROFILES
        folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(PROFILES.glob("*.toml")):
            shutil.copyfile(path, folder / path.name)


setup(cmdclass={"build_py": BuildWithProfiles})
