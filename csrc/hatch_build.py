"""Build hook: the link tree that makes a development install importable as `vitkiln`."""

import os
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

ROOMS = ("engine", "kernels", "recipes")


class VitkilnBuildHook(BuildHookInterface):
    """Editable installs see build/links/vitkiln/<room> -> <room>, so that every tool reads plain paths."""

    def initialize(self, version: str, build_data: dict) -> None:
        if version == "editable":
            self.link_rooms()

    def link_rooms(self) -> None:
        tree = Path(self.root, "build", "links", "vitkiln")
        tree.mkdir(parents=True, exist_ok=True)
        for room in ROOMS:
            link = tree / room
            link.unlink(missing_ok=True)
            link.symlink_to(os.path.relpath(Path(self.root, room), tree), target_is_directory=True)
