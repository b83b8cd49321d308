"""The PTB tokenizer, as pycocoevalcap runs it."""

import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from unicodedata import category

from pipeline.core.java import JavaFailed, first_complaint, starting_java

SHARED = 0x2000, 0x2E7F
"dashes, quotes and the like, which Latin texts use; before 0x0590 stand those of Latin itself"
PTB = "edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase"
"as pycocoevalcap starts it"


def ptb_tokenize(captions: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """image_id -> captions -> the same with lower-cased words without punctuation; errors as in
    `ptb_lines`."""
    lines = iter(ptb_lines(text for texts in captions.values() for text in texts))
    return {image: [next(lines) for _ in texts] for image, texts in captions.items()}


def ptb_lines(texts: Iterable[str]) -> list[str]:
    """The texts after pycocoevalcap's PTB tokenizer (one Java start), as its class PTBTokenizer
    gives them.

    That class holds all texts four times and writes where it is installed.

    Raises:
        JavaFailed: it gave back another number of captions.
    """
    from pycocoevalcap.tokenizer import ptbtokenizer as original

    jar = Path(original.__file__).with_name(original.STANFORD_CORENLP_3_4_1_JAR)
    pipe = subprocess.PIPE
    with tempfile.TemporaryFile() as said:  # how fast it was, which is no news to anybody
        with starting_java():
            command = ["java", "-cp", str(jar), *PTB]
            process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=said)
        with process, ThreadPoolExecutor(1) as sender:
            try:
                # From a file, Java would tokenise on when this process is killed; a pipe then ends.
                sent = sender.submit(_send, texts, process)
                lines = [_words(line, original.PUNCTUATIONS) for line in process.stdout or ()]
                count = sent.result()
            except BaseException:
                process.kill()  # or the sender might wait for ever
                raise
        if len(lines) != count:
            said.seek(0)
            wrong = "the PTB tokenizer returned another number of captions than it was given"
            raise JavaFailed(": ".join(filter(None, [wrong, first_complaint(said.read())])))
    return lines


def _send(texts: Iterable[str], process: "subprocess.Popen[bytes]") -> int:
    """Their number, when the tokenizer has them all; it is killed if one cannot be read."""
    assert process.stdin
    count = 0
    try:
        with suppress(BrokenPipeError), process.stdin as questions:  # what it lacks, it says
            for text in texts:
                # A line end inside a caption, U+2028 too, would silently shift every later caption.
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
    """Whether it is punctuation of another script, such as the danda or the Arabic comma: the
    original's list has the Latin one alone, and cleaned training captions have none."""
    return not word.isascii() and all(
        category(sign)[0] == "P" and ord(sign) >= 0x0590 and not SHARED[0] <= ord(sign) <= SHARED[1]
        for sign in word
    )
