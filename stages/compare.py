"""Everything scored -> reports/tables, reports/figures, reports/index.html."""

from typing import TYPE_CHECKING

from pipeline import layout
from pipeline.errors import run
from pipeline.files import read_json
from pipeline.params import load_params
from pipeline.processes import die_with_dvc

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from pipeline.attention_view import Views
    from pipeline.gallery import Gallery, Picture
    from pipeline.params import Params
    from pipeline.results import Result


def main() -> None:
    params = load_params()

    from pipeline.charts import score_bars, score_table
    from pipeline.costs import costs, parameters, read_speeds
    from pipeline.figures import read_curves, write_figures
    from pipeline.latex import write_tables
    from pipeline.papers import paper_sheets, read_papers
    from pipeline.report import Report, write_page
    from pipeline.results import Files, results_of, setting
    from pipeline.tables import everything

    captions = {name: _captions(layout.CORPORA / name / "captions.parquet") for name in params.corpora}
    references = {name: read_json(layout.REFERENCES / f"{name}.json") for name in params.corpora}
    settings = {name: setting(name, corpus.split, captions[name], references[name]) for name, corpus in params.corpora.items()}
    results = results_of(params, settings, Files(layout.SCORE_FILES, layout.SCORES))
    sheets = [everything(results, params.scoring.metrics), *paper_sheets(read_papers(), results)]
    curves = read_curves({name: layout.HISTORY / f"{name}.csv" for name in params.variants})
    sizes = {name: parameters(layout.MODELS / name / "model.safetensors") for name in params.variants}
    paid = costs(results, sizes, read_speeds(layout.SPEED))
    write_tables(layout.TABLES, sheets)
    write_figures(layout.REPORTS / "figures", curves, score_table(results))
    page = Report(sheets, curves, score_bars(results), paid, *_pictures(params, captions, results))
    write_page(layout.REPORTS / "index.html", page)


def _captions(file: "Path") -> "pd.DataFrame":
    """Of validation and test, what tables and page tell of: image_id, file, raw, split."""
    import pandas as pd

    from pipeline.corpus import Captions

    return pd.concat(Captions(file, ["val", "test"], ["image_id", "file", "raw", "split"]), ignore_index=True)


def _pictures(
    params: "Params", captions: "dict[str, pd.DataFrame]", results: "list[Result]"
) -> "tuple[list[Gallery], list[Views], list[Picture]]":
    from pipeline.attention_view import attention_views, read_attention
    from pipeline.gallery import extremes_of, gallery, read_corpus

    galleries: list[Gallery] = []
    views: list[Views] = []
    pictures: list[Picture] = []
    for name, corpus in params.corpora.items():
        mine = [r for r in results if r.setting.corpus == name]
        files = [(r, layout.CAPTIONS / f"{r.name}.parquet", layout.SCORES / f"{r.name}.parquet") for r in mine]
        seen = read_corpus(name, captions[name], layout.RAW / corpus.dataset, files)
        galleries.append(gallery(seen, extremes_of(len(params.variants))))
        looked = read_attention({r.label: layout.ATTENTION / f"{r.name}.parquet" for r in mine if r.decoding})
        views += [attention_views(seen, looked)] if looked else []
        pictures += seen.pictures.values()
    return galleries, views, pictures


if __name__ == "__main__":
    die_with_dvc()
    run(main)
