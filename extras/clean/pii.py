"""Personal data and secrets in text: each one found is replaced by a tag that names its kind, such as [EMAIL].

A pattern finds candidates and, where a format carries proof of itself, a check decides: Luhn's digit in card numbers,
the remainder in IBANs, the standard library's parser for addresses. What has no such proof is matched narrowly, for a
tag in place of an ordinary number harms the text: telephone numbers need a +, a leading 0 with groups, the groups of
North America, or a word such as "phone" before them, and must not look like a list of years, scores or thousands;
addresses of version 4 must not be numbered as chapters and versions are. Five pairs of digits, the first of them 01 to
09, are taken for a French telephone number.
"""

import ipaddress
import itertools
import re
from collections import Counter
from collections.abc import Callable
from typing import NamedTuple


class _Kind(NamedTuple):
    name: str
    pattern: re.Pattern[str]  # its group, or all of it where it has none, is the candidate
    size: Callable[[str], int]  # how many characters of a candidate, from its start, are the thing; 0: it is none
    mark: re.Pattern[str]  # found in every text that holds the thing, and quickly


def mask(text: str) -> tuple[str, Counter[str]]:
    """Replace personal data and secrets by tags; returns the text and how many of each kind were replaced.

    Kinds: key, email, iban, card, ip, phone. Masking the result again changes nothing, and a text without any comes
    back as it is. Tags are the kind's name in capitals and brackets.
    """
    found: Counter[str] = Counter()
    before = -1
    while found.total() > before:  # a tag parts what it stands between, which may bring another to light
        before = found.total()
        for kind in KINDS:
            if kind.mark.search(text):
                text = _masked(text, kind, found)
    return text, found


def _masked(text: str, kind: _Kind, found: Counter[str]) -> str:
    def tagged(match: re.Match[str]) -> str:
        whole, candidate = match.group(), match.group(match.lastindex or 0)
        size = kind.size(candidate)
        if not size:
            return whole
        found[kind.name] += 1
        start = match.start(match.lastindex or 0) - match.start()
        return f"{whole[:start]}[{kind.name.upper()}]{whole[start + size :]}"

    return kind.pattern.sub(tagged, text)


# ---------------------------------------------------------------- checks


def _card(candidate: str) -> int:
    """As many groups as have a prefix and length that a network issues (ISO/IEC 7812), and Luhn's digit.

    Together, in fours, or as American Express and Diners Club group them: of other numbers one in ten passes Luhn.

    Another number may follow a card's after a space, so that all of the candidate need not be it.
    """
    groups = list(re.finditer(r"\d+", candidate))
    lengths = [len(group.group()) for group in groups]
    for count, group in reversed(list(enumerate(groups, 1))):
        printed = count == 1 or {*lengths[: count - 1]} == {4} or lengths[:count] in ([4, 6, 5], [4, 6, 4])
        digits = re.sub(r"\D", "", candidate[: group.end()])
        issued = any(len(digits) in lengths and re.match(prefix, digits) for prefix, lengths in _CARD_NETWORKS.items())
        doubled = [int(digit) * (1 + place % 2) for place, digit in enumerate(reversed(digits))]
        if printed and issued and sum(number // 10 + number % 10 for number in doubled) % 10 == 0:
            return group.end()
    return 0


_CARD_NETWORKS = {  # longer numbers are issued too, but too many of 64 bits pass for them
    "4": (13, 16),  # Visa
    "5[1-5]|222[1-9]|22[3-9]|2[3-6]|27[01]|2720": (16,),  # Mastercard
    "3[47]": (15,),  # American Express
    "30[0-5]|3[689]": (14,),  # Diners Club
    "6011|64[4-9]|65|62": (16,),  # Discover, UnionPay
    "35(2[89]|[3-8])": (16,),  # JCB
}


def _iban(candidate: str) -> int:
    """As many signs as the country's accounts have (the registry of ISO 13616), with the remainder that proves them.

    Words in capitals after an account look like more of it, so that all of the candidate need not be it.
    """
    ends = [place + 1 for place, sign in enumerate(candidate) if sign != " "]
    length = _IBAN_LENGTHS.get(candidate[:2], 99)
    if len(ends) < length:
        return 0
    account = candidate[: ends[length - 1]].replace(" ", "")
    proven = int("".join(str(int(sign, 36)) for sign in account[4:] + account[:4])) % 97 == 1
    return ends[length - 1] if proven else 0


_IBAN_LENGTHS = {
    entry[:2]: int(entry[2:])
    for entry in """
    AD24 AE23 AL28 AT20 AZ28 BA20 BE16 BG22 BH22 BI27 BR29 BY28 CH21 CR22 CY28 CZ24 DE22 DJ27 DK18 DO28 EE20 EG29 ES24
    FI18 FK18 FO18 FR27 GB22 GE22 GI23 GL18 GR27 GT28 HN28 HR21 HU28 IE22 IL23 IQ23 IS26 IT27 JO30 KW30 KZ20 LB28 LC32
    LI21 LT20 LU20 LV21 LY25 MC27 MD24 ME22 MK19 MN20 MR27 MT31 MU30 NI28 NL18 NO15 OM23 PK24 PL28 PS29 PT25 QA29 RO24
    RS22 RU33 SA24 SC31 SD18 SE24 SI19 SK24 SM27 SO23 ST25 SV28 TL23 TN24 TR26 UA29 VA22 VG24 XK20 YE30
    """.split()
}


def _ipv4(candidate: str) -> int:
    """All but those of no network, loopback, netmasks and broadcast, which are nobody's, and 1.2.3.4."""
    address = _address(candidate)
    nobody = address is None or address.is_loopback or candidate.startswith(("0.", "255."))
    chapter = len(candidate) == len("1.2.3.4")
    return 0 if nobody or chapter else len(candidate)


def _ipv6(candidate: str) -> int:
    """As written by people: eight groups or ::, and neither a clock (1:02:03) nor a scope of C++ (a::b)."""
    address = _address(candidate)
    groups = [group for group in candidate.split(":") if group]
    nobody = address is None or address.is_unspecified or address.is_loopback
    scope = len(groups) < 2 or not any(sign.isdigit() for sign in candidate)
    small = all(len(group) < 3 for group in groups)
    return 0 if nobody or scope or small else len(candidate)


def _address(candidate: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(candidate)
    except ValueError:
        return None


def _phone(candidate: str) -> int:
    """Eight digits to the fifteen that E.164 allows, one more for each leading 0; and no list or date.

    Without + or brackets the groups differ in length, but for the five pairs of France; with a + groups as those of
    thousands need the eleven digits of Spain and Poland.
    """
    groups = re.findall(r"\d+", candidate)
    digits = sum(map(len, groups))
    zeros = 2 if candidate.startswith("00") else re.match(r"\(?0", candidate) is not None
    if not 8 + zeros <= digits <= 15 or _is_list(candidate):
        return 0
    lengths = [len(group) for group in groups]
    if candidate.startswith("+"):
        thousands = len(groups) > 2 and set(lengths[1:]) == {3}
        return 0 if thousands and digits < 11 else len(candidate)
    even = len(groups) > 1 and len(set(lengths)) == 1 and lengths != [2] * 5
    return 0 if "(" not in candidate and (even or len(groups) > 5) else len(candidate)


def _called(candidate: str) -> int:
    """What stands after a word such as "phone", unless it is a list."""
    return 0 if _is_list(candidate) else len(candidate)


def _is_list(candidate: str) -> bool:
    """Dates, years, round millions, single digits, and numbers that rise evenly, as 01 02 03."""
    if candidate.startswith("+") or "(" in candidate:
        return False
    groups = re.findall(r"\d+", candidate)
    years = sum(re.fullmatch(r"(19|20)\d\d", group) is not None for group in groups)
    single = any(len(group) == 1 for group in groups[1:])
    steps = {int(later) - int(earlier) for earlier, later in itertools.pairwise(groups)}
    evenly = len(groups) > 2 and len(steps) == 1 and len({len(group) for group in groups}) == 1
    spelled = _DATE.match(candidate) or re.fullmatch(r"\d{1,3}(?: ?000)+", candidate)
    return years > 1 or single or evenly or spelled is not None


_DATE = re.compile(r"\(?\d{1,2}[-/. ]\d{1,2}[-/. ](19|20)\d\d|\d{4}-\d\d-\d\d")


def _secret(candidate: str) -> int:
    """Values given to a name such as password: letters and digits, which words and plain numbers are not."""
    mixed = re.search("[0-9]", candidate) and re.search("[A-Za-z]", candidate)
    return len(candidate) if mixed else 0


# ---------------------------------------------------------------- patterns

# Formats of tokens as their issuers document them and gitleaks and detect-secrets look for them.
_KEY_FORMATS = r"""
    -----BEGIN[ ][A-Z ]*PRIVATE[ ]KEY(?:[ ]BLOCK)?-----
        (?:[\s\S]{0,10000}?-----END[ ][A-Z ]*PRIVATE[ ]KEY(?:[ ]BLOCK)?----- | (?:\s+[A-Za-z0-9+/=]{16,})*)
  | (?<![A-Za-z0-9])(?:
        (?:AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}(?![A-Za-z0-9])      # Amazon
      | AIza[\w-]{35}(?![\w-])                                  # Google
      | gh[pousr]_[A-Za-z0-9]{36,} | github_pat_\w{22,}         # GitHub
      | gl(?:pat|ptt|dt|rt|cbt|ft|soat)-[\w-]{20,}              # GitLab
      | sk-(?=[\w-]*\d)[\w-]{20,}                               # OpenAI, Anthropic and others
      | [spr]k_(?:live|test)_[A-Za-z0-9]{16,}                   # Stripe
      | xox[abeoprs]-[\w-]{10,} | xapp-[\w-]{20,}               # Slack
      | hf_[A-Za-z0-9]{30,} | npm_[A-Za-z0-9]{36,} | dop_v1_[0-9a-f]{64}
      | SG\.[\w-]{16,}\.[\w-]{32,}                              # SendGrid
      | eyJ[\w-]{8,}\.eyJ[\w-]{8,}\.[\w-]{8,}                   # JSON web tokens
    )
"""
_KEY_MARK = (
    "PRIVATE KEY|AKIA|ASIA|ABIA|ACCA|AIza|gh[pousr]_|github_pat_|gl[a-z]+-|sk-|k_live_|k_test_|xox[abeoprs]-|xapp-|hf_"
    r"|npm_|dop_v1_|SG\.|eyJ"
)
_SECRET = (
    r"(?i:(?:api|access|auth|secret|private|client|bearer|account)[ _-]?(?:key|token|secret)|passwo?r?d|passwd)"
    r"""["']?\s{0,3}(?::|=|:=|=>)\s{0,3}["']?([\w/+.=~-]{12,200})"""
)
_EMAIL = r"(?<![\w.+%-])[\w.+%'-]{1,64}@(?:[\w-]{1,63}\.){1,8}[^\W\d_]{2,24}(?![^\W_])"
_NUMBER_START = r"(?<![\w+])(?<!\d[.,:/-])"
_CARD = _NUMBER_START + r"\d(?:[ -]?\d){12,18}(?![\w-])(?!\.\d)"
_IBAN = r"(?<!\w)[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?!\w)"
_FOUR = r"(?:\d{1,3}\.){3}\d{1,3}(?!\w|\.\d)"
_IPV4 = (  # a word that numbers are given to takes those after it, so that they are no candidates
    r"(?<!\w)(?i:versions?|ver|v|releases?|rev|revisions?|builds?|firmware|chapters?|ch|sections?|sect?|subsections?"
    r"|paragraphs?|para|clauses?|articles?|art|appendix|tables?|figures?|fig|exercises?|items?|steps?|parts?"
    rf"|§§?)\.?:?\s{{0,2}}{_FOUR}(?:(?:,|,? and|,? or|,? to| ?[-–])\s?{_FOUR}){{0,20}}"
    rf"|(?<![\w.])(?<!==)({_FOUR})"
)
_IPV6 = r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}(?:(?:\d{1,3}\.){3}\d{1,3}|[0-9A-Fa-f]{1,4}|(?<=::))(?![\w:])(?!\.\d)"
_PHONE = r"""
    (?<![\w+])\+[1-9]\d{0,14}(?:[ ./-]?\(\d{1,4}\)[ ./-]?\d{1,12})?(?:[ ./-]\d{1,12}){0,6}(?!\d)  # +44 20 7946 0958
  | (?<![\w+])(?<!\d[.,:/-])(?:
        (?<!\d[ ])00[1-9]\d{0,2}(?:[ ./-]?\(\d{1,4}\)[ ./-]?\d{1,12})?(?:[ ./-]\d{2,12}){1,5}  # 0049 30 123456
      | (?:1[ .-])?(?:\(\d{3}\)[ ]?\d{3}[ .-]|\d{3}-\d{3}-|\d{3}\.\d{3}\.)\d{4}             # (555) 123-4567
      | (?:1[ ][2-9]\d{2}[ ][2-9]\d{2}[ ]|(?<!\d[ ])[2-9]\d{2}[ ]\d{3}[.-])\d{4}             # 555 123-4567
      | (?<!\d[ ])(?:\(0[1-9]\d{0,4}\)[ ]?|0[1-9]\d{0,4}[ /-])\d{2,8}(?:[ -]\d{2,8}){0,4}    # 030 1234567
      | 0[1-9](?:\.\d\d){4}                                                                 # 01.23.45.67.89
    )(?![\w-])(?!\.\d)
"""
_CALL = (
    r"(?<!\w)(?i:phone|telephone|tel|mobile|cell|fax|call|text|whatsapp)(?i: (?:me|us|number|no|is|on|at)){0,3}"
    r"[.:]{0,2} (\(?\d(?:[ ()./-]{0,2}\d){5,14})(?![\w-])(?!\.\d)"
)

KINDS = tuple(
    _Kind(name, re.compile(pattern, re.VERBOSE if "\n" in pattern else 0), size, re.compile(mark))
    for name, pattern, size, mark in (
        ("key", _KEY_FORMATS, len, _KEY_MARK),
        ("key", _SECRET, _secret, r"[:=]>?\s{0,3}[\"']?[\w/+.=~-]{12}"),
        ("email", _EMAIL, len, "@"),
        ("iban", _IBAN, _iban, r"[A-Z]{2}\d\d"),
        ("card", _CARD, _card, r"\d[ -]?\d[ -]?\d[ -]?\d(?:[ -]?\d){9}"),
        ("ip", _IPV6, _ipv6, ":[0-9A-Fa-f]{0,4}:"),  # its end may be written as version 4
        ("ip", _IPV4, _ipv4, r"\d\.\d{1,3}\.\d"),
        ("phone", _PHONE, _phone, r"\d{2}.{0,3}\d{2}"),
        ("phone", _CALL, _called, r"\d.{0,2}\d.{0,2}\d.{0,2}\d"),
    )
)
