"""CLIPScore and RefCLIPScore (Hessel et al., 2021, 2104.08718): how well a caption fits its image,
as a CLIP model sees it.

clip_score: 2.5 max(cos(image, "A photo depicts " + caption), 0), which needs no references.
ref_clip_score: harmonic mean of clip_score and of the largest max(cos(caption, reference), 0), both
    with the same prefix.

Values of different CLIP models are not comparable; the paper uses openai/clip-vit-base-patch32.
Texts longer than the model can read are cut. The texts are scored as they are given. The paper's
texts were not tokenised first, which makes a difference only to punctuation.
"""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pipeline.core.errors import UserError
from pipeline.data.shards import Member
from pipeline.metrics.shared import languages
from pipeline.metrics.shared.base import (
    SETS,
    Candidates,
    References,
    ReferenceSet,
    Scores,
    Unavailable,
    means_of,
    reference_set,
)

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.encoders.clip import Encoder

# Any language is accepted, whatever CLIP's own tokenizer does with it.
READS = languages.ANY
# `score` also takes the pictures and the arguments of the CLIP encoder. `variant.pictures_needed`
# reads this flag.
NEEDS_IMAGES = True
PREFIX, WEIGHT = "A photo depicts ", 2.5
# Number of pictures in one forward pass.
BATCH = 32


def score(
    candidates: Candidates,
    references: References,
    images: Mapping[str, Member] | None = None,
    clip: Mapping[str, Any] | None = None,
) -> Scores:
    """Return clip_score and ref_clip_score.

    Args:
        images: where each picture is, by image_id.
        clip: arguments of the encoder `clip`; `model` is a model of type `clip`, as a name on the
            hub or a folder.

    Raises:
        Unavailable: there are no pictures or no model.
        UserError: a picture is missing or broken, a shard does not match its index, or the model is
            not a CLIP model.
    """
    if images is None:
        raise Unavailable("CLIPScore needs the pictures: captions and references alone were given")
    if clip is None:
        raise Unavailable(
            "no CLIP is named: name one in params.yaml, scoring.clip: {model: "
            "openai/clip-vit-base-patch32}"
        )
    named = tuple(sorted(clip.items()))
    pictures = _pictures(tuple(_stamped(image, images) for image in candidates), named)
    said = _encoder(named).texts([PREFIX + text for text in candidates.values()]).cpu()
    known = _references(reference_set(candidates, references), named)
    clip_scores, ref_clip_scores = {}, {}
    for image, picture, caption, others in zip(candidates, pictures, said, known, strict=True):
        fit = WEIGHT * max(float(picture @ caption), 0.0)
        nearest = max(float((others @ caption).max()), 0.0)
        clip_scores[image] = fit
        ref_clip_scores[image] = 2 * fit * nearest / (fit + nearest) if fit and nearest else 0.0
    per_image = {"clip_score": clip_scores, "ref_clip_score": ref_clip_scores}
    corpus = {
        name: sum(values.values()) / len(values) for name, values in per_image.items() if values
    }
    return Scores(corpus, per_image, means_of(candidates, per_image))


@lru_cache(1)
def _encoder(clip: tuple[tuple[str, Any], ...]) -> "Encoder":
    from pipeline.core.machine import pick_device
    from pipeline.encoders.clip import Encoder

    try:
        encoder = Encoder(**dict(clip))
    except UserError as reason:  # mostly no weights here, and no network to fetch them
        raise Unavailable(str(reason)) from None
    if encoder.config.model_type != "clip":
        raise UserError(
            f"scoring.clip: '{encoder.model}' is of type {encoder.config.model_type}: "
            "CLIPScore is defined by CLIP"
        )
    return encoder.to(pick_device())


def _stamped(image: str, images: Mapping[str, Member]) -> tuple[Member, int, int]:
    """Return the picture with the size and the modification time of its shard.

    Cached embeddings are used as long as these stay the same.
    """
    if image not in images:
        raise UserError(
            f"image '{image}' has a caption and no picture: CLIPScore needs one of each image"
        )
    try:
        about = images[image].shard.stat()
    except OSError as error:
        raise UserError(
            f"{images[image].shard}: the picture of '{image}' cannot be read ({error.strerror})"
        ) from None
    return images[image], about.st_size, about.st_mtime_ns


@lru_cache(SETS)
def _pictures(
    members: tuple[tuple[Member, int, int], ...], clip: tuple[tuple[str, Any], ...]
) -> "Tensor":
    """Return (N, D) embeddings of the pictures, of length 1."""
    import torch

    encoder = _encoder(clip)
    batches = _batches(encoder, [member for member, _, _ in members])
    pooled = [encoder(pixels.to(encoder.mean.device)).pooled.cpu() for pixels in batches]
    return torch.nn.functional.normalize(
        torch.cat([torch.zeros(0, encoder.pooled_dim), *pooled]), dim=-1
    )


def _batches(encoder: "Encoder", members: list[Member]) -> "Iterator[Tensor]":
    """Yield batches of pictures, (B, 3, S, S) uint8."""
    import torch

    from pipeline.core.machine import workers
    from pipeline.images.reading import ImageError, read_image

    def read(member: Member) -> "Tensor":
        try:
            return encoder.transform(read_image(member.read()))
        except ImageError as error:
            raise UserError(
                f"picture '{member.image_id}' in {member.shard}: {error}: CLIPScore needs the "
                "picture of every image"
            ) from None

    with ThreadPoolExecutor(workers()) as pool:
        for start in range(0, len(members), BATCH):
            yield torch.stack(list(pool.map(read, members[start : start + BATCH])))


@lru_cache(SETS)
def _references(
    references: ReferenceSet, clip: tuple[tuple[str, Any], ...]
) -> "tuple[Tensor, ...]":
    """Return embeddings of the references by image, (R, D), of length 1."""
    texts = [PREFIX + text for each in references.values() for text in each]
    found: tuple[Tensor, ...] = (
        _encoder(clip).texts(texts).cpu().split([len(each) for each in references.values()])
    )
    return found
