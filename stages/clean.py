"""corpora.NAME -> data/corpora/NAME and reports/validation/NAME: captions cleaned, split and validated."""

from pipeline import layout
from pipeline.params import load_params, pick
from pipeline.processes import stage


def main(name: str) -> None:
    from pipeline.corpus import clean, look_at_images, picture_table, read_raw
    from pipeline.files import whole_folder, write_json
    from pipeline.validation import validate, write_data_docs

    options = pick(load_params(), "corpora", name)
    folder = layout.RAW / options.dataset
    raw = read_raw(folder)
    pictures = look_at_images(raw["file"].dropna(), folder)
    captions, rejected = clean(raw, pictures, options)
    result = validate(captions, rejected, pictures, options)
    with whole_folder(layout.CORPORA / name) as corpus, whole_folder(layout.VALIDATION / name) as docs:
        captions.to_parquet(corpus / "captions.parquet", index=False)
        rejected.to_parquet(corpus / "rejected.parquet", index=False)
        picture_table(pictures).to_parquet(corpus / "images.parquet", index=False)
        write_data_docs(result, name, docs)
        write_json(layout.VALIDATION / f"{name}.json", result)


if __name__ == "__main__":
    stage(main)
