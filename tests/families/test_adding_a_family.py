"""The page that writes a family is run as it stands."""

import re
import textwrap
from pathlib import Path

from tests.families import oracle

PAGE = Path(__file__).parents[2] / "doc" / "developer" / "adding_a_family.rst"


def test_the_worked_example_runs():
    text = PAGE.read_text()
    blocks = re.findall(r"\.\. code-block:: python\n\n((?:   .*\n|\n)+)", text)
    assert len(blocks) == text.count("code-block:: python") == 3
    # The first import of the oracle moves the generator of Python's own random module.
    names = {"__name__": "adding_a_family", "oracle": oracle}
    for block in blocks:
        exec(compile(textwrap.dedent(block), str(PAGE), "exec"), names)
