/* sign: see sign.h. */
#define _GNU_SOURCE
#include "sign.h"

#include <dlfcn.h>
#include <string.h>
#include <time.h>

#include "options.h"

/* Found when they are needed, so that load is built without OpenSSL's headers. */
static unsigned char *(*md5)(const unsigned char *, size_t, unsigned char *);
static unsigned char *(*hmac)(const void *, const void *, int, const unsigned char *, size_t, unsigned char *,
                              unsigned *);
static const void *(*sha256)(void);
static const char *key, *secret;

static void *symbol(void *library, const char *name) {
    void *found = dlsym(library, name);
    if (!found)
        fail("libcrypto has no %s", name);
    return found;
}

void sign_by(const char *app) {
    void *library = dlopen("libcrypto.so.3", RTLD_NOW);
    if (!library)
        library = dlopen("libcrypto.so.1.1", RTLD_NOW);
    if (!library)
        fail("--pub-sign needs libcrypto: %s", dlerror());
    *(void **)&md5 = symbol(library, "MD5");
    *(void **)&hmac = symbol(library, "HMAC");
    *(void **)&sha256 = symbol(library, "EVP_sha256");
    char *words = strdup(app), *colon = words ? strchr(words, ':') : NULL;
    if (!colon)
        fail("%s is not KEY:SECRET", app);
    *colon = 0;
    key = words;
    secret = colon + 1;
}

static void append_hex(struct buffer *to, const unsigned char *digest, size_t size) {
    static const char HEX[] = "0123456789abcdef";
    for (size_t i = 0; i < size; i++)
        append(to, (char[]){HEX[digest[i] >> 4], HEX[digest[i] & 15]}, 2);
}

void append_signature(struct buffer *request, size_t path, const struct buffer *body) {
    static struct buffer query, text;
    unsigned char digest[64];
    unsigned size = 0;
    query.size = text.size = 0;
    append_text(&query, "auth_key=");
    append_text(&query, key);
    append_text(&query, "&auth_timestamp=");
    append_number(&query, (uint64_t)time(NULL));
    append_text(&query, "&auth_version=1.0&body_md5=");
    md5((const unsigned char *)body->data, body->size, digest);
    append_hex(&query, digest, 16);
    append_text(&text, "POST\n");
    append(&text, request->data + path, request->size - path);
    append_text(&text, "\n");
    append(&text, query.data, query.size);
    hmac(sha256(), secret, (int)strlen(secret), (const unsigned char *)text.data, text.size, digest, &size);
    append_text(request, "?");
    append(request, query.data, query.size);
    append_text(request, "&auth_signature=");
    append_hex(request, digest, size);
}
