"""What the displays share."""

from skmdn.base import import_extra

__all__ = ["axes_for", "plain_label", "pyplot"]


def plain_label(name):
    """Return a name that matplotlib does not read as mathematics.

    Parameters
    ----------
    name : str
        For instance the name of a column.

    Returns
    -------
    label : str
        The same, to look at.
    """
    return str(name).replace("$", r"\$")


def pyplot(user):
    """Import matplotlib only when something is drawn."""
    return import_extra("matplotlib.pyplot", "plot", user.__name__)


def axes_for(display, ax):
    """Return the axes to draw in and note them on the display."""
    if ax is None:
        _, ax = pyplot(type(display)).subplots(layout="constrained")
    display.ax_ = ax
    display.figure_ = ax.figure
    return ax
