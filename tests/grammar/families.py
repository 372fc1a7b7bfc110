"""Tokenizers as the model families have them, small: what matters are their added tokens."""

from __future__ import annotations

import string
from collections.abc import Mapping

from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

END = "<|end|>"
LINES = ["the tool call has a name and arguments", "to add a city: Paris, 12 days", "I think so"]


def byte_level(added: Mapping[str, bool]) -> Tokenizer:
    """Like Qwen's, Llama 3's and DeepSeek's. `added` says of each added token whether it is
    special; `END` always is there."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[AddedToken(END, special=True)],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES, trainer)
    return _with(tokenizer, added)


def byte_fallback(added: Mapping[str, bool]) -> Tokenizer:
    """Like those of Llama 2 and the first Mistral models, which SentencePiece made."""
    letters = sorted({*string.ascii_letters, *string.digits, *string.punctuation, " ", "\n"})
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    words = [END, "<unk>", *bytes_, *(letter.replace(" ", "▁") for letter in letters), "▁▁"]
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(
        models.BPE(vocabulary, [("▁", "▁")], unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    )
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    tokenizer.add_special_tokens([AddedToken(END, special=True, normalized=False)])
    return _with(tokenizer, added)


FAMILIES = {"byte level": byte_level, "byte fallback": byte_fallback}


def _with(tokenizer: Tokenizer, added: Mapping[str, bool]) -> Tokenizer:
    for text, special in added.items():
        tokenizer.add_tokens([AddedToken(text, special=special, normalized=False)])
    return tokenizer
