/* Grids: the extremes of rows, whether rows are whole multiples of their scale, the codes of those that are, and back.

Rows lie one after the other, or side by side: then the first values of all rows come first. */

#include "floats.h"

#define CHUNK 1024 /* values that are looked at before a row is given up */
#define FEW 16     /* and before a guess is */
#define SPAN 255   /* the most parts of its least magnitude that a scale is tried as: see `_scales` in grids.py */

/* The greatest magnitudes of the values below and above zero, and the least of those that are not zero; 0 for none.

A sign that is shifted all the way is a mask: compilers make vectors of that, and not of conditions. */
#define EXTREMES(T, S) \
    static inline S below_##T(S value, S most) { \
        return (S)(value & most & value >> (8 * sizeof(S) - 1)); \
    } \
    static inline S above_zero_##T(S value, S most) { \
        S magnitude = value & most; \
        return (S)(magnitude | ((S)(magnitude - 1) >> (8 * sizeof(S) - 1) & most)); \
    } \
    VECTORS static void extremes_##T(const T *values, Py_ssize_t rows, Py_ssize_t size, int beside, T *lowest, T *greatest, T *least) { \
        const S most = (S)((T)-1 >> 1); \
        for (Py_ssize_t row = 0; row < rows; row++) { \
            S low = 0, great = 0, small = most; \
            Py_ssize_t stop = beside ? 0 : (row + 1) * size; \
            for (Py_ssize_t i = row * size; i < stop; i++) { \
                S value = (S)values[i], below = below_##T(value, most), above_zero = above_zero_##T(value, most); \
                low = below > low ? below : low; \
                great = value > great ? value : great; \
                small = above_zero < small ? above_zero : small; \
            } \
            lowest[row] = (T)low; \
            greatest[row] = (T)great; \
            least[row] = (T)small; \
        } \
        for (Py_ssize_t i = 0; beside && i < size; i++) \
            for (Py_ssize_t row = 0; row < rows; row++) { \
                S value = (S)values[i * rows + row], below = below_##T(value, most), above_zero = above_zero_##T(value, most); \
                lowest[row] = below > (S)lowest[row] ? (T)below : lowest[row]; \
                greatest[row] = value > (S)greatest[row] ? (T)value : greatest[row]; \
                least[row] = above_zero < (S)least[row] ? (T)above_zero : least[row]; \
            } \
        for (Py_ssize_t row = 0; row < rows; row++) \
            least[row] = least[row] == (T)most ? 0 : least[row]; \
    }
EXTREMES(u8, int8_t)
EXTREMES(u16, int16_t)
EXTREMES(u32, int32_t)
EXTREMES(u64, int64_t)

/* Whether a value is not a multiple after one rounding; which multiple it is. */
#define GRIDS(name, T, E) \
    static inline int off_##name(T pattern, E scale) { \
        E value = value_##name(pattern); \
        return rounded_##name(whole_##E(value / scale) * scale) != value; \
    } \
    VECTORS static void fits_##name(const T *values, Py_ssize_t rows, Py_ssize_t size, int beside, const T *scales, u8 *fits) { \
        memset(fits, 1, rows); \
        if (!beside) \
            for (Py_ssize_t row = 0; row < rows; row++) { \
                E scale = value_##name(scales[row]); \
                for (Py_ssize_t start = 0; start < size && fits[row]; start += CHUNK) { \
                    Py_ssize_t stop = size - start < CHUNK ? size : start + CHUNK; \
                    int off = 0; \
                    for (Py_ssize_t i = row * size + start; i < row * size + stop; i++) \
                        off |= off_##name(values[i], scale); \
                    fits[row] = !off; \
                } \
            } \
        else \
            for (Py_ssize_t i = 0; i < size; i++) \
                for (Py_ssize_t row = 0; row < rows; row++) \
                    fits[row] &= !off_##name(values[i * rows + row], value_##name(scales[row])); \
    } \
    static inline u8 code_##name(T pattern, E scale, E low) { \
        E code = whole_##E(value_##name(pattern) / scale) - low; \
        return (u8)(int)(code > -32768 && code < 32768 ? code : 0); \
    } \
    VECTORS static void codes_##name(const T *values, Py_ssize_t rows, Py_ssize_t size, int beside, const T *scales, const u16 *low, u8 *codes) { \
        if (!beside) \
            for (Py_ssize_t row = 0; row < rows; row++) { \
                E scale = value_##name(scales[row]), least = (int16_t)low[row]; \
                for (Py_ssize_t i = row * size; i < (row + 1) * size; i++) \
                    codes[i] = code_##name(values[i], scale, least); \
            } \
        else \
            for (Py_ssize_t i = 0; i < size; i++) \
                for (Py_ssize_t row = 0; row < rows; row++) \
                    codes[i * rows + row] = code_##name(values[i * rows + row], value_##name(scales[row]), (int16_t)low[row]); \
    } \
    VECTORS static void dequantize_##name(const u8 *codes, Py_ssize_t rows, Py_ssize_t size, int mask, int sign, const T *scales, const u8 *zero_points, T *values) { \
        for (Py_ssize_t row = 0; row < rows; row++) { \
            E scale = value_##name(scales[row]); \
            int zero_point = ((zero_points[row] & mask) ^ sign) - sign; \
            for (Py_ssize_t i = row * size; i < (row + 1) * size; i++) \
                values[i] = pattern_##name(rounded_##name((E)((((codes[i] & mask) ^ sign) - sign) - zero_point) * scale)); \
        } \
    }
FOR_FLOATS(GRIDS)

/* The largest scale of which all values of a row are multiples, as a whole part of the least magnitude or a float beside
it; but not the least magnitude itself, which is no such scale. Whether every row has one. */
#define SEARCH(name, T, E) \
    static inline int is_grid_##name(const T *values, Py_ssize_t size, E scale) { \
        for (Py_ssize_t start = 0; start < size; start += FEW) { \
            Py_ssize_t stop = size - start < FEW ? size : start + FEW; \
            int off = 0; \
            for (Py_ssize_t i = start; i < stop; i++) \
                off |= off_##name(values[i], scale); \
            if (off) \
                return 0; \
        } \
        return 1; \
    } \
    VECTORS static int search_##name(const T *values, Py_ssize_t rows, Py_ssize_t size, const T *least, const T *largest, T *scales) { \
        static const int sides[3] = {0, 1, -1}; \
        for (Py_ssize_t row = 0; row < rows; row++) { \
            double low = value_##name(least[row]), high = value_##name(largest[row]); \
            int found = 0; \
            for (int guess = 1; guess < 3 * SPAN && !found && high * (guess / 3 + 1) <= low * (SPAN + 2); guess++) { \
                T scale = (T)(pattern_##name(rounded_##name((E)(low / (guess / 3 + 1)))) + sides[guess % 3]); \
                found = !off_##name(largest[row], value_##name(scale)) && is_grid_##name(values + row * size, size, value_##name(scale)); \
                scales[row] = scale; \
            } \
            if (!found) \
                return 0; \
        } \
        return 1; \
    }
FOR_FLOATS(SEARCH)

/* How many rows there are, of how many values; -1 with an exception if they do not fit. */
static Py_ssize_t row_size(Buffers *buffers, int values, int rows) {
    Py_ssize_t count = length(buffers, rows), size = length(buffers, values);
    if (refused(buffers, count ? size % count == 0 : size == 0, "rows of one length"))
        return -1;
    return count ? size / count : 0;
}

/* The same of values of which each row has three patterns. */
static Py_ssize_t row_size_by_three(Buffers *buffers) {
    for (int place = 1; place < 4; place++)
        if (refused(buffers, width_of(buffers, place) == width_of(buffers, 0) && length(buffers, place) == length(buffers, 1), "a pattern a row"))
            return -1;
    return row_size(buffers, 0, 1);
}

FUNCTION(extremes_into) {
    Buffers buffers;
    uint64_t beside;
    if (acquire(&buffers, given, all, 4, 1, &beside, 1) < 0)
        return NULL;
    Py_ssize_t rows = length(&buffers, 1), size = row_size_by_three(&buffers);
    if (size < 0)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    CALL(, extremes, width_of(&buffers, 0),
         (data(&buffers, 0), rows, size, beside != 0, data(&buffers, 1), data(&buffers, 2), data(&buffers, 3)))
    Py_END_ALLOW_THREADS
    release(&buffers);
    Py_RETURN_NONE;
}

FUNCTION(fits_into) {
    Buffers buffers;
    uint64_t numbers[2]; /* the bits of the mantissa, and whether rows lie side by side */
    if (acquire(&buffers, given, all, 3, 2, numbers, 2) < 0
        || refused(&buffers, width_of(&buffers, 0) == float_width(numbers[0]), "patterns of floats")
        || refused(&buffers, width_of(&buffers, 1) == width_of(&buffers, 0), "scales of the values' type")
        || refused(&buffers, width_of(&buffers, 2) == 1 && length(&buffers, 2) == length(&buffers, 1), "a byte a row"))
        return NULL;
    Py_ssize_t rows = length(&buffers, 1), size = row_size(&buffers, 0, 1);
    if (size < 0)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    CALL_FLOAT(, fits, numbers[0], (data(&buffers, 0), rows, size, numbers[1] != 0, data(&buffers, 1), data(&buffers, 2)))
    Py_END_ALLOW_THREADS
    release(&buffers);
    Py_RETURN_NONE;
}

FUNCTION(codes_into) {
    Buffers buffers;
    uint64_t numbers[2]; /* as those of `fits_into` */
    if (acquire(&buffers, given, all, 4, 3, numbers, 2) < 0
        || refused(&buffers, width_of(&buffers, 0) == float_width(numbers[0]), "patterns of floats")
        || refused(&buffers, width_of(&buffers, 1) == width_of(&buffers, 0), "scales of the values' type")
        || refused(&buffers, width_of(&buffers, 2) == 2 && length(&buffers, 2) == length(&buffers, 1), "a least code of 16 bits a row")
        || refused(&buffers, width_of(&buffers, 3) == 1 && length(&buffers, 3) == length(&buffers, 0), "a byte a value"))
        return NULL;
    Py_ssize_t rows = length(&buffers, 1), size = row_size(&buffers, 0, 1);
    if (size < 0)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    CALL_FLOAT(, codes, numbers[0],
               (data(&buffers, 0), rows, size, numbers[1] != 0, data(&buffers, 1), data(&buffers, 2), data(&buffers, 3)))
    Py_END_ALLOW_THREADS
    release(&buffers);
    Py_RETURN_NONE;
}

FUNCTION(dequantize_into) {
    Buffers buffers;
    uint64_t numbers[3]; /* the bits of the mantissa and of a code, and the one that is its sign */
    if (acquire(&buffers, given, all, 4, 3, numbers, 3) < 0
        || refused(&buffers, numbers[1] >= 1 && numbers[1] <= 8 && numbers[2] < 256, "codes of 1 to 8 bits")
        || refused(&buffers, width_of(&buffers, 3) == float_width(numbers[0]), "patterns of floats")
        || refused(&buffers, width_of(&buffers, 1) == width_of(&buffers, 3), "scales of the values' type")
        || refused(&buffers, width_of(&buffers, 2) == 1 && length(&buffers, 2) == length(&buffers, 1), "a zero point a row")
        || refused(&buffers, width_of(&buffers, 0) == 1 && length(&buffers, 0) == length(&buffers, 3), "a byte a value"))
        return NULL;
    Py_ssize_t rows = length(&buffers, 1), size = row_size(&buffers, 3, 1);
    if (size < 0)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    CALL_FLOAT(, dequantize, numbers[0],
               (data(&buffers, 0), rows, size, (1 << numbers[1]) - 1, (int)numbers[2], data(&buffers, 1), data(&buffers, 2), data(&buffers, 3)))
    Py_END_ALLOW_THREADS
    release(&buffers);
    Py_RETURN_NONE;
}

FUNCTION(search_into) {
    Buffers buffers;
    uint64_t mantissa;
    int found;
    if (acquire(&buffers, given, all, 4, 3, &mantissa, 1) < 0
        || refused(&buffers, width_of(&buffers, 0) == float_width(mantissa), "patterns of floats"))
        return NULL;
    Py_ssize_t rows = length(&buffers, 1), size = row_size_by_three(&buffers);
    if (size < 0)
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    CALL_FLOAT(found =, search, mantissa, (data(&buffers, 0), rows, size, data(&buffers, 1), data(&buffers, 2), data(&buffers, 3)))
    Py_END_ALLOW_THREADS
    release(&buffers);
    return PyBool_FromLong(found);
}
