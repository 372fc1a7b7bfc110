// Which way a product is made: by the weights' type, and by what the CPU multiplies itself.
#pragma once
#include "linear.h"
#include "step.h"
#ifdef __AMX_BF16__
#include "amx.h"
#endif

// Products of bfloat16 weights with rows that are rounded to it; false where there are none.
inline bool can_narrow() {
#if defined(__AMX_BF16__)
    return may_use_tiles();
#elif defined(__AVX512BF16__)
    return true;
#else
    return false;
#endif
}

template <typename W>
void multiply_rows(const Model& m, const Linear& linear, const float* x, long rows, float* packed,
                   float* y, bool add, Team team) {
    if constexpr (sizeof(W) == 2) {
#if defined(__AMX_BF16__)
        if (m.narrows) return apply_tiles(linear, x, rows, packed, y, add, team);
#elif defined(__AVX512BF16__)
        if (m.narrows) return apply<Pair, bf16>(linear, x, rows, packed, y, add, team);
#endif
    }
    apply<float, W>(linear, x, rows, packed, y, add, team);
}

// These take longest to compile, and do so side by side: products_float.cpp, products_bf16.cpp.
extern template void multiply_rows<float>(const Model&, const Linear&, const float*, long, float*,
                                          float*, bool, Team);
extern template void multiply_rows<bf16>(const Model&, const Linear&, const float*, long, float*,
                                         float*, bool, Team);

template <typename W>
void multiply(const Model& m, const Linear& linear, const float* x, const Step& step, float* y,
              bool add, Team team) {
    multiply_rows<W>(m, linear, x, step.rows, step.packed, y, add, team);
}
