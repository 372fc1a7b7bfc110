"""Devices as the simulation sees them: read from files, turned into the coefficients of a step.

A device file has the figures of a data sheet (memory, bandwidth, arithmetic), coefficients fitted
to measurements, or the measured steps themselves (`device.py`). With a model's shape
(`model_shape.py`) they give a `sim.machine.MachineModel` (`roofline.py`, `fit.py`)::

    device, shape = read_device("h100"), shape_of(Path("models/llama-8b"))
    pool = WorkerPool(Role.DECODE, 4, machine_of(device, shape, tensor_parallel=2))

`figures/` has the devices that are known by name.
"""
