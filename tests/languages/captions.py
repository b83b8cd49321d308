"""Captions in several languages, written for the tests: what is seen, what it does and where."""

from itertools import product

# language -> the form of a sentence, and the words that fill it.
WORDS = {
    "de": ("{} {} {}.", ["Ein brauner Hund", "Das Mädchen", "Ein Vogel"],
           ["läuft", "schläft", "wartet"], ["auf dem Gras", "über'm Fluss"]),
    "ar": ("{} {} {}.", ["كلب بني", "فتاة صغيرة", "طائر"], ["يركض،", "ينام", "ينتظر"],
           ["على العشب", "قرب النهر"]),
    "hi": ("{} {} {}।", ["एक भूरा कुत्ता", "एक लड़की", "एक पक्षी"], ["घास पर", "नदी के पास"],
           ["दौड़ता है", "सोता है", "रुकता है"]),
    "zh": ("{}{}{}。", ["一只棕色的狗", "一个女孩", "两只鸟"], ["在草地上", "在河边"],
           ["奔跑", "睡觉", "等着"]),
    "ja": ("{}{}{}。", ["茶色い犬が、", "女の子が", "鳥が"], ["草の上を", "川の近くで"],
           ["走っている", "眠っている", "待っている"]),
    "vi": ("{} {} {}.", ["Một con chó nâu", "Một cô bé", "Hai con chim"],
           ["đang chạy", "đang ngủ", "đang đợi"], ["trên cỏ", "bên sông"]),
    "th": ("{}{}{}", ["สุนัขสีน้ำตาล", "เด็กผู้หญิง", "นก"], ["วิ่ง", "นอน", "รอ"],
           ["บนหญ้า", "ใกล้แม่น้ำ"]),
}  # fmt: skip
LANGUAGES = tuple(WORDS)


def sentences(language: str) -> list[str]:
    """Return 18 different sentences."""
    form, *parts = WORDS[language]
    return [form.format(*words) for words in product(*parts)]


def published(language: str, images: int = 18) -> dict[str, list[str]]:
    """Return image -> two captions."""
    known = sentences(language)
    return {f"{n:02}": [known[n % 18], known[(5 * n + 1) % 18]] for n in range(images)}
