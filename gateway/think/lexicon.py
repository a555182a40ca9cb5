"""Words that sentence splitting and end-of-turn decisions look up. Data only."""

from __future__ import annotations

from dataclasses import dataclass

TITLES = frozenset(
    ["Dr", "Mr", "Mrs", "Ms", "Mx", "Prof", "Messrs", "Gen", "Col", "Sgt", "Capt", "Cmdr", "Lt", "Rev", "Hon", "Sen", "Rep", "Gov", "Pres", "Hr", "Fr", "Frl", "Sr", "Sra", "Srta", "Dra", "Ud", "Uds"]
)  # fmt: skip
"""Abbreviations that a name follows, so never the end of a sentence; written as here or, two letters, lower."""

NEVER_LAST = frozenset(
    [
        "dr",
        "mr",
        "mrs",
        "prof",
        "e.g",
        "eg",
        "i.e",
        "ie",
        "vs",
        "cf",
        "viz",
        "approx",
        "resp",
        "z.b",
        "d.h",
        "u.a",
        "o.ä",
        "s.o",
        "s.u",
        "bzw",
        "ca",
        "ggf",
        "vgl",
        "p.ex",
    ]
)
"""Lower-cased abbreviations inside a sentence, whatever follows."""

BEFORE_NUMBER = frozenset(
    ["no", "nos", "nr", "núm", "num", "vol", "ch", "pp", "p", "art", "sec", "eq", "fig", "abb", "s"]
)
"""Abbreviations when a digit follows ("no. 5"), else ordinary words ("I said no.")."""

MAYBE_LAST = frozenset(
    [
        "etc",
        "inc",
        "ltd",
        "co",
        "corp",
        "bros",
        "jr",
        "sr",
        "st",
        "ave",
        "blvd",
        "rd",
        "dept",
        "est",
        "min",
        "max",
        "tel",
        "ext",
        "hrs",
        "a.m",
        "p.m",
        "u.s",
        "u.k",
        "u.n",
        "e.u",
        "ph.d",
        "b.a",
        "m.a",
        "b.c",
        "a.d",
        "usw",
        "jan",
        "feb",
        "mar",
        "apr",
        "jun",
        "jul",
        "aug",
        "sep",
        "sept",
        "oct",
        "nov",
        "dec",
    ]
)
"""Abbreviations that may end a sentence: they do when a capitalised starter follows."""

STARTERS = frozenset(
    [
        "the",
        "a",
        "an",
        "i",
        "he",
        "she",
        "it",
        "they",
        "we",
        "you",
        "this",
        "that",
        "these",
        "those",
        "there",
        "here",
        "what",
        "when",
        "where",
        "why",
        "how",
        "who",
        "which",
        "is",
        "are",
        "do",
        "does",
        "did",
        "can",
        "could",
        "will",
        "would",
        "should",
        "shall",
        "if",
        "in",
        "on",
        "at",
        "as",
        "so",
        "but",
        "and",
        "or",
        "yes",
        "no",
        "not",
        "then",
        "now",
        "after",
        "before",
        "please",
        "let",
        "my",
        "your",
        "our",
        "his",
        "her",
        "its",
        "their",
        "for",
        "from",
        "to",
        "by",
        "with",
        "since",
        "while",
        "once",
        "also",
        "however",
        "because",
        "some",
        "many",
        "most",
        "all",
        "one",
        "next",
        "first",
        "finally",
        "thanks",
        "thank",
        "meanwhile",
        "unfortunately",
        "today",
        "tomorrow",
        "yesterday",
        "der",
        "die",
        "das",
        "ein",
        "eine",
        "er",
        "sie",
        "es",
        "wir",
        "ich",
        "ihr",
        "und",
        "aber",
        "wenn",
        "dann",
        "heute",
        "morgen",
        "le",
        "la",
        "les",
        "un",
        "une",
        "il",
        "elle",
        "nous",
        "vous",
        "je",
        "ce",
        "et",
        "mais",
        "los",
        "las",
        "una",
        "yo",
        "que",
        "y",
        "pero",
    ]
)
"""Words that, capitalised, begin a sentence rather than continue a name."""

AFTER_ORDINAL = frozenset(
    ["januar", "februar", "märz", "april", "mai", "juni", "juli", "august", "september", "oktober", "november", "dezember", "jahrhundert", "klasse", "stock", "mal"]
)  # fmt: skip
"""German nouns after a written ordinal: "am 3. Mai"."""


@dataclass(frozen=True, slots=True)
class Endings:
    """What tells, in one language, that an unpunctuated transcript goes on. All lower case."""

    open_words: frozenset[str]
    """Last words after which more comes."""
    stranding: frozenset[str] = frozenset()
    """Open words that may end a question ("where are you from")."""
    question_words: frozenset[str] = frozenset()
    """First words that make it such a question."""
    digits: frozenset[str] = frozenset()
    """Number words of one digit: a run of them is being dictated."""
    tens: frozenset[str] = frozenset()
    """Number words that a digit may follow once a number has begun."""


_FILLERS = "um uh uhm erm er eh äh ähm hm hmm mm euh este"

ENDINGS: dict[str, Endings] = {
    "": Endings(frozenset(_FILLERS.split())),
    "en": Endings(
        open_words=frozenset(
            (
                _FILLERS + " and or but because so if when while although though unless until since than then that which "
                "the a an my your his her its our their this these those some any every each "
                "to of for from with at by into onto about between without through during against "
                "is are was were am be been i'm you're we're they're i we he she they i'd i'll let's "
                "please could would should can will do does did have has had want need like very really "
                "just also maybe well actually basically what's who's where's minus plus times point dot"
            ).split()
        )
        - frozenset(["then", "so", "that", "this", "really", "actually", "maybe", "well", "please", "like", "do", "did", "her"]),
        stranding=frozenset(
            ["to", "of", "for", "from", "with", "at", "by", "about", "into", "is", "are", "was", "were", "am", "do", "does", "can", "will", "i", "we", "he", "she", "they", "these", "those"]
        ),
        question_words=frozenset(["what", "who", "whom", "whose", "where", "when", "why", "how", "which"]),
        digits=frozenset(["zero", "oh", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]),
        tens=frozenset(["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]),
    ),
    "de": Endings(
        open_words=frozenset(
            (
                _FILLERS + " und oder aber weil dass denn wenn ob obwohl damit sondern als wie "
                "der die das den dem des ein eine einen einem einer eines mein meine meinen meinem meiner dein deine "
                "sein seine ihr ihre unser unsere dieser diese dieses diesen diesem kein keine keinen "
                "für von zum zur vom beim im ins ohne durch gegen zwischen während wegen über unter "
                "ich wir er ist sind war bin möchte will kann muss soll könnte würde habe hat sehr komma minus plus"
            ).split()
        ),
        stranding=frozenset(["das", "ist", "sind", "war", "ich", "wir", "er"]),
        question_words=frozenset(["was", "wer", "wen", "wem", "wo", "wann", "warum", "wie", "woher", "wohin", "welche", "welcher", "welches"]),
        digits=frozenset(["null", "eins", "zwei", "zwo", "drei", "vier", "fünf", "sechs", "sieben", "acht", "neun"]),
    ),
    "fr": Endings(
        open_words=frozenset(
            (
                _FILLERS + " et ou mais parce que car donc si quand comme lorsque puisque "
                "le la les un une des du de d' l' mon ma mes ton ta tes son sa ses notre nos votre vos leur leurs "
                "ce cet cette ces à au aux en dans sur pour par avec sans sous chez entre vers "
                "je tu il elle nous ils elles est sont était suis veux voudrais peux dois très virgule moins plus"
            ).split()
        )
        - frozenset(["plus", "tu", "nous", "moins"]),
        stranding=frozenset(["il", "elle", "ils", "elles", "est"]),
        question_words=frozenset(["qui", "que", "quoi", "où", "quand", "pourquoi", "comment", "combien", "quel", "quelle", "quels", "quelles"]),
        digits=frozenset(["zéro", "un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit", "neuf"]),
        tens=frozenset(["vingt", "trente", "quarante", "cinquante", "soixante"]),
    ),
    "es": Endings(
        open_words=frozenset(
            (
                _FILLERS + " y e o u pero porque que si cuando como aunque mientras "
                "el la los las un una unos unas mi mis tu tus su sus nuestro nuestra este esta estos estas ese esa "
                "a al de del en con sin por para sobre entre hacia desde hasta contra "
                "yo es son era soy estoy quiero quisiera puedo debo muy más coma menos"
            ).split()
        )
        - frozenset(["como", "más", "menos", "este", "esta"]),
        stranding=frozenset(["es", "son", "era"]),
        question_words=frozenset(["qué", "quién", "quiénes", "dónde", "cuándo", "cómo", "cuál", "cuáles", "cuánto", "cuántos"]),
        digits=frozenset(["cero", "uno", "dos", "tres", "cuatro", "cinco", "seis", "siete", "ocho", "nueve"]),
        tens=frozenset(["veinte", "treinta", "cuarenta", "cincuenta", "sesenta", "setenta", "ochenta", "noventa"]),
    ),
}  # fmt: skip
"""By primary language subtag; `""` serves every other language."""
