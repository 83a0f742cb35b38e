"""Typing errors, as fingers make them: swapped, dropped, doubled and neighbouring letters."""

from __future__ import annotations

from random import Random

__all__ = ["misspell", "mistype"]

_ROWS = ("qwertyuiop", "asdfghjkl", "zxcvbnm")
_NEIGHBOURS = {
    letter: row[max(0, i - 1) : i] + row[i + 1 : i + 2]
    for row in _ROWS
    for i, letter in enumerate(row)
}
_SHORTEST = 4  # letters; a shorter word with an error in it is often another word


def misspell(word: str, random: Random) -> str:
    """A word of at least two letters a-z with one typing error, never in its first letter."""
    i = random.randrange(1, len(word))
    kind = random.choice(("swap", "drop", "double", "neighbour"))
    if kind == "swap" and i + 1 < len(word) and word[i] != word[i + 1]:
        return word[:i] + word[i + 1] + word[i] + word[i + 2 :]
    if kind == "drop":
        return word[:i] + word[i + 1 :]
    if kind == "double":
        return word[:i] + word[i] + word[i:]
    return word[:i] + random.choice(_NEIGHBOURS[word[i]]) + word[i + 1 :]


def mistype(text: str, errors: int, random: Random) -> str:
    """Make typing errors in up to `errors` different words of plain letters.

    >>> mistype("a bc def 1234", 3, Random(0))
    'a bc def 1234'
    """
    words = text.split(" ")
    plain = [i for i, w in enumerate(words) if len(w) >= _SHORTEST and _is_plain(w)]
    for i in random.sample(plain, min(errors, len(plain))):
        words[i] = misspell(words[i], random)
    return " ".join(words)


def _is_plain(word: str) -> bool:
    return word.isascii() and word.isalpha() and word.islower()
