"""corpora.NAME -> data/corpora/NAME and data/validation/NAME: captions cleaned, split and
validated."""

from pipeline.core import paths
from pipeline.core.machine import give_back
from pipeline.core.stage import stage
from pipeline.experiment.params import load_params, pick


def main(name: str) -> None:
    give_back()
    from pipeline.cleaning.clean import clean_file
    from pipeline.cleaning.data_docs import write_data_docs
    from pipeline.cleaning.expectations import validate
    from pipeline.cleaning.image_check import look_at_images, write_picture_table
    from pipeline.data.files import whole_folder, write_json
    from pipeline.data.shards import Shards

    options = pick(load_params(), "corpora", name)
    folder = paths.RAW / options.dataset
    pictures = look_at_images(Shards(folder))
    with whole_folder(paths.CORPORA / name) as corpus:
        rejected = clean_file(folder, pictures, options, corpus)
        result = validate(corpus / "captions.parquet", rejected, pictures, options)
        write_picture_table(pictures, corpus / "images.parquet")
        with whole_folder(paths.VALIDATION / name) as docs:
            write_data_docs(result, name, docs)
            write_json(docs / "results.json", result)


if __name__ == "__main__":
    stage(main)
