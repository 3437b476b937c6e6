/* Zeros: magnitudes counted and marked, how two arrays differ. */

#include "loops.h"

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

#define ABOVE(T) \
    VECTORS static void above_##T(const T *patterns, Py_ssize_t count, T magnitude, T edge, u8 *mask) { \
        for (Py_ssize_t i = 0; i < count; i++) \
            mask[i] = (patterns[i] & magnitude) > edge; \
    }
FOR_PATTERNS(ABOVE)

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

FUNCTION(above_into) {
    Buffers buffers;
    uint64_t numbers[2]; /* as those of `near_zero` */
    if (acquire(&buffers, given, all, 2, 1, numbers, 2) < 0
        || refused(&buffers, width_of(&buffers, 1) == 1 && length(&buffers, 1) == length(&buffers, 0), "a byte a pattern"))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    CALL(, above, width_of(&buffers, 0), (data(&buffers, 0), length(&buffers, 0), numbers[0], numbers[1], data(&buffers, 1)))
    Py_END_ALLOW_THREADS
    release(&buffers);
    Py_RETURN_NONE;
}
