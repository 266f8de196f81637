/* wire: see wire.h. */
#define _GNU_SOURCE
#include "wire.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

void append(struct buffer *to, const void *data, size_t size) {
    if (to->size + size > to->room) {
        to->room = 2 * (to->size + size) + 64;
        to->data = realloc(to->data, to->room);
        if (!to->data)
            abort();
    }
    if (size)
        memcpy(to->data + to->size, data, size);
    to->size += size;
}

void append_text(struct buffer *to, const char *text) {
    append(to, text, strlen(text));
}

static void append_digits(struct buffer *to, uint64_t number, unsigned least) {
    char digits[20], *end = digits + sizeof digits, *at = end;
    for (; number || (size_t)(end - at) < least; number /= 10)
        *--at = (char)('0' + number % 10);
    append(to, at, (size_t)(end - at));
}

void append_number(struct buffer *to, uint64_t number) {
    append_digits(to, number, 1);
}

void drop_front(struct buffer *from, size_t size) {
    from->size -= size;
    if (from->size && size)
        memmove(from->data, from->data + size, from->size);
}

/* Templates. */

enum value { LITERAL, CHANNEL, CHANNEL_SIZE, INDEX, NUMBER, MESSAGE, SIZE, CURSOR };
static const char *const NAMES[] = {"", "{ch}", "{chlen}", "{i}", "{seq}", "{msg}", "{len}", "{cursor}"};

struct piece {
    enum value value;
    struct buffer literal;
};

struct buffer unescaped(const char *text) {
    struct buffer bytes = {0};
    for (; *text; text++) {
        static const char escapes[] = "rnt0\\", meant[] = "\r\n\t\0\\";
        const char *found = *text == '\\' && text[1] ? strchr(escapes, text[1]) : NULL;
        unsigned byte;
        int length = 0;
        if (found) {
            append(&bytes, &meant[found - escapes], 1);
            text++;
        } else if (sscanf(text, "\\x%2x%n", &byte, &length) == 1) {
            append(&bytes, &(char){(char)byte}, 1);
            text += length - 1;
        } else
            append(&bytes, text, 1);
    }
    append(&bytes, "", 1); /* so that it can be a string too */
    bytes.size--;
    return bytes;
}

static struct buffer *add_piece(struct template *to, enum value value) {
    to->pieces = realloc(to->pieces, (to->count + 1) * sizeof *to->pieces);
    if (!to->pieces)
        abort();
    to->pieces[to->count] = (struct piece){.value = value};
    return &to->pieces[to->count++].literal;
}

struct template template_of(const char *text) {
    struct template made = {0};
    struct buffer bytes = unescaped(text), *literal = NULL;
    for (size_t at = 0; at < bytes.size;) {
        enum value value = LITERAL;
        size_t size = 1;
        for (enum value named = CHANNEL; named <= CURSOR && value == LITERAL; named++)
            if (!strncmp(bytes.data + at, NAMES[named], strlen(NAMES[named]))) {
                value = named;
                size = strlen(NAMES[named]);
            }
        if (value != LITERAL || !literal)
            literal = add_piece(&made, value);
        if (value == LITERAL)
            append(literal, bytes.data + at, 1);
        else
            literal = NULL;
        at += size;
    }
    free(bytes.data);
    return made;
}

void render(const struct template *template, const struct values *values, struct buffer *to) {
    for (const struct piece *piece = template->pieces; piece < template->pieces + template->count; piece++)
        switch (piece->value) {
        case LITERAL: append(to, piece->literal.data, piece->literal.size); break;
        case CHANNEL: append_text(to, values->channel); break;
        case CHANNEL_SIZE: append_number(to, strlen(values->channel)); break;
        case INDEX: append_number(to, values->index); break;
        case NUMBER: append_digits(to, values->number, 9); break;
        case MESSAGE: append(to, values->message, values->size); break;
        case SIZE: append_number(to, values->size); break;
        case CURSOR: append_text(to, values->cursor ? values->cursor : ""); break;
        }
}

/* HTTP responses (RFC 9112). */

const char *field_of(const struct buffer *head, const char *name, size_t *size) {
    size_t length = strlen(name);
    const char *end = head->data + head->size, *line = memchr(head->data, '\n', head->size);
    for (const char *next; line && ++line < end; line = next) {
        next = memchr(line, '\n', (size_t)(end - line));
        const char *last = next ? next : end;
        if ((size_t)(last - line) <= length || line[length] != ':' || strncasecmp(line, name, length))
            continue;
        const char *value = line + length + 1;
        while (value < last && (*value == ' ' || *value == '\t'))
            value++;
        while (last > value && (last[-1] == '\r' || last[-1] == ' '))
            last--;
        *size = (size_t)(last - value);
        return value;
    }
    return NULL;
}

static bool field_says(const struct buffer *head, const char *name, const char *word) {
    size_t size, length = strlen(word);
    const char *value = field_of(head, name, &size);
    for (; value && size >= length; value++, size--)
        if (!strncasecmp(value, word, length))
            return true;
    return false;
}

/* Where the body ends, by section 6.3. */
static void begin_body(struct response *r) {
    size_t size;
    const char *length;
    r->line_size = 0;
    r->keep_alive = r->head.data[7] == '1' ? !field_says(&r->head, "Connection", "close")
                                           : field_says(&r->head, "Connection", "keep-alive");
    r->state = COUNTED;
    r->left = 0;
    if (r->status == 101 || r->status == 204 || r->status == 304)
        return;
    if (field_says(&r->head, "Transfer-Encoding", "chunked"))
        r->state = CHUNK_SIZE;
    else if ((length = field_of(&r->head, "Content-Length", &size)))
        r->left = strtoull(length, NULL, 10);
    else
        r->state = UNTIL_CLOSED;
}

static bool read_head(struct response *r, const char **at, const char *end) {
    if (!r->begun)
        r->head.size = 0;
    r->begun = true;
    while (*at < end) {
        const char *newline = memchr(*at, '\n', (size_t)(end - *at)), *next = newline ? newline + 1 : end;
        append(&r->head, *at, (size_t)(next - *at));
        *at = next;
        if (r->head.size < 4 || memcmp(r->head.data + r->head.size - 4, "\r\n\r\n", 4))
            continue;
        r->status = 0;
        if (r->head.size > 12 && !memcmp(r->head.data, "HTTP/1.", 7))
            r->status = (unsigned)strtoul(r->head.data + 9, NULL, 10);
        if (r->status == 101 || r->status / 100 != 1)
            return true;
        r->head.size = 0; /* 100 Continue and the like come before the response */
    }
    return false;
}

/* A line of the chunked coding, without what is too long to matter; whether it is complete. */
static bool read_line(struct response *r, const char **at) {
    char c = *(*at)++;
    if (c != '\n') {
        if (c != '\r' && r->line_size < sizeof r->line - 1)
            r->line[r->line_size++] = c;
        return false;
    }
    r->line[r->line_size] = 0;
    return true;
}

static size_t skip(struct response *r, size_t size) {
    size_t skipped = size < r->left ? size : (size_t)r->left;
    r->left -= skipped;
    return skipped;
}

size_t read_response(struct response *r, const char *data, size_t size, unsigned *reached) {
    const char *at = data, *end = data + size;
    bool complete = false;
    *reached = 0;
    if (r->state == HEAD) {
        if (!read_head(r, &at, end))
            return size;
        begin_body(r);
        *reached = HEAD_READ;
        complete = r->state == COUNTED && !r->left;
    }
    while (at < end && !complete && !*reached) {
        switch (r->state) {
        case HEAD: abort();
        case UNTIL_CLOSED: return size;
        case COUNTED:
            at += skip(r, (size_t)(end - at));
            complete = !r->left;
            break;
        case CHUNK:
            at += skip(r, (size_t)(end - at));
            if (!r->left)
                r->state = CHUNK_SIZE;
            break;
        case CHUNK_SIZE:
            if (read_line(r, &at)) {
                r->left = strtoull(r->line, NULL, 16);
                r->state = r->left ? CHUNK : TRAILER;
                r->left += 2; /* its CRLF */
                r->line_size = 0;
            }
            break;
        case TRAILER:
            if (read_line(r, &at)) {
                complete = !r->line_size;
                r->line_size = 0;
            }
            break;
        }
    }
    if (complete) {
        *reached |= COMPLETE;
        r->state = HEAD;
        r->begun = false;
    }
    return (size_t)(at - data);
}

/* WebSocket frames (RFC 6455 section 5.2). */

bool next_frame(struct frames *f, const char **at, const char *end, bool short_texts) {
    while (*at < end) {
        if (!f->left) {
            f->head[f->have++] = (uint8_t)*(*at)++;
            if (f->have < 2)
                continue;
            unsigned length = f->head[1] & 127, extended = length == 126 ? 2 : length == 127 ? 8 : 0;
            if (f->have < 2 + extended)
                continue;
            f->left = extended ? 0 : length;
            for (unsigned i = 2; i < f->have; i++)
                f->left = f->left << 8 | f->head[i];
            f->have = 0;
            f->opcode = f->head[0] & 15;
            f->kept = f->opcode & 8 || (short_texts && f->left < 126);
            f->payload.size = 0;
        }
        size_t size = (size_t)(end - *at) < f->left ? (size_t)(end - *at) : (size_t)f->left;
        if (f->kept)
            append(&f->payload, *at, size);
        *at += size;
        f->left -= size;
        if (!f->left && f->kept)
            return true;
    }
    return false;
}

void append_frame(struct buffer *to, unsigned opcode, const void *payload, size_t size) {
    static const char mask[4] = "mask";
    uint8_t head[14] = {(uint8_t)(0x80 | opcode)};
    unsigned extended = size < 126 ? 0 : size < 65536 ? 2 : 8;
    head[1] = (uint8_t)(0x80 | (!extended ? size : extended == 2 ? 126 : 127));
    for (unsigned i = 0; i < extended; i++)
        head[2 + i] = (uint8_t)(size >> 8 * (extended - 1 - i));
    memcpy(head + 2 + extended, mask, 4);
    append(to, head, 6 + extended);
    append(to, payload, size);
    char *masked = to->data + to->size - size;
    for (size_t i = 0; i < size; i++)
        masked[i] ^= mask[i & 3];
}

/* ZMTP 3.0 (rfc.zeromq.org/spec/23). */

void append_zmtp_hello(struct buffer *to, const char *socket_type) {
    static const char greeting[64] = "\xff\0\0\0\0\0\0\0\1\x7f\3\0NULL";
    size_t length = strlen(socket_type);
    append(to, greeting, sizeof greeting);
    append(to, (char[]){4, (char)(6 + 12 + 4 + length)}, 2); /* a command */
    append(to, "\5READY\13Socket-Type\0\0\0", 21);
    append(to, (char[]){(char)length}, 1);
    append(to, socket_type, length);
}

void append_zmtp_frame(struct buffer *to, bool more, const void *payload, size_t size) {
    bool large = size > 255;
    uint8_t head[9] = {(uint8_t)(more | large << 1)};
    for (unsigned i = 0; i < (large ? 8 : 1); i++)
        head[1 + i] = (uint8_t)(size >> 8 * ((large ? 7 : 0) - i));
    append(to, head, large ? 9 : 2);
    append(to, payload, size);
}
