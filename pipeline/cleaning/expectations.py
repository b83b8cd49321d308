"""What must hold for a corpus before anything is trained on it: a Great Expectations suite as code.

Its results are kept in the order of the suite, without random ids, times and batch names.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from pipeline.cleaning.facts import facts_of, with_helpers
from pipeline.cleaning.image_check import Picture
from pipeline.core.errors import UserError
from pipeline.data.corpus import COLUMNS, SPLITS, columns_of, rows_of
from pipeline.experiment.params import Corpus

# Number of rows that a message and the docs name.
SHOWN = 5
CLEAN = r"^(?!\s)[^\x00-\x1f\x7f-\x9f\u2028\u2029\ufffd]*(?<!\s)$"
# Expectations on all rows at once. The others are on single rows.
WHOLE = {"rows", "caption ids unique", "every split there"}
LARGE = "splits large enough"
# Expectation -> the keys of a corpus in params.yaml that set its tolerance.
PARAMETERS = {
    LARGE: "min_images_per_split",
    "captions per image": "max_uneven_captions",
    "length in words": "min_words, max_words",
    "no image in two splits": "max_shared_pictures",
    **{f"captions shared by {s}": "max_shared_captions" for s in SPLITS},
}


class ValidationFailed(UserError):
    """Expectations failed. `result` is what `validate` returns, with `success` false."""

    def __init__(self, result: dict[str, Any]):
        failed = [row for row in result["expectations"] if not row["success"]]
        told = [_describe(row, result["images"]) for row in failed]
        super().__init__(f"validation failed: {'; '.join(told)}")
        self.result = result


def validate(
    captions: Path, rejected: pd.DataFrame, pictures: Mapping[str, Picture], options: Corpus
) -> dict[str, Any]:
    """Check a cleaned corpus.

    Expectations on single rows are checked for ROWS rows at a time: the rows that fail are counted,
    and their share is compared with the expectation's tolerance at the end. Expectations on all
    rows are checked on a table that contains a number and a split per row.

    Args:
        captions, rejected: the captions.parquet that `clean.clean_file` wrote, and the rows that it
            set aside.
        pictures: what `image_check.look_at_images` saw of each image.

    Returns:
        success, rows, images per split, rejected rows by reason, and expectations. Each expectation
        has its name, description, type, kwargs, success, number of checked rows, number of
        unexpected rows, and the first of these (caption ids). It also has what was observed or
        missing, if it is about the whole table, and any error.

    Raises:
        UserError: a column is missing.
        ValidationFailed: an expectation failed. The message names the expectation, the number of
            rows, the first of them, and the keys of params.yaml that relax it.
    """
    columns_of(captions, COLUMNS)
    facts = facts_of(captions, rejected, pictures)
    suite = _suite(options, facts.usual)
    parts = with_helpers(captions, facts.table, pictures, options)
    results = _of_each_row(parts, [e for e in suite if e.meta["name"] not in WHOLE])
    whole = facts.table[["caption_id", "split"]]
    results |= _of_all_rows(whole, captions, [e for e in suite if e.meta["name"] in WHOLE])
    ordered = [_judged(results[expectation.meta["name"]]) for expectation in suite]
    result = {
        "success": all(row["success"] for row in ordered),
        "rows": len(facts.table),
        "images": facts.images,
        "rejected": dict(sorted(Counter(rejected["reason"]).items())),
        "expectations": ordered,
    }
    if not result["success"]:
        raise ValidationFailed(result)
    return result


def _suite(options: Corpus, usual: int) -> list[Any]:
    """Return the expectations on a corpus.

    Args:
        usual: number of captions that most images have.
    """
    return [
        *_on_columns(),
        *_on_splits(options),
        *_on_captions(options, usual),
        *_on_pictures(options),
    ]


def _on_columns() -> Iterator[Any]:
    expect = _great_expectations().expectations
    names = {"column_set": COLUMNS, "exact_match": False}
    yield _named("rows", "there are captions", expect.ExpectTableRowCountToBeBetween, min_value=1)
    yield _named("columns", "every column is there", expect.ExpectTableColumnsToMatchSet, **names)
    for column in COLUMNS:
        yield _named(
            f"{column} present",
            f"every row has its {column}",
            expect.ExpectColumnValuesToNotBeNull,
            column=column,
        )
        text = {"column": column, "type_": "str"}
        yield _named(
            f"{column} is text",
            f"{column} holds strings",
            expect.ExpectColumnValuesToBeOfType,
            **text,
        )
    yield _named(
        "caption ids unique",
        "no caption_id stands twice",
        expect.ExpectColumnValuesToBeUnique,
        column="caption_id",
    )


def _on_splits(options: Corpus) -> Iterator[Any]:
    expect = _great_expectations().expectations
    between, member = expect.ExpectColumnValuesToBeBetween, expect.ExpectColumnValuesToBeInSet
    all_of = expect.ExpectColumnDistinctValuesToContainSet
    least, most = options.min_images_per_split, options.max_shared_captions
    yield _named(
        "split values", "split is train, val or test", member, column="split", value_set=SPLITS
    )
    yield _named("every split there", "no split is empty", all_of, column="split", value_set=SPLITS)
    large = {"column": "images_in_split", "min_value": least}
    yield _named(LARGE, f"a split has at least {least} images", between, **large)
    one = {"column": "splits_of_image", "max_value": 1}
    yield _named("splits disjoint", "all captions of an image are in one split", between, **one)
    for split in SPLITS:
        says = f"at most {100 * most:g}% of the captions of {split} stand in another split as well"
        of_split = expect.row_conditions.Column("split") == split
        alone = {
            "column": "splits_of_text",
            "value_set": [1],
            "mostly": 1 - most,
            "row_condition": of_split,
        }
        yield _named(f"captions shared by {split}", says, member, **alone)


def _on_captions(options: Corpus, usual: int) -> Iterator[Any]:
    expect = _great_expectations().expectations
    between, pair = expect.ExpectColumnValuesToBeBetween, expect.ExpectColumnPairValuesToBeEqual
    least, most, even = options.min_words, options.max_words, 1 - options.max_uneven_captions
    count = {
        "column": "captions_of_image",
        "min_value": (usual + 1) // 2,
        "max_value": 2 * usual,
        "mostly": even,
    }
    yield _named(
        "captions per image",
        f"{100 * even:g}% of the rows: images with about {usual} captions, as most have",
        between,
        **count,
    )
    length = {"column": "words", "min_value": least, "max_value": most}
    yield _named("length in words", f"a caption has {least} to {most} words", between, **length)
    line = {"column": "text", "regex": CLEAN}
    yield _named(
        "characters", "one clean line of text", expect.ExpectColumnValuesToMatchRegex, **line
    )
    same = {"column_A": "text", "column_B": "cleaned"}
    yield _named("text follows from raw", "text is what cleaning makes of raw", pair, **same)


def _on_pictures(options: Corpus) -> Iterator[Any]:
    expect = _great_expectations().expectations
    between = expect.ExpectColumnValuesToBeBetween
    yield _named(
        "images decodable",
        "every image file is there and whole",
        expect.ExpectColumnValuesToBeNull,
        column="problem",
    )
    one: dict[str, Any] = {"column": "splits_of_picture", "max_value": 1}
    says, shared = "equal pictures are in one split", options.max_shared_pictures
    if shared:
        one["mostly"] = 1 - shared
        says += f", but for at most {100 * shared:g}% of the rows"
    yield _named("no image in two splits", says, between, **one)


def _named(name: str, says: str, kind: Any, **kwargs: Any) -> Any:
    return kind(**kwargs, description=says, meta={"name": name})


def _great_expectations() -> Any:
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("GX_ANALYTICS_ENABLED", "false")
    import great_expectations
    from great_expectations.execution_engine import pandas_execution_engine

    # Each table gets a fingerprint, which nothing reads. Making it takes 45 bytes per row.
    pandas_execution_engine.HASH_THRESHOLD = 0
    return great_expectations


def _of_all_rows(
    table: pd.DataFrame, captions: Path, suite: list[Any]
) -> dict[str, dict[str, Any]]:
    (results,) = _run([table], suite)
    ids = _ids(
        captions, {int(n) for result in results.values() for n in result["first"] if pd.notna(n)}
    )
    return {
        name: {**result, "first": [ids.get(n) for n in result["first"]]}
        for name, result in results.items()
    }


def _ids(captions: Path, wanted: set[int]) -> dict[int, Any]:
    """Return row number -> its caption_id, for the wanted rows.

    A float also finds its row: the table has floats if a row has no number.
    """
    start, found = 0, dict[int, Any]()
    for rows in rows_of(captions, ["caption_id"]) if wanted else ():
        found |= {
            n: rows["caption_id"].iloc[n - start] for n in wanted if start <= n < start + len(rows)
        }
        start += len(rows)
    return found


def _of_each_row(tables: Iterable[pd.DataFrame], suite: list[Any]) -> dict[str, dict[str, Any]]:
    whole: dict[str, dict[str, Any]] = {}
    for results in _run(tables, suite):
        whole = {
            name: _joined(whole[name], result) if whole else result
            for name, result in results.items()
        }
    return whole


def _joined(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Join the result of some rows with that of the next.

    `success` says whether it held for both. What an expectation tolerates is left to `_judged`.
    """
    counts = {
        key: None if None in (one[key], other[key]) else one[key] + other[key]
        for key in ("checked", "unexpected", "absent")
    }
    first, worse = [*one["first"], *other["first"]][:SHOWN], one if not one["success"] else other
    return {**worse, **counts, "success": one["success"] and other["success"], "first": first}


def _judged(result: dict[str, Any]) -> dict[str, Any]:
    """Return the result of all rows, with the verdict on the share that the expectation tolerates.

    As in Great Expectations, rows without a value do not count, and without rows it holds.
    """
    judged = {key: value for key, value in result.items() if key != "absent"}
    if "mostly" in result["kwargs"] and not result["error"]:
        present = result["checked"] - (result["absent"] or 0)
        holds = (present - result["unexpected"]) / max(1, present) >= result["kwargs"]["mostly"]
        judged["success"] = present == 0 or holds
    return judged


def _run(tables: Iterable[pd.DataFrame], suite: list[Any]) -> Iterator[dict[str, dict[str, Any]]]:
    """Yield the results by name, for each table."""
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
    form = {
        "result_format": "SUMMARY",
        "unexpected_index_column_names": ["caption_id"],
        "partial_unexpected_count": SHOWN,
    }
    for table in tables:
        outcome = definition.run(
            batch_parameters={"dataframe": table}, result_format=form
        ).to_json_dict()
        yield {
            row["expectation_config"]["meta"]["name"]: _result(row) for row in outcome["results"]
        }


def _result(row: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a result that is the same on every run."""
    config, result = row["expectation_config"], row["result"]
    # Without a result, exception_info holds one entry per metric that could not be computed.
    errors = [
        info["exception_message"]
        for info in row["exception_info"].values()
        if isinstance(info, dict)
    ]
    return {
        "name": config["meta"]["name"],
        "description": config["description"],
        "type": config["type"],
        "kwargs": {key: value for key, value in config["kwargs"].items() if key != "batch_id"},
        "success": row["success"],
        "checked": result.get("element_count"),
        "unexpected": result.get("unexpected_count"),
        "absent": result.get("missing_count"),
        "first": [
            index.get("caption_id") for index in result.get("partial_unexpected_index_list") or []
        ],
        "observed": result.get("observed_value"),
        "missing": sorted(result.get("partial_missing_list") or []),
        "error": errors[0] if errors else None,
    }


def _describe(result: dict[str, Any], images: dict[str, int]) -> str:
    """Say what failed, in how many rows, and which keys of params.yaml relax it.

    Args:
        images: number of images by split.
    """
    text = f"'{result['name']}' ({result['description']})"
    if result["error"]:
        return f"{text}: {result['error']}"
    if result["missing"]:
        return f"{text}: {', '.join(result['missing'])} missing"
    if result["unexpected"] is None:
        return f"{text}: found {result['observed']}"
    rows = ", ".join(str(caption) for caption in result["first"])
    found = f"{text}: {result['unexpected']} of {result['checked']} rows, first {rows}"
    if result["name"] == LARGE:
        found += f"; images: {', '.join(f'{split} {n}' for split, n in images.items())}"
    keys = PARAMETERS.get(result["name"])
    return f"{found} (corpora in params.yaml: {keys})" if keys else found
