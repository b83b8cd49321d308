"""Fill the pages of the site from the code at build time. A line `<!-- generate: NAME -->` is
replaced by the text that the function NAME returns. No generated text is committed."""

import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

import drawings  # noqa: E402  # It lies beside this file; mkdocs adds this folder to the path.
import experiment_pages  # noqa: E402
import reference_pages  # noqa: E402

MARK = re.compile(r"^<!-- generate: ([a-z_]+) -->$", re.MULTILINE)
WRITERS = {
    name: getattr(module, name)
    for module, names in (
        (
            reference_pages,
            ["parameters", "commands", "targets", "environment", "folders", "rooms_table"],
        ),
        (reference_pages, ["decoders", "encoders", "sources", "metrics", "stages_list"]),
        (experiment_pages, ["protocols", "papers", "experiments", "decisions", "benchmarks"]),
        (drawings, ["rooms", "graph"]),
    )
    for name in names
}


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace the marks in a page. mkdocs calls this for every page."""
    return MARK.sub(lambda mark: WRITERS[mark[1]](ROOT), markdown)
