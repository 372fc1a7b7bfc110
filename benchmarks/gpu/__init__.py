"""The engine on a GPU: variants compared with each other, and speed relative to the device's
limits."""
