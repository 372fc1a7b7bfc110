"""Token ids in, token ids out: model, paged KV cache, prefix cache, batch, runner, sampler."""
