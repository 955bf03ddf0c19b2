"""Text ↔ token ids, with special tokens apart: text never turns into a special token.

So a file that holds ``<|im_end|>`` cannot end a turn when an agent reads it.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from m2gym.core.errors import InputError


class Tokenizer(Protocol):
    """What a chat format needs."""

    def encode(self, text: str) -> list[int]:
        """Ids of plain text; nothing is added, no special token is recognised."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text, special tokens spelt out."""
        ...

    def special(self, token: str) -> int | None:
        """Id of a token that is one by itself, ``None`` where it is spelt in several."""
        ...

    @property
    def vocabulary(self) -> int: ...


class ByteTokenizer:
    """UTF-8 bytes (ids 0–255), then ``specials``: for tests and models without a tokenizer.

    >>> t = ByteTokenizer(["<|im_end|>"])
    >>> t.encode("é"), t.special("<|im_end|>"), t.decode([104, 105, 256])
    ([195, 169], 256, 'hi<|im_end|>')
    """

    def __init__(self, specials: Sequence[str] = ()) -> None:
        self._ids = {token: 256 + n for n, token in enumerate(specials)}
        self._tokens = {id: token.encode() for token, id in self._ids.items()}

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8", "surrogatepass"))

    def decode(self, ids: Sequence[int]) -> str:
        raw = b"".join(self._tokens[i] if i > 255 else bytes((i,)) for i in ids)
        return raw.decode("utf-8", "replace")

    def special(self, token: str) -> int | None:
        return self._ids.get(token)

    @property
    def vocabulary(self) -> int:
        return 256 + len(self._ids)


class HfTokenizer:
    """A fast tokenizer of Hugging Face's ``transformers``, from a folder or already loaded."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        added = tokenizer.get_added_vocab()
        self._ids: dict[str, int] = {str(token): int(id) for token, id in added.items()}
        marks = sorted((t for t in self._ids if _is_mark(t)), key=len, reverse=True)
        self._marks = re.compile("|".join(map(re.escape, marks))) if marks else None

    @classmethod
    def load(cls, path: str | Path) -> HfTokenizer:
        """From a folder with ``tokenizer.json``; nothing is downloaded.

        Raises:
            InputError: there is no such folder, or no tokenizer in it that can be read.
        """
        try:
            transformers: Any = importlib.import_module("transformers")
        except ModuleNotFoundError as error:
            raise InputError("tokenizers need transformers: pip install 'm2gym[train]'") from error
        if not Path(path).is_dir():
            raise InputError(f"expected a folder with tokenizer.json, got {path}")
        try:
            found = transformers.AutoTokenizer.from_pretrained(str(path), local_files_only=True)
        except (OSError, ValueError) as error:
            reason = str(error).partition("\n")[0].rstrip(" :")
            raise InputError(
                f"expected a tokenizer (tokenizer.json) in {path}, which cannot be read: {reason}"
            ) from error
        return cls(found)

    def encode(self, text: str) -> list[int]:
        """Ids of plain text.

        Added tokens that are not "special" to the library (``<think>``) would still be found in
        it: the text is cut within each, so that none is.
        """
        if self._marks is None or self._marks.search(text) is None:
            return self._plain(text)
        ids: list[int] = []
        begun = 0
        for match in self._marks.finditer(text):
            ids += self._plain(text[begun : match.start() + 1])
            begun = match.start() + 1
        return ids + self._plain(text[begun:])

    def _plain(self, text: str) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, split_special_tokens=True)[
            "input_ids"
        ]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        return str(
            self.tokenizer.decode(
                list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
            )
        )

    def special(self, token: str) -> int | None:
        return self._ids.get(token)

    @property
    def vocabulary(self) -> int:
        return len(self.tokenizer)

    @property
    def chat_template(self) -> str:
        """The model's own Jinja template, empty where it has none."""
        return str(self.tokenizer.chat_template or "")

    def apply_template(
        self, messages: Sequence[dict[str, Any]], tools: Sequence[dict[str, Any]] = ()
    ) -> str:
        """The template's text for a prompt."""
        return str(
            self.tokenizer.apply_chat_template(
                list(messages),
                tools=list(tools) or None,
                tokenize=False,
                add_generation_prompt=True,
            )
        )


def _is_mark(token: str) -> bool:
    """Whether an added token is markup, not a stretch of white space or a word."""
    return len(token) > 1 and any(c in token for c in "<>[]|{}")
