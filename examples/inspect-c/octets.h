/*
 * Octets of inspect: text that grows, parameters of a query, and the hash of a body. Nothing here knows of a server.
 */
#ifndef INSPECT_OCTETS_H
#define INSPECT_OCTETS_H

#include <rgunicorn.h>

/* Text that grows. It begins as {NULL, 0, 0, 0}, and its octets belong to whoever made it: free(text.octets). */
typedef struct text {
    char *octets;
    size_t length;
    size_t room;
    /* Set when there was no memory; what is put afterwards is dropped. */
    int failed;
} text;

void text_put(text *to, const void *octets, size_t length);
void text_puts(text *to, const char *string);
void text_number(text *to, uint64_t number);
/* A JSON string (RFC 8259 section 7) of which each character is one octet: JSON is text and a request is octets, so
 * each becomes the character with its number (Latin-1), and nothing can be invalid. */
void text_json(text *to, rgunicorn_bytes octets);

/* The decoded value of the first parameter with this name in a query: `name=value` joined by `&`, values
 * percent-decoded into octets. Not form encoding: `+` stays `+`, and a `%` that two hexadecimal digits do not follow stays `%`. Returns
 * whether there is one. */
int query_octets(rgunicorn_bytes query, const char *name, text *value);
/* A parameter that is a decimal number of at most `most`; the default if it is missing or anything else. */
uint64_t query_number(rgunicorn_bytes query, const char *name, uint64_t most, uint64_t otherwise);
/* The number that these decimal digits are, at most `most`. Returns whether they are one. */
int decimal(const char *digits, size_t length, uint64_t most, uint64_t *number);

/* SHA-256 (FIPS 180-4), piece by piece. */
typedef struct sha256 {
    uint32_t state[8];
    uint64_t length;
    unsigned char block[64];
} sha256;

void sha256_begin(sha256 *hash);
void sha256_update(sha256 *hash, const unsigned char *octets, size_t length);
/* Lower-case hexadecimal. */
void sha256_end(sha256 *hash, char digest[65]);

#endif
