"""What must hold for a corpus before anything is trained on it: a Great Expectations suite as code.

Its results are kept without their random ids, times and batch names, in the order of the suite. Great Expectations' own
data docs load their style sheets from a CDN and print ids and times, so the page is rendered here from the same results.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from pipeline.cleaning import clean_text, digests
from pipeline.corpus import COLUMNS, SPLITS, columns_of, rows_of
from pipeline.errors import UserError
from pipeline.params import Corpus
from pipeline.pictures import Picture

SHOWN = 5
"rows that a message and the docs name"
CLEAN = r"^(?!\s)[^\x00-\x1f\x7f-\x9f\u2028\u2029\ufffd]*(?<!\s)$"


def validate(captions: Path, rejected: pd.DataFrame, pictures: dict[str, Picture], options: Corpus) -> dict[str, Any]:
    """Check a cleaned corpus.

    What a row must be is checked of ROWS rows at a time, and holds if it holds of all of them; what may fail now and then
    and what is a fact of all rows is checked of a table of all rows that has little more than numbers.

    Args:
        captions, rejected: the captions.parquet that `cleaning.clean_file` wrote, and the rows that it set aside.
        pictures: what `pictures.look_at_images` saw in each file.

    Returns:
        success, rows, images per split, rejected rows by reason, and per expectation: name, description, type,
        kwargs, success, rows that were checked, unexpected rows, the first of them (caption ids), and what was observed
        or missing if it is a fact of the whole table.

    Raises:
        UserError: a column is missing, or an expectation failed; the message names it, the number of rows, and the first of
            them.
    """
    columns_of(captions, COLUMNS)
    facts = facts_of(captions, pictures)
    suite = _suite(options, _usual(facts.table["captions_of_image"]))
    parts = with_helpers(captions, facts.table, pictures, options)
    results = _of_each_row(parts, [e for e in suite if e.meta["name"] not in WHOLE])
    results |= _of_all_rows(facts.table, captions, [e for e in suite if e.meta["name"] in WHOLE])
    ordered = [results[expectation.meta["name"]] for expectation in suite]
    failed = [result for result in ordered if not result["success"]]
    if failed:
        raise UserError(f"validation failed: {'; '.join(_describe(result) for result in failed)}")
    return {
        "success": True,
        "rows": len(facts.table),
        "images": facts.images,
        "rejected": dict(sorted(Counter(rejected["reason"]).items())),
        "expectations": ordered,
    }


WHOLE = {"rows", "caption ids unique", "every split there", "captions per image", *(f"captions shared by {s}" for s in SPLITS)}
"expectations on all rows at once"
FACTS = ["images_in_split", "captions_of_image", "splits_of_image", "splits_of_picture", "splits_of_text"]


def _usual(captions_of_image: pd.Series) -> int:
    """How many captions most images have, the fewest of equals; of the number that each row's image has."""
    rows = np.bincount(captions_of_image.dropna().astype(int), minlength=2)
    return int((rows[1:] / np.arange(1, len(rows))).argmax()) + 1


@dataclass(frozen=True)
class Facts:
    """What takes all rows to know."""

    table: pd.DataFrame
    "per row FACTS, split, and caption_id: the number of the first row that has it"
    images: dict[str, int]
    "by split"


def facts_of(captions: Path, pictures: dict[str, Picture]) -> Facts:
    split = pd.concat([part["split"].astype("category") for part in rows_of(captions, ["split"])], ignore_index=True)
    split = split.astype("category")
    splits = split.cat.codes.to_numpy()
    caption, first = _numbers(_texts(captions, "caption_id"))
    table = pd.DataFrame({"caption_id": _known(first, caption), "split": split})
    del caption, first
    image, _ = _numbers(_texts(captions, "image_id"))
    pairs, several = _distinct(image, splits)
    images = np.bincount(pairs % several, minlength=several)
    table["images_in_split"] = _known(images, splits)
    table["captions_of_image"] = _known(np.bincount(image[image >= 0], minlength=1), image)
    table["splits_of_image"] = _splits(image, splits)
    del image, pairs
    pixels = (picture_of(pictures, file).digest for part in rows_of(captions, ["file"]) for file in part["file"])
    table["splits_of_picture"] = _splits(_numbers(pixels)[0], splits)
    table["splits_of_text"] = _splits(_numbers(_texts(captions, "text"))[0], splits)
    return Facts(table, {str(name): int(n) for name, n in zip(split.cat.categories, images, strict=False)})


def _texts(captions: Path, column: str) -> Iterator[str | None]:
    return (text if isinstance(text, str) else None for part in rows_of(captions, [column]) for text in part[column])


def _numbers(texts: Iterable[str | None]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Equal texts have equal numbers, from 0; -1 for None. And the first row of each number."""
    absent = bytearray()

    def present() -> Iterator[str]:
        for text in texts:
            absent.append(text is None)
            yield text or ""

    found = digests(present())
    order = np.argsort(found)
    found = found[order]
    news = np.append(True, found[1:] != found[:-1])[: len(found)]
    del found
    numbers = np.empty(len(order), np.int32)
    numbers[order] = np.cumsum(news, dtype=np.int32) - 1
    first = np.minimum.reduceat(order, np.flatnonzero(news)) if len(order) else order
    numbers[np.frombuffer(absent, bool)] = -1
    return numbers, first


def _distinct(groups: NDArray[np.int32], splits: NDArray[np.integer[Any]]) -> tuple[NDArray[np.int64], int]:
    """The different pairs of a row's group and split as group x splits + split, and how many splits there are."""
    several = int(splits.max(initial=0)) + 1
    pairs = groups.astype(np.int64)
    pairs *= several
    pairs += splits
    if min(groups.min(initial=0), splits.min(initial=0)) < 0:
        pairs = pairs[(groups >= 0) & (splits >= 0)]
    pairs.sort()
    return pairs[np.append(True, pairs[1:] != pairs[:-1])[: len(pairs)]], several


def _splits(groups: NDArray[np.int32], splits: NDArray[np.integer[Any]]) -> pd.Series:
    """Per row: how many splits its group has."""
    pairs, several = _distinct(groups, splits)
    counts = np.bincount(pairs // several, minlength=int(groups.max(initial=0)) + 1)
    return _known(counts, groups)


def _known(numbers: NDArray[Any], rows: NDArray[np.integer[Any]]) -> pd.Series:
    """The numbers of each row's group; NaN where it has none, -1."""
    small = numbers.astype(np.min_scalar_type(numbers.max(initial=0)))[rows]
    return pd.Series(small if rows.min(initial=0) >= 0 else np.where(rows >= 0, small, np.nan))


def picture_of(pictures: dict[str, Picture], file: Any) -> Picture:
    return pictures.get(file, Picture("image missing", None))


def with_helpers(captions: Path, facts: pd.DataFrame, pictures: dict[str, Picture], options: Corpus) -> Iterator[pd.DataFrame]:
    """The captions with one column for each fact that an expectation on rows needs."""
    start = 0
    for rows in rows_of(captions, COLUMNS):
        seen = [picture_of(pictures, file) for file in rows["file"]]
        own = {
            "words": rows["text"].map(lambda text: len(text.split()), na_action="ignore"),
            "cleaned": rows["raw"].map(lambda raw: clean_text(raw, options), na_action="ignore"),
            "problem": pd.Series([picture.problem for picture in seen], rows.index, dtype=object),
            "pixels": pd.Series([picture.digest for picture in seen], rows.index, dtype=object),
        }
        of_all = facts[FACTS].iloc[start : start + len(rows)].set_axis(rows.index)
        yield rows.assign(**own, **of_all)
        start += len(rows)


def _suite(options: Corpus, usual: int) -> list[Any]:
    """Args: usual: captions of an image."""
    return [*_on_columns(), *_on_splits(options), *_on_captions(options, usual), *_on_pictures()]


def _on_columns() -> Iterator[Any]:
    expect = _great_expectations().expectations
    names = {"column_set": COLUMNS, "exact_match": False}
    yield _named("rows", "there are captions", expect.ExpectTableRowCountToBeBetween, min_value=1)
    yield _named("columns", "every column is there", expect.ExpectTableColumnsToMatchSet, **names)
    for column in COLUMNS:
        yield _named(f"{column} present", f"every row has its {column}", expect.ExpectColumnValuesToNotBeNull, column=column)
        text = {"column": column, "type_": "str"}
        yield _named(f"{column} is text", f"{column} holds strings", expect.ExpectColumnValuesToBeOfType, **text)
    yield _named("caption ids unique", "no caption_id stands twice", expect.ExpectColumnValuesToBeUnique, column="caption_id")


def _on_splits(options: Corpus) -> Iterator[Any]:
    expect = _great_expectations().expectations
    between, member = expect.ExpectColumnValuesToBeBetween, expect.ExpectColumnValuesToBeInSet
    all_of = expect.ExpectColumnDistinctValuesToContainSet
    least, most = options.min_images_per_split, options.max_shared_captions
    yield _named("split values", "split is train, val or test", member, column="split", value_set=SPLITS)
    yield _named("every split there", "no split is empty", all_of, column="split", value_set=SPLITS)
    large = {"column": "images_in_split", "min_value": least}
    yield _named("splits large enough", f"a split has at least {least} images", between, **large)
    one = {"column": "splits_of_image", "max_value": 1}
    yield _named("splits disjoint", "all captions of an image are in one split", between, **one)
    for split in SPLITS:
        says = f"at most {100 * most:g}% of the captions of {split} stand in another split as well"
        of_split = expect.row_conditions.Column("split") == split
        alone = {"column": "splits_of_text", "value_set": [1], "mostly": 1 - most, "row_condition": of_split}
        yield _named(f"captions shared by {split}", says, member, **alone)


def _on_captions(options: Corpus, usual: int) -> Iterator[Any]:
    expect = _great_expectations().expectations
    between, pair = expect.ExpectColumnValuesToBeBetween, expect.ExpectColumnPairValuesToBeEqual
    least, most = options.min_words, options.max_words
    count = {"column": "captions_of_image", "min_value": (usual + 1) // 2, "max_value": 2 * usual, "mostly": 0.99}
    yield _named("captions per image", f"99% of the rows: images with about {usual} captions, as most have", between, **count)
    length = {"column": "words", "min_value": least, "max_value": most}
    yield _named("length in words", f"a caption has {least} to {most} words", between, **length)
    line = {"column": "text", "regex": CLEAN}
    yield _named("characters", "one clean line of text", expect.ExpectColumnValuesToMatchRegex, **line)
    same = {"column_A": "text", "column_B": "cleaned"}
    yield _named("text follows from raw", "text is what cleaning makes of raw", pair, **same)


def _on_pictures() -> Iterator[Any]:
    expect = _great_expectations().expectations
    between = expect.ExpectColumnValuesToBeBetween
    yield _named("images decodable", "every image file is there and whole", expect.ExpectColumnValuesToBeNull, column="problem")
    one = {"column": "splits_of_picture", "max_value": 1}
    yield _named("no image in two splits", "equal pictures are in one split", between, **one)


def _named(name: str, says: str, kind: Any, **kwargs: Any) -> Any:
    return kind(**kwargs, description=says, meta={"name": name})


def _great_expectations() -> Any:
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations

    return great_expectations


def _of_all_rows(table: pd.DataFrame, captions: Path, suite: list[Any]) -> dict[str, dict[str, Any]]:
    (results,) = _run([table], suite)
    ids = _ids(captions, {int(n) for result in results.values() for n in result["first"] if pd.notna(n)})
    return {name: {**result, "first": [ids.get(n) for n in result["first"]]} for name, result in results.items()}


def _ids(captions: Path, wanted: set[int]) -> dict[int, Any]:
    """Row number (a float where another row has none) -> its caption_id."""
    start, found = 0, dict[int, Any]()
    for rows in rows_of(captions, ["caption_id"]) if wanted else ():
        found |= {n: rows["caption_id"].iloc[n - start] for n in wanted if start <= n < start + len(rows)}
        start += len(rows)
    return found


def _of_each_row(tables: Iterable[pd.DataFrame], suite: list[Any]) -> dict[str, dict[str, Any]]:
    whole: dict[str, dict[str, Any]] = {}
    for results in _run(tables, suite):
        whole = {name: _joined(whole[name], result) if whole else result for name, result in results.items()}
    return whole


def _joined(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """A result of some rows and that of the next: no expectation on rows has a tolerance."""
    counts = {key: None if None in (one[key], other[key]) else one[key] + other[key] for key in ("checked", "unexpected")}
    first, worse = [*one["first"], *other["first"]][:SHOWN], one if not one["success"] else other
    return {**worse, **counts, "success": one["success"] and other["success"], "first": first}


def _run(tables: Iterable[pd.DataFrame], suite: list[Any]) -> Iterator[dict[str, dict[str, Any]]]:
    """Results by name, of each table."""
    gx = _great_expectations()
    from great_expectations.data_context.types.base import ProgressBarsConfig

    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = ProgressBarsConfig(globally=False)
    asset = context.data_sources.add_pandas("captions").add_dataframe_asset("captions")
    definition = gx.ValidationDefinition(
        name="corpus",
        data=asset.add_batch_definition_whole_dataframe("all"),
        suite=context.suites.add(gx.ExpectationSuite(name="corpus", expectations=suite)),
    )
    form = {"result_format": "SUMMARY", "unexpected_index_column_names": ["caption_id"], "partial_unexpected_count": SHOWN}
    for table in tables:
        outcome = definition.run(batch_parameters={"dataframe": table}, result_format=form).to_json_dict()
        yield {row["expectation_config"]["meta"]["name"]: _result(row) for row in outcome["results"]}


def _result(row: dict[str, Any]) -> dict[str, Any]:
    """What of one result is the same on every run."""
    config, result = row["expectation_config"], row["result"]
    # Without a result, exception_info holds one entry per metric that could not be computed.
    errors = [info["exception_message"] for info in row["exception_info"].values() if isinstance(info, dict)]
    return {
        "name": config["meta"]["name"],
        "description": config["description"],
        "type": config["type"],
        "kwargs": {key: value for key, value in config["kwargs"].items() if key != "batch_id"},
        "success": row["success"],
        "checked": result.get("element_count"),
        "unexpected": result.get("unexpected_count"),
        "first": [index.get("caption_id") for index in result.get("partial_unexpected_index_list") or []],
        "observed": result.get("observed_value"),
        "missing": sorted(result.get("partial_missing_list") or []),
        "error": errors[0] if errors else None,
    }


def _describe(result: dict[str, Any]) -> str:
    text = f"'{result['name']}' ({result['description']})"
    if result["error"]:
        return f"{text}: {result['error']}"
    if result["missing"]:
        return f"{text}: {', '.join(result['missing'])} missing"
    if result["unexpected"] is None:
        return f"{text}: found {result['observed']}"
    rows = ", ".join(str(caption) for caption in result["first"])
    return f"{text}: {result['unexpected']} of {result['checked']} rows, first {rows}"


def write_data_docs(result: dict[str, Any], name: str, folder: Path) -> None:
    """One self-contained page, index.html, of what `validate` returned for the corpus `name`."""
    from jinja2 import Environment

    folder.mkdir(parents=True, exist_ok=True)
    page = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(PAGE).render(name=name, **result)
    (folder / "index.html").write_text(page, encoding="utf-8")


PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{{ name }}: validation</title>
<style>
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; width: 100%; margin: 1rem 0 }
th, td { border-bottom: 1px solid #ddd; padding: .35rem .6rem; text-align: left; vertical-align: top }
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
<tr><th></th><th>name</th><th>what must hold</th><th>rows checked</th><th>unexpected</th><th>first of them</th></tr>
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
