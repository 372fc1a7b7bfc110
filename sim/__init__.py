"""A cluster in virtual time: a clock that nobody waits for drives the deciders of production."""
