/* What the loops share: types of bit patterns, and buffers whose lengths are checked.

Arrays come as buffers: contiguous, of whatever alignment, an element as wide as the buffer says. Values are bit
patterns, unsigned integers of their width. */

#ifndef COMPRESSOR_LOOPS_H
#define COMPRESSOR_LOOPS_H

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030b0000
#include <Python.h>
#include <stdint.h>
#include <string.h>

#if defined(__GNUC__) || defined(__clang__)
#define ANYWHERE __attribute__((may_alias, aligned(1)))
#else
#define ANYWHERE
#endif
typedef uint8_t u8;
typedef uint16_t ANYWHERE u16;
typedef uint32_t ANYWHERE u32;
typedef uint64_t ANYWHERE u64;

/* A loop that gains from wider vectors than every processor of the platform has: it is compiled for both, and which one
runs is found out when this is loaded. What it computes is the same. */
#if defined(__x86_64__) && defined(__GLIBC__) && defined(__GNUC__) && !defined(__clang__)
#define VECTORS __attribute__((target_clones("avx2", "default")))
#else
#define VECTORS
#endif

/* A loop that moves elements as compilers do not: written for AVX2, and called where there is AVX2. */
#if defined(__x86_64__) && defined(__GNUC__)
#include <immintrin.h>
#define AVX2 __attribute__((target("avx2,popcnt")))
#define HAS_AVX2() __builtin_cpu_supports("avx2")
#endif

/* A loop for each width of patterns, and the call of the one that a buffer needs:
`CALL(kept =, select, 4, (arguments))` is `kept = select_u32(arguments)`. */
#define FOR_PATTERNS(loop) loop(u8) loop(u16) loop(u32) loop(u64)
#define CALL(result, name, itemsize, arguments) \
    switch (itemsize) { \
    case 1: result name##_u8 arguments; break; \
    case 2: result name##_u16 arguments; break; \
    case 4: result name##_u32 arguments; break; \
    default: result name##_u64 arguments; \
    }

/* A word of 64 bits in lanes: the lowest bit of each, all of every second one. */
#define ONES(bits) (~(uint64_t)0 / (((uint64_t)1 << (bits)) - 1))
#define LANES(bits) (~(uint64_t)0 / (((uint64_t)1 << (bits)) + 1))

#define MOST 6
typedef struct {
    Py_buffer view[MOST];
    int count;
} Buffers;

/* The arguments of a function: `count` buffers, those from `written` on writable, then `numbers`. -1 if they are others,
with an exception and all buffers released. */
int acquire(Buffers *buffers, PyObject *const *given, Py_ssize_t all, int count, int written, uint64_t *numbers, int numbered);
void release(Buffers *buffers);

/* Raises ValueError, with all buffers released, unless a condition holds. */
int refused(Buffers *buffers, int holds, const char *condition);

static inline void *data(const Buffers *buffers, int place) {
    return buffers->view[place].buf;
}

static inline int width_of(const Buffers *buffers, int place) {
    return (int)buffers->view[place].itemsize;
}

static inline Py_ssize_t length(const Buffers *buffers, int place) {
    return buffers->view[place].len / buffers->view[place].itemsize;
}

/* Eight bytes as a word, least significant first, on a machine of either order, and back. */
static inline uint64_t ordered(uint64_t word) {
#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
    return __builtin_bswap64(word);
#else
    return word;
#endif
}

static inline uint64_t get_eight(const u8 *from) {
    uint64_t word;
    memcpy(&word, from, 8);
    return ordered(word);
}

static inline void put_eight(u8 *to, uint64_t word) {
    word = ordered(word);
    memcpy(to, &word, 8);
}

/* What is known of the eight places of a byte: made once, when the module is loaded. */
typedef struct {
    uint64_t places;    /* which are set, a byte each, ascending */
    uint64_t ranks;     /* of each place, how many before it are set */
    uint64_t distances; /* between those that are set, a byte each; of the first one its place */
    u8 count, after;    /* how many are set; how far the next byte is from the last of them */
} Places;
extern Places places_of[256];
void make_places(void);

/* Codes, packed and unpacked; loops that need them a few at a time ask for multiples of eight. */
void unpack_codes(const u8 *packed, Py_ssize_t count, u8 *codes, int width);
Py_ssize_t packed_nbytes(Py_ssize_t count, int width);

#define FUNCTION(name) PyObject *name(PyObject *Py_UNUSED(self), PyObject *const *given, Py_ssize_t all)
FUNCTION(pack_into);
FUNCTION(unpack_into);
FUNCTION(look_up_into);
FUNCTION(places_into);
FUNCTION(known);
FUNCTION(select_into);
FUNCTION(scatter_into);
FUNCTION(gaps_into);
FUNCTION(gaps_to_mask);
FUNCTION(near_zero);
FUNCTION(above_into);
FUNCTION(compared);
FUNCTION(extremes_into);
FUNCTION(fits_into);
FUNCTION(search_into);
FUNCTION(codes_into);
FUNCTION(dequantize_into);
FUNCTION(narrow_into);
FUNCTION(widen_into);
FUNCTION(round_into);
FUNCTION(turn_into);
FUNCTION(distinct_into);
FUNCTION(row_places_into);

#endif
