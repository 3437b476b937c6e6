/* Narrower floats: whether values are some of a narrower type, and float16 widened. */

#include "floats.h"
#include <math.h>

#define CHUNK 4096 /* values that are looked at before it gives up */

/* Whether each value is one of the narrower kind and none is NaN; what they are is written as far as that is known. */
#define NARROW(wide, name, T, S, F) \
    VECTORS static int name##_of_##wide(const T *values, Py_ssize_t count, S *small) { \
        const T most = (T)-1 >> 1, infinite = pattern_##wide((F)INFINITY); \
        for (Py_ssize_t start = 0; start < count; start += CHUNK) { \
            Py_ssize_t stop = count - start < CHUNK ? count : start + CHUNK; \
            T other = 0; \
            for (Py_ssize_t i = start; i < stop; i++) { \
                small[i] = pattern_##name((float)value_##wide(values[i])); \
                other |= pattern_##wide((F)value_##name(small[i])) ^ values[i]; \
                other |= (values[i] & most) > infinite; \
            } \
            if (other) \
                return 0; \
        } \
        return 1; \
    }
NARROW(float32, bfloat16, u32, u16, float)
NARROW(float32, float16, u32, u16, float)
NARROW(float64, bfloat16, u64, u16, double)
NARROW(float64, float16, u64, u16, double)
NARROW(float64, float32, u64, u32, double)

VECTORS static void widen(const u16 *small, Py_ssize_t count, u32 *values) {
    for (Py_ssize_t i = 0; i < count; i++)
        values[i] = pattern_float32(value_float16(small[i]));
}

FUNCTION(narrow_into) {
    Buffers buffers;
    uint64_t mantissa;
    int held;
    if (acquire(&buffers, given, all, 2, 1, &mantissa, 1) < 0
        || refused(&buffers, width_of(&buffers, 0) >= 4, "float32 or float64")
        || refused(&buffers, width_of(&buffers, 1) == float_width(mantissa), "patterns of floats")
        || refused(&buffers, width_of(&buffers, 1) < width_of(&buffers, 0), "a narrower type")
        || refused(&buffers, length(&buffers, 0) == length(&buffers, 1), "arrays of one length"))
        return NULL;
    void *values = data(&buffers, 0), *small = data(&buffers, 1);
    Py_ssize_t count = length(&buffers, 0);
    Py_BEGIN_ALLOW_THREADS
    if (width_of(&buffers, 0) == 4)
        held = mantissa == 7 ? bfloat16_of_float32(values, count, small) : float16_of_float32(values, count, small);
    else
        held = mantissa == 7    ? bfloat16_of_float64(values, count, small)
               : mantissa == 10 ? float16_of_float64(values, count, small)
                                : float32_of_float64(values, count, small);
    Py_END_ALLOW_THREADS
    release(&buffers);
    return PyBool_FromLong(held);
}

FUNCTION(widen_into) {
    Buffers buffers;
    if (acquire(&buffers, given, all, 2, 1, NULL, 0) < 0
        || refused(&buffers, width_of(&buffers, 0) == 2 && width_of(&buffers, 1) == 4, "float16 to float32")
        || refused(&buffers, length(&buffers, 0) == length(&buffers, 1), "arrays of one length"))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    widen(data(&buffers, 0), length(&buffers, 0), data(&buffers, 1));
    Py_END_ALLOW_THREADS
    release(&buffers);
    Py_RETURN_NONE;
}
