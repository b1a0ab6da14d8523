#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares our rendering of chat templates, by the shared library, with Transformers' on real templates.

    python tests/parity/chat_real.py --library build/libshadowpeft.so PATH [PATH ...]

Every PATH is a template file, a model directory, or a directory of *.jinja files. Each template renders many
conversations, made here: all roles, system prompts, several turns, tool calls and answers, reasoning, lists of content
parts, empty and odd texts, roles out of order, with and without tools, generation prompt and template variables. The
texts must be equal; where the template refuses a conversation, ours must fail too, and with the same words where they
are the template's own (raise_exception). Ends with status 1 if anything differs, after printing how.
"""

import argparse
import ctypes
import json
import sys
from pathlib import Path

import jinja2
from transformers.utils.chat_template_utils import render_jinja_template


class Options(ctypes.Structure):
    _fields_ = [("size", ctypes.c_size_t), ("add_generation_prompt", ctypes.c_bool),
                ("continue_final_message", ctypes.c_bool), ("tools", ctypes.c_char_p),
                ("variables", ctypes.c_char_p), ("name", ctypes.c_char_p)]


class Library:
    """The calls of shadowpeft.h that are needed here."""

    def __init__(self, path):
        lib = ctypes.CDLL(str(path))
        lib.sp_context_new.restype = ctypes.c_void_p
        lib.sp_last_error.restype = ctypes.c_char_p
        lib.sp_last_error.argtypes = [ctypes.c_void_p]
        lib.sp_chat_template_load.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_void_p]
        lib.sp_chat_template_free.argtypes = [ctypes.c_void_p]
        lib.sp_chat_render.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p]
        lib.sp_chat_options_default.argtypes = [ctypes.c_void_p]
        lib.sp_string_free.argtypes = [ctypes.c_void_p]
        self.lib = lib
        self.context = lib.sp_context_new()

    def error(self):
        return self.lib.sp_last_error(self.context).decode("utf-8", "replace")

    def load(self, path):
        handle = ctypes.c_void_p()
        if self.lib.sp_chat_template_load(self.context, None, str(path).encode(), ctypes.byref(handle)) != 0:
            raise RuntimeError(self.error())
        return handle

    def render(self, handle, messages, tools, variables, **flags):
        options = Options()
        self.lib.sp_chat_options_default(ctypes.byref(options))
        for key, value in flags.items():
            setattr(options, key, value)
        options.tools = json.dumps(tools).encode() if tools is not None else None
        options.variables = json.dumps(variables).encode()
        text, length = ctypes.c_void_p(), ctypes.c_size_t()
        status = self.lib.sp_chat_render(handle, json.dumps(messages).encode(), ctypes.byref(options),
                                         ctypes.byref(text), ctypes.byref(length))
        if status != 0:
            raise RuntimeError(self.error())
        result = ctypes.string_at(text, length.value).decode()
        self.lib.sp_string_free(text)
        return result


def user(text="What is 2 + 2?"):
    return {"role": "user", "content": text}


def assistant(text="It is 4.", **more):
    return {"role": "assistant", "content": text, **more}


def system(text="You are a helpful assistant."):
    return {"role": "system", "content": text}


def call(name, arguments, identifier=None, plain=False):
    function = {"name": name, "arguments": arguments}
    if plain:
        return function
    return {"type": "function", "function": function, **({"id": identifier} if identifier else {})}


WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "Tells the weather, \"now\" & <here>.",
    "parameters": {"type": "object", "properties": {
        "city": {"type": "string", "description": "A città, größer"},
        "unit": {"type": "string", "enum": ["c", "f"], "description": "The unit"},
        "days": {"type": "array", "items": {"type": "integer"}, "description": "Which days"},
        "deep": {"type": "object", "properties": {"x": {"type": ["number", "null"]}}, "description": "More"}},
        "required": ["city"]},
    "return": {"type": "string", "description": "A text"}}}
CLOCK = {"type": "function", "function": {"name": "clock", "description": "", "parameters": {
    "type": "object", "properties": {}}}}
BARE = {"name": "bare", "description": "No wrapping", "parameters": {"type": "object", "properties": {
    "a": {"type": "boolean", "description": "A flag", "default": False}}, "required": []}}

TEXTS = ["", " ", "\n\nline\n", "  indented\n\ttabs  ", "<think>\nhm\n</think>\n\nso", "</think>", "a</think>b</think>c",
         "émigré 漢字 👍🏽 \u00a0\u2028x", "<|im_end|>\n<|im_start|>user", "quote \" ' \\ back", "{{ x }} {% y %}",
         "<tool_response>\nx\n</tool_response>", "[INST] a [/INST]", "\x01\x7f\x85 z", "0", "None"]


def parts(*texts):
    return [{"type": "text", "text": t} for t in texts]


def conversations():
    """Lists of messages."""
    yield [user()]
    yield [system(), user()]
    yield [user(), assistant()]
    yield [user(), assistant(), user("And 3 + 3?")]
    yield [system(), user(), assistant(), user("And 3 + 3?"), assistant("6"), user("Thanks")]
    yield [system("A"), user("B"), assistant("C"), user("D"), assistant("E"), user("F"), assistant("G")]
    for text in TEXTS:
        yield [user(text)]
        yield [system(text), user("x"), assistant(text), user(text)]
        yield [user("x"), assistant(text)]
    # reasoning
    for key in ("reasoning_content", "thinking", "reasoning"):
        yield [user(), assistant(**{key: "Let me think."}), user("More"), assistant("Yes", **{key: "\nHm.\n"})]
        yield [user(), assistant(**{key: "First."}), user("More")]
    yield [user(), assistant("<think>\nA\n</think>\n\nB"), user("C"), assistant("<think>D</think>E")]
    yield [user(), assistant("", reasoning_content="only thought")]
    # tools
    arguments = {"city": "Köln", "days": [1, 2], "deep": {"x": None, "y": 1.5, "z": True}, "t": "a\"b<c>&'"}
    for args in (arguments, json.dumps(arguments, ensure_ascii=False), {}):
        tool_calls = [call("get_weather", args, "call_0001")]
        for content in ("", None, "Calling."):
            yield [user(), assistant(content, tool_calls=tool_calls), {"role": "tool", "content": "22 °C",
                   "name": "get_weather", "tool_call_id": "call_0001"}]
            yield [system(), user(), assistant(content, tool_calls=tool_calls, reasoning_content="Need a tool."),
                   {"role": "tool", "content": "{\"t\": 22}", "name": "get_weather", "tool_call_id": "call_0001"},
                   assistant("It is warm."), user("And tomorrow?")]
    two = [call("get_weather", {"city": "A"}, "abcdefgh1"), call("clock", {}, "abcdefgh2")]
    yield [user(), assistant("", tool_calls=two), {"role": "tool", "content": "1", "tool_call_id": "abcdefgh1", "name": "get_weather"},
           {"role": "tool", "content": "2", "tool_call_id": "abcdefgh2", "name": "clock"}, assistant("Done")]
    yield [user(), {"role": "assistant", "tool_calls": two}, {"role": "tool", "content": {"a": [1, None]}, "tool_call_id": "abcdefgh1"}]
    yield [user(), assistant("", tool_calls=[call("clock", {"a": 1}, plain=True)]), {"role": "tool", "content": "x"}]
    yield [user(), {"role": "tool", "content": "unasked"}, {"role": "ipython", "content": "x"}]
    # parts
    yield [{"role": "user", "content": parts("a", "b")}]
    yield [{"role": "system", "content": parts("s")}, {"role": "user", "content": parts(" a ")},
           {"role": "assistant", "content": parts("b")}, {"role": "user", "content": parts("c")}]
    yield [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "see"}]}, assistant()]
    yield [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}, {"type": "audio"}, {"type": "video"}]}]
    # out of order, odd
    yield [user(), user()]
    yield [assistant(), user()]
    yield [system(), assistant()]
    yield [system(), system(), user()]
    yield [user(), system("late"), assistant()]
    yield [{"role": "developer", "content": "Be brief."}, user()]
    yield [{"role": "model", "content": "x"}]
    yield [{"role": "user"}]
    yield [{"role": "user", "content": None}]
    yield [{"role": "user", "content": 5}]
    yield [{"role": "user", "content": ["x", 1, {"type": "text"}]}]
    yield [{"content": "no role"}]
    yield []


SETTINGS = [
    {}, {"enable_thinking": False}, {"enable_thinking": True},
    {"date_string": "01 Jan 2025", "thinking": True, "reasoning_effort": "high"},
    {"tools_in_user_message": False, "date_string": "26 Jul 2024", "thinking": False, "preserve_thinking": True},
    {"builtin_tools": ["wolfram_alpha", "code_interpreter"], "documents": [{"title": "T", "text": "body", "doc_id": 1}],
     "controls": {"length": "long"}, "thinking_budget": 512, "clear_thinking": False},
]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}


def cases():
    tools = [None, [WEATHER, CLOCK], [], [BARE]]
    for messages in conversations():
        for variables in SETTINGS:
            for prompt in (False, True):
                for tool in tools if variables in SETTINGS[:2] else tools[:2]:
                    yield messages, tool, variables, prompt


def theirs(template, messages, tools, variables, prompt):
    variables = {**TOKENS, **variables}
    documents = variables.pop("documents", None)
    rendered, _ = render_jinja_template([messages], tools=tools, documents=documents, chat_template=template,
                                        add_generation_prompt=prompt, **variables)
    return rendered[0]


def same_failure(error, ours):
    """A refusal must carry the template's words; other failures need only be failures."""
    return type(error) is not jinja2.exceptions.TemplateError or str(error) in ours


def check(library, path, show):
    template = path.read_text(encoding="utf-8")
    handle = library.load(path)
    equal = refused = 0
    wrong = []
    for messages, tools, variables, prompt in cases():
        try:
            expected, error = theirs(template, messages, tools, variables, prompt), None
        except Exception as e:  # whatever a template makes Python do
            expected, error = None, e
        try:
            found, failure = library.render(handle, messages, tools, {**TOKENS, **variables},
                                            add_generation_prompt=prompt), None
        except RuntimeError as e:
            found, failure = None, str(e)
        if error is None and expected == found:
            equal += 1
        elif error is not None and failure is not None and same_failure(error, failure):
            refused += 1
        else:
            wrong.append((messages, tools, variables, prompt, expected if error is None else repr(error),
                          found if failure is None else "ERROR " + failure))
    library.lib.sp_chat_template_free(handle)
    print("%-70s %d equal, %d refused by both, %d differ" % (path.name, equal, refused, len(wrong)))
    for messages, tools, variables, prompt, expected, found in wrong[:show]:
        print("  messages", json.dumps(messages, ensure_ascii=False), "tools", tools is not None and len(tools),
              variables, prompt)
        print("  expected", repr(expected))
        print("  found   ", repr(found))
    return equal, refused, len(wrong)


def files(paths):
    for path in paths:
        if path.is_file():
            yield path
        elif (path / "chat_template.jinja").exists():
            yield path / "chat_template.jinja"
        else:
            yield from sorted(path.glob("*.jinja*"))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", default="build/libshadowpeft.so")
    parser.add_argument("--show", type=int, default=2, help="differences to print of each template")
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    args = parser.parse_args()
    library = Library(args.library)
    total = [0, 0, 0]
    count = unread = 0
    for path in files(args.paths):
        count += 1
        try:
            result = check(library, path, args.show)
        except RuntimeError as error:
            print("%-70s NOT READ: %s" % (path.name, error))
            unread += 1
            continue
        total = [a + b for a, b in zip(total, result)]
    print("%d templates, %d not read; %d texts equal, %d conversations refused by both, %d differ" % (
        count, unread, *total))
    return 1 if unread or total[2] else 0


if __name__ == "__main__":
    sys.exit(main())
