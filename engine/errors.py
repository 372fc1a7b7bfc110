"""The engine's error tree.

EngineError
├── CheckpointError    a model directory that cannot be read; names the file, tensor or key
├── ConfigError        settings that cannot work together; names them and says what would
├── KernelError        compiled kernels that cannot be had here; says why
├── SequenceError      a sequence that this engine can never run; names its attempt
└── GrammarsBusy       too many sequences wait for their grammars; others may have fewer
"""

from __future__ import annotations


class EngineError(Exception):
    """Anything that the engine refuses."""


class CheckpointError(EngineError):
    """The model directory is broken or of an unknown kind."""


class ConfigError(EngineError):
    """The engine's settings cannot be met on this machine."""


class KernelError(EngineError):
    """The kernels cannot be compiled or loaded here; PyTorch's operations take their place."""


class SequenceError(EngineError):
    """The sequence can never run here: too long, or larger than the whole block pool."""


class GrammarsBusy(EngineError):
    """More grammars are being compiled than may be at a time."""
