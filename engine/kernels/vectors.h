// Vectors of 16 floats, in the compiler's own notation: it finds the instructions of any CPU.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

using Vec = float __attribute__((vector_size(64)));
using Bits = uint32_t __attribute__((vector_size(64)));
using Ints = int32_t __attribute__((vector_size(64)));
constexpr long LANES = 16;

// The upper half of a float.
struct bf16 {
    uint16_t bits;
};

inline Vec load(const float* from) {
    Vec vector;
    memcpy(&vector, from, sizeof vector);
    return vector;
}

inline Vec load(const bf16* from) {
    uint16_t __attribute__((vector_size(32))) halves;
    memcpy(&halves, from, sizeof halves);
    return (Vec)(__builtin_convertvector(halves, Bits) << 16);
}

// Two vectors of inputs, from floats as they lie and from pairs of bfloat16 by their halves.
inline Vec first_half(const float* from) { return load(from); }
inline Vec second_half(const float* from) { return load(from + LANES); }

inline Bits load_pairs(const bf16* from) {
    Bits pairs;
    memcpy(&pairs, from, sizeof pairs);
    return pairs;
}

inline Vec first_half(const bf16* from) { return (Vec)(load_pairs(from) << 16); }
inline Vec second_half(const bf16* from) { return (Vec)(load_pairs(from) & 0xffff0000u); }

inline Vec evens(Vec a, Vec b) {
    return __builtin_shufflevector(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
}
inline Vec odds(Vec a, Vec b) {
    return __builtin_shufflevector(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
}

// The first `count` lanes from memory, zero in the others.
template <typename T> Vec load_part(const T* from, long count) {
    T padded[LANES] = {};
    memcpy(padded, from, count * sizeof(T));
    return load(padded);
}

// The lanes that are there, at most all of them.
template <typename T> Vec load_upto(const T* from, long count) {
    return count >= LANES ? load(from) : load_part(from, std::max(0L, count));
}

inline void store(float* to, Vec vector) { memcpy(to, &vector, sizeof vector); }

inline float widened(float value) { return value; }
inline float widened(bf16 value) {
    uint32_t bits = uint32_t(value.bits) << 16;
    float wide;
    memcpy(&wide, &bits, sizeof wide);
    return wide;
}

inline void narrow(float value, float* to) { *to = value; }
inline void narrow(float value, bf16* to) {
    uint32_t bits;
    memcpy(&bits, &value, sizeof bits);
    // Round to nearest, ties to even; NaN must not be rounded up to infinity.
    to->bits = value != value ? 0x7fc0 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}

// The sum of each of 8 vectors' lanes; every vector is added up in the same order.
inline void sum_lanes(const Vec* v, float* sums) {
#define FOLD(a, b, ...) (__builtin_shufflevector(a, b, __VA_ARGS__))
#define HALVES(a, b)                                                                   \
    (FOLD(a, b, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23) +             \
     FOLD(a, b, 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31))
#define QUARTERS(a, b)                                                                 \
    (FOLD(a, b, 0, 1, 2, 3, 8, 9, 10, 11, 16, 17, 18, 19, 24, 25, 26, 27) +           \
     FOLD(a, b, 4, 5, 6, 7, 12, 13, 14, 15, 20, 21, 22, 23, 28, 29, 30, 31))
    Vec low = QUARTERS(HALVES(v[0], v[1]), HALVES(v[2], v[3]));
    Vec high = QUARTERS(HALVES(v[4], v[5]), HALVES(v[6], v[7]));
    Vec pairs = FOLD(low, high, 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29) +
                FOLD(low, high, 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31);
    Vec both = pairs + FOLD(pairs, pairs, 1, 0, 3, 2, 5, 4, 7, 6, 9, 8, 11, 10, 13, 12, 15, 14);
    auto ordered = FOLD(both, both, 0, 4, 8, 12, 2, 6, 10, 14);
    memcpy(sums, &ordered, sizeof ordered);
#undef QUARTERS
#undef HALVES
#undef FOLD
}

inline float sum_lanes(Vec vector) {
    Vec all[8] = {vector};
    float sums[8];
    sum_lanes(all, sums);
    return sums[0];
}

// Rows of a square become its columns.
inline void transpose(Vec* square) {
    for (int round = 0; round < 4; ++round) {  // each moves every element's place by one bit
        Vec mixed[LANES];
        for (int i = 0; i < LANES / 2; ++i) {
            Vec low = square[i], high = square[i + LANES / 2];
            mixed[2 * i] = __builtin_shufflevector(low, high, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20,
                                                   5, 21, 6, 22, 7, 23);
            mixed[2 * i + 1] = __builtin_shufflevector(low, high, 8, 24, 9, 25, 10, 26, 11, 27,
                                                       12, 28, 13, 29, 14, 30, 15, 31);
        }
        memcpy(square, mixed, sizeof mixed);
    }
}

// e to the x, to about one unit in the last place; exactly 0 below -87.
inline Vec exponential(Vec x) {
    Vec clamped = x > 88.0f ? Vec{} + 88.0f : x;
    Vec scaled = clamped * 1.44269504f;
    Vec turns = (scaled + 12582912.0f) - 12582912.0f;  // rounds to a whole number
    Vec rest = (clamped - turns * 0.693359375f) + turns * 2.12194440e-4f;
    Vec series = rest * 1.9875691500e-4f + 1.3981999507e-3f;
    for (float next : {8.3334519073e-3f, 4.1665795894e-2f, 1.6666665459e-1f, 0.5f})
        series = series * rest + next;
    Vec fraction = series * rest * rest + rest + 1.0f;
    Vec power = (Vec)((__builtin_convertvector(turns, Ints) + 127) << 23);
    return x < -87.0f ? Vec{} : fraction * power;
}
