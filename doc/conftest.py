"""The pages' examples are tests: ``pytest --doctest-glob='*.rst' doc``."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")

collect_ignore_glob = ["_build/*", "auto_examples/*", "generated/*", "*.py"]
