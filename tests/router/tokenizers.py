"""Small tokenizers with the structure of those that models are published with, made on the spot."""

from __future__ import annotations

import json
from collections.abc import Callable

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

LINES = [
    "The capital of France is Paris. The capital of Italy is Rome.",
    "true or false, it is true; a truth is not untrue",
    "Hello, world! Say hello to the world.",
    "def add(a, b):\n    return a + b\n",
    "naïve café, 12345 and 你好",
]
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
LLAMA2_SPECIAL = ["<unk>", "<s>", "</s>"]
GEMMA_SPECIAL = ["<pad>", "<eos>", "<bos>", "<unk>", "<start_of_turn>", "<end_of_turn>"]
CHAT_SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
DEEPSEEK_SPECIAL = ["<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>"]
QWEN_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def llama2() -> Tokenizer:
    """Llama-2, TinyLlama, and Mistral up to 0.3: blanks by a normalizer, the first one stripped."""
    tokenizer = _sentencepiece(LLAMA2_SPECIAL)
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(content=" ", left=1),
        ]
    )
    return _with_bos(tokenizer, "<s>")


def mistral() -> Tokenizer:
    """As current releases save it: blanks by a pre-tokenizer, the same decoder."""
    tokenizer = llama2()
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="first", split=False)
    return tokenizer


def gemma() -> Tokenizer:
    """No blank is added before a text, none is stripped."""
    tokenizer = _sentencepiece(GEMMA_SPECIAL)
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return _with_bos(tokenizer, "<bos>")


def unigram() -> Tokenizer:
    """SentencePiece's other model, with the decoder that counts tokens."""
    words = {f"▁{word}" for line in LINES for word in line.split()}
    pieces = [*LLAMA2_SPECIAL, *sorted(words), *sorted({*"".join(LINES), "▁"})]
    scored = [(piece, -float(index > len(words)) * 10 - 1) for index, piece in enumerate(pieces)]
    tokenizer = Tokenizer(models.Unigram(scored, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace("▁", prepend_scheme="always")
    tokenizer.add_special_tokens(LLAMA2_SPECIAL)
    return _with_bos(tokenizer, "<s>")


def qwen2() -> Tokenizer:
    """Qwen2.5: bytes, NFC, and marks of calls that are added tokens but not special ones."""
    split = pre_tokenizers.Split(Regex(QWEN_SPLIT), "isolated")
    tokenizer = _byte_level([split], CHAT_SPECIAL)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_tokens([AddedToken("<tool_call>", normalized=False, special=False)])
    return tokenizer


def deepseek() -> Tokenizer:
    """DeepSeek-V2 and its distillations: several splits before the bytes."""
    splits = [
        pre_tokenizers.Split(Regex(r"\p{N}{1,3}"), "isolated"),
        pre_tokenizers.Split(Regex("[一-龥぀-ゟ゠-ヿ]+"), "isolated"),
    ]
    return _with_bos(_byte_level(splits, DEEPSEEK_SPECIAL), DEEPSEEK_SPECIAL[0])


FAMILIES: dict[str, Callable[[], Tokenizer]] = {
    "llama2": llama2,
    "mistral": mistral,
    "gemma": gemma,
    "unigram": unigram,
    "qwen2": qwen2,
    "deepseek": deepseek,
}


def _sentencepiece(special: list[str]) -> Tokenizer:
    """BPE over characters, blanks written as U+2581, bytes for what it does not know."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace("▁", prepend_scheme="always")
    trainer = trainers.BpeTrainer(vocab_size=160, show_progress=False)
    trained.train_from_iterator(LINES[:4], trainer)  # the last line's letters stay unknown
    model = json.loads(trained.to_str())["model"]
    pieces = [*special, *BYTES, *model["vocab"]]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={piece: index for index, piece in enumerate(pieces)},
            merges=[tuple(merge) for merge in model["merges"]],
            unk_token="<unk>",
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    tokenizer.add_special_tokens(special)
    return tokenizer


def _byte_level(splits: list[pre_tokenizers.PreTokenizer], special: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [*splits, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[AddedToken(token, special=True) for token in special],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(LINES, trainer)
    return tokenizer


def _with_bos(tokenizer: Tokenizer, bos: str) -> Tokenizer:
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", special_tokens=[(bos, tokenizer.token_to_id(bos))]
    )
    return tokenizer
