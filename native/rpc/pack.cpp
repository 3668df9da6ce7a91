// See pack.h. A packed message is
//   | its size unpacked (8 bytes) | blocks | the last size % 4 bytes |
// and a block
//   | n words that differ (4 bytes) | m repetitions (4 bytes) | n words | the word that is repeated, if m > 0 |

#include "pack.h"

#include <algorithm>
#include <cstring>

static constexpr size_t   MAX_SIZE  = 16u << 20; // bytes, of a message that is worth a try, or that is believed
static constexpr uint32_t MIN_RUN   = 4;         // words; a block costs two

static uint32_t word_at(const uint8_t * words, size_t i) {
    uint32_t word;
    memcpy(&word, words + 4*i, 4);
    return word;
}

static void append(std::vector<uint8_t> & out, const void * data, size_t size) {
    out.insert(out.end(), (const uint8_t *) data, (const uint8_t *) data + size);
}

static size_t run_at(const uint8_t * words, size_t i, size_t n_words) {
    size_t end = i + 1;
    while (end < n_words && word_at(words, end) == word_at(words, i)) {
        ++end;
    }
    return end - i;
}

bool rpc_pack(const void * data, size_t size, std::vector<uint8_t> & out) {
    if (size < 64 || size > MAX_SIZE) {
        return false;
    }
    const uint8_t * words    = (const uint8_t *) data;
    const size_t    n_words  = size/4;
    const size_t    max_size = size - size/4;
    const uint64_t  n_bytes  = size;
    out.clear();
    append(out, &n_bytes, sizeof(n_bytes));
    for (size_t i = 0; i < n_words; ) {
        size_t   differ = 0;
        uint32_t run    = 0;
        while (i + differ < n_words) {
            const size_t length = run_at(words, i + differ, n_words);
            if (length >= MIN_RUN) {
                run = (uint32_t) length;
                break;
            }
            differ += length;
        }
        if (out.size() + 4*differ + 12 > max_size) {
            return false;
        }
        const uint32_t n = (uint32_t) differ;
        append(out, &n,   sizeof(n));
        append(out, &run, sizeof(run));
        append(out, words + 4*i, 4*differ + (run > 0 ? 4 : 0));
        i += differ + run;
    }
    append(out, words + 4*n_words, size % 4);
    return out.size() <= max_size;
}

bool rpc_unpack(std::vector<uint8_t> & message) {
    uint64_t size = 0;
    if (message.size() < sizeof(size)) {
        return false;
    }
    memcpy(&size, message.data(), sizeof(size));
    if (size > MAX_SIZE) {
        return false;
    }
    const uint8_t * in  = message.data() + sizeof(size);
    const uint8_t * end = message.data() + message.size();
    std::vector<uint8_t> out;
    out.reserve(size);
    while (out.size() + 4 <= size) {
        uint32_t n = 0, run = 0;
        if (end - in < 8) {
            return false;
        }
        memcpy(&n,   in,     4);
        memcpy(&run, in + 4, 4);
        in += 8;
        const size_t given = 4*((size_t) n + (run > 0));
        if (n + run == 0 || (size_t) (end - in) < given || out.size() + 4*((size_t) n + run) > size) {
            return false;
        }
        append(out, in, 4*(size_t) n);
        const size_t start = out.size();
        out.resize(start + 4*(size_t) run);
        for (uint32_t i = 0; i < run; ++i) {
            memcpy(out.data() + start + 4*(size_t) i, in + 4*(size_t) n, 4);
        }
        in += given;
    }
    if ((size_t) (end - in) != size - out.size()) {
        return false;
    }
    append(out, in, (size_t) (end - in));
    message = std::move(out);
    return true;
}
