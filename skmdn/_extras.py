"""Optional packages, and which extra of skmdn brings them."""

import importlib
from types import ModuleType

__all__ = ["import_extra"]


def import_extra(module: str, extra: str, user: str) -> ModuleType:
    """Import an optional package, or say which extra of skmdn brings it.

    Raises
    ------
    ImportError
        If the package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = module.split(".")[0]
        raise ImportError(
            f"{user} needs {package}, which the extra skmdn[{extra}] installs: "
            f"pip install '.[{extra}]' in a checkout of skmdn."
        ) from error
