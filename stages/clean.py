"""corpora.NAME -> data/corpora/NAME and data/validation/NAME: captions cleaned, split and
validated."""

import shutil
from pathlib import Path

from pipeline.core import paths
from pipeline.core.errors import UserError
from pipeline.core.machine import give_back
from pipeline.core.stage import stage
from pipeline.experiment.params import load_params, pick


def main(name: str) -> None:
    give_back()
    from pipeline.cleaning.clean import clean_file
    from pipeline.cleaning.data_docs import write_data_docs
    from pipeline.cleaning.expectations import validate
    from pipeline.cleaning.image_check import look_at_images, write_picture_table
    from pipeline.data.files import remove, whole_folder, write_json
    from pipeline.data.shards import Shards

    options = pick(load_params(), "corpora", name)
    folder = paths.RAW / options.dataset
    pictures = look_at_images(Shards(folder))
    with whole_folder(paths.CORPORA / name) as corpus:
        try:
            rejected = clean_file(folder, pictures, options, corpus)
            result = validate(corpus / "captions.parquet", rejected, pictures, options)
        except UserError as error:
            raise UserError(f"{error}{_kept(corpus, name, error)}") from None
        write_picture_table(pictures, corpus / "images.parquet")
        with whole_folder(paths.VALIDATION / name) as docs:
            write_data_docs(result, name, docs)
            write_json(docs / "results.json", result)
    remove(paths.REFUSED / name)


def _kept(corpus: Path, name: str, error: UserError) -> str:
    """Keep what shows why a corpus is refused: its rejected rows, and the page of all checks.

    Returns:
        where they are, as the end of the error's line.
    """
    from pipeline.cleaning.data_docs import write_data_docs
    from pipeline.cleaning.expectations import ValidationFailed
    from pipeline.data.files import whole_folder

    if not (corpus / "rejected.parquet").is_file():
        return ""
    files = ["rejected.parquet"]
    with whole_folder(paths.REFUSED / name) as part:
        shutil.copy(corpus / "rejected.parquet", part)
        if isinstance(error, ValidationFailed):
            write_data_docs(error.result, name, part)
            files.append("index.html")
    return f"; see {' and '.join(files)} in {paths.REFUSED / name}"


if __name__ == "__main__":
    stage(main)
