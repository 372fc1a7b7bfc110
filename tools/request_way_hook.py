"""Traces a process for tools/request_way.py, which runs it as the interpreter's sitecustomize.

Notes every function of the product that runs, in any thread. A window opens and closes when
messages pass the codec: messages are recognized by their class. Each window is one
line of the process's file.
"""

import json
import os
import sys
import threading
from types import CodeType, FrameType
from typing import Any

TREE = os.environ.get("TANDEM_WAY_TREE", "") + "/"
FOLDER = os.environ.get("TANDEM_WAY_FOLDER", "")
ROOMS = ("router/", "worker/", "kv_transfer/", "engine/", "runtime/", "wire/", "grammar/")
CODEC, SERVER = "wire/codec.py", "runtime/http/"
TOKENS = {"Step", "StepOutputs"}
ENDS = {"Released": "source", "Handed": "destination"}
"""Reports to the router that end a handoff."""
OPEN: dict[str, set[tuple[str, str]]] = {}
PLACES: dict[CodeType, tuple[str, str] | None] = {}
LOCK = threading.Lock()


def place(code: CodeType) -> tuple[str, str] | None:
    """File and function of the product's code; None for other code."""
    if code not in PLACES:
        file = code.co_filename.removeprefix(TREE)
        ours = code.co_filename.startswith(TREE) and file.startswith(ROOMS)
        PLACES[code] = (file, code.co_qualname) if ours and "<" not in code.co_name else None
    return PLACES[code]


def profile(frame: FrameType, event: str, argument: Any) -> None:
    if event not in ("call", "return") or (here := place(frame.f_code)) is None:
        return
    file, function = here
    with LOCK:
        if event == "call":
            if file.startswith(SERVER) and function.endswith("data_received"):
                OPEN["submit"] = set()
            for visits in OPEN.values():
                visits.add(here)
            if file == CODEC and function == "encode":
                passed("encode", type(frame.f_locals.get("message")).__name__)
        elif file == CODEC and function == "decode" and argument is not None:
            passed("decode", type(argument).__name__)


def passed(direction: str, message: str) -> None:
    """Opens and closes windows."""
    if direction == "encode" and message == "Submit":
        close("submit")
    elif direction == "decode" and message in TOKENS:
        close("token")
        OPEN["token"] = set()
    elif direction == "decode" and "token" in OPEN:
        del OPEN["token"]  # other messages came between: that is no token's way alone
    elif message == "Offer":
        OPEN["source" if direction == "encode" else "destination"] = set()
    elif direction == "encode" and message in ENDS:
        close(ENDS[message])


def close(name: str) -> None:
    """Write a window at once, since some processes are killed."""
    if name in OPEN:
        with open(f"{FOLDER}/{os.getpid()}.windows", "a") as file:
            file.write(json.dumps([name, sorted(OPEN.pop(name))]) + "\n")


if FOLDER:
    threading.setprofile(profile)
    sys.setprofile(profile)
