"""The site: Sphinx, MyST, and a gallery of the examples. Built offline by `make -C docs html`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from tools import commands, docstrings, gallery

import gmdm_prior

project = "gmdm-prior"
author = copyright = "The gmdm-prior developers"
release = version = gmdm_prior.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "_generated", "tools", "gallery/*.ipynb", "gallery/*.py"]
default_role = "code"
highlight_language = "none"
nitpick_ignore_regex = [("py:.*", ".*")]  # types of torch and deepinv, whose sites are not at hand
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
suppress_warnings = ["config.cache"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_use_ivar = True
napoleon_use_rtype = False

html_theme = "pydata_sphinx_theme"
html_title = "gmdm-prior"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_show_sourcelink = False
html_theme_options = {
    "navigation_with_keys": False,
    "show_prev_next": False,
    "header_links_before_dropdown": 8,
    "navbar_persistent": ["search-button"],
}
html_sidebars = {"index": [], "paper/index": [], "design/index": []}

sphinx_gallery_conf = gallery.settings()


def setup(app):
    """What is written or rewritten while the site is built."""
    commands.write()
    app.connect("autodoc-process-docstring", docstrings.plain, priority=400)
