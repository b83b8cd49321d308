"""All scores -> data/report: tables beside those of the papers, figures, the page, and the results
of validation."""

import shutil

from pipeline.core import paths
from pipeline.core.stage import stage
from pipeline.data.checked import read_texts
from pipeline.data.files import whole_folder
from pipeline.experiment.params import load_params


def main() -> None:
    params = load_params()

    from pipeline.data.shards import Shards
    from pipeline.report.charts import score_bars, score_table
    from pipeline.report.cost_table import costs, parameters, read_speeds
    from pipeline.report.latex import write_tables
    from pipeline.report.learning_curves import read_curves, write_figures
    from pipeline.report.page import Report, write_page
    from pipeline.report.paper_tables import paper_sheets, read_papers
    from pipeline.report.pictures import Files, pictures, shown_captions
    from pipeline.report.results_table import everything
    from pipeline.results.result import results_of, setting

    captions = {
        name: shown_captions(paths.CORPORA / name / "captions.parquet") for name in params.corpora
    }
    references = {name: read_texts(paths.references(name)) for name in params.corpora}
    settings = {
        name: setting(name, corpus.split, captions[name], references[name], corpus.language)
        for name, corpus in params.corpora.items()
    }
    results = results_of(params, settings, paths.SCORES)
    sheets = [everything(results, params.scoring.metrics), *paper_sheets(read_papers(), results)]
    curves = read_curves({name: paths.history(name) for name in params.variants})
    sizes = {
        name: parameters(paths.MODELS / name / "model.safetensors") for name in params.variants
    }
    paid = costs(results, sizes, read_speeds(paths.SPEED))
    corpora = {
        name: (captions[name], Shards(paths.RAW / row.dataset))
        for name, row in params.corpora.items()
    }
    shown = pictures(
        corpora,
        results,
        lambda row: Files(paths.captions(row), paths.image_scores(row), paths.attention(row)),
        len(params.variants),
    )
    page = Report(sheets, curves, score_bars(results), paid, *shown)
    with whole_folder(paths.REPORT) as part:
        write_tables(part / "tables", sheets)
        write_figures(part / "figures", curves, score_table(results))
        write_page(part / "index.html", page)
        shutil.copytree(paths.VALIDATION, part / "validation")


if __name__ == "__main__":
    stage(main, named=False)
