"""The texts, the lexicon and the list of blocked words, read from two packages' archives.

`scripts/fetch.py` downloads the archives once; nothing is unpacked to disk. The texts are
rated from about -4 to +4 by people (C.J. Hutto and E.E. Gilbert, "VADER: A Parsimonious
Rule-based Model for Sentiment Analysis of Social Media Text", ICWSM 2014).
"""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from functools import cache
from itertools import chain, zip_longest
from pathlib import Path
from typing import NamedTuple

import text

FETCH = Path(__file__).resolve().parents[2] / "scripts" / "fetch.py"
SDIST = "vaderSentiment-3.3.2"
SOURCES = {
    "amazon": "amazonReviewSnippets_GroundTruth.txt",
    "film": "movieReviewSnippets_GroundTruth.txt",
}


class Review(NamedTuple):
    """One text with the mean of its human ratings."""

    source: str
    id: str
    rating: int
    """In thousandths."""
    text: str

    @property
    def name(self) -> str:
        """Its name among all sources."""
        return f"{self.source}/{self.id}"


@cache
def _archive(name: str) -> bytes:
    answer = subprocess.run(
        [sys.executable, str(FETCH), name], stdout=subprocess.PIPE, text=True, check=False
    )
    if answer.returncode != 0:
        raise SystemExit(f"the archive {name} could not be fetched; the lines above say why")
    return Path(answer.stdout.strip()).read_bytes()


def _member(archive: bytes, name: str) -> bytes:
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        file = tar.extractfile(name)
        if file is None:
            raise ValueError(f"{name} is not a file of the archive")
        return file.read()


def parse(source: str, content: str) -> list[Review]:
    """Reviews from lines of `id, rating, text`, tab separated; ends of lines may be CR LF."""
    reviews = []
    # Not splitlines(): it would also break at control characters inside a text.
    for line in content.split("\n"):
        if line.strip():
            identity, rating, body = line.rstrip("\r").split("\t", 2)
            reviews.append(Review(source, identity, text.thousandths(rating), body))
    return reviews


@cache
def reviews(source: str) -> list[Review]:
    """All reviews of a source, in the order of its file."""
    inner = _member(
        _archive("vader-sentiment"), f"{SDIST}/additional_resources/hutto_ICWSM_2014.tar.gz"
    )
    content = _member(inner, f"hutto_ICWSM_2014/{SOURCES[source]}")
    return parse(source, content.decode("utf-8"))


def sample(limit: int | None = None) -> Iterator[Review]:
    """The first `limit` reviews of each source (all without one), the sources taking turns."""
    turns = zip_longest(*(reviews(source)[:limit] for source in SOURCES))
    return (review for review in chain.from_iterable(turns) if review is not None)


@cache
def lexicon() -> text.Lexicon:
    """Valences by word, in thousandths."""
    content = _member(_archive("vader-sentiment"), f"{SDIST}/vaderSentiment/vader_lexicon.txt")
    return text.parse_lexicon(content.decode("utf-8"))


@cache
def blocked() -> list[str]:
    """Words and phrases to mask."""
    with zipfile.ZipFile(io.BytesIO(_archive("better-profanity"))) as wheel:
        content = wheel.read("better_profanity/profanity_wordlist.txt").decode("utf-8")
    return [line.strip() for line in content.split("\n") if line.strip()]
