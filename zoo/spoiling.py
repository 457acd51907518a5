"""Sentences in which something is wrong, and which of their words show it."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable

LEAST = 3
"""Words that a sentence keeps."""
FORMS = (
    "is are was were be been being am", "has have had having", "do does did done doing",
    "he him his himself", "she her hers herself", "they them their themselves", "i me my myself",
    "we us our ourselves", "it its itself", "who whom whose which that what",
    "a an the this these those some any every each all", "in on at to for of by with from about into",
    "will would can could to may must should", "not never no", "and or but if because while although when",
    "much many few little more most very too", "there here it",
)  # fmt: skip
"""Words that stand in each other's places, wrongly."""
KINDS = {"other word": 3, "other form": 5, "left out": 2, "put in": 2, "swapped": 2, "moved": 2}
"""What is done to a sentence, and how often beside the others."""
ENDINGS = ("s", "es", "ed", "d", "ing", "er", "ly")


class Spoiler:
    """Spoils a sentence, and says which words show it."""

    def __init__(self, texts: Iterable[str]) -> None:
        self.words: list[str] = []
        self.next: dict[str, list[str]] = defaultdict(list)
        for text in texts:
            words = text.split()
            self.words += words
            for before, word in zip(["", *words], words, strict=False):
                self.next[before].append(word)
        self.forms = _forms(Counter(self.words))

    def __call__(self, text: str, draws: random.Random) -> tuple[list[str], list[int]]:
        """The words of the sentence with one or two things done to it, and 1 for each that is wrong now.

        A word is replaced by one that follows the word before elsewhere, or by another of its forms,
        left out (the one behind it shows it), put in, swapped with the next or moved.
        """
        words = text.split()
        marks = [0] * len(words)
        for _ in range(draws.choice((1, 1, 1, 2))):
            place = draws.randrange(len(words))
            (kind,) = draws.choices(list(KINDS), list(KINDS.values()))
            if kind == "other word":
                self._replace(words, marks, place, draws.choice(self._following(words, place)))
            elif kind == "other form":
                places = [at for at, word in enumerate(words) if word.lower() in self.forms]
                if places:
                    place = draws.choice(places)
                    new = draws.choice(self.forms[words[place].lower()])
                    capital = words[place][:1].isupper()
                    self._replace(words, marks, place, new.capitalize() if capital else new)
            elif kind == "left out" and len(words) > LEAST:
                del words[place], marks[place]
                marks[min(place, len(words) - 1)] = 1
            elif kind == "put in":
                words.insert(place, draws.choice(self.words))
                marks.insert(place, 1)
            elif kind == "swapped" and place + 1 < len(words) and words[place] != words[place + 1]:
                words[place : place + 2] = reversed(words[place : place + 2])
                marks[place : place + 2] = 1, 1
            elif kind == "moved" and len(words) > 1:
                word, _ = words.pop(place), marks.pop(place)
                place = draws.randrange(len(words))
                words.insert(place, word)
                marks.insert(place, 1)
        return words, marks

    def _following(self, words: list[str], place: int) -> list[str]:
        return self.next.get(words[place - 1] if place else "") or self.words

    @staticmethod
    def _replace(words: list[str], marks: list[int], place: int, new: str) -> None:
        if new != words[place]:
            words[place], marks[place] = new, 1


def _forms(known: Counter[str]) -> dict[str, list[str]]:
    """The other forms of words, of those that the texts hold."""
    found: dict[str, set[str]] = defaultdict(set)
    for line in FORMS:
        group = line.split()
        for word in group:
            found[word] |= {*group} - {word}
    for word in known:
        if word.isalpha() and len(word) > 2:
            stems = (word, word[:-1]) if word.endswith("e") else (word,)
            for form in (stem + ending for stem in stems for ending in ENDINGS):
                if form in known and form != word:
                    found[word].add(form)
                    found[form].add(word)
    return {word: sorted(forms) for word, forms in found.items()}
