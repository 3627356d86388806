"""Which language a text is in, by py3langid: naive Bayes over bytes (Lui & Baldwin 2012), its model in the package."""

from collections.abc import Iterable

from cleaning import INSTALL
from nanochat.errors import UserError

SAMPLE = 1000  # characters that are looked at; all of a page takes three times as long and says the same
SHORTEST = 20  # letters; fewer are sums, dates or a name and of no language
DOUBT = 0.01  # a text may be in a language of this probability: scraps of English have it, sentences of others do not


class Language:
    """Tells whether texts are in one of some languages, given as ISO 639-1 codes such as en.

    Raises UserError for an unknown code and where py3langid is not installed.
    """

    def __init__(self, wanted: Iterable[str]):
        try:
            from py3langid.langid import MODEL_FILE, LanguageIdentifier
        except ImportError:
            raise UserError(f"--lang needs py3langid, which is not installed; {INSTALL}") from None
        self._model = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
        self._wanted = set(wanted)
        unknown = sorted(self._wanted - set(self._model.labels))
        if unknown:
            raise UserError(f"--lang {unknown[0]} is no language it knows; codes are {' '.join(self._model.labels)}")

    def other(self, text: str) -> str | None:
        """The code of a text's language when it is surely none of the wanted, else None."""
        sample = text[:SAMPLE]
        if sum(map(str.isalpha, sample)) < SHORTEST or self._model.classify(sample)[0] in self._wanted:
            return None
        ranking = self._model.rank(sample)
        doubt = sum(probability for code, probability in ranking if code in self._wanted)
        return None if doubt >= DOUBT else ranking[0][0]
