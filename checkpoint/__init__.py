"""What a Hugging Face model directory says, for routers and workers alike: both hear the same."""
