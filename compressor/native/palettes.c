/* Palettes: the values behind codes, the codes of values, and whether a table has them all. */

#include "registers.h"

#define CHUNK 4096 /* codes that are unpacked at a time; a multiple of 8 */

/* The values behind packed codes; whether every code has one of `entries`. A table has 256 rows, whatever the codes are.

Where codes fill a byte, the values of all that it holds are a row of another table. */
#define LOOK_UP(T) \
    static inline int rows_##T(const u8 *packed, const T *table, int entries, Py_ssize_t whole, T *values, int width) { \
        T rows[256 * 8]; \
        u8 outside[256] = {0}, any = 0; \
        int run = 8 / width; \
        for (int i = 0; i < 256 * run; i++) { \
            int code = i / run >> i % run * width & ((1 << width) - 1); \
            rows[i] = table[code]; \
            outside[i / run] |= code >= entries; \
        } \
        for (Py_ssize_t i = 0; entries < 1 << width && i < whole; i++) \
            any |= outside[packed[i]]; \
        for (Py_ssize_t i = 0; i < whole; i++) \
            memcpy(values + i * run, rows + packed[i] * run, sizeof(T) * run); \
        return !any; \
    } \
    static int look_up_##T(const u8 *packed, int width, const T *table, int entries, Py_ssize_t count, T *values) { \
        u8 chunk[CHUNK]; \
        Py_ssize_t start = width == 3 || width > 4 ? 0 : count / (8 / width) * (8 / width); \
        int inside = 1; \
        switch (width) { \
        case 1: inside = rows_##T(packed, table, entries, start / 8, values, 1); break; \
        case 2: inside = rows_##T(packed, table, entries, start / 4, values, 2); break; \
        case 4: inside = rows_##T(packed, table, entries, start / 2, values, 4); \
        } \
        for (; start < count; start += CHUNK) { \
            Py_ssize_t some = count - start < CHUNK ? count - start : CHUNK; \
            const u8 *codes = width == 8 ? packed + start : chunk; \
            u8 greatest = 0; \
            if (width < 8) \
                unpack_codes(packed + start / 8 * width + start % 8 * width / 8, some, chunk, width); \
            for (Py_ssize_t i = 0; i < some; i++) \
                greatest = codes[i] > greatest ? codes[i] : greatest; \
            for (Py_ssize_t i = 0; i < some; i++) \
                values[start + i] = table[codes[i]]; \
            inside &= greatest < entries; \
        } \
        return inside; \
    }
FOR_PATTERNS(LOOK_UP)

FUNCTION(look_up_into) {
    Buffers buffers;
    uint64_t width, table[256] = {0};
    int inside;
    if (acquire(&buffers, given, all, 3, 2, &width, 1) < 0
        || refused(&buffers, width >= 1 && width <= 8, "codes of 1 to 8 bits")
        || refused(&buffers, width_of(&buffers, 1) == width_of(&buffers, 2), "a table of the values' type")
        || refused(&buffers, length(&buffers, 1) <= 256, "a table of at most 256 values")
        || refused(&buffers, buffers.view[0].len == packed_nbytes(length(&buffers, 2), (int)width), "as many bytes as codes take"))
        return NULL;
    memcpy(table, data(&buffers, 1), buffers.view[1].len);
    Py_BEGIN_ALLOW_THREADS
    CALL(inside =, look_up, width_of(&buffers, 2),
         (data(&buffers, 0), (int)width, (void *)table, (int)length(&buffers, 1), length(&buffers, 2), data(&buffers, 2)))
    Py_END_ALLOW_THREADS
    release(&buffers);
    return PyBool_FromLong(inside);
}

/* A perfect hash of a few hundred keys: the upper bits of a product are a slot, which holds the place of its key. */

#define KEYS 512
#define FEW 64 /* keys for which a short table does */
#define FEW_BITS 12
#define MANY_BITS 16
#define TRIED 1024 /* multipliers: with 512 keys, one in eight serves */

typedef struct {
    uint64_t keys[KEYS + 1], multiplier;
    int count, bits;
    uint16_t slots[1 << MANY_BITS];
} Hash;

static inline uint64_t slot_of(uint64_t pattern, uint64_t multiplier, int bits) {
    return pattern * multiplier >> (64 - bits);
}

/* Odd multipliers are tried until each key has a slot of its own; -1 if none does: two keys are the same.

A slot that no key has holds place 0, whose key is another one: no pattern is taken for a key that it is not. */
static int settle(Hash *hash) {
    uint64_t random = 0x9e3779b97f4a7c15u;
    hash->bits = hash->count <= FEW ? FEW_BITS : MANY_BITS;
    for (int tried = 0; tried < TRIED; tried++) {
        int i = 1;
        hash->multiplier = random | 1;
        memset(hash->slots, 0, sizeof *hash->slots << hash->bits);
        uint64_t first = slot_of(hash->keys[0], hash->multiplier, hash->bits);
        for (; i < hash->count; i++) {
            uint64_t slot = slot_of(hash->keys[i], hash->multiplier, hash->bits);
            if (hash->slots[slot] || slot == first)
                break;
            hash->slots[slot] = (uint16_t)i;
        }
        if (i >= hash->count)
            return 0;
        random = random * 6364136223846793005u + 1442695040888963407u;
    }
    return -1;
}

#define HASH(T) \
    /* The place of 0 if -0 is another pattern, which becomes one more key; else -1. -2 if two keys are the same. */ \
    static int hash_##T(Hash *hash, const T *keys, Py_ssize_t count, T minus_zero) { \
        int zero = -1; \
        for (Py_ssize_t i = 0; i < count; i++) { \
            hash->keys[i] = keys[i]; \
            zero = keys[i] == 0 && minus_zero ? (int)i : zero; \
        } \
        hash->count = (int)count; \
        if (zero >= 0) \
            hash->keys[hash->count++] = minus_zero; \
        return settle(hash) < 0 ? -2 : zero; \
    } \
    static inline void slots_##T(const Hash *hash, const T *patterns, Py_ssize_t count, u8 *places, int bits) { \
        uint64_t multiplier = hash->multiplier; \
        for (Py_ssize_t i = 0; i < count; i++) \
            places[i] = (u8)hash->slots[slot_of(patterns[i], multiplier, bits)]; \
    } \
    static int places_##T(Hash *hash, const T *keys, Py_ssize_t known, T minus_zero, const T *patterns, Py_ssize_t count, u8 *places) { \
        int zero = hash_##T(hash, keys, known, minus_zero); \
        if (zero == -2) \
            return -1; \
        Short table; \
        if (is_short(hash->keys, hash->count, zero, count, sizeof(T), &table)) { \
            Py_ssize_t done = short_places(&table, patterns, count, sizeof(T), places); \
            patterns += done; \
            places += done; \
            count -= done; \
        } \
        if (zero >= 0) \
            hash->slots[slot_of(minus_zero, hash->multiplier, hash->bits)] = (uint16_t)zero; \
        if (hash->bits == FEW_BITS) \
            slots_##T(hash, patterns, count, places, FEW_BITS); \
        else \
            slots_##T(hash, patterns, count, places, MANY_BITS); \
        return 0; \
    } \
    static inline Py_ssize_t leading_##T(const Hash *hash, const Short *table, const T *keys, const T *patterns, Py_ssize_t count, int bits) { \
        uint64_t multiplier = hash->multiplier; \
        for (Py_ssize_t start = 0; start < count; start += CHUNK) { \
            Py_ssize_t stop = count - start < CHUNK ? count : start + CHUNK; \
            T other = 0; \
            if (table && all_short(table, patterns + start, stop - start, sizeof(T))) \
                continue; \
            for (Py_ssize_t i = start; i < stop; i++) \
                other |= keys[hash->slots[slot_of(patterns[i], multiplier, bits)]] ^ patterns[i]; \
            for (; other && start < stop; start++) \
                if (keys[hash->slots[slot_of(patterns[start], multiplier, bits)]] != patterns[start]) \
                    return start; \
        } \
        return count; \
    } \
    static Py_ssize_t known_##T(Hash *hash, const T *keys, Py_ssize_t known, T minus_zero, const T *patterns, Py_ssize_t count) { \
        T all[KEYS + 1]; \
        Short short_; \
        int zero = hash_##T(hash, keys, known, minus_zero); \
        if (zero == -2) \
            return -1; \
        const Short *table = is_short(hash->keys, hash->count, zero, count, sizeof(T), &short_) ? &short_ : NULL; \
        for (int i = 0; i < hash->count; i++) \
            all[i] = (T)hash->keys[i]; \
        return hash->bits == FEW_BITS ? leading_##T(hash, table, all, patterns, count, FEW_BITS) \
                                      : leading_##T(hash, table, all, patterns, count, MANY_BITS); \
    }
FOR_PATTERNS(HASH)

/* NULL where there is no memory for it, with an exception and all buffers released. */
static Hash *new_hash(Buffers *buffers) {
    Hash *hash = PyMem_Malloc(sizeof(Hash));
    if (!hash) {
        release(buffers);
        PyErr_NoMemory();
    }
    return hash;
}

FUNCTION(places_into) {
    Buffers buffers;
    uint64_t minus_zero;
    int failed;
    if (acquire(&buffers, given, all, 3, 2, &minus_zero, 1) < 0
        || refused(&buffers, width_of(&buffers, 0) == width_of(&buffers, 1), "keys of the patterns' type")
        || refused(&buffers, length(&buffers, 1) >= 1 && length(&buffers, 1) <= 256, "1 to 256 keys")
        || refused(&buffers, width_of(&buffers, 2) == 1 && length(&buffers, 2) == length(&buffers, 0), "a byte a pattern"))
        return NULL;
    Hash *hash = new_hash(&buffers);
    if (!hash)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    CALL(failed =, places, width_of(&buffers, 0),
         (hash, data(&buffers, 1), length(&buffers, 1), minus_zero, data(&buffers, 0), length(&buffers, 0), data(&buffers, 2)))
    Py_END_ALLOW_THREADS
    PyMem_Free(hash);
    if (refused(&buffers, !failed, "distinct keys"))
        return NULL;
    release(&buffers);
    Py_RETURN_NONE;
}

FUNCTION(known) {
    Buffers buffers;
    uint64_t minus_zero;
    Py_ssize_t found;
    if (acquire(&buffers, given, all, 2, 2, &minus_zero, 1) < 0
        || refused(&buffers, width_of(&buffers, 0) == width_of(&buffers, 1), "keys of the patterns' type")
        || refused(&buffers, length(&buffers, 1) >= 1 && length(&buffers, 1) <= KEYS, "1 to 512 keys"))
        return NULL;
    Hash *hash = new_hash(&buffers);
    if (!hash)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    CALL(found =, known, width_of(&buffers, 0),
         (hash, data(&buffers, 1), length(&buffers, 1), minus_zero, data(&buffers, 0), length(&buffers, 0)))
    Py_END_ALLOW_THREADS
    PyMem_Free(hash);
    if (refused(&buffers, found >= 0, "distinct keys"))
        return NULL;
    release(&buffers);
    return PyLong_FromSsize_t(found);
}
