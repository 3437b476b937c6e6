"""The documentation site: `make docs` writes it to build/site, and fails at the first warning or dead link.

All that a page loads lies in the site itself, so it works without a network and from a folder; search too.
"""

project = "compressor"
author = "the authors of compressor"
copyright = "the authors of compressor, Apache-2.0"  # noqa: A001 - Sphinx's name
extensions = ["myst_parser"]
exclude_patterns = ["_build"]
nitpicky = True

myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

html_title = "compressor"
html_theme = "pydata_sphinx_theme"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False
html_show_sourcelink = False
html_show_search_summary = False  # it is fetched page by page, which a browser refuses for files
html_context = {"default_mode": "auto"}
html_sidebars = {"index": [], "quickstart": [], "tutorial": []}
html_theme_options = {
    "logo": {"text": "compressor"},
    "header_links_before_dropdown": 6,
    "navbar_align": "left",
    "navbar_persistent": ["search-button"],
    "navbar_end": ["theme-switcher"],
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
    "show_prev_next": False,
    "show_toc_level": 2,
    # Two palettes of one kind, legible in light and in dark.
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
