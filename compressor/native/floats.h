/* Floats by their patterns, for loops that compilers make vectors of: no branches, no conversions one by one.

A kind is named by the bits of its mantissa. Each has a type of patterns, an exact type in which codes are multiplied,
the value of a pattern, what an exact value is rounded to (in the exact type; see `_rounded` in grids.py), and the pattern
of a value that is one of the kind. */

#ifndef COMPRESSOR_FLOATS_H
#define COMPRESSOR_FLOATS_H

#include "loops.h"

/* kind(name, type of patterns, exact type) */
#define FOR_FLOATS(kind) kind(bfloat16, u16, float) kind(float16, u16, float) kind(float32, u32, float) kind(float64, u64, double)
#define CALL_FLOAT(result, name, mantissa, arguments) \
    switch (mantissa) { \
    case 7: result name##_bfloat16 arguments; break; \
    case 10: result name##_float16 arguments; break; \
    case 23: result name##_float32 arguments; break; \
    default: result name##_float64 arguments; \
    }

/* The bytes of a pattern of a kind, 0 if there is no such kind. */
static inline int float_width(uint64_t mantissa) {
    return mantissa == 7 || mantissa == 10 ? 2 : mantissa == 23 ? 4 : mantissa == 52 ? 8 : 0;
}

static inline float as_float(uint32_t pattern) {
    float value;
    memcpy(&value, &pattern, sizeof value);
    return value;
}

static inline uint32_t bits_of(float value) {
    uint32_t pattern;
    memcpy(&pattern, &value, sizeof pattern);
    return pattern;
}

static inline float magnitude_of(float value) {
    return as_float(bits_of(value) & 0x7fffffff);
}

static inline float value_bfloat16(uint16_t pattern) {
    return as_float((uint32_t)pattern << 16);
}

static inline float rounded_bfloat16(float value) {
    uint32_t bits = bits_of(value);
    return as_float((bits + 0x7fff + (bits >> 16 & 1)) & 0xffff0000);
}

static inline uint16_t pattern_bfloat16(float value) {
    return (uint16_t)(bits_of(value) >> 16);
}

/* The exponents of float16 begin 112 later than those of float32. */
#define LATER 0x1p112f

static inline float value_float16(uint16_t pattern) {
    float value = as_float((uint32_t)(pattern & 0x7fff) << 13) * LATER;
    uint32_t special = (pattern & 0x7fff) >= 0x7c00 ? 0x7f800000 : 0; /* infinite, or NaN */
    return as_float(bits_of(value) | special | (uint32_t)(pattern & 0x8000) << 16);
}

/* Below 2**-14 there is a fixed point. What is too large becomes none of the kind. */
static inline float rounded_float16(float value) {
    uint32_t bits = bits_of(value);
    float floating = as_float((bits + 0xfff + (bits >> 13 & 1)) & 0xffffe000), fixed = (magnitude_of(value) + 0.75f) - 0.75f;
    return magnitude_of(value) < 0x1p-14f ? as_float(bits_of(fixed) | (bits & 0x80000000)) : floating;
}

static inline uint16_t pattern_float16(float value) {
    uint32_t magnitude = bits_of(magnitude_of(value) * (1 / LATER)) >> 13;
    return (uint16_t)((magnitude < 0x7c00 ? magnitude : 0x7c00) | (bits_of(value) >> 16 & 0x8000));
}

static inline float value_float32(uint32_t pattern) {
    return as_float(pattern);
}

static inline float rounded_float32(float value) {
    return value;
}

static inline uint32_t pattern_float32(float value) {
    return bits_of(value);
}

static inline double value_float64(uint64_t pattern) {
    double value;
    memcpy(&value, &pattern, sizeof value);
    return value;
}

static inline double rounded_float64(double value) {
    return value;
}

static inline uint64_t pattern_float64(double value) {
    uint64_t pattern;
    memcpy(&pattern, &value, sizeof pattern);
    return pattern;
}

/* The nearest whole number, of two the even one. Where a float has no fraction it is that number itself; elsewhere adding
the least such float rounds. */

static inline float whole_float(float value) {
    float magnitude = magnitude_of(value), nearest = (magnitude + 0x1p23f) - 0x1p23f;
    return as_float(bits_of(magnitude < 0x1p23f ? nearest : magnitude) | (bits_of(value) & 0x80000000));
}

static inline double whole_double(double value) {
    uint64_t sign = pattern_float64(value) & (uint64_t)1 << 63;
    double magnitude = value_float64(pattern_float64(value) ^ sign), nearest = (magnitude + 0x1p52) - 0x1p52;
    nearest = magnitude < 0x1p52 ? nearest : magnitude;
    return value_float64(pattern_float64(nearest) | sign);
}

#endif
