"""Words that sentence splitting and end-of-turn decisions look up. Data only."""

from __future__ import annotations

from dataclasses import dataclass


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _phrases(text: str) -> frozenset[str]:
    return frozenset(text.split(", "))


TITLES = _words(
    "Dr dr Mr mr Mrs mrs Ms Mx Prof prof Messrs Gen Col Sgt Capt Cmdr Lt Rev Hon Sen Rep Gov Pres "
    "Hr Fr Frl Sr Sra Srta Dra Ud Uds"
)
"""Abbreviations that a name follows, so never the end of a sentence; written as here ("20 ms." may be one)."""

NEVER_LAST = _words("e.g eg i.e ie vs cf viz approx resp z.b d.h u.a o.ä s.o s.u bzw ca ggf vgl p.ex")
"""Lower-cased abbreviations inside a sentence, whatever follows."""

BEFORE_NUMBER = _words("no nos nr núm num vol ch pp p art sec eq fig abb s")
"""Abbreviations when a digit follows ("no. 5"), else ordinary words ("I said no.")."""

MAYBE_LAST = _words(
    "etc inc ltd co corp bros jr sr st ave blvd rd dept est min max tel ext hrs a.m p.m u.s u.k u.n e.u ph.d "
    "b.a m.a b.c a.d usw jan feb mar apr jun jul aug sep sept oct nov dec"
)
"""Abbreviations that may end a sentence: they do when a capitalised starter follows."""

STARTERS = _words(
    "the a an i he she it they we you this that these those there here what when where why how who which is are "
    "do does did can could will would should shall if in on at as so but and or yes no not then now after before "
    "please let my your our his her its their for from to by with since while once also however because some many "
    "most all one next first finally thanks thank meanwhile unfortunately today tomorrow yesterday "
    "der die das ein eine er sie es wir ich ihr und aber wenn dann heute morgen "
    "le la les un une il elle nous vous je ce et mais los las una yo que y pero"
)
"""Words that, capitalised, begin a sentence rather than continue a name."""

AFTER_ORDINAL = _words(
    "januar februar märz april mai juni juli august september oktober november dezember jahrhundert klasse stock mal"
)
"""German nouns after a written ordinal: "am 3. Mai"."""


@dataclass(frozen=True, slots=True)
class Endings:
    """What tells, in one language, that an unpunctuated transcript goes on. All lower case."""

    open_words: frozenset[str]
    """Last words after which more comes."""
    open_phrases: frozenset[str] = frozenset()
    """Last two words after which more comes."""
    question_words: frozenset[str] = frozenset()
    """First words of a question that may end in one of `stranding` or in an open phrase."""
    stranding: frozenset[str] = frozenset()
    """Open words that may end such a question ("where are you from")."""
    digits: frozenset[str] = frozenset()
    """Number words of one digit: a run of them is being dictated."""
    tens: frozenset[str] = frozenset()
    """Number words that a digit may follow once a number has begun."""
    weak_words: frozenset[str] = frozenset()
    """Last words after which more often comes, though nothing must."""
    weak_suffixes: tuple[str, ...] = ()
    """The same, by their ends: what stands before a noun or a verb more often than at the end."""
    comparing: frozenset[str] = frozenset()
    """Words that two more complete, whichever these are: "than he was", "as i do"."""
    whole: frozenset[str] = frozenset()
    """Utterances of one or two words that need no more; others that short may go on."""
    is_other: bool = False
    """Of a language that nothing is known of."""


FILLERS = _words("um uh uhm erm er eh äh ähm hm hmm mm euh este")
"""In every language."""

ENDINGS: dict[str, Endings] = {
    "en": Endings(
        open_words=_words(
            "and or but because if when while although though unless until since than which "
            "the a an my your his its our their these those some any every each "
            "to of for from with at by into onto about between without through during against "
            "is are am be been i'm you're we're they're i we he she they i'd i'll let's "
            "could would should can will might may must shall does have has had want need like very just also basically "
            "what's who's where's minus plus times point dot"
        ),
        open_phrases=frozenset(
            {
                "can you",
                "could you",
                "would you",
                "will you",
                "do you",
                "are you",
                "have you",
                "if you",
                "i think",
            }
        ),
        question_words=_words("what who whom whose where when why how which"),
        stranding=_words(
            "to of for from with at by about into like is are am does can will i we he she they these those"
        ),
        digits=_words("zero oh one two three four five six seven eight nine"),
        tens=_words("twenty thirty forty fifty sixty seventy eighty ninety"),
        weak_words=_words(
            "was were had did do been being not never then how what which who why where more most less still even "
            "only already rather quite so such in under after before through as all both other "
            "another same own new good great big small old young first next last few little natural several "
            "make made give gave put take took get got go going say said tell told know think mean see use let try"
        ),
        comparing=frozenset({"than", "as"}),
        weak_suffixes=("ly", "ful", "ous", "able", "ible", "ive", "'s", "'re"),
        whole=_phrases(
            "yes, yeah, yep, no, nope, okay, ok, sure, right, exactly, correct, stop, cancel, wait, help, "
            "hello, hi, hey, goodbye, bye, thanks, please, really, maybe, nothing, perfect, great, yes "
            "please, no thanks, thank you, not yet, of course, go on, go ahead, stop it, hello there, good "
            "morning, good evening, good bye, bye bye, never mind, not really, i see, why not, what else, "
            "that's it, that's all, all right, no problem, hang up, start over, try again"
        ),
    ),
    "de": Endings(
        open_words=_words(
            "und oder aber weil dass denn wenn ob obwohl damit sondern als wie "
            "der die das den dem des ein eine einen einem einer eines mein meine meinen meinem meiner dein deine "
            "sein seine ihr ihre unser unsere dieser diese dieses diesen diesem kein keine keinen gern "
            "für von zum zur vom beim im ins ohne durch gegen zwischen während wegen über unter "
            "ich wir er ist sind war bin möchte will kann muss soll könnte würde habe hat sehr komma minus plus"
        ),
        open_phrases=frozenset(
            {
                "kannst du",
                "können sie",
                "könntest du",
                "könnten sie",
                "hast du",
                "weißt du",
                "mit dem",
                "in der",
            }
        ),
        question_words=_words("was wer wen wem wo wann warum wie woher wohin welche welcher welches"),
        stranding=_words("das ist sind war ich wir er"),
        digits=_words("null eins zwei zwo drei vier fünf sechs sieben acht neun"),
        weak_words=_words(
            "nicht noch auch nur schon dann so mehr sehr hatte hatten war waren wurde wird werden haben sein was wie "
            "wo wer warum auf an aus bei nach vor hinter neben mit gegen alle beide andere anderen neue neuen "
            "große großen kleine kleinen gute guten erste ersten nächste nächsten"
        ),
        weak_suffixes=("liche", "lichen", "ische", "ischen", "sten"),
        whole=_phrases(
            "ja, nein, doch, okay, ok, gut, genau, richtig, stopp, stop, halt, hilfe, hallo, tschüss, danke, "
            "bitte, wirklich, vielleicht, nichts, ja bitte, nein danke, guten morgen, guten tag, guten abend, "
            "auf wiedersehen, vielen dank, danke schön, alles klar, noch mal, warum nicht, noch nicht, das "
            "stimmt, weiter"
        ),
    ),
    "fr": Endings(
        open_words=_words(
            "et ou mais parce que car donc si quand comme lorsque puisque "
            "le la les un une des du de d' l' mon ma mes ton ta tes son sa ses notre nos votre vos leur leurs "
            "ce cet cette ces à au aux en dans sur pour par avec sans sous chez entre vers "
            "je il elle ils elles est sont était suis veux voudrais peux dois très virgule"
        ),
        open_phrases=frozenset({"ce que", "peux tu", "peux-tu", "pouvez vous", "pouvez-vous"}),
        question_words=_words("qui que quoi où quand pourquoi comment combien quel quelle quels quelles"),
        stranding=_words("il elle ils elles est"),
        weak_words=_words("pas plus aussi encore alors bien tout toute tous petit petite grand grande autre"),
        whole=_phrases(
            "oui, non, merci, bonjour, salut, stop, attends, d'accord, peut-être, rien, exactement, voilà, au "
            "revoir, oui merci, non merci, pas encore, bien sûr, très bien, ça va"
        ),
        digits=_words("zéro un deux trois quatre cinq six sept huit neuf"),
        tens=_words("vingt trente quarante cinquante soixante"),
    ),
    "es": Endings(
        open_words=_words(
            "y e o u pero porque que si cuando aunque mientras "
            "el la los las un una unos unas mi mis tu tus su sus nuestro nuestra ese esa "
            "a al de del en con sin por para sobre entre hacia desde hasta contra "
            "yo es son era soy estoy quiero quisiera puedo debo muy coma"
        ),
        open_phrases=frozenset({"puedes tú", "podría usted"}),
        question_words=_words("qué quién quiénes dónde cuándo cómo cuál cuáles cuánto cuántos"),
        stranding=_words("es son era"),
        weak_words=_words("no más también muy todo toda todos otro otra gran buen nuevo nueva ya así"),
        whole=_phrases(
            "sí, no, gracias, hola, adiós, para, espera, vale, claro, exacto, nada, quizás, bueno, ayuda, por "
            "favor, muchas gracias, buenos días, sí gracias, no gracias, de acuerdo, muy bien"
        ),
        digits=_words("cero uno dos tres cuatro cinco seis siete ocho nueve"),
        tens=_words("veinte treinta cuarenta cincuenta sesenta setenta ochenta noventa"),
    ),
}
"""By primary language subtag."""

OTHER = Endings(frozenset(), is_other=True)
"""Every other language: fillers and punctuation alone."""
