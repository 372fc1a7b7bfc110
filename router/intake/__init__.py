"""From a client's draft to a checked and tokenized request."""
