/* Codes of 1 to 7 bits, packed and unpacked: see packing.py for the order of the bits. */

#include "loops.h"

/* The first bytes of a word, least significant first, on a machine of either order. */
static inline uint64_t get(const u8 *from, int count) {
    uint64_t word = 0;
    for (int i = 0; i < count; i++)
        word |= (uint64_t)from[i] << 8 * i;
    return word;
}

static inline void put(u8 *to, uint64_t word, int count) {
    for (int i = 0; i < count; i++)
        to[i] = (u8)(word >> 8 * i);
}

/* Eight codes moved next to each other: neighbouring lanes are merged three times. */
static inline uint64_t merged(uint64_t word, int width) {
    word &= ONES(8) * (((uint64_t)1 << width) - 1);
    word = (word & LANES(8)) | ((word & ~LANES(8)) >> (8 - width));
    word = (word & LANES(16)) | ((word & ~LANES(16)) >> (16 - 2 * width));
    return (word & LANES(32)) | ((word & ~LANES(32)) >> (32 - 4 * width));
}

/* The inverse of `merged`. */
static inline uint64_t parted(uint64_t word, int width) {
    uint64_t low = word & (((uint64_t)1 << 4 * width) - 1);
    word = low | (word ^ low) << (32 - 4 * width);
    low = word & ONES(32) * (((uint64_t)1 << 2 * width) - 1);
    word = low | (word ^ low) << (16 - 2 * width);
    low = word & ONES(16) * (((uint64_t)1 << width) - 1);
    return low | (word ^ low) << (8 - width);
}

static inline void pack_width(const u8 *codes, Py_ssize_t count, u8 *packed, int width) {
    for (; count >= 8; count -= 8, codes += 8, packed += width)
        put(packed, merged(get(codes, 8), width), width);
    put(packed, merged(get(codes, (int)count), width), ((int)count * width + 7) / 8);
}

static inline void unpack_width(const u8 *packed, Py_ssize_t count, u8 *codes, int width) {
    for (; count >= 8; count -= 8, codes += 8, packed += width)
        put(codes, parted(get(packed, width), width), 8);
    put(codes, parted(get(packed, ((int)count * width + 7) / 8), width), (int)count);
}

/* Where codes fill a byte, compilers make vectors of these. */

static void pack_quarters(const u8 *codes, Py_ssize_t count, u8 *packed) {
    Py_ssize_t whole = count / 4;
    for (Py_ssize_t i = 0; i < whole; i++)
        packed[i] = (u8)((codes[4 * i] & 3) | (codes[4 * i + 1] & 3) << 2 | (codes[4 * i + 2] & 3) << 4 | codes[4 * i + 3] << 6);
    pack_width(codes + 4 * whole, count % 4, packed + whole, 2);
}

static void unpack_quarters(const u8 *packed, Py_ssize_t count, u8 *codes) {
    Py_ssize_t whole = count / 4;
    for (Py_ssize_t i = 0; i < whole; i++) {
        uint32_t word = packed[i];
        word = (word | word << 12) & 0x000f000f;
        word = (word | word << 6) & 0x03030303;
        put(codes + 4 * i, word, 4);
    }
    unpack_width(packed + whole, count % 4, codes + 4 * whole, 2);
}

static void pack_halves(const u8 *codes, Py_ssize_t count, u8 *packed) {
    Py_ssize_t whole = count / 2;
    for (Py_ssize_t i = 0; i < whole; i++)
        packed[i] = (u8)((codes[2 * i] & 15) | codes[2 * i + 1] << 4);
    if (count % 2)
        packed[whole] = codes[count - 1] & 15;
}

static void unpack_halves(const u8 *packed, Py_ssize_t count, u8 *codes) {
    Py_ssize_t whole = count / 2;
    for (Py_ssize_t i = 0; i < whole; i++) {
        codes[2 * i] = packed[i] & 15;
        codes[2 * i + 1] = packed[i] >> 4;
    }
    if (count % 2)
        codes[count - 1] = packed[whole] & 15;
}

/* A loop for each width, in which shifts are constants. */

static void pack_codes(const u8 *codes, Py_ssize_t count, u8 *packed, int width) {
    switch (width) {
    case 1: pack_width(codes, count, packed, 1); break;
    case 2: pack_quarters(codes, count, packed); break;
    case 3: pack_width(codes, count, packed, 3); break;
    case 4: pack_halves(codes, count, packed); break;
    case 5: pack_width(codes, count, packed, 5); break;
    case 6: pack_width(codes, count, packed, 6); break;
    default: pack_width(codes, count, packed, 7);
    }
}

void unpack_codes(const u8 *packed, Py_ssize_t count, u8 *codes, int width) {
    switch (width) {
    case 1: unpack_width(packed, count, codes, 1); break;
    case 2: unpack_quarters(packed, count, codes); break;
    case 3: unpack_width(packed, count, codes, 3); break;
    case 4: unpack_halves(packed, count, codes); break;
    case 5: unpack_width(packed, count, codes, 5); break;
    case 6: unpack_width(packed, count, codes, 6); break;
    default: unpack_width(packed, count, codes, 7);
    }
}

Py_ssize_t packed_nbytes(Py_ssize_t count, int width) {
    return count / 8 * width + (count % 8 * width + 7) / 8;
}

FUNCTION(pack_into) {
    Buffers buffers;
    uint64_t width;
    if (acquire(&buffers, given, all, 2, 1, &width, 1) < 0
        || refused(&buffers, width >= 1 && width <= 7, "codes of 1 to 7 bits")
        || refused(&buffers, width_of(&buffers, 0) == 1, "a byte a code")
        || refused(&buffers, buffers.view[1].len == packed_nbytes(length(&buffers, 0), (int)width), "as many bytes as codes take"))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    pack_codes(data(&buffers, 0), length(&buffers, 0), data(&buffers, 1), (int)width);
    Py_END_ALLOW_THREADS
    release(&buffers);
    Py_RETURN_NONE;
}

FUNCTION(unpack_into) {
    Buffers buffers;
    uint64_t width;
    if (acquire(&buffers, given, all, 2, 1, &width, 1) < 0
        || refused(&buffers, width >= 1 && width <= 7, "codes of 1 to 7 bits")
        || refused(&buffers, width_of(&buffers, 1) == 1, "a byte a code")
        || refused(&buffers, buffers.view[0].len == packed_nbytes(length(&buffers, 1), (int)width), "as many bytes as codes take"))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    unpack_codes(data(&buffers, 0), length(&buffers, 1), data(&buffers, 1), (int)width);
    Py_END_ALLOW_THREADS
    release(&buffers);
    Py_RETURN_NONE;
}
