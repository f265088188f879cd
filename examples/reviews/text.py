"""What the example does to a text: pure functions, shared by the app and the plain program.

Scores and ratings are integers in thousandths, so that sums are exact in whatever order
they are added.
"""

from __future__ import annotations

import re
import unicodedata

MASK = "****"
# How many of the worst texts are kept.
MOST_NEGATIVE = 10
# A negation turns the valence of a word that follows within this many words, and weakens
# it to this part of a hundred (the constants of Hutto and Gilbert, ICWSM 2014).
NEGATION_REACH = 3
NEGATION_PERCENT = 74

_NEGATION = re.compile(
    r"not|never|neither|nor|nothing|nowhere|without|cannot|despite|rarely|seldom|hardly|barely|"
    r"(?:ca|do|does|did|is|was|wo)nt|.*n't"
)
_WORD = re.compile(r"[^\W_]+(?:'[^\W_]+)*")
_PIECE = re.compile(r"\w+|[^\w\s]")
_QUOTES = str.maketrans({"\u2018": "'", "\u2019": "'", "\u0060": "'", "\u201c": '"', "\u201d": '"'})

Blocked = dict[str, list[str]]
Lexicon = dict[str, int]


def thousandths(number: str) -> int:
    """A decimal number as a whole number of thousandths, halves away from zero: '-0.15' is -150."""
    sign = -1 if number.lstrip().startswith("-") else 1
    whole, _, part = number.strip().lstrip("+-").partition(".")
    digits = (part + "0000")[:4]
    return sign * (int(whole or "0") * 1000 + (int(digits) + 5) // 10)


def clean(text: str) -> str:
    """Lower case, one form for each character, plain quotes, single spaces."""
    plain = unicodedata.normalize("NFKC", text).translate(_QUOTES).replace("''", '"')
    return " ".join(plain.lower().split())


def words(text: str) -> list[str]:
    """The words of a cleaned text in order; an apostrophe inside belongs to its word."""
    return _WORD.findall(text)


def index_blocked(entries: list[str]) -> Blocked:
    """Blocked words and phrases by their first piece, the longest first."""
    index: dict[str, set[str]] = {}
    for entry in map(clean, entries):
        first = _PIECE.match(entry)
        if first:
            index.setdefault(first.group(), set()).add(entry)
    return {
        first: sorted(found, key=lambda entry: (-len(entry), entry))
        for first, found in index.items()
    }


def mask(text: str, blocked: Blocked) -> tuple[str, int]:
    """The cleaned text with each blocked word or phrase masked, and how many there were.

    Only whole words count: blocking `ass` leaves `class` alone.
    """
    parts: list[str] = []
    kept = masked = 0
    for piece in _PIECE.finditer(text):
        start = piece.start()
        if start < kept:
            continue
        for entry in blocked.get(piece.group(), ()):
            end = start + len(entry)
            if text.startswith(entry, start) and not _joins(text, end):
                parts += (text[kept:start], MASK)
                kept = end
                masked += 1
                break
    parts.append(text[kept:])
    return "".join(parts), masked


def _joins(text: str, end: int) -> bool:
    """Whether the character at `end` continues a word."""
    return end < len(text) and (text[end].isalnum() or text[end] == "_")


def parse_lexicon(content: str) -> Lexicon:
    """Valences by word, in thousandths, from lines of `token, mean, deviation, ratings`.

    Entries that are no words, such as emoticons, are left out: `words` never finds them.
    """
    lexicon: Lexicon = {}
    for line in content.split("\n"):
        token, tab, rest = line.partition("\t")
        if tab and _WORD.fullmatch(token):
            lexicon[token.lower()] = thousandths(rest.partition("\t")[0])
    return lexicon


def score(found: list[str], lexicon: Lexicon) -> int:
    """The sum of the words' valences in thousandths; a negation shortly before turns one."""
    total = 0
    for at, word in enumerate(found):
        valence = lexicon.get(word, 0)
        if valence and any(map(_negates, found[max(0, at - NEGATION_REACH) : at])):
            turned = abs(valence) * NEGATION_PERCENT // 100
            valence = -turned if valence > 0 else turned
        total += valence
    return total


def _negates(word: str) -> bool:
    return _NEGATION.fullmatch(word) is not None


def number(identity: str) -> int:
    """The review's number: `309` of `309_8`, the eighth text of review 309."""
    return int(identity.partition("_")[0])


def source_counts(rating: int, score: int, words: int, masked: int) -> dict[str, int]:
    """What one review adds to its source; the products are there for the correlation."""
    return {
        "texts": 1,
        "words": words,
        "masked": masked,
        "rating": rating,
        "score": score,
        "rating_squared": rating * rating,
        "score_squared": score * score,
        "rating_score": rating * score,
    }
