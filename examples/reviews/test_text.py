"""`text.py` on strings that break simple code."""

from __future__ import annotations

import feed
import pytest
import text


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [
        ("", ""),
        ("  A\tB\r\n\u00a0C  ", "a b c"),
        ("We\u2019ve seen \u201cit\u201d", 'we\'ve seen "it"'),
        ("''Conan''", '"conan"'),
        ("\ufb01lm \uff21", "film a"),
        ("Cafe\u0301", "caf\u00e9"),
    ],
)
def test_clean(raw: str, cleaned: str) -> None:
    assert text.clean(raw) == cleaned
    assert text.clean(cleaned) == cleaned


@pytest.mark.parametrize(
    ("cleaned", "words"),
    [
        ("", []),
        ("don't stop, it's 5/5!", ["don't", "stop", "it's", "5", "5"]),
        ("'quoted' rock'n'roll'", ["quoted", "rock'n'roll"]),
        (
            "snake_case 3.5mm caf\u00e9\U0001f600na\u00efve",
            ["snake", "case", "3", "5mm", "caf\u00e9", "na\u00efve"],
        ),
    ],
)
def test_words(cleaned: str, words: list[str]) -> None:
    assert text.words(cleaned) == words


BLOCKED = text.index_blocked(["ass", "Blow Job", "blow", "f.u.n.", "f.u.n", "sh!t", "x-rated"])


@pytest.mark.parametrize(
    ("cleaned", "masked", "hits"),
    [
        ("", "", 0),
        ("a class of its own", "a class of its own", 0),
        ("ass, ass! assets", "****, ****! assets", 2),
        ("a blow job blow", "a **** ****", 2),
        ("blow jobs", "**** jobs", 1),
        ("f.u.n. f.u.n", "**** ****", 2),
        ("sh!t sh!tty x-rated", "**** sh!tty ****", 2),
        ("ass_et ass", "ass_et ****", 1),
    ],
)
def test_mask(cleaned: str, masked: str, hits: int) -> None:
    assert text.mask(cleaned, BLOCKED) == (masked, hits)


LEXICON = {"good": 1900, "bad": -2500, "joy": 2800}


@pytest.mark.parametrize(
    ("cleaned", "score"),
    [
        ("", 0),
        ("good good", 3800),
        ("not good", -1406),
        ("not a very good one", -1406),
        ("not that it was good", 1900),
        ("it isn't bad, never bad", 1850 + 1850),
        ("without joy", -2072),
    ],
)
def test_score(cleaned: str, score: int) -> None:
    assert text.score(text.words(cleaned), LEXICON) == score


@pytest.mark.parametrize(
    ("number", "thousandths"),
    [
        ("-0.15", -150),
        ("2.26666666667", 2267),
        ("0", 0),
        ("-0.0005", -1),
        ("+3.", 3000),
        (".4", 400),
    ],
)
def test_thousandths(number: str, thousandths: int) -> None:
    assert text.thousandths(number) == thousandths


def test_the_lexicon_holds_words_only() -> None:
    content = "$:\t-1.5\t0.8\t[-1]\nAce\t1.1\t0.5\t[1]\n\nfav\t2.0\t0.1\t[2]\n"
    assert text.parse_lexicon(content) == {"ace": 1100, "fav": 2000}


def test_a_line_ends_at_a_line_feed_only() -> None:
    content = "1_1\t-0.9\tone\u2028\u0085line\ttab\r\n\n309_8\t1.25\tlast"
    assert feed.parse("amazon", content) == [
        feed.Review("amazon", "1_1", -900, "one\u2028\u0085line\ttab"),
        feed.Review("amazon", "309_8", 1250, "last"),
    ]
    assert text.number("309_8") == 309
    assert text.number("10605") == 10605
