"""The errors of devices.

DeviceError
├── BadDevice     a device file that cannot be read; names the file and the key
├── BadShape      a model whose shape is unknown; names the file and the key
├── BadFit        measurements that do not determine the coefficients
└── DoesNotFit    a model that is too large for the device, or cannot be divided as asked
"""

from __future__ import annotations


class DeviceError(Exception):
    """Anything about a device that cannot be simulated."""


class BadDevice(DeviceError):
    """The device file is missing, broken or incomplete."""


class BadShape(DeviceError):
    """The model's shape is missing or cannot be simulated."""


class BadFit(DeviceError):
    """The measurements do not say what a step's parts take."""


class DoesNotFit(DeviceError):
    """The model's weights and the KV cache of one sequence do not fit, or heads cannot be
    divided."""
