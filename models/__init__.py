"""The bundled checkpoints: what `tandem up` serves when it is told nothing else."""
