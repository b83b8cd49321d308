"""data/report -> reports/: a copy for people, which git tracks. DVC keeps the original and shares
it between machines."""

import shutil

from pipeline.core import paths
from pipeline.core.stage import stage
from pipeline.data.files import whole_file, whole_folder


def main() -> None:
    for name in paths.PUBLISHED_REPORT:
        source, target = paths.REPORT / name, paths.REPORTS / name
        if source.is_dir():
            with whole_folder(target) as part:
                shutil.copytree(source, part, dirs_exist_ok=True)
        else:
            with whole_file(target) as part:
                shutil.copyfile(source, part)


if __name__ == "__main__":
    stage(main, named=False)
