"""Which language a text is in, by py3langid: naive Bayes over bytes (Lui & Baldwin 2012), its model in the package."""

from collections.abc import Iterable

from extras.clean import INSTALL
from nanochat.errors import UserError

SAMPLE = 1000  # characters to classify; a whole page takes three times as long with the same result
SHORTEST = 20  # letters; shorter texts are sums, dates or names, and have no language
DOUBT = 0.01  # least probability of a wanted language: scraps of English have it, sentences in other languages do not


class Language:
    """Tells whether texts are in the wanted languages, given as ISO 639-1 codes such as en.

    Raises UserError for an unknown code, and if py3langid is not installed.
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
            raise UserError(f"--lang {unknown[0]} is not a known language; codes are {' '.join(self._model.labels)}")

    def other(self, text: str) -> str | None:
        """The code of a text's language if it is surely not a wanted one, else None."""
        sample = text[:SAMPLE]
        if sum(map(str.isalpha, sample)) < SHORTEST or self._model.classify(sample)[0] in self._wanted:
            return None
        ranking = self._model.rank(sample)
        doubt = sum(probability for code, probability in ranking if code in self._wanted)
        return None if doubt >= DOUBT else ranking[0][0]
