"""The version, and the check that this package is not mixed with a namesake."""

import sys
import warnings
from importlib import metadata

__version__ = "0.1.0"

_ADVICE = (
    "The distribution scikit-mdn installs a package called skmdn as well, and one of "
    "the two has overwritten files of the other. Uninstall both, then install only "
    "the one you want."
)


def check_namesake(package: str = "skmdn", rival: str = "scikit-mdn") -> None:
    """Refuse a foreign ``__init__`` around our modules; warn if the rival is there.

    Raises
    ------
    ImportError
        If the package that holds this module is not ours.
    """
    if getattr(sys.modules.get(package), "__version__", None) != __version__:
        raise ImportError(_ADVICE)
    try:
        metadata.distribution(rival)
    except metadata.PackageNotFoundError:
        return
    warnings.warn(_ADVICE, UserWarning, stacklevel=2)
