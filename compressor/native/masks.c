/* Masks and zeros: values selected and scattered, distances between them, magnitudes counted, how two arrays differ. */

#include "loops.h"

/* Eight bytes of a mask, each 0 or 1 as numpy writes them, at a time; no branch depends on them: they are as good as
random. The last few are taken one by one, where values may end. */

static inline int is_mask(const u8 *where) {
    uint64_t word;
    memcpy(&word, where, 8);
    return (word & ~ONES(8)) == 0;
}

#define MASKS(T) \
    static int select_##T(const T *values, const u8 *where, Py_ssize_t size, T *chosen, Py_ssize_t count) { \
        Py_ssize_t i = 0, taken = 0; \
        for (; i + 8 <= size && taken + 8 <= count && is_mask(where + i); i += 8) \
            for (int j = 0; j < 8; j++) { \
                chosen[taken] = values[i + j]; \
                taken += where[i + j]; \
            } \
        for (; i < size; i++) \
            if (where[i] && taken++ < count) \
                chosen[taken - 1] = values[i]; \
        return taken == count; \
    } \
    static int scatter_##T(const T *values, const u8 *where, Py_ssize_t size, T *dense, Py_ssize_t count) { \
        Py_ssize_t i = 0, taken = 0; \
        for (; i + 8 <= size && taken + 8 <= count && is_mask(where + i); i += 8) \
            for (int j = 0; j < 8; j++) { \
                dense[i + j] = values[taken] & (T)-where[i + j]; \
                taken += where[i + j]; \
            } \
        for (; i < size; i++) \
            dense[i] = where[i] && taken++ < count ? values[taken - 1] : 0; \
        return taken == count; \
    }
FOR_PATTERNS(MASKS)

#define BATCH 120 /* so many are counted in the patterns' own type: the compiler keeps it in vectors */

#define NEAR_ZERO(T) \
    VECTORS static void near_zero_##T(const T *patterns, Py_ssize_t count, T magnitude, T edge, Py_ssize_t *zeros, Py_ssize_t *near) { \
        for (Py_ssize_t start = 0; start < count; start += BATCH) { \
            Py_ssize_t some = count - start < BATCH ? count - start : BATCH; \
            T no_more = 0, none = 0; \
            for (Py_ssize_t i = 0; i < some; i++) { \
                T absolute = patterns[start + i] & magnitude; \
                none += absolute == 0; \
                no_more += absolute <= edge; \
            } \
            *zeros += none; \
            *near += no_more; \
        } \
    }
FOR_PATTERNS(NEAR_ZERO)

/* How many patterns differ; of these, where the other one is zero, how many are near zero and how many are zero but for
the sign. */
#define COMPARED(T) \
    VECTORS static void compared_##T(const T *patterns, const T *others, Py_ssize_t count, T magnitude, T edge, Py_ssize_t *counts) { \
        for (Py_ssize_t start = 0; start < count; start += BATCH) { \
            Py_ssize_t some = count - start < BATCH ? count - start : BATCH; \
            T unlike = 0, near = 0, zeros = 0; \
            for (Py_ssize_t i = start; i < start + some; i++) { \
                T absolute = patterns[i] & magnitude, differs = patterns[i] != others[i], lost = others[i] == 0; \
                unlike += differs; \
                near += differs & lost & (absolute <= edge); \
                zeros += differs & lost & (absolute == 0); \
            } \
            counts[0] += unlike; \
            counts[1] += near; \
            counts[2] += zeros; \
        } \
    }
FOR_PATTERNS(COMPARED)

/* Which of up to 64 places are set: the first in the lowest bit. */
static inline uint64_t bits_of(const u8 *where, Py_ssize_t count) {
    uint64_t bits = 0;
    Py_ssize_t i = 0;
    for (; i + 8 <= count && is_mask(where + i); i += 8) {
        uint64_t word;
        memcpy(&word, where + i, 8);
        bits |= (word * 0x0102040810204080u >> 56) << i; /* the byte of place j comes to bit 56 + j, no two to one */
    }
    for (; i < count; i++)
        bits |= (uint64_t)(where[i] != 0) << i;
    return bits;
}

static inline int lowest(uint64_t bits) {
#if defined(__GNUC__) || defined(__clang__)
    return __builtin_ctzll(bits);
#else
    int place = 0;
    for (; !(bits & 1); bits >>= 1)
        place++;
    return place;
#endif
}

/* The codes of the distances between the places that a mask sets, where there is room; how many there are. */
static Py_ssize_t gaps_of(const u8 *where, Py_ssize_t size, u8 *codes, Py_ssize_t room, unsigned most) {
    Py_ssize_t made = 0, last = 0;
    for (Py_ssize_t start = 0; start < size; start += 64) {
        uint64_t bits = bits_of(where + start, size - start < 64 ? size - start : 64);
        for (; bits; bits &= bits - 1) {
            Py_ssize_t place = start + lowest(bits), distance = place - last;
            for (; distance >= (Py_ssize_t)most; distance -= most, made++)
                if (made < room)
                    codes[made] = (u8)most;
            if (made < room)
                codes[made] = (u8)distance;
            made++;
            last = place;
        }
    }
    return made;
}

/* 0 where places are not ascending, or lie outside. */
static int gaps_set(const u8 *codes, Py_ssize_t count, u8 *mask, Py_ssize_t size, unsigned most) {
    uint64_t place = 0, next = 0; /* where the next value may be at the earliest */
    for (Py_ssize_t i = 0; i < count; i++) {
        unsigned code = codes[i] & most;
        place += code;
        if (code == most)
            continue;
        if (place < next || place >= (uint64_t)size)
            return 0;
        mask[place] = 1;
        next = place + 1;
    }
    return 1;
}

FUNCTION(gaps_into) {
    Buffers buffers;
    uint64_t most;
    Py_ssize_t count;
    if (acquire(&buffers, given, all, 2, 1, &most, 1) < 0
        || refused(&buffers, width_of(&buffers, 0) == 1 && width_of(&buffers, 1) == 1, "a byte a place and a code")
        || refused(&buffers, most && most < 256, "codes of 1 to 8 bits"))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    count = gaps_of(data(&buffers, 0), length(&buffers, 0), data(&buffers, 1), length(&buffers, 1), (unsigned)most);
    Py_END_ALLOW_THREADS
    if (refused(&buffers, !length(&buffers, 1) || count <= length(&buffers, 1), "room for as many codes as the mask takes"))
        return NULL;
    release(&buffers);
    return PyLong_FromSsize_t(count);
}

FUNCTION(gaps_to_mask) {
    Buffers buffers;
    uint64_t most;
    int whole;
    if (acquire(&buffers, given, all, 2, 1, &most, 1) < 0
        || refused(&buffers, width_of(&buffers, 0) == 1 && width_of(&buffers, 1) == 1, "a byte a code and a place")
        || refused(&buffers, most && most < 256, "codes of 1 to 8 bits"))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    whole = gaps_set(data(&buffers, 0), length(&buffers, 0), data(&buffers, 1), length(&buffers, 1), (unsigned)most);
    Py_END_ALLOW_THREADS
    release(&buffers);
    return PyBool_FromLong(whole);
}

FUNCTION(select_into) {
    Buffers buffers;
    int whole;
    if (acquire(&buffers, given, all, 3, 2, NULL, 0) < 0
        || refused(&buffers, width_of(&buffers, 1) == 1 && length(&buffers, 1) == length(&buffers, 0), "a mask of the values' length")
        || refused(&buffers, width_of(&buffers, 2) == width_of(&buffers, 0), "room for the values' type"))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    CALL(whole =, select, width_of(&buffers, 0),
         (data(&buffers, 0), data(&buffers, 1), length(&buffers, 1), data(&buffers, 2), length(&buffers, 2)))
    Py_END_ALLOW_THREADS
    if (refused(&buffers, whole, "room for as many values as the mask has set"))
        return NULL;
    release(&buffers);
    Py_RETURN_NONE;
}

FUNCTION(scatter_into) {
    Buffers buffers;
    int whole;
    if (acquire(&buffers, given, all, 3, 2, NULL, 0) < 0
        || refused(&buffers, width_of(&buffers, 1) == 1 && length(&buffers, 1) == length(&buffers, 2), "a mask of the weight's length")
        || refused(&buffers, width_of(&buffers, 2) == width_of(&buffers, 0), "room for the values' type"))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    CALL(whole =, scatter, width_of(&buffers, 0),
         (data(&buffers, 0), data(&buffers, 1), length(&buffers, 1), data(&buffers, 2), length(&buffers, 0)))
    Py_END_ALLOW_THREADS
    if (refused(&buffers, whole, "as many values as the mask has set"))
        return NULL;
    release(&buffers);
    Py_RETURN_NONE;
}

FUNCTION(near_zero) {
    Buffers buffers;
    uint64_t numbers[2]; /* the bits of a magnitude, and the greatest that is near */
    Py_ssize_t zeros = 0, near = 0;
    if (acquire(&buffers, given, all, 1, 1, numbers, 2) < 0)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    CALL(, near_zero, width_of(&buffers, 0), (data(&buffers, 0), length(&buffers, 0), numbers[0], numbers[1], &zeros, &near))
    Py_END_ALLOW_THREADS
    release(&buffers);
    return Py_BuildValue("nn", zeros, near);
}

FUNCTION(compared) {
    Buffers buffers;
    uint64_t numbers[2]; /* as those of `near_zero` */
    Py_ssize_t counts[3] = {0};
    if (acquire(&buffers, given, all, 2, 2, numbers, 2) < 0
        || refused(&buffers, width_of(&buffers, 0) == width_of(&buffers, 1), "arrays of one type")
        || refused(&buffers, length(&buffers, 0) == length(&buffers, 1), "arrays of one length"))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    CALL(, compared, width_of(&buffers, 0),
         (data(&buffers, 0), data(&buffers, 1), length(&buffers, 0), numbers[0], numbers[1], counts))
    Py_END_ALLOW_THREADS
    release(&buffers);
    return Py_BuildValue("nnn", counts[0], counts[1], counts[2]);
}
