/* The distinct patterns of every row, and the place of each value among them, by a hash for each row. */

#include "loops.h"

#define ENTRIES 256
#define MOST_SLOTS 1024 /* four for each entry */
#define BESIDE 8 /* rows that are read together where they lie side by side */

/* A slot holds a pattern; one that is empty holds the row's first, which is found there as well. */
#define TABLES(T) \
    typedef struct { \
        T slots[MOST_SLOTS], *table; \
        int count; \
        u8 places[MOST_SLOTS]; \
    } Row_##T; \
    static void begin_##T(Row_##T *row, T *table, T first, int slots) { \
        for (int i = 0; i < slots; i++) \
            row->slots[i] = first; \
        row->table = table; \
        row->table[0] = first; \
        row->count = 1; \
    } \
    static inline int slot_##T(const Row_##T *row, T pattern, int bits) { \
        int slot = (int)(pattern * (uint64_t)0x9e3779b97f4a7c15u >> (64 - bits)); \
        while (row->slots[slot] != pattern && row->slots[slot] != row->table[0]) \
            slot = (slot + 1) & ((1 << bits) - 1); \
        return slot; \
    } \
    static inline int add_##T(Row_##T *row, T pattern, int bits, Py_ssize_t entries) { \
        int slot = slot_##T(row, pattern, bits); \
        if (row->slots[slot] == pattern) \
            return 1; \
        if (row->count == entries) \
            return 0; \
        row->slots[slot] = row->table[row->count++] = pattern; \
        return 1; \
    } \
    static int finish_##T(Row_##T *row, Py_ssize_t entries) { \
        T greatest = 0; \
        for (int i = 0; i < row->count; i++) \
            greatest = row->table[i] > greatest ? row->table[i] : greatest; \
        for (Py_ssize_t i = row->count; i < entries; i++) \
            row->table[i] = greatest; \
        return row->count; \
    } \
    static int distinct_##T(const T *patterns, Py_ssize_t rows, Py_ssize_t size, int beside, T minus_zero, T *tables, Py_ssize_t entries) { \
        Row_##T some[BESIDE]; \
        int bits = 3, longest = 0, together = beside ? BESIDE : 1; \
        while (1 << bits < 4 * entries) \
            bits++; \
        for (Py_ssize_t start = 0; start < rows; start += together) { \
            int count = rows - start < together ? (int)(rows - start) : together; \
            const T *from = patterns + (beside ? start : start * size); \
            Py_ssize_t step = beside ? rows : 1; \
            for (int row = 0; row < count; row++) \
                begin_##T(&some[row], tables + (start + row) * entries, from[row] == minus_zero ? 0 : from[row], 1 << bits); \
            for (Py_ssize_t i = 0; i < size; i++, from += step) \
                for (int row = 0; row < count; row++) \
                    if (!add_##T(&some[row], from[row] == minus_zero ? 0 : from[row], bits, entries)) \
                        return 0; \
            for (int row = 0; row < count; row++) { \
                int found = finish_##T(&some[row], entries); \
                longest = found > longest ? found : longest; \
            } \
        } \
        return longest; \
    } \
    /* Of what stands twice in a table, the first place. */ \
    static void settle_##T(Row_##T *row, const T *table, Py_ssize_t entries, int bits) { \
        T first = table[0]; \
        begin_##T(row, &first, first, 1 << bits); \
        memset(row->places, 0, sizeof row->places); \
        for (Py_ssize_t i = 1; i < entries; i++) { \
            int slot = slot_##T(row, table[i], bits); \
            if (row->slots[slot] != table[i]) { \
                row->slots[slot] = table[i]; \
                row->places[slot] = (u8)i; \
            } \
        } \
        row->table = (T *)table; \
    } \
    static void row_places_##T(const T *patterns, Py_ssize_t rows, Py_ssize_t size, int beside, T minus_zero, const T *tables, Py_ssize_t entries, u8 *places) { \
        Row_##T some[BESIDE]; \
        int bits = 3, together = beside ? BESIDE : 1; \
        while (1 << bits < 4 * entries) \
            bits++; \
        for (Py_ssize_t start = 0; start < rows; start += together) { \
            int count = rows - start < together ? (int)(rows - start) : together; \
            Py_ssize_t at = beside ? start : start * size, step = beside ? rows : 1; \
            for (int row = 0; row < count; row++) \
                settle_##T(&some[row], tables + (start + row) * entries, entries, bits); \
            for (Py_ssize_t i = 0; i < size; i++, at += step) \
                for (int row = 0; row < count; row++) { \
                    T pattern = patterns[at + row]; \
                    places[at + row] = some[row].places[slot_##T(&some[row], pattern == minus_zero ? 0 : pattern, bits)]; \
                } \
        } \
    }
FOR_PATTERNS(TABLES)

/* How many entries a row has; 0 with an exception if they do not fit. */
static Py_ssize_t entries_of(Buffers *buffers, uint64_t rows) {
    Py_ssize_t values = length(buffers, 0), entries = length(buffers, 1), count = (Py_ssize_t)rows;
    if (refused(buffers, width_of(buffers, 0) == width_of(buffers, 1), "tables of the patterns' type")
        || refused(buffers, count > 0 && values >= count && values % count == 0, "rows of one length")
        || refused(buffers, entries % count == 0 && entries >= count && entries / count <= ENTRIES, "1 to 256 entries a row"))
        return 0;
    return entries / count;
}

FUNCTION(distinct_into) {
    Buffers buffers;
    uint64_t numbers[3]; /* the number of rows, a pattern that is taken for 0, and whether rows lie side by side */
    Py_ssize_t entries;
    int longest;
    if (acquire(&buffers, given, all, 2, 1, numbers, 3) < 0 || !(entries = entries_of(&buffers, numbers[0])))
        return NULL;
    Py_ssize_t rows = (Py_ssize_t)numbers[0], size = length(&buffers, 0) / rows;
    Py_BEGIN_ALLOW_THREADS
    CALL(longest =, distinct, width_of(&buffers, 0),
         (data(&buffers, 0), rows, size, numbers[2] != 0, numbers[1], data(&buffers, 1), entries))
    Py_END_ALLOW_THREADS
    release(&buffers);
    return PyLong_FromLong(longest);
}

FUNCTION(row_places_into) {
    Buffers buffers;
    uint64_t numbers[3]; /* as those of `distinct_into` */
    Py_ssize_t entries;
    if (acquire(&buffers, given, all, 3, 2, numbers, 3) < 0 || !(entries = entries_of(&buffers, numbers[0]))
        || refused(&buffers, width_of(&buffers, 2) == 1 && length(&buffers, 2) == length(&buffers, 0), "a byte a pattern"))
        return NULL;
    Py_ssize_t rows = (Py_ssize_t)numbers[0], size = length(&buffers, 0) / rows;
    Py_BEGIN_ALLOW_THREADS
    CALL(, row_places, width_of(&buffers, 0),
         (data(&buffers, 0), rows, size, numbers[2] != 0, numbers[1], data(&buffers, 1), entries, data(&buffers, 2)))
    Py_END_ALLOW_THREADS
    release(&buffers);
    Py_RETURN_NONE;
}
