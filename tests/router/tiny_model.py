"""The text side of a tiny model, made on the spot: byte-level BPE over a few lines."""

from __future__ import annotations

import json
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from router.config import ServedModelConfig

VOCAB_SIZE = 400
MAX_MODEL_LEN = 256
SPECIAL = ["<|bos|>", "<|eos|>", "<|user|>", "<|assistant|>", "<|system|>"]
BOS, EOS, USER, ASSISTANT, SYSTEM = range(5)
TEMPLATE = (
    "{{ bos_token }}"
    "{% if tools %}<|system|>{{ tools | tojson }}<|eos|>{% endif %}"
    "{% for message in messages %}"
    "{% if message['role'] not in ['user', 'assistant', 'system', 'tool'] %}"
    "{{ raise_exception('no role ' + message['role']) }}{% endif %}"
    "<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% for call in message['tool_calls'] or [] %}"
    "{{ call['function']['name'] }}({{ call['function']['arguments'] | tojson }})"
    "{% endfor %}<|eos|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
LINES = [
    "the quick brown fox jumps over the lazy dog",
    "a tandem has two wheels and two riders",
    "one reads, the other writes, and the wheels turn",
]


def one_model(directory: Path) -> dict[str, ServedModelConfig]:
    """The models of a router that serves this one, as "tiny"."""
    return {"tiny": ServedModelConfig(path=str(directory))}


def train_tokenizer() -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", special_tokens=[("<|bos|>", BOS)]
    )
    return tokenizer


def write_model(directory: Path, max_model_len: int = MAX_MODEL_LEN) -> Path:
    """Everything of a model directory that the router reads."""
    directory.mkdir(parents=True, exist_ok=True)
    train_tokenizer().save(str(directory / "tokenizer.json"))
    _write(
        directory / "tokenizer_config.json",
        {"bos_token": {"content": "<|bos|>"}, "eos_token": "<|eos|>", "chat_template": TEMPLATE},
    )
    _write(
        directory / "config.json",
        {
            "vocab_size": VOCAB_SIZE,
            "max_position_embeddings": max_model_len,
            "eos_token_id": EOS,
        },
    )
    _write(directory / "generation_config.json", {"eos_token_id": [EOS]})
    return directory


def _write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))
