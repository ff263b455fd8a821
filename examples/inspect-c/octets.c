#include "octets.h"

#include <stdlib.h>

/* ---------------------------------------------------------------------------------------------------------------------
 * Text.
 */

void text_put(text *to, const void *octets, size_t length)
{
    if (to->failed || length == 0) {
        return;
    }
    if (to->room - to->length < length) {
        size_t room = (to->length + length) * 2;
        char *bigger = realloc(to->octets, room);
        if (bigger == NULL) {
            to->failed = 1;
            return;
        }
        to->octets = bigger;
        to->room = room;
    }
    memcpy(to->octets + to->length, octets, length);
    to->length += length;
}

void text_puts(text *to, const char *string)
{
    text_put(to, string, strlen(string));
}

void text_number(text *to, uint64_t number)
{
    char digits[24];
    size_t at = sizeof digits;
    do {
        digits[--at] = (char)('0' + number % 10);
        number /= 10;
    } while (number > 0);
    text_put(to, digits + at, sizeof digits - at);
}

void text_json(text *to, rgunicorn_bytes octets)
{
    static const char hex[] = "0123456789abcdef";
    size_t at;
    text_put(to, "\"", 1);
    for (at = 0; at < octets.length; at++) {
        unsigned char octet = (unsigned char)octets.data[at];
        if (octet == '"' || octet == '\\') {
            char escaped[2] = {'\\', (char)octet};
            text_put(to, escaped, sizeof escaped);
        } else if (octet >= ' ' && octet <= '~') {
            text_put(to, &octets.data[at], 1);
        } else {
            char escaped[6] = {'\\', 'u', '0', '0', hex[octet >> 4], hex[octet & 15]};
            text_put(to, escaped, sizeof escaped);
        }
    }
    text_put(to, "\"", 1);
}

/* ---------------------------------------------------------------------------------------------------------------------
 * Parameters.
 */

static int hex_digit(char digit)
{
    if (digit >= '0' && digit <= '9') {
        return digit - '0';
    }
    if (digit >= 'a' && digit <= 'f') {
        return digit - 'a' + 10;
    }
    return digit >= 'A' && digit <= 'F' ? digit - 'A' + 10 : -1;
}

static void decode(const char *value, size_t length, text *decoded)
{
    size_t at = 0;
    while (at < length) {
        int high = value[at] == '%' && length - at > 2 ? hex_digit(value[at + 1]) : -1;
        int low = high < 0 ? -1 : hex_digit(value[at + 2]);
        char octet = low < 0 ? value[at] : (char)(high * 16 + low);
        text_put(decoded, &octet, 1);
        at += low < 0 ? 1 : 3;
    }
}

int query_octets(rgunicorn_bytes query, const char *name, text *value)
{
    size_t length = strlen(name), at = 0;
    while (at < query.length) {
        const char *pair = query.data + at;
        const char *mark = memchr(pair, '&', query.length - at);
        size_t size = mark == NULL ? query.length - at : (size_t)(mark - pair);
        if (size > length && memcmp(pair, name, length) == 0 && pair[length] == '=') {
            decode(pair + length + 1, size - length - 1, value);
            return 1;
        }
        at += size + 1;
    }
    return 0;
}

uint64_t query_number(rgunicorn_bytes query, const char *name, uint64_t most, uint64_t otherwise)
{
    text digits = {NULL, 0, 0, 0};
    uint64_t number;
    if (!query_octets(query, name, &digits) || !decimal(digits.octets, digits.length, most, &number)) {
        number = otherwise;
    }
    free(digits.octets);
    return number;
}

int decimal(const char *digits, size_t length, uint64_t most, uint64_t *number)
{
    uint64_t value = 0;
    size_t at;
    for (at = 0; at < length; at++) {
        uint64_t digit = (uint64_t)(digits[at] - '0');
        if (digits[at] < '0' || digits[at] > '9' || value > (most - digit) / 10) {
            return 0;
        }
        value = value * 10 + digit;
    }
    *number = value;
    return length > 0;
}

/* ---------------------------------------------------------------------------------------------------------------------
 * SHA-256. The names are those of FIPS 180-4, sections 4.1.2, 4.2.2 and 6.2.
 */

static const uint32_t K[64] = {
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2};

static uint32_t rotr(uint32_t word, int by)
{
    return word >> by | word << (32 - by);
}

static void compress(uint32_t state[8], const unsigned char block[64])
{
    uint32_t W[64], v[8];
    int t;
    for (t = 0; t < 16; t++) {
        const unsigned char *at = block + 4 * t;
        W[t] = (uint32_t)at[0] << 24 | (uint32_t)at[1] << 16 | (uint32_t)at[2] << 8 | (uint32_t)at[3];
    }
    for (t = 16; t < 64; t++) {
        uint32_t sigma0 = rotr(W[t - 15], 7) ^ rotr(W[t - 15], 18) ^ W[t - 15] >> 3;
        uint32_t sigma1 = rotr(W[t - 2], 17) ^ rotr(W[t - 2], 19) ^ W[t - 2] >> 10;
        W[t] = sigma1 + W[t - 7] + sigma0 + W[t - 16];
    }
    memcpy(v, state, sizeof v);
    for (t = 0; t < 64; t++) {
        uint32_t sum1 = rotr(v[4], 6) ^ rotr(v[4], 11) ^ rotr(v[4], 25);
        uint32_t choice = (v[4] & v[5]) ^ (~v[4] & v[6]);
        uint32_t T1 = v[7] + sum1 + choice + K[t] + W[t];
        uint32_t sum0 = rotr(v[0], 2) ^ rotr(v[0], 13) ^ rotr(v[0], 22);
        uint32_t majority = (v[0] & v[1]) ^ (v[0] & v[2]) ^ (v[1] & v[2]);
        memmove(v + 1, v, 7 * sizeof v[0]);
        v[4] += T1;
        v[0] = T1 + sum0 + majority;
    }
    for (t = 0; t < 8; t++) {
        state[t] += v[t];
    }
}

void sha256_begin(sha256 *hash)
{
    static const uint32_t first[8] = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                      0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
    memcpy(hash->state, first, sizeof first);
    hash->length = 0;
}

void sha256_update(sha256 *hash, const unsigned char *octets, size_t length)
{
    while (length > 0) {
        size_t held = hash->length % sizeof hash->block;
        size_t taken = sizeof hash->block - held;
        if (taken > length) {
            taken = length;
        }
        memcpy(hash->block + held, octets, taken);
        hash->length += taken;
        octets += taken;
        length -= taken;
        if (held + taken == sizeof hash->block) {
            compress(hash->state, hash->block);
        }
    }
}

void sha256_end(sha256 *hash, char digest[65])
{
    static const unsigned char padding[64] = {0x80};
    uint64_t bits = hash->length * 8;
    size_t held = hash->length % sizeof hash->block;
    unsigned char length[8];
    int at;
    sha256_update(hash, padding, held < 56 ? 56 - held : 120 - held);
    for (at = 0; at < 8; at++) {
        length[at] = (unsigned char)(bits >> (56 - 8 * at));
    }
    sha256_update(hash, length, sizeof length);
    for (at = 0; at < 64; at++) {
        digest[at] = "0123456789abcdef"[hash->state[at / 8] >> (28 - at % 8 * 4) & 15];
    }
    digest[64] = '\0';
}
