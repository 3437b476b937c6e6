/* A weight on its way into another program: float32 rounded to float16, and matrices turned. */

#include "floats.h"

/* As numpy rounds in software: to the nearest, of two the even one, and a NaN keeps the upper bits of its payload. */
static inline uint16_t rounded(uint32_t pattern) {
    uint32_t payload = pattern >> 13 & 0x3ff, nan = 0x7c00 | (payload ? payload : 1) | (pattern >> 16 & 0x8000);
    return (uint16_t)((pattern & 0x7fffffff) > 0x7f800000 ? nan : pattern_float16(rounded_float16(as_float(pattern))));
}

VECTORS static void round_halves(const u32 *values, Py_ssize_t count, u16 *halves) {
    for (Py_ssize_t i = 0; i < count; i++)
        halves[i] = rounded(values[i]);
}

#define TILE 16 /* rows and columns that are turned at a time: more would fall on the same lines of the cache */

/* Of a tile, rows are read and rows are written; what goes from one to the other stays in the cache. */
#define TURN(T) \
    static void turn_##T(const T *values, Py_ssize_t rows, Py_ssize_t columns, T *turned) { \
        T tile[TILE][TILE]; \
        for (Py_ssize_t column = 0; column < columns; column += TILE) \
            for (Py_ssize_t row = 0; row < rows; row += TILE) { \
                Py_ssize_t down = rows - row < TILE ? rows - row : TILE; \
                Py_ssize_t along = columns - column < TILE ? columns - column : TILE; \
                for (Py_ssize_t i = 0; i < down; i++) \
                    memcpy(tile[i], values + (row + i) * columns + column, (size_t)along * sizeof(T)); \
                for (Py_ssize_t j = 0; j < along; j++) { \
                    T *to = turned + (column + j) * rows + row; \
                    if (down == TILE) \
                        for (Py_ssize_t i = 0; i < TILE; i++) \
                            to[i] = tile[i][j]; \
                    else \
                        for (Py_ssize_t i = 0; i < down; i++) \
                            to[i] = tile[i][j]; \
                } \
            } \
    }
FOR_PATTERNS(TURN)

FUNCTION(round_into) {
    Buffers buffers;
    if (acquire(&buffers, given, all, 2, 1, NULL, 0) < 0
        || refused(&buffers, width_of(&buffers, 0) == 4 && width_of(&buffers, 1) == 2, "float32 to float16")
        || refused(&buffers, length(&buffers, 0) == length(&buffers, 1), "arrays of one length"))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    round_halves(data(&buffers, 0), length(&buffers, 0), data(&buffers, 1));
    Py_END_ALLOW_THREADS
    release(&buffers);
    Py_RETURN_NONE;
}

FUNCTION(turn_into) {
    Buffers buffers;
    uint64_t rows;
    if (acquire(&buffers, given, all, 2, 1, &rows, 1) < 0
        || refused(&buffers, width_of(&buffers, 0) == width_of(&buffers, 1), "elements of one width")
        || refused(&buffers, length(&buffers, 0) == length(&buffers, 1), "arrays of one length")
        || refused(&buffers, rows && (uint64_t)length(&buffers, 0) % rows == 0, "rows of one length"))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    Py_ssize_t columns = length(&buffers, 0) / (Py_ssize_t)rows;
    CALL(, turn, width_of(&buffers, 0), (data(&buffers, 0), (Py_ssize_t)rows, columns, data(&buffers, 1)));
    Py_END_ALLOW_THREADS
    release(&buffers);
    Py_RETURN_NONE;
}
