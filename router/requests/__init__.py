"""A request and its prompt, as all of the router knows them."""
