"""The PTB tokenizer as pycocoevalcap runs it."""

import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from unicodedata import category

from pipeline.core.java import JavaFailed, first_complaint, starting_java

# Code points of dashes, quotes and similar signs that Latin texts use, too. Punctuation specific to
# Latin is below 0x0590.
SHARED = 0x2000, 0x2E7F
# Class and options with which pycocoevalcap starts the tokenizer.
PTB = "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"


def ptb_tokenize(captions: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Tokenise image_id -> captions into lower-case words without punctuation. Raises as
    `ptb_lines` does."""
    lines = iter(ptb_lines(text for texts in captions.values() for text in texts))
    return {image: [next(lines) for _ in texts] for image, texts in captions.items()}


def ptb_lines(texts: Iterable[str]) -> list[str]:
    """Return the texts tokenised as by pycocoevalcap's class PTBTokenizer, with one start of Java.

    The class itself is not used, because it holds all texts four times in memory and writes into
    the folder where it is installed.

    Raises:
        JavaFailed: the tokenizer returned another number of captions.
    """
    from pycocoevalcap.tokenizer import ptbtokenizer as original

    jar = Path(original.__file__).with_name(original.STANFORD_CORENLP_3_4_1_JAR)
    pipe = subprocess.PIPE
    with tempfile.TemporaryFile() as said:  # stderr, with speed figures that nobody needs
        with starting_java():
            command = ["java", "-cp", str(jar), *PTB]
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=said)
        with process, ThreadPoolExecutor(1) as sender:
            try:
                # A pipe ends if this process is killed. With a file, Java would keep tokenising.
                sent = sender.submit(_send, texts, process)
                lines = [_words(line, original.PUNCTUATIONS) for line in process.stdout or ()]
                count = sent.result()
            except BaseException:
                process.kill()  # otherwise the sender might wait forever
                raise
        if len(lines) != count:
            said.seek(0)
            wrong = "the PTB tokenizer returned a different number of captions than it received"
            raise JavaFailed(": ".join(filter(None, [wrong, first_complaint(said.read())])))
    return lines


def _send(texts: Iterable[str], process: "subprocess.Popen[bytes]") -> int:
    """Send all texts to the tokenizer and return their number. If one cannot be read, the tokenizer
    is killed."""
    assert process.stdin
    count = 0
    try:
        with suppress(BrokenPipeError), process.stdin as questions:  # Java reports its own failure
            for text in texts:
                # A line break inside a caption (U+2028, too) would silently shift all later ones.
                questions.write(" ".join(text.split()).encode() + b"\n")
                count += 1
    except BaseException:
        process.kill()
        raise
    return count


def _words(line: bytes, punctuation: Sequence[str]) -> str:
    words = line.decode().rstrip().split(" ")
    return " ".join(word for word in words if word not in punctuation and not _is_stop(word))


def _is_stop(word: str) -> bool:
    """Return whether the word is punctuation of a non-Latin script, such as the danda or the Arabic
    comma. The original's list has only Latin punctuation, but cleaned training captions have
    none."""
    return not word.isascii() and all(
        category(sign)[0] == "P" and ord(sign) >= 0x0590 and not SHARED[0] <= ord(sign) <= SHARED[1]
        for sign in word
    )
