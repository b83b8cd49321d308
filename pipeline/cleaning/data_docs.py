"""Writes the page of a validated corpus.

Great Expectations' own data docs load their style sheets from a CDN and print ids and times. The
page is therefore rendered here, from the same results.
"""

from pathlib import Path
from typing import Any


def write_data_docs(result: dict[str, Any], name: str, folder: Path) -> None:
    """Write one self-contained page, index.html, of the results of `validate` for the corpus
    `name`."""
    from jinja2 import Environment

    folder.mkdir(parents=True, exist_ok=True)
    page = (
        Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
        .from_string(PAGE)
        .render(name=name, **result)
    )
    (folder / "index.html").write_text(page, encoding="utf-8")


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{{ name }}: validation</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; color: #222 }
body { margin: 2rem auto; max-width: 70rem; padding: 0 1rem }
table { border-collapse: collapse; width: 100%; margin: 1rem 0 }
th, td { border-bottom: 1px solid #ddd; padding: .35rem .6rem }
th, td { text-align: left; vertical-align: top }
td.n { text-align: right; font-variant-numeric: tabular-nums }
code { font-size: .85em; color: #555; overflow-wrap: anywhere }
.yes { color: #176d2c } .no { color: #b3261e }
</style>
</head>
<body>
<h1>Corpus {{ name }}</h1>
<p>{{ rows }} captions;
{% for split, n in images.items() %}
{{ split }}: {{ n }} images{{ ", " if not loop.last else "." }}
{% endfor %}
</p>
<h2>Expectations</h2>
<table>
<tr><th></th><th>name</th><th>what must hold</th>
<th>rows checked</th><th>unexpected</th><th>first of them</th></tr>
{% for row in expectations %}
<tr>
<td class="{{ 'yes' if row.success else 'no' }}">{{ "met" if row.success else "failed" }}</td>
<td>{{ row.name }}</td>
<td>{{ row.description }}<br><code>{{ row.type }} {{ row.kwargs | tojson }}</code></td>
<td class="n">{{ row.checked if row.checked is not none else "table" }}</td>
<td class="n">{{ row.unexpected if row.unexpected is not none else "" }}</td>
<td>{{ row.first | join(", ") }}</td>
</tr>
{% endfor %}
</table>
<h2>Rows set aside</h2>
<table>
<tr><th>reason</th><th>rows</th></tr>
{% for reason, count in rejected.items() %}
<tr><td>{{ reason }}</td><td class="n">{{ count }}</td></tr>
{% else %}
<tr><td>none</td><td class="n">0</td></tr>
{% endfor %}
</table>
</body>
</html>
"""
