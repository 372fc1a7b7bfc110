"""Lets a model call a tool, and answer with what the tool returned, with OpenAI's own package.

    pip install openai
    OPENAI_BASE_URL=http://127.0.0.1:8000/v1 python examples/openai_tools.py

The first answer must be a call here (`tool_choice="required"`), so that this works with any model,
the bundled one too. A model that has learned to use tools decides by itself with "auto".
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

from openai import OpenAI

QUESTION = "How warm is it in Paris?"
TEMPERATURE_TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_temperature",
        "description": "Tells the temperature in a city.",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "maxLength": 20},
                "unit": {"enum": ["celsius", "fahrenheit"]},
            },
            "required": ["city", "unit"],
            "additionalProperties": False,
        },
    },
}


def get_temperature(city: str, unit: str) -> dict[str, Any]:
    """A stand-in: a real tool would ask a weather service."""
    return {"city": city, "unit": unit, "temperature": 21 if unit == "celsius" else 70}


def main() -> int:
    client = OpenAI(api_key=os.environ.get("OPENAI_API_KEY", "none"))
    model = client.models.list().data[0].id
    messages: list[Any] = [{"role": "user", "content": QUESTION}]
    asked = client.chat.completions.create(
        model=model,
        messages=messages,
        tools=[TEMPERATURE_TOOL],
        tool_choice="required",
        parallel_tool_calls=False,
        max_tokens=300,
    )
    calling = asked.choices[0].message
    messages.append(calling.model_dump(exclude_none=True))
    for call in calling.tool_calls or []:
        arguments = json.loads(call.function.arguments)
        result = get_temperature(**arguments)
        print(f"{call.function.name}({json.dumps(arguments)}) -> {json.dumps(result)}")
        messages.append(
            {"role": "tool", "tool_call_id": call.id, "content": json.dumps(result)},
        )
    answer = client.chat.completions.create(
        model=model, messages=messages, tools=[TEMPERATURE_TOOL], max_tokens=64, stream=True
    )
    for chunk in answer:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
    print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
