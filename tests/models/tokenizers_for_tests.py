"""A small byte-level BPE tokenizer with the formats' special tokens, made here."""

from functools import lru_cache

import pytest

NOT_SPECIAL = ("<think>", "</think>", "<minimax:tool_call>", "</minimax:tool_call>")
"""Added tokens that the published tokenizer does not call special."""

TEXT = [
    "You are a helpful assistant. You read files and run commands.",
    "system user assistant tool ai response invoke name parameter value command path",
    "def main():\n    return 0\n\nls -la /tmp\nprint('hello world')\n",
] * 20

# The rules of the format (FACTS: turns, thinking only after the last user turn, neighbouring tool
# messages in one turn, values raw or JSON), written for this test.
M2_TEMPLATE = """
{%- set ns = namespace(last=-1, first=0, sys=none) -%}
{%- if messages[0].role == 'system' -%}
{%- set ns.first = 1 -%}{%- set ns.sys = messages[0].content -%}
{%- endif -%}
{%- set talk = messages[ns.first:] -%}
{%- for m in talk -%}{%- if m.role == 'user' -%}{%- set ns.last = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{{- ']~!b[]~b]system\n' ~ (ns.sys or 'You are kind.') -}}
{%- if tools -%}
{{- '\n\nTOOLS:\n<tools>\n' -}}
{%- for t in tools -%}{{- '<tool>' ~ (t.function | tojson(ensure_ascii=False)) ~ '</tool>\n' -}}
{%- endfor -%}
{{- '</tools>\n\nUse <minimax:tool_call>x</minimax:tool_call>!' -}}
{%- endif -%}
{{- '[e~[\n' -}}
{%- for m in talk -%}
{%- if m.role == 'assistant' -%}
{{- ']~b]ai\n' -}}
{%- if m.reasoning_content and loop.index0 > ns.last -%}
{{- '<think>\n' ~ m.reasoning_content ~ '\n</think>\n\n' -}}
{%- endif -%}
{{- m.content -}}
{%- if m.tool_calls -%}
{{- '\n<minimax:tool_call>\n' -}}
{%- for c in m.tool_calls -%}
{{- '<invoke name="' ~ c.function.name ~ '">\n' -}}
{%- for k, v in c.function.arguments.items() -%}
{{- '<parameter name="' ~ k ~ '">' -}}
{{- (v if v is string else v | tojson(ensure_ascii=False)) ~ '</parameter>\n' -}}
{%- endfor -%}
{{- '</invoke>\n' -}}
{%- endfor -%}
{{- '</minimax:tool_call>' -}}
{%- endif -%}
{{- '[e~[\n' -}}
{%- elif m.role == 'tool' -%}
{%- if loop.first or talk[loop.index0 - 1].role != 'tool' -%}{{- ']~b]tool' -}}{%- endif -%}
{{- '\n<response>' ~ m.content ~ '</response>' -}}
{%- if loop.last or talk[loop.index0 + 1].role != 'tool' -%}{{- '[e~[\n' -}}{%- endif -%}
{%- else -%}
{{- ']~b]user\n' ~ m.content ~ '[e~[\n' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- ']~b]ai\n<think>\n' -}}{%- endif -%}
"""


@lru_cache
def small_tokenizer(*marks, template=""):
    """An `HfTokenizer` whose special tokens are ``marks``."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    from m2gym.models.tokenizer import HfTokenizer

    made = tokenizers.Tokenizer(tokenizers.models.BPE())
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet()
    )
    made.train_from_iterator(TEXT, trainer)
    made.add_special_tokens([str(mark) for mark in marks if mark not in NOT_SPECIAL])
    made.add_tokens([str(mark) for mark in marks if mark in NOT_SPECIAL])
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=made)
    fast.chat_template = template or None
    return HfTokenizer(fast)
