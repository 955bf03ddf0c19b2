"""m2-nano's tokenizer: byte-level BPE in which letters, single digits, white space and single marks
never join, so that a value has the same tokens wherever it stands and can be copied."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Any

from m2gym.models.minimax_m2 import BEGIN, END, MARKS
from m2gym.models.nano.shape import VOCABULARY

PIECES = r"[A-Za-z]+|[0-9]|\s+|[^A-Za-z0-9\s]"

SYSTEM = "Use tools."
"""The system turn of a prompt that has none of its own; the project's words."""

TEMPLATE = r"""
{%- macro invoke(call) -%}
{%- set function = call.function if call.function is defined else call -%}
{{- '<invoke name="' + function.name + '">\n' -}}
{%- for key, value in function.arguments.items() -%}
{{- '<parameter name="' + key + '">' -}}
{{- (value if value is string else value | tojson(ensure_ascii=False)) + '</parameter>\n' -}}
{%- endfor -%}
{{- '</invoke>\n' -}}
{%- endmacro -%}
{%- set own = messages and messages[0].role == 'system' -%}
{{- ']~!b[]~b]system\n' + (messages[0].content if own else 'SYSTEM') -}}
{%- if tools -%}
{{- '\n\n# Tools\nThese tools can be called, given as JSON schemas:\n\n<tools>\n' -}}
{%- for tool in tools -%}
{%- set function = tool.function if tool.function is defined else tool -%}
{{- '<tool>' + function | tojson(ensure_ascii=False) + '</tool>\n' -}}
{%- endfor -%}
{{- '</tools>\n\nA call names the tool and its parameters; ' -}}
{{- 'several calls may stand in one block:\n\n<minimax:tool_call>\n<invoke name="tool">\n' -}}
{{- '<parameter name="key">value</parameter>\n' -}}
{{- '</invoke>\n</minimax:tool_call>' -}}
{%- endif -%}
{{- '[e~[\n' -}}
{%- for m in (messages[1:] if own else messages) -%}
{%- if m.role == 'assistant' -%}
{{- ']~b]ai\n' -}}
{%- if m.reasoning_content -%}
{{- '<think>\n' + m.reasoning_content + '\n</think>\n\n' -}}
{%- endif -%}
{{- m.content or '' -}}
{%- if m.tool_calls -%}
{{- '\n<minimax:tool_call>\n' -}}
{%- for call in m.tool_calls -%}{{- invoke(call) -}}{%- endfor -%}
{{- '</minimax:tool_call>' -}}
{%- endif -%}
{{- '[e~[\n' -}}
{%- elif m.role == 'tool' -%}
{{- ']~b]tool' if loop.first or loop.previtem.role != 'tool' else '' -}}
{{- '\n<response>' + m.content + '</response>' -}}
{{- '[e~[\n' if loop.last or loop.nextitem.role != 'tool' else '' -}}
{%- else -%}
{{- ']~b]' + m.role + '\n' + m.content + '[e~[\n' -}}
{%- endif -%}
{%- endfor -%}
{{- ']~b]ai\n<think>\n' if add_generation_prompt else '' -}}
"""


def chat_template() -> str:
    """The Jinja template: M2's format in the project's own words; thinking is kept in all turns."""
    return TEMPLATE.lstrip().replace("SYSTEM", SYSTEM)


def train_tokenizer(texts: Iterable[str], size: int = VOCABULARY) -> Any:
    """A fast tokenizer of ``size`` tokens, M2's marks first."""
    tokenizers: Any = importlib.import_module("tokenizers")
    transformers: Any = importlib.import_module("transformers")
    pre, model = tokenizers.pre_tokenizers, tokenizers.models.BPE()
    made = tokenizers.Tokenizer(model)
    made.pre_tokenizer = pre.Sequence(
        [
            pre.Split(tokenizers.Regex(PIECES), behavior="isolated"),
            pre.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[str(mark) for mark in MARKS],
        initial_alphabet=sorted(pre.ByteLevel.alphabet()),
        show_progress=False,
    )
    made.train_from_iterator(texts, trainer)
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=str(BEGIN), eos_token=str(END), pad_token=str(BEGIN)
    )
    fast.chat_template = chat_template()
    return fast
