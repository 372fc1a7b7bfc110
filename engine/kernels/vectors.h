// Vectors as wide as the CPU's registers, in the compiler's own notation.
#pragma once
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <utility>

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#elif defined(__AVX__)
#define VECTOR_BYTES 32
#else  // NEON, or SSE
#define VECTOR_BYTES 16
#endif

using Vec = float __attribute__((vector_size(VECTOR_BYTES)));
using Bits = uint32_t __attribute__((vector_size(VECTOR_BYTES)));
using Ints = int32_t __attribute__((vector_size(VECTOR_BYTES)));
constexpr long LANES = VECTOR_BYTES / 4;

#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int REGISTERS = 32;
#else
constexpr int REGISTERS = 16;
#endif

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
    uint16_t __attribute__((vector_size(VECTOR_BYTES / 2))) halves;
    memcpy(&halves, from, sizeof halves);
    return (Vec)(__builtin_convertvector(halves, Bits) << 16);
}

// Pairs of bfloat16 as one number each, and the floats that are their halves.
inline Bits load_pairs(const bf16* from) {
    Bits pairs;
    memcpy(&pairs, from, sizeof pairs);
    return pairs;
}
inline Vec first_of(Bits pairs) { return (Vec)(pairs << 16); }
inline Vec second_of(Bits pairs) { return (Vec)(pairs & 0xffff0000u); }

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

inline void store_upto(float* to, Vec vector, long count) {
    if (count >= LANES) store(to, vector);
    else if (count > 0) memcpy(to, &vector, count * sizeof(float));
}

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

// The sum of all lanes, always in the same order: halves are added until one lane is left.
inline float sum_lanes(Vec vector) {
    float lanes[LANES];
    memcpy(lanes, &vector, sizeof lanes);
    for (long half = LANES / 2; half; half /= 2)
        for (long i = 0; i < half; ++i) lanes[i] += lanes[half + i];
    return lanes[0];
}

// Lanes of a and b in turns: the first half of them, or with `at` = LANES / 2 the second.
template <long at, size_t... I> Vec interleave(Vec a, Vec b, std::index_sequence<I...>) {
    return __builtin_shufflevector(a, b, (I % 2 * LANES + I / 2 + at)...);
}

// Rows of a square become its columns.
inline void transpose(Vec* square) {
    constexpr auto lanes = std::make_index_sequence<LANES>{};
    for (long moved = 1; moved < LANES; moved *= 2) {  // every element's place by one bit
        Vec mixed[LANES];
        for (long i = 0; i < LANES / 2; ++i) {
            Vec low = square[i], high = square[i + LANES / 2];
            mixed[2 * i] = interleave<0>(low, high, lanes);
            mixed[2 * i + 1] = interleave<LANES / 2>(low, high, lanes);
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
