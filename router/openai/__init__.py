"""The OpenAI API: request bodies to the router's requests, and answers to response bodies."""
