"""corpora.NAME -> data/corpora/NAME and reports/validation/NAME: captions cleaned, split and validated."""

from pipeline import layout
from pipeline.allocation import give_back
from pipeline.params import load_params, pick
from pipeline.processes import stage


def main(name: str) -> None:
    give_back()
    from pipeline.cleaning import clean_file, raw_files
    from pipeline.data_docs import write_data_docs
    from pipeline.files import whole_folder, write_json
    from pipeline.pictures import look_at_images, picture_table
    from pipeline.validation import validate

    options = pick(load_params(), "corpora", name)
    folder = layout.RAW / options.dataset
    pictures = look_at_images(raw_files(folder), folder)
    with whole_folder(layout.CORPORA / name) as corpus:
        rejected = clean_file(folder, pictures, options, corpus)
        result = validate(corpus / "captions.parquet", rejected, pictures, options)
        picture_table(pictures).to_parquet(corpus / "images.parquet", index=False)
        with whole_folder(layout.VALIDATION / name) as docs:
            write_data_docs(result, name, docs)
            write_json(layout.VALIDATION / f"{name}.json", result)


if __name__ == "__main__":
    stage(main)
