/* wire: what load sends and reads, as bytes: templates, HTTP responses, WebSocket frames, ZMTP. No sockets. */
#ifndef WIRE_H
#define WIRE_H
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct buffer {
    char *data;
    size_t size, room;
};

void append(struct buffer *to, const void *data, size_t size);
void append_text(struct buffer *to, const char *text);
void append_number(struct buffer *to, uint64_t number);
void drop_front(struct buffer *from, size_t size);

/* A template is a text with names in braces, which `render` replaces by their values. */

struct template {
    struct piece *pieces;
    unsigned count;
};

struct values {
    const char *channel;    /* {ch}, its size is {chlen} */
    uint64_t index, number; /* {i}, of the connection; {seq}, of the message, in nine digits */
    const char *message;    /* {msg}, its size is {len} */
    size_t size;
    const char *cursor;     /* {cursor}, what a long-poll got with its last answer */
};

struct template template_of(const char *text);
void render(const struct template *, const struct values *, struct buffer *to);

/* The bytes that a text stands for: \r \n \t \0 \\ and \xHH are escapes, any other backslash is itself. */
struct buffer unescaped(const char *text);

/* One HTTP response after the other, in any pieces. */

enum { HEAD_READ = 1, COMPLETE = 2 };

struct response {
    unsigned status;
    bool keep_alive;
    struct buffer head; /* until the next response begins */
    enum { HEAD, COUNTED, UNTIL_CLOSED, CHUNK_SIZE, CHUNK, TRAILER } state;
    bool begun;
    uint64_t left;
    char line[24];
    unsigned line_size;
};

/* Read on, to the end of the head or of the response at most, which `reached` tells; how many bytes were read. */
size_t read_response(struct response *, const char *data, size_t size, unsigned *reached);

/* A field's value in a head, or NULL. */
const char *field_of(const struct buffer *head, const char *name, size_t *size);

/* WebSocket frames that a server sends, in any pieces. Only what may have to be answered is kept: control frames, and
 * with `short_texts` frames of up to 125 bytes. */

enum { TEXT = 1, CLOSE = 8, PING = 9, PONG = 10 };

struct frames {
    uint8_t head[14];
    unsigned have, opcode;
    uint64_t left;
    bool kept;
    struct buffer payload;
};

/* Whether one is complete: its `opcode` and `payload` hold until the next call, which begins at `*at`. */
bool next_frame(struct frames *, const char **at, const char *end, bool short_texts);
void append_frame(struct buffer *to, unsigned opcode, const void *payload, size_t size);

/* ZMTP 3.0 without security (NULL). */

void append_zmtp_hello(struct buffer *to, const char *socket_type);
void append_zmtp_frame(struct buffer *to, bool more, const void *payload, size_t size);

#endif
