"""Every environment variable that captionlab reads. A setting that changes a result is a key of
params.yaml instead."""

from typing import NamedTuple


class Variable(NamedTuple):
    """One environment variable."""

    name: str
    meaning: str
    default: str


VARIABLES = (
    Variable(
        "CAPTIONLAB_DEVICE",
        "The device that extracts, trains and captions, as torch names it: `cpu`, `cuda`, "
        "`cuda:1`. A GPU rounds differently, and encoders run in bfloat16 there, so make one "
        "table on one kind of machine.",
        "`cuda` where there is a GPU, else `cpu`",
    ),
    Variable(
        "CAPTIONLAB_PROCESSES",
        "Number of processes that train one decoder together, each on a GPU of its own (or all on "
        "the CPU, with `CAPTIONLAB_DEVICE=cpu`): they share the images of each batch. `gpus`: one "
        "per visible GPU. Another number rounds differently and draws other random numbers.",
        "1",
    ),
    Variable(
        "CAPTIONLAB_WORKERS",
        "Number of threads that decode images.",
        "the number of cores",
    ),
    Variable(
        "CAPTIONLAB_RAY",
        "Address of a Ray cluster (`HOST:PORT`, or `auto`) on which the stage `extract` runs the "
        "encoder: one actor per GPU, or per core where no node has a GPU. All nodes must see the "
        "pictures and the folder of features at the same paths.",
        "none: the stage computes in its own process",
    ),
    Variable(
        "CAPTIONLAB_CHECKPOINT_MINUTES",
        "Minutes between two checkpoints of a training. An interrupted training resumes from the "
        "last one.",
        "10",
    ),
    Variable(
        "CAPTIONLAB_LIVE_SECONDS",
        "Seconds that a training must have lasted before its curves go to MLflow while it runs. "
        "A shorter training sends one point per epoch when it has ended.",
        "400 on a CPU, 0 on a GPU",
    ),
    Variable(
        "CAPTIONLAB_MLFLOW_SECONDS",
        "Seconds that one stage waits for MLflow altogether: for a slow server, or for other "
        "processes that use the same database or publish from this workspace. The transfer of "
        "files is not counted. The variant is then published by `captionlab sync`.",
        "10",
    ),
    Variable(
        "CAPTIONLAB_ONLY",
        "Stages that may compute, separated by commas (`train@merge,score@merge`). Any other stage "
        "that DVC does not find in its run cache stops with an error. Set and empty: none may.",
        "none: all may",
    ),
    Variable(
        "CAPTIONLAB_SCRATCH",
        "Folder on each node of a cluster where `captionlab run --ray` keeps copies of the "
        "workspace, and DVC's cache where the nodes share no disk. Set where the command is typed, "
        "it holds for all nodes; set where `ray start` is called, for that node.",
        "`captionlab-UID` in the system's folder for temporary files",
    ),
    Variable(
        "CAPTIONLAB_OVERSIZE",
        "`1` continues when `captionlab plan`, training or captioning finds that the machine has "
        "too little memory or disk: the refusal becomes a warning.",
        "none: what does not fit is refused",
    ),
    Variable(
        "CAPTIONLAB_FLICKR8K",
        "Folder with `Flickr8k_Dataset.zip` and `Flickr8k_text.zip`.",
        "none: the release is downloaded",
    ),
    Variable(
        "CAPTIONLAB_FLICKR30K",
        "Folder with the archive of Flickr30k, or its parts.",
        "none: the release is downloaded",
    ),
    Variable(
        "CAPTIONLAB_COCO2014",
        "Folder with `train2014.zip`, `val2014.zip` and `annotations_trainval2014.zip`.",
        "none: the release is downloaded",
    ),
    Variable(
        "CAPTIONLAB_A3DS",
        "Folder with `A3DS.zip`.",
        "none: the release is downloaded",
    ),
    Variable(
        "MLFLOW_TRACKING_URI",
        "The MLflow server or database that runs are published to and models are read from.",
        "`sqlite:///mlflow.db`, the database of the workspace. A temporary copy that `dvc exp` "
        "makes uses that of the workspace it is a copy of",
    ),
)
