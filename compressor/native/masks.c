/* Masks: values selected and scattered, distances between the places that are set. */

#include "loops.h"

/* Eight bytes of a mask, each 0 or 1 as numpy writes them, at a time; no branch depends on them: they are as good as
random. The last few are taken one by one, where values may end. */

static inline int is_mask(const u8 *where) {
    return (get_eight(where) & ~ONES(8)) == 0;
}

/* The eight bytes as bits: the byte of place j comes to bit 56 + j, no two to one. */
static inline u8 bits_of(const u8 *where) {
    return (u8)(get_eight(where) * 0x0102040810204080u >> 56);
}

Places places_of[256];

void make_places(void) {
    for (int byte = 0; byte < 256; byte++) {
        Places *made = &places_of[byte];
        memset(made, 0, sizeof *made);
        made->after = 8;
        for (uint64_t place = 0, last = 0; place < 8; place++) {
            made->ranks |= (uint64_t)made->count << 8 * place;
            if (!(byte >> place & 1))
                continue;
            made->places |= place << 8 * made->count;
            made->distances |= (place - last) << 8 * made->count;
            made->count++;
            made->after = (u8)(8 - place);
            last = place;
        }
    }
}

/* Eight values at a time by a table of where each goes: how many of the mask were looked at, and values moved. */
#ifdef AVX2
AVX2 static inline __m256i spread(uint64_t bytes) {
    return _mm256_cvtepu8_epi32(_mm_cvtsi64_si128((long long)bytes));
}

/* The places of both bytes of each value. */
AVX2 static inline __m128i in_pairs(uint64_t places) {
    __m128i each = _mm_cvtsi64_si128((long long)places), twice = _mm_unpacklo_epi8(each, each);
    return _mm_add_epi8(_mm_add_epi8(twice, twice), _mm_set1_epi16(0x0100));
}

AVX2 static inline void select_eight_u32(const u32 *values, uint64_t set, u32 *chosen) {
    __m256i eight = _mm256_loadu_si256((const void *)values);
    _mm256_storeu_si256((void *)chosen, _mm256_permutevar8x32_epi32(eight, spread(set)));
}

AVX2 static inline void select_eight_u16(const u16 *values, uint64_t set, u16 *chosen) {
    __m128i eight = _mm_loadu_si128((const void *)values);
    _mm_storeu_si128((void *)chosen, _mm_shuffle_epi8(eight, in_pairs(set)));
}

AVX2 static inline void scatter_eight_u32(const u32 *values, uint64_t ranks, uint64_t where, u32 *dense) {
    __m256i eight = _mm256_permutevar8x32_epi32(_mm256_loadu_si256((const void *)values), spread(ranks));
    __m256i kept = _mm256_sub_epi32(_mm256_setzero_si256(), spread(where));
    _mm256_storeu_si256((void *)dense, _mm256_and_si256(eight, kept));
}

AVX2 static inline void scatter_eight_u16(const u16 *values, uint64_t ranks, uint64_t where, u16 *dense) {
    __m128i eight = _mm_shuffle_epi8(_mm_loadu_si128((const void *)values), in_pairs(ranks));
    __m128i kept = _mm_sub_epi16(_mm_setzero_si128(), _mm_cvtepu8_epi16(_mm_cvtsi64_si128((long long)where)));
    _mm_storeu_si128((void *)dense, _mm_and_si128(eight, kept));
}

#define EIGHTS(T) \
    AVX2 static Py_ssize_t selected_##T(const T *values, const u8 *where, Py_ssize_t size, T *chosen, Py_ssize_t count, Py_ssize_t *taken) { \
        Py_ssize_t i = 0, done = 0; \
        for (; i + 8 <= size && done + 8 <= count && is_mask(where + i); i += 8) { \
            const Places *set = &places_of[bits_of(where + i)]; \
            select_eight_##T(values + i, set->places, chosen + done); \
            done += set->count; \
        } \
        *taken = done; \
        return i; \
    } \
    AVX2 static Py_ssize_t scattered_##T(const T *values, const u8 *where, Py_ssize_t size, T *dense, Py_ssize_t count, Py_ssize_t *taken) { \
        Py_ssize_t i = 0, done = 0; \
        for (; i + 8 <= size && done + 8 <= count && is_mask(where + i); i += 8) { \
            const Places *set = &places_of[bits_of(where + i)]; \
            scatter_eight_##T(values + done, set->ranks, get_eight(where + i), dense + i); \
            done += set->count; \
        } \
        *taken = done; \
        return i; \
    }
EIGHTS(u16)
EIGHTS(u32)
#define IN_EIGHTS(moved, width, arguments) \
    if (width == 4 && HAS_AVX2()) \
        return moved##_u32 arguments; \
    if (width == 2 && HAS_AVX2()) \
        return moved##_u16 arguments;
#else
#define IN_EIGHTS(moved, width, arguments)
#endif

static Py_ssize_t selected(const void *values, const u8 *where, Py_ssize_t size, void *chosen, Py_ssize_t count, int width, Py_ssize_t *taken) {
    *taken = 0;
    IN_EIGHTS(selected, width, (values, where, size, chosen, count, taken))
    return 0;
}

static Py_ssize_t scattered(const void *values, const u8 *where, Py_ssize_t size, void *dense, Py_ssize_t count, int width, Py_ssize_t *taken) {
    *taken = 0;
    IN_EIGHTS(scattered, width, (values, where, size, dense, count, taken))
    return 0;
}

#define MASKS(T) \
    static int select_##T(const T *values, const u8 *where, Py_ssize_t size, T *chosen, Py_ssize_t count) { \
        Py_ssize_t taken, i = selected(values, where, size, chosen, count, sizeof(T), &taken); \
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
        Py_ssize_t taken, i = scattered(values, where, size, dense, count, sizeof(T), &taken); \
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

/* The codes of a distance, where there is room; how many there are with those before. */
static inline Py_ssize_t add_gap(uint64_t distance, u8 *codes, Py_ssize_t made, Py_ssize_t room, unsigned most) {
    for (; distance >= most; distance -= most, made++)
        if (made < room)
            codes[made] = (u8)most;
    if (made < room)
        codes[made] = (u8)distance;
    return made + 1;
}

/* The codes of the distances between the places that a mask sets, where there is room; how many there are.

ahead: how far the first place is from the value before, and then the one behind the last place.

Eight places at a time: only the first distance among them may take a second code. Of their codes a word is written. */
static Py_ssize_t gaps_of(const u8 *where, Py_ssize_t size, u8 *codes, Py_ssize_t room, unsigned most, uint64_t *ahead) {
    Py_ssize_t made = 0, i = 0;
    uint64_t next = *ahead;
    while (i < size) {
        if (size - i < 8 || !is_mask(where + i)) {
            if (where[i]) {
                made = add_gap(next, codes, made, room, most);
                next = 0;
            }
            next++;
            i++;
            continue;
        }
        const Places *set = &places_of[bits_of(where + i)];
        if (most > 7 && next + (set->distances & 255) < most && (!room || room - made >= 8)) {
            if (room)
                put_eight(codes + made, set->distances + next);
            made += set->count;
        } else
            for (int place = 0; place < set->count; place++)
                made = add_gap((set->distances >> 8 * place & 255) + (place ? 0 : next), codes, made, room, most);
        next = set->after + (next & -(uint64_t)!set->count); /* no branch: which bytes are empty is as good as random */
        i += 8;
    }
    *ahead = next;
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
    uint64_t numbers[2], most, ahead; /* the code that is no value; how far the first place is from the value before */
    Py_ssize_t count;
    if (acquire(&buffers, given, all, 2, 1, numbers, 2) < 0
        || refused(&buffers, width_of(&buffers, 0) == 1 && width_of(&buffers, 1) == 1, "a byte a place and a code")
        || refused(&buffers, numbers[0] && numbers[0] < 256, "codes of 1 to 8 bits")
        || refused(&buffers, numbers[1] <= PY_SSIZE_T_MAX / 2, "a distance within memory"))
        return NULL;
    most = numbers[0], ahead = numbers[1];
    Py_BEGIN_ALLOW_THREADS
    count = gaps_of(data(&buffers, 0), length(&buffers, 0), data(&buffers, 1), length(&buffers, 1), (unsigned)most, &ahead);
    Py_END_ALLOW_THREADS
    if (refused(&buffers, !length(&buffers, 1) || count <= length(&buffers, 1), "room for as many codes as the mask takes"))
        return NULL;
    release(&buffers);
    return Py_BuildValue("nn", count, (Py_ssize_t)ahead);
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

