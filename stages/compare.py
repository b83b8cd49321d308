"""Everything scored -> data/report: tables beside the papers', figures, the page, and what
validation found."""

import shutil
from typing import TYPE_CHECKING

from pipeline.core import paths
from pipeline.core.stage import stage
from pipeline.data.files import read_texts, whole_folder
from pipeline.experiment.params import load_params

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd

    from pipeline.experiment.params import Params
    from pipeline.report.attention import Views
    from pipeline.report.gallery import Gallery, Picture
    from pipeline.results.result import Result


def main() -> None:
    params = load_params()

    from pipeline.report.charts import score_bars, score_table
    from pipeline.report.cost_table import costs, parameters, read_speeds
    from pipeline.report.latex import write_tables
    from pipeline.report.learning_curves import read_curves, write_figures
    from pipeline.report.page import Report, write_page
    from pipeline.report.paper_tables import paper_sheets, read_papers
    from pipeline.report.results_table import everything
    from pipeline.results.result import results_of, setting

    captions = {
        name: _captions(paths.CORPORA / name / "captions.parquet") for name in params.corpora
    }
    references = {name: read_texts(paths.references(name)) for name in params.corpora}
    settings = {
        name: setting(name, corpus.split, captions[name], references[name])
        for name, corpus in params.corpora.items()
    }
    results = results_of(params, settings, paths.SCORES)
    sheets = [everything(results, params.scoring.metrics), *paper_sheets(read_papers(), results)]
    curves = read_curves({name: paths.history(name) for name in params.variants})
    sizes = {
        name: parameters(paths.MODELS / name / "model.safetensors") for name in params.variants
    }
    paid = costs(results, sizes, read_speeds(paths.SPEED))
    page = Report(sheets, curves, score_bars(results), paid, *_pictures(params, captions, results))
    with whole_folder(paths.REPORT) as part:
        write_tables(part / "tables", sheets)
        write_figures(part / "figures", curves, score_table(results))
        write_page(part / "index.html", page)
        shutil.copytree(paths.VALIDATION, part / "validation")


def _captions(file: "Path") -> "pd.DataFrame":
    """Of validation and test, what tables and page tell of: image_id, file, raw, split."""
    import pandas as pd

    from pipeline.data.corpus import Captions

    return pd.concat(
        Captions(file, ["val", "test"], ["image_id", "file", "raw", "split"]), ignore_index=True
    )


def _pictures(
    params: "Params", captions: "dict[str, pd.DataFrame]", results: "list[Result]"
) -> "tuple[list[Gallery], list[Views], list[Picture]]":
    from pipeline.report.attention import attention_views, read_attention
    from pipeline.report.gallery import extremes_of, gallery, read_corpus

    galleries: list[Gallery] = []
    views: list[Views] = []
    pictures: list[Picture] = []
    for name, corpus in params.corpora.items():
        mine = [r for r in results if r.setting.corpus == name]
        files = [(r, paths.captions(r.name), paths.image_scores(r.name)) for r in mine]
        seen = read_corpus(name, captions[name], paths.RAW / corpus.dataset, files)
        galleries.append(gallery(seen, extremes_of(len(params.variants))))
        looked = read_attention({r.label: paths.attention(r.name) for r in mine if r.decoding})
        views += [attention_views(seen, looked)] if looked else []
        pictures += seen.pictures.values()
    return galleries, views, pictures


if __name__ == "__main__":
    stage(main, named=False)
