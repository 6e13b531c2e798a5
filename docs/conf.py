"""The documentation's settings: `sphinx-build -W -j auto docs docs/_build` makes the site."""

import sys
from pathlib import Path

import hltm

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE / "_ext"))

project = "hltm"
author = "the hltm developers"
release = version = hltm.__version__
html_title = f"hltm {release}"

extensions = [
    "myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton", "sphinx_design",
    "mathml", "docstrings", "command_line", "claim_pages", "glossary",
    "benchmark_pages", "warm_kernels",
]  # fmt: skip
exclude_patterns = ["_build", "_ext"]
default_role = "code"  # in docstrings, single backticks are code
suppress_warnings = ["misc.highlighting_failure"]

# pages: text with executed cells
myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_heading_anchors = 3
nb_execution_mode = "force"
nb_execution_raise_on_error = True
nb_execution_timeout = 120
nb_merge_streams = True

# the interface: the types of arguments stand in their signatures
autodoc_typehints = "signature"
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True  # fields of named tuples are described once

# one look, light and dark, without a request to anywhere
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_show_copyright = False
html_theme_options = {"source_repository": "https://github.com/hltm-developers/hltm/",
                      "source_branch": "main", "source_directory": "docs/"}  # fmt: skip
copybutton_exclude = ".linenos, .gp, .go"
