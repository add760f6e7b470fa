"""Improve or shrink a trained PyTorch network without gradients, on top of EvoTorch.

The public names are those in `evohbde/api.py`. They are loaded when first asked for, since torch and EvoTorch take
seconds and `evohbde --help` should not.
"""

from importlib import import_module
from importlib.util import find_spec
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from evohbde.api import *  # noqa: F403, that file is the list of names
else:

    def __getattr__(name):
        if name == "__all__":
            found = vars(import_module("evohbde.api")).items()
            return sorted(name for name, value in found if getattr(value, "__module__", "").startswith("evohbde."))
        if not name.startswith("_"):
            if find_spec(f"evohbde.{name}") is not None:
                return import_module(f"evohbde.{name}")
            api = import_module("evohbde.api")
            if hasattr(api, name):
                return getattr(api, name)
        raise AttributeError(f"module 'evohbde' has no attribute {name!r}")

    def __dir__():
        return sorted({*globals(), *dir(import_module("evohbde.api"))})
