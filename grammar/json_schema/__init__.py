"""JSON schemas in the words that the grammar's compiler knows: what it lacks is said otherwise."""
