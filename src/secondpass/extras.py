"""Optional dependencies: import at use, or say exactly what to install.

Knows: which extra brings which module. Refuses to know: what they are used for.
"""

from __future__ import annotations

import importlib
from types import ModuleType

from secondpass.errors import MissingExtraError

__all__ = ["require"]


def require(module: str, *, extra: str, purpose: str = "") -> ModuleType:
    """Import `module`, or raise MissingExtraError with the install line for `extra`."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if error.name is not None and error.name.split(".")[0] != module.split(".")[0]:
            raise  # the extra is there but broken inside: hiding that would send people the wrong way
        why = f"{purpose} needs" if purpose else "this needs"
        raise MissingExtraError(
            f"{why} the module {module!r}, which is not installed; run: pip install 'secondpass[{extra}]'",
            name=module,
        ) from error
