"""Configuration of the documentation; see ``doc/developer/index.rst`` to build it."""

import os
import sys
from pathlib import Path

# Small networks gain nothing from threads and lose much when cores are shared.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
sys.path.insert(0, str(Path(__file__).parents[1]))

from skmdn import __version__

project = "skmdn"
copyright = "the skmdn developers"
author = "the skmdn developers"
version = release = __version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "auto_examples/*.ipynb"]
nitpicky = False

autosummary_generate = True
autodoc_typehints = "none"
autodoc_member_order = "bysource"
numpydoc_show_class_members = False

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": "plot_",
    "within_subsection_order": "ExampleTitleSortKey",
    "abort_on_example_error": True,
    "reset_modules": ("matplotlib",),
    "backreferences_dir": "generated/backreferences",
    "doc_module": ("skmdn",),
    "download_all_examples": False,
    "show_signature": False,
}

html_theme = "pydata_sphinx_theme"
html_title = "skmdn"
html_static_path = ["_static"]
html_show_sourcelink = False
html_sidebars = {"install": [], "whats_new": []}
html_theme_options = {"show_prev_next": False}
