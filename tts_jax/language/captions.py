"""Captions as a cleaner, DeepFloyd IF's, leaves them.

Models were trained on captions that it had gone over twice. Whatever it takes out or rewrites was
never seen in training, so that it is part of them. The cleaner hands text on to a reader of HTML
and to a repairer of Unicode; what they do to it is done here with the standard library, but for one
thing: of text that was decoded with a wrong encoding, only dots, quotes and signs of currency are
repaired, which is about all that survives the steps before.
"""

import html
import re
import unicodedata
from collections.abc import Sequence
from html.entities import html5
from html.parser import HTMLParser
from urllib.parse import unquote_plus

CLEANINGS = 2


def clean_caption(text: str, *, trim: bool = True) -> str:
    """A caption as those of the training videos were cleaned, twice in a row.

    Args:
      text: any; no character of it makes this fail.
      trim: whether blanks at the ends are taken off before punctuation at the ends is, as Open-Sora
        does; Latte lets blanks protect it.

    Returns:
      Lower case, in one line, without addresses, names of files, markup, ideographs and most
      punctuation.
    """
    # halves of surrogate pairs are joined, and lone ones, which no encoding has, replaced
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    for _ in range(CLEANINGS):
        text = _clean(text, trim)
    return text


def _clean(text: str, trim: bool) -> str:
    text = unquote_plus(text).strip().lower().replace("<person>", "person")
    text = _replace(text, _ADDRESSES)
    text = _replace(_markup_removed(text), _SYMBOLS)
    if len(re.findall("[-_]", text)) > 3:  # words-in-a-chain
        text = re.sub("[-_]", " ", text)
    text = html.unescape(html.unescape(_characters_repaired(text)))
    return _replace(text.strip() if trim else text, _WORDS).strip()


def _replace(text: str, rules: Sequence[tuple[str, str]]) -> str:
    for pattern, replacement in rules:
        text = re.sub(pattern, replacement, text)
    return text


_DOMAIN = r"[a-zA-Z0-9.\-]+\.(?:co|ru|net|org|edu|gov|it)[\w/-]*\b/?(?!@)"
_SUFFIXES = "(?:png|jpe?g|bmp|webp|eps|pdf|apk|mp4)"
_DASHES = (
    "\\-\u058a\u05be\u1400\u1806\u2010-\u2015\u2e17\u2e1a\u2e3a\u2e3b\u2e40"
    "\u301c\u3030\u30a0\ufe31\ufe32\ufe58\ufe63\uff0d"
)

# The order of rules is part of the result.
_ADDRESSES = tuple(
    (rf"\b(?:{scheme}:(?:/{{1,3}}|[a-zA-Z0-9%])|{_DOMAIN})", "") for scheme in ("https?", "www")
)
_SYMBOLS = (
    (r"@\w+", ""),  # a person's handle
    ("[\u31c0-\u9fff]+", ""),  # ideographs and what stands in their blocks
    (f"[{_DASHES}]+", "-"),
    ("[`´«»“”¨]", '"'),
    ("[‘’]", "'"),
    ("&quot;?", ""),
    ("&amp", ""),
    (r"\d{1,3}(?:\.\d{1,3}){3}", " "),  # an address of the internet protocol
    (r"\d:\d\d\s+$", ""),
    (r"\\n", " "),  # a line feed that was written out
    (r"#\d{1,3}\b", ""),
    (r"#\d{5,}\b", ""),
    (r"\b\d{6,}\b", ""),
    (rf"\S+\.{_SUFFIXES}", ""),
    ("[\"']{2,}", '"'),
    (r"\.{2,}", " "),
    (r"[#®•©™&@·º½¾¿¡§~()\[\]{}|\\/*]+", " "),
    (r"\s+\.\s+", " "),
)
_WORDS = (
    # numbers of articles
    (r"\b[a-zA-Z]{1,3}\d{3,15}\b", ""),
    (r"\b[a-zA-Z]+\d+[a-zA-Z]+\b", ""),
    (r"\b\d+[a-zA-Z]+\d+\b", ""),
    # what shops and galleries write
    (r"(?:worldwide\s+)?(?:free\s+)?shipping", ""),
    (r"(?:free\s)?download(?:\sfree)?", ""),
    (r"\bclick\b\s(?:for|on)\s\w+", ""),
    (rf"\b{_SUFFIXES}(?:\simages?)?", ""),
    (r"\bpage\s+\d+\b", ""),
    (r"\b\d*[a-zA-Z]+\d+[a-zA-Z]+\d+[a-zA-Z\d]*\b", " "),
    (r"\b\d+\.?\d*[xх×]\d+\.?\d*\b", ""),  # sizes; one of these is Cyrillic
    # spaces
    (r"\b\s+:\s+", ": "),
    (r"(\D[,./])\b", r"\1 "),
    (r"\s+", " "),
    # the ends
    ("^[\"']([\\w\\W]+)[\"']$", r"\1"),
    ("^['_,\\-:;]", ""),
    ("['_,\\-:+]$", ""),
    (r"^\.\S+$", ""),
)


class _Reader(HTMLParser):
    """Collects the text that a page shows."""

    HIDDEN = frozenset(("script", "style", "template", "rt", "rp"))
    VERBATIM = frozenset(("pre", "textarea"))
    EMPTY = frozenset(
        "area base br col embed hr img input keygen link menuitem meta param source track wbr "
        "basefont bgsound command frame image isindex nextid spacer".split()
    )

    def __init__(self):
        super().__init__(convert_charrefs=False)
        self.shown: list[str] = []
        self._piece: list[str] = []
        self._open: list[str] = []
        self._closed: list[str] = []

    def flush(self, show: bool = True) -> None:
        """Ends a piece of text; blank ones shrink to one character."""
        if not self._piece:
            return
        piece, self._piece = "".join(self._piece), []
        if not piece.strip(" \n\t\f\r") and not self.VERBATIM.intersection(self._open):
            piece = "\n" if "\n" in piece else " "
        if show and not self.HIDDEN.intersection(self._open):
            self.shown.append(piece)

    def handle_data(self, data: str) -> None:
        self._piece.append(data)

    def handle_charref(self, name: str) -> None:
        self.handle_data(html.unescape(f"&#{name};"))

    def handle_entityref(self, name: str) -> None:
        self.handle_data(html5.get(f"{name};", f"&{name}"))

    def handle_starttag(self, tag: str, attrs) -> None:
        self.flush()
        if tag in self.EMPTY:
            self._closed.append(tag)
        else:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs) -> None:
        self.flush()

    def handle_endtag(self, tag: str) -> None:
        self.flush()
        if tag in self._closed:
            self._closed.remove(tag)
        elif tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_comment(self, data: str) -> None:
        self.flush()

    def handle_decl(self, decl: str) -> None:
        self.flush()

    def handle_pi(self, data: str) -> None:
        self.flush()

    def unknown_decl(self, data: str) -> None:
        self.flush()
        name = "CDATA["
        if data.upper().startswith(name):
            self.handle_data(data[len(name) :])
            self.flush()


def _markup_removed(text: str) -> str:
    """The text of a page; all of it, if there is markup in it that no page has."""
    reader = _Reader()
    try:
        reader.feed(text)
        reader.close()
    except AssertionError:  # how the parser refuses
        return text
    reader.flush()
    return "".join(reader.shown)


_STRAIGHT = {
    **dict.fromkeys((0x2BC, *range(0x2018, 0x201C)), "'"),
    **dict.fromkeys(range(0x201C, 0x2020), '"'),
}
_LINE_ENDS = dict.fromkeys((0x85, 0x2028, 0x2029), "\n")
_LIGATURES = {
    code: unicodedata.normalize("NFKC", chr(code))
    for code in (0x132, 0x133, 0x149, *range(0x1C4, 0x1CD), *range(0x1F1, 0x1F4))
}
_LIGATURES |= {code: unicodedata.normalize("NFKC", chr(code)) for code in range(0xFB00, 0xFB07)}
_LIGATURES[0xFB05] = "\u017ft"
_WIDTHS = {
    code: unicodedata.normalize("NFKC", chr(code)) for code in (0x3000, *range(0xFF01, 0xFFF0))
}
_UNSEEN = dict.fromkeys(
    (
        *range(0x9),
        0xB,
        *range(0xE, 0x20),
        0x7F,
        *range(0x206A, 0x2070),
        0xFEFF,
        *range(0xFFF9, 0xFFFD),
    )
)


def _windows_1252(byte: int) -> str:
    """The character of a byte; the five bytes that have none stand for themselves."""
    try:
        return bytes([byte]).decode("windows-1252")
    except UnicodeDecodeError:
        return chr(byte)


_CONTROLS = {byte: _windows_1252(byte) for byte in range(0x80, 0xA0)}
_BYTES = {_windows_1252(byte): byte for byte in range(0x80, 0x100)}
_BYTES[" "] = 0xA0  # which programs make a space of


def _characters_repaired(text: str) -> str:
    """Characters of text that went through other programs, in their usual form."""
    before = None
    while text != before:
        before = text
        if "<" not in text:
            text = re.sub("&#?[0-9A-Za-z]{1,24};", lambda entity: html.unescape(entity[0]), text)
        text = re.sub("â[€‚](?: |[^\u0000-\u007f])", _decoded_again, text)
        text = text.translate(_CONTROLS).translate(_LIGATURES).translate(_WIDTHS)
        text = text.translate(_STRAIGHT).replace("\r\n", "\n").replace("\r", "\n")
        text = text.translate(_LINE_ENDS)
        text = unicodedata.normalize("NFC", text.translate(_UNSEEN))
    return text


def _decoded_again(match: re.Match) -> str:
    """The character whose bytes in UTF-8 are these; if there is none, they stay."""
    try:
        return bytes(_BYTES[character] for character in match[0]).decode("utf-8")
    except (KeyError, UnicodeDecodeError):
        return match[0]
