"""What opens doors, and how it looks: tokens, keys, signed addresses, passwords. Finding them, and texts without them.

Formats that nothing else has are found in any text. What is known by a name beside it (`AccountKey=…`, `?sig=…`) is
looked for in values and messages, and what looks like nothing but chance in the values of a config.
"""

from __future__ import annotations

import itertools
import re

REMOVED = "(removed)"
_ALONE = r"(?<![A-Za-z0-9])"
_QUERY = r"[^\s&#;,'\"<>\[\]{}()]"

# Each with the part that is secret, where that isn't all of it.
_UNMISTAKABLE = {
    "a Hub access token (hf_…)": rf"{_ALONE}(?:hf|api_org)_[A-Za-z0-9]{{20,}}",
    "an access token": rf"{_ALONE}(?:"
    r"gh[pousr]_[A-Za-z0-9]{30,}|github_pat_\w{22,}|glpat-[\w-]{20,}|xox[abeoprs]-[\w-]{10,}|npm_[A-Za-z0-9]{36}|"
    r"pypi-[\w-]{50,}|dop_v1_[0-9a-f]{64}|dapi[0-9a-f]{32}|ya29\.[\w-]{20,}|AIza[\w-]{35}|r8_[A-Za-z0-9]{30,}|"
    r"wandb_v\d_\w{20,}|sk-(?:[\w-]{0,40}[_-])?(?=[A-Za-z]*\d)[A-Za-z0-9]{20,}|"
    r"eyJ[\w-]{8,2000}\.eyJ[\w-]{8,}\.[\w-]+)",
    "an AWS access key": rf"{_ALONE}(?:AKIA|ASIA)[A-Z0-9]{{16}}(?![A-Za-z0-9])",
    "a private key": r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----(?:[\s\S]*?-----END [A-Z0-9 ]*-----|[\s\S]*)",
    "an address with a password": r"(?<=://)(?P<a>[^\s/?#@:]*:[^\s/?#@]+|(?<=http://)[^\s/?#@:]{16,}|"
    r"(?<=https://)[^\s/?#@:]{16,})(?=@)",
}
_NAMED = {
    "a signed address": r"(?<=[?&;])(?:x-[a-z]+-(?:signature|credential|security-token)|sig|signature|"
    r"(?:access|auth|id|refresh|sas|session|download)?[_-]?token|(?:api|access|subscription)?[_-]?key|password|passwd|"
    rf"pwd|secret|client_secret|awsaccesskeyid|googleaccessid)=(?P<b>{_QUERY}{{6,}})",
    "an Authorization header": r"\bauthorization['\"]?\s*[:=]\s*['\"]?(?P<c>(?:bearer|basic|token|digest|apikey|"
    r"negotiate|aws4-hmac-sha256)\s+[^\s'\"]{6,}|(?=[\w.+/=-]*\d)[\w.+/=-]{12,})",
    "a bearer token": r"\b(?:bearer|basic)\s+(?P<d>(?=[\w.~+/-]*\d)[\w.~+/-]{16,}=*)",
    "a connection string": r"(?<![\w-])(?:account_?key|shared_?access_?(?:key|signature)|sas_?token|password|"
    r"passwd|pwd|account_?password|client_?secret|secret_?access_?key|aws_secret_access_key|aws_session_token|"
    r"api_?key|secret_?key|private_?key|access_?token|auth_?token|hf_token|token|secret)=['\"]?"
    r"(?![<${*%])(?P<e>[^\s;,&'\"\[\]{}()]{6,})",
}
# As a mapping is written out in an error: 'account_key': '…'.
_WRITTEN_OUT = (
    r"(?P<q>['\"])[\w-]*(?:password|passwd|passphrase|secret|token|credentials?|authorization|(?:account|access|api|"
    r"private|shared|sas)[_-]?key|connection_?string|signature|cookie)(?P=q)\s*:\s*(?P<r>b?['\"])(?P<f>(?:(?!(?P=r)).)+)"
)
_STRICT = {kind: re.compile(pattern) for kind, pattern in _UNMISTAKABLE.items()}
_BESIDE_A_NAME = {kind: re.compile(pattern, re.IGNORECASE) for kind, pattern in _NAMED.items()}
_TO_REMOVE = (*_STRICT.values(), *_BESIDE_A_NAME.values(), re.compile(_WRITTEN_OUT, re.IGNORECASE))
_HINT = re.compile(r"[A-Z_a-z]{2}_|-|:|=|\.|AKIA|ASIA|AIza|BEGIN|[Bb]asic|[Bb]earer")
"""What every text with a credential has somewhere: names of classes and columns mostly don't."""

_SECRET_NAME = re.compile(
    r"(?:.*_)?(?:pass(?:word|wd|phrase)|pwd|secret|credentials?|authorization|cookies?|signature|sig|jwt|bearer|dsn|"
    r"connection_str(?:ing)?|conn_str)|"
    r"(?:.*_)?(?:account|access|api|app|private|secret|shared|signing|ssh|subscription|storage|service|encryption|"
    r"master|hmac|auth)_?keys?(?:_(?:id|base64|data|json|pem))?|"
    r"(?:.*_)?(?:hf|hub|access|api|auth|session|sas|security|refresh|bearer|oauth|id|github|gitlab|bot|user|secret|aws|"
    r"personal_access|shared_access)_?token|token|auth|use_auth"
)
_HARMLESS = {"anon", "auto", "browser", "cache", "cloud", "default", "env", "google_default", "none", "true", "false"}
"""What such a key may have without being a secret: ways to log in."""


def find_credential(text: str, prose: bool = False) -> str | None:
    """What kind of credential a text holds, by its looks; None if none.

    Args:
        prose: whether the text may speak of passwords, so that only formats count that nothing else has.
    """
    kinds = _STRICT if prose else _STRICT | _BESIDE_A_NAME
    return next((kind for kind, pattern in kinds.items() if pattern.search(text)), None)


def without_credentials(text: str) -> str:
    """A text with `(removed)` in place of each credential.

    >>> without_credentials("403 for https://files.example.org/a.csv?sig=b3Blbi1zZXNhbWU")
    '403 for https://files.example.org/a.csv?sig=(removed)'
    """
    if not _HINT.search(text):
        return text
    for pattern in _TO_REMOVE:
        text = pattern.sub(_removed, text)
    return text


def _removed(match: re.Match[str]) -> str:
    secret = next((name for name in "abcdef" if match.groupdict().get(name)), None)
    if secret is None:
        return REMOVED
    start, end = (place - match.start() for place in match.span(secret))
    return match[0][:start] + REMOVED + match[0][end:]


def names_secret(key: str) -> bool:
    """Whether a key is the name of a secret, in any spelling: `accountKey`, `X-Api-Key`, `hf_token`."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", key)
    return bool(_SECRET_NAME.fullmatch(re.sub(r"[-.\s]+", "_", words).lower()))


def is_harmless(value: object) -> bool:
    """Whether a value under the name of a secret is none: not set, or a way to log in."""
    return value is None or isinstance(value, bool) or str(value).lower() in _HARMLESS | {"", "[]", "{}"}


def looks_random(text: str) -> bool:
    """Whether a part of a text is as good as chance: long, of letters and digits that change all the time.

    Hashes, commits and UUIDs (hexadecimal) don't count, nor does the path of a file or an address but for its query;
    names of models and datasets are made of words.
    """
    place = re.match(r"(?:[A-Za-z][\w+.-]*://|[/~.]|[A-Za-z]:\\)[^?]*", text)
    return any(_is_chance(match[0]) for match in _BLOB.finditer(text, place.end() if place else 0))


_BLOB = re.compile(r"(?<![A-Za-z0-9+/=_-])(?!sha\d+[-_])[A-Za-z0-9+/_-]{20,}")


def _is_chance(blob: str) -> bool:
    runs = re.findall(r"[A-Za-z0-9]+", blob)
    characters = "".join(runs)
    size, digits = len(characters), sum(character.isdigit() for character in characters)
    if size < 20 or 8 * (len(blob) - size) > len(blob) or re.fullmatch(r"[0-9A-Fa-f]+", characters):
        return False
    pairs = [pair for run in runs for pair in itertools.pairwise(run)]
    changes = sum(_kind(first) != _kind(second) for first, second in pairs) / len(pairs)
    letters = [(first + second).lower() for first, second in pairs if first.isalpha() and second.isalpha()]
    words = sum(pair in _COMMON_PAIRS for pair in letters) / max(len(letters), 8)
    if words >= 0.27 or len(set(characters)) < 12:
        return False
    if len(set(map(_kind, characters))) == 3:
        return changes >= 0.38 and digits >= max(2, size / 16)
    return size >= 24 and changes >= 0.3 and 5 <= digits <= size - 5


_COMMON_PAIRS = frozenset(
    re.findall(
        "..",
        "thheineranrendatonnthaesstenedtoitoueahiisortiasteetngofaldeselesasiarveraldurionemeeciccoromatael"
        "llnousliomsslaricecachdiembeilunimotdoagge",
    )
)
"""Letters that follow each other in words, of half of the pairs there and of a tenth where all is chance."""


def _kind(character: str) -> int:
    return 0 if character.isdigit() else 1 if character.isupper() else 2
