/* Tables of so few keys that they lie in registers: the upper five bits of a product are a slot.

Of patterns of 16 and 32 bits, where AVX2 is and they are so many that finding a multiplier does not count. */

#ifndef COMPRESSOR_REGISTERS_H
#define COMPRESSOR_REGISTERS_H

#include "loops.h"

#define SLOTS 32
#define MANY 16384
#define TRIED_SHORT 8192 /* with 17 keys, one in five hundred serves */

typedef struct {
    uint32_t keys[SLOTS], multiplier;
    u8 places[SLOTS];
} Short;

#ifdef AVX2
/* Multipliers are tried until each key has a slot of its own, the last one that of the place `zero` if there is one. */
static int settle_short(const uint64_t *keys, int count, int zero, Short *made) {
    uint32_t random = 0x9e3779b9u;
    for (int tried = 0; tried < TRIED_SHORT && count <= SLOTS / 2 + 1; tried++) {
        uint32_t used = 0;
        int i = 0;
        made->multiplier = random | 1;
        for (; i < count; i++) {
            uint32_t slot = (uint32_t)keys[i] * made->multiplier >> 27;
            if (used >> slot & 1)
                break;
            used |= (uint32_t)1 << slot;
            made->keys[slot] = (uint32_t)keys[i];
            made->places[slot] = (u8)(zero >= 0 && i == count - 1 ? zero : i);
        }
        for (uint32_t slot = 0; i == count && slot < SLOTS; slot++)
            if (!(used >> slot & 1)) { /* no pattern is taken for a key that has another slot */
                made->keys[slot] = (uint32_t)keys[0];
                made->places[slot] = 0;
            }
        if (i == count)
            return 1;
        random = random * 1664525u + 1013904223u;
    }
    return 0;
}

AVX2 static inline __m256i eight_u16(const u16 *patterns) {
    return _mm256_cvtepu16_epi32(_mm_loadu_si128((const void *)patterns));
}

AVX2 static inline __m256i eight_u32(const u32 *patterns) {
    return _mm256_loadu_si256((const void *)patterns);
}

AVX2 static inline __m256i either(__m256i low, __m256i high, __m256i sign) {
    return _mm256_castps_si256(_mm256_blendv_ps(_mm256_castsi256_ps(low), _mm256_castsi256_ps(high), _mm256_castsi256_ps(sign)));
}

#define IN_REGISTERS(T) \
    AVX2 static int all_short_##T(const Short *table, const T *patterns, Py_ssize_t count) { \
        __m256i other = _mm256_setzero_si256(), multiplier = _mm256_set1_epi32((int)table->multiplier), keys[4]; \
        for (int i = 0; i < 4; i++) \
            keys[i] = _mm256_loadu_si256((const void *)(table->keys + 8 * i)); \
        for (Py_ssize_t i = 0; i < count; i += 8) { \
            __m256i eight = eight_##T(patterns + i), product = _mm256_mullo_epi32(eight, multiplier); \
            __m256i slot = _mm256_srli_epi32(product, 27), second = _mm256_slli_epi32(product, 1); \
            __m256i low = either(_mm256_permutevar8x32_epi32(keys[0], slot), _mm256_permutevar8x32_epi32(keys[1], slot), second); \
            __m256i high = either(_mm256_permutevar8x32_epi32(keys[2], slot), _mm256_permutevar8x32_epi32(keys[3], slot), second); \
            other = _mm256_or_si256(other, _mm256_xor_si256(either(low, high, product), eight)); \
        } \
        return _mm256_testz_si256(other, other); \
    } \
    AVX2 static Py_ssize_t short_places_##T(const Short *table, const T *patterns, Py_ssize_t count, u8 *places) { \
        __m256i multiplier = _mm256_set1_epi32((int)table->multiplier), order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7), slots[4]; \
        __m256i low = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)table->places)); \
        __m256i high = _mm256_broadcastsi128_si256(_mm_loadu_si128((const void *)(table->places + 16))); \
        Py_ssize_t i = 0; \
        for (; i + 32 <= count; i += 32) { \
            for (int j = 0; j < 4; j++) \
                slots[j] = _mm256_srli_epi32(_mm256_mullo_epi32(eight_##T(patterns + i + 8 * j), multiplier), 27); \
            __m256i bytes = _mm256_packus_epi16(_mm256_packus_epi32(slots[0], slots[1]), _mm256_packus_epi32(slots[2], slots[3])); \
            bytes = _mm256_permutevar8x32_epi32(bytes, order); \
            __m256i found = _mm256_blendv_epi8(_mm256_shuffle_epi8(low, bytes), _mm256_shuffle_epi8(high, bytes), _mm256_slli_epi16(bytes, 3)); \
            _mm256_storeu_si256((void *)(places + i), found); \
        } \
        return i; \
    }
IN_REGISTERS(u16)
IN_REGISTERS(u32)
#endif

/* Whether keys have such a table, for so many patterns. */
static int is_short(const uint64_t *keys, int known, int zero, Py_ssize_t count, int width, Short *made) {
#ifdef AVX2
    return (width == 2 || width == 4) && count >= MANY && HAS_AVX2() && settle_short(keys, known, zero, made);
#else
    return 0;
#endif
}

/* How many places were written of such a table. */
static Py_ssize_t short_places(const Short *table, const void *patterns, Py_ssize_t count, int width, u8 *places) {
#ifdef AVX2
    return width == 4 ? short_places_u32(table, patterns, count, places) : short_places_u16(table, patterns, count, places);
#else
    return 0;
#endif
}

/* Whether such a table has all patterns; of fewer than eight at the end, it does not say so. */
static int all_short(const Short *table, const void *patterns, Py_ssize_t count, int width) {
#ifdef AVX2
    return count % 8 == 0 && (width == 4 ? all_short_u32(table, patterns, count) : all_short_u16(table, patterns, count));
#else
    return 0;
#endif
}

#endif
