"""Everything scored -> reports/tables, reports/figures, reports/index.html."""

from pipeline import layout
from pipeline.errors import run
from pipeline.files import read_json
from pipeline.params import load_params
from pipeline.processes import die_with_dvc


def main() -> None:
    params = load_params()

    from pipeline.corpus import read_captions
    from pipeline.figures import read_curves, write_figures
    from pipeline.latex import write_tables
    from pipeline.papers import paper_sheets, read_papers
    from pipeline.report import gallery, write_page
    from pipeline.results import Files, results_of, setting
    from pipeline.tables import everything

    captions = {name: read_captions(layout.CORPORA / name / "captions.parquet") for name in params.corpora}
    references = {name: read_json(layout.REFERENCES / f"{name}.json") for name in params.corpora}
    settings = {name: setting(name, corpus.split, captions[name], references[name]) for name, corpus in params.corpora.items()}
    results = results_of(params, settings, Files(layout.SCORE_FILES, layout.SCORES))
    sheets = [everything(results, params.scoring.metrics), *paper_sheets(read_papers(), results)]
    curves = read_curves({name: layout.HISTORY / f"{name}.csv" for name in params.variants})
    galleries = []
    for name, corpus in params.corpora.items():
        mine = [r for r in results if r.setting.corpus == name]
        files = [(r, layout.CAPTIONS / f"{r.name}.parquet", layout.SCORES / f"{r.name}.parquet") for r in mine]
        galleries.append(gallery(name, captions[name], layout.RAW / corpus.dataset, files))
    write_tables(layout.TABLES, sheets)
    write_figures(layout.REPORTS / "figures", curves)
    write_page(layout.REPORTS / "index.html", sheets, curves, galleries)


if __name__ == "__main__":
    die_with_dvc()
    run(main)
