// What a step is given: sizes, the cache, the sequences' places in it, and memory to work in.
#pragma once
#include "panels.h"

struct Model {
    long hidden, inner, heads, kv_heads, head_size;
    long is_bf16, narrows;  // weights are bfloat16; products round what they read to it, too
    float eps;
};

// The cache, [blocks, layers, 2, kv_heads, block_size, head_size]; block_size is a power of two.
struct Cache {
    void* base;
    long layers, block_size, is_bf16;
};

// Tokens [start, start + count) of a sequence, from row `row` of the step on.
struct Span {
    long row, start, count, blocks;  // its block table begins there among the step's
};

struct Step {
    long rows, num_spans, num_threads, by_position;
    const Span* spans;
    const int32_t* blocks;
    const float *cosines, *sines;  // [rows or positions, head_size / 2]
    float* hidden;  // [rows, hidden]
    float* narrow;  // [rows, hidden] or [rows, heads * head_size]
    float* wide;    // [rows, (heads + 2 kv_heads) * head_size], or [rows, 2 inner] and [rows, inner]
    float* packed;  // packed_size() of the product at work
};

// Keys (part 0) or values (part 1) of one head from `position` on, up to the block's end.
template <typename C>
C* slots(const Model& m, const Cache& cache, long layer, const int32_t* blocks, long position,
         long part, long head) {
    // Divisions by a number that only runtime knows would take longer than what they find.
    long block = blocks[position >> __builtin_ctzl(cache.block_size)];
    long tile = (block * cache.layers + layer) * 2 + part;
    long row = (tile * m.kv_heads + head) * cache.block_size + (position & (cache.block_size - 1));
    return (C*)cache.base + row * m.head_size;
}
