"""hatchling's build hook: puts the BPF objects into the wheel.

A wheel gets release objects from a directory of its own under build/, so that `pip wheel .` leaves a
developer's objects alone. An editable install gets debug objects, in the tree, where its package is.
"""

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.config import BuilderConfig
from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ObjectsHook(BuildHookInterface[BuilderConfig]):
    """Found by hatchling as the only hook class in this file."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build the objects and add them; version is "standard" or "editable"."""
        tool = _build_tool()
        try:
            if version == "editable":
                tool.build_project("debug")
            else:
                for path, _ in tool.build_project("release", Path(self.root, "build", "objects")):
                    build_data["force_include"][str(path)] = f"chadthrottle/objects/{path.name}"
        except tool.BuildError as error:
            self.app.abort(str(error))


def _build_tool() -> ModuleType:
    # hatchling runs this file by path: neither tools/ nor the source root is on the import path.
    spec = importlib.util.spec_from_file_location("build_ebpf", Path(__file__).with_name("build_ebpf.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
