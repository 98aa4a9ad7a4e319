/* nullreg: a registry that takes everything and keeps nothing, far faster than any client.
 *
 * Bodies are dropped in the kernel (recv with MSG_TRUNC: no copy). It answers as a registry does that holds nothing:
 * 404 to every HEAD and GET, 202 with a Location to a POST, 201 to a PUT. It never blocks and never checks.
 *
 *   nullreg THREADS
 *
 * It listens on a free loopback port and prints it. GET /stats counts connections, requests, and bytes of bodies since
 * GET /reset; neither of the two counts itself.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

enum { HEAD_BYTES = 65536, ANSWER_BYTES = 8192, TARGET_BYTES = 4096, DROP_BYTES = 8 << 20, EVENTS = 256 };

/* What a connection waits for. */
enum state { HEAD, BODY, CHUNK_SIZE, CHUNK, CHUNK_END, TRAILER };
enum outcome { BROKEN = -1, NEEDS_MORE, MOVED_ON };

struct connection {
    int fd;
    enum state state;
    bool closes;        /* after the answer: the client asked for it */
    long rest;          /* bytes of the body, or of the chunk, that are still to come */
    long body;          /* bytes of the body so far */
    int in_length, out_length;
    char method[8], target[TARGET_BYTES];
    char in[HEAD_BYTES], out[ANSWER_BYTES];
};

static atomic_long connections, requests, body_bytes, heads, posts, patches, blob_puts, manifest_puts, uploads;
static int port;

/* -- answers */

static void answer(struct connection *c, const char *status, const char *headers, const char *body) {
    bool bare = strcmp(c->method, "HEAD") == 0;
    c->out_length += snprintf(c->out + c->out_length, sizeof c->out - c->out_length,
                              "HTTP/1.1 %s\r\nDocker-Distribution-Api-Version: registry/2.0\r\n%sContent-Length: "
                              "%zu\r\n%s\r\n%s",
                              status, headers, strlen(body), c->closes ? "Connection: close\r\n" : "",
                              bare ? "" : body);
}

static void answer_unknown(struct connection *c, const char *code) {
    char body[100];
    snprintf(body, sizeof body, "{\"errors\":[{\"code\":\"%s\"}]}", code);
    answer(c, "404 Not Found", "Content-Type: application/json\r\n", body);
}

static void answer_stats(struct connection *c) {
    char body[600];
    snprintf(body, sizeof body,
             "{\"connections\":%ld,\"requests\":%ld,\"bytes\":%ld,\"heads\":%ld,\"posts\":%ld,\"patches\":%ld,"
             "\"blob_puts\":%ld,\"manifest_puts\":%ld}\n",
             connections - 1, requests, body_bytes, heads, posts, patches, blob_puts, manifest_puts);
    answer(c, "200 OK", "Content-Type: application/json\r\n", body);
}

static void reset_stats(struct connection *c) {
    connections = requests = body_bytes = heads = posts = patches = blob_puts = manifest_puts = 0;
    answer(c, "200 OK", "", "");
}

static void answer_upload(struct connection *c, const char *path) {
    char headers[TARGET_BYTES + 200];
    if (strcmp(c->method, "POST") == 0) {
        posts++;
        snprintf(headers, sizeof headers, "Location: %s%08lx-0000-4000-8000-000000000000?_state=x\r\nRange: 0-0\r\n",
                 path, atomic_fetch_add(&uploads, 1));
        answer(c, "202 Accepted", headers, "");
    } else if (strcmp(c->method, "PATCH") == 0) {
        patches++;
        snprintf(headers, sizeof headers, "Location: %s?_state=y\r\nRange: 0-%ld\r\n", path,
                 c->body ? c->body - 1 : 0);
        answer(c, "202 Accepted", headers, "");
    } else if (strcmp(c->method, "PUT") == 0) {
        blob_puts++;
        answer(c, "201 Created", "Location: /v2/blob\r\n", "");
    } else {
        answer(c, "204 No Content", "", "");
    }
}

/* The whole request is here. */
static void finish(struct connection *c) {
    char path[TARGET_BYTES];
    snprintf(path, sizeof path, "%.*s", (int)strcspn(c->target, "?"), c->target);
    bool puts = strcmp(c->method, "PUT") == 0;
    if (strcmp(path, "/stats") == 0) {
        answer_stats(c);
    } else if (strcmp(path, "/reset") == 0) {
        reset_stats(c);
    } else {
        requests++;
        body_bytes += c->body;
        heads += strcmp(c->method, "HEAD") == 0;
        if (strcmp(path, "/v2/") == 0 || strcmp(path, "/v2") == 0) {
            answer(c, "200 OK", "Content-Type: application/json\r\n", "{}");
        } else if (strstr(path, "/blobs/uploads") != NULL) {
            answer_upload(c, path);
        } else if (strstr(path, "/manifests/") != NULL && puts) {
            manifest_puts++;
            answer(c, "201 Created", "Location: /v2/manifest\r\n", "");
        } else {
            answer_unknown(c, strstr(path, "/blobs/")       ? "BLOB_UNKNOWN"
                              : strstr(path, "/manifests/") ? "MANIFEST_UNKNOWN"
                                                            : "NAME_UNKNOWN");
        }
    }
    c->state = HEAD;
    c->body = 0;
}

/* -- reading */

static void drop(struct connection *c, int count) {
    memmove(c->in, c->in + count, c->in_length - count);
    c->in_length -= count;
}

static bool send_answers(struct connection *c) {
    int sent = 0;
    while (sent < c->out_length) {
        ssize_t count = send(c->fd, c->out + sent, c->out_length - sent, MSG_NOSIGNAL);
        if (count < 0 && errno != EAGAIN)
            return false;
        if (count < 0)
            usleep(100); /* answers are small: it hardly ever comes to this */
        else
            sent += count;
    }
    c->out_length = 0;
    return true;
}

static bool is_header(const char *line, const char *name) { return strncasecmp(line, name, strlen(name)) == 0; }

/* Headers end with an empty line; what matters of them is the body's length, and whether the connection stays. */
static void read_headers(struct connection *c, const char *line, const char *end, bool *chunked, bool *expects) {
    while ((line = memchr(line, '\n', end - line)) != NULL && ++line < end) {
        if (is_header(line, "content-length:"))
            c->rest = atol(line + 15);
        else if (is_header(line, "transfer-encoding:"))
            *chunked = true;
        else if (is_header(line, "expect:"))
            *expects = true;
        else if (is_header(line, "connection: close"))
            c->closes = true;
    }
}

static enum outcome read_head(struct connection *c) {
    if (c->in_length > 0 && c->in[0] == 0x16)
        return BROKEN; /* the client tries TLS first */
    char *end = memmem(c->in, c->in_length, "\r\n\r\n", 4);
    if (end == NULL)
        return c->in_length == HEAD_BYTES ? BROKEN : NEEDS_MORE;
    *end = '\0'; /* for sscanf */
    if (sscanf(c->in, "%7s %4095s", c->method, c->target) != 2)
        return BROKEN;
    bool chunked = false, expects = false;
    c->rest = 0;
    c->closes = false;
    read_headers(c, c->in, end + 2, &chunked, &expects);
    drop(c, end + 4 - c->in);
    if (expects) {
        c->out_length += snprintf(c->out + c->out_length, sizeof c->out - c->out_length,
                                  "HTTP/1.1 100 Continue\r\n\r\n");
        if (!send_answers(c))
            return BROKEN;
    }
    if (chunked)
        c->state = CHUNK_SIZE;
    else if (c->rest > 0)
        c->state = BODY;
    else
        finish(c);
    return MOVED_ON;
}

/* Bytes of a body: those that came with the head are in our buffer, the others never leave the kernel. */
static enum outcome skip_bytes(struct connection *c) {
    int here = c->in_length < c->rest ? c->in_length : (int)c->rest;
    drop(c, here);
    c->rest -= here;
    c->body += here;
    while (c->rest > 0) {
        ssize_t count = recv(c->fd, NULL, c->rest > DROP_BYTES ? DROP_BYTES : c->rest, MSG_TRUNC);
        if (count < 0 && errno == EAGAIN)
            return NEEDS_MORE;
        if (count <= 0)
            return BROKEN;
        c->rest -= count;
        c->body += count;
    }
    if (c->state == BODY)
        finish(c);
    else
        c->state = CHUNK_END;
    return MOVED_ON;
}

static enum outcome read_chunk_size(struct connection *c) {
    char *end = memmem(c->in, c->in_length, "\r\n", 2);
    if (end == NULL)
        return NEEDS_MORE;
    c->rest = strtol(c->in, NULL, 16);
    drop(c, end + 2 - c->in);
    c->state = c->rest > 0 ? CHUNK : TRAILER;
    return MOVED_ON;
}

static enum outcome read_trailer(struct connection *c) {
    char *end = memmem(c->in, c->in_length, "\r\n", 2);
    if (end == NULL)
        return NEEDS_MORE;
    bool last = end == c->in;
    drop(c, end + 2 - c->in);
    if (last)
        finish(c);
    return MOVED_ON;
}

static enum outcome step(struct connection *c) {
    switch (c->state) {
    case HEAD:
        return read_head(c);
    case BODY:
    case CHUNK:
        return skip_bytes(c);
    case CHUNK_SIZE:
        return read_chunk_size(c);
    case CHUNK_END:
        if (c->in_length < 2)
            return NEEDS_MORE;
        drop(c, 2);
        c->state = CHUNK_SIZE;
        return MOVED_ON;
    case TRAILER:
        return read_trailer(c);
    }
    return BROKEN;
}

/* Everything that can be done without waiting; false ends the connection. */
static bool serve(struct connection *c) {
    for (;;) {
        enum outcome outcome = MOVED_ON;
        while (outcome == MOVED_ON && (c->in_length > 0 || c->state == BODY || c->state == CHUNK)) {
            outcome = step(c);
            if (c->out_length > 0 && (!send_answers(c) || (c->closes && c->state == HEAD)))
                return false;
        }
        if (outcome == BROKEN)
            return false;
        if (c->state == BODY || c->state == CHUNK)
            return true;
        ssize_t count = recv(c->fd, c->in + c->in_length, HEAD_BYTES - c->in_length, 0);
        if (count < 0 && errno == EAGAIN)
            return true;
        if (count <= 0)
            return false;
        c->in_length += count;
    }
}

/* -- sockets: each thread has its own, and the kernel spreads the connections */

static int listen_on(int wanted) {
    int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(wanted)};
    socklen_t length = sizeof address;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &on, sizeof on);
    if (bind(fd, (struct sockaddr *)&address, sizeof address) != 0 || listen(fd, 1024) != 0 ||
        getsockname(fd, (struct sockaddr *)&address, &length) != 0) {
        perror("nullreg: listen");
        exit(1);
    }
    port = ntohs(address.sin_port);
    return fd;
}

static void watch(int epoll, int fd, struct connection *c) {
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &event);
}

static void accept_all(int epoll, int listener) {
    int fd, on = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        connections++;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        struct connection *c = malloc(sizeof *c);
        if (c == NULL) {
            close(fd);
            continue;
        }
        memset(c, 0, offsetof(struct connection, in));
        c->fd = fd;
        watch(epoll, fd, c);
    }
}

static void *work(void *listener) {
    int epoll = epoll_create1(0), fd = *(int *)listener;
    struct epoll_event events[EVENTS];
    watch(epoll, fd, NULL);
    for (;;) {
        int count = epoll_wait(epoll, events, EVENTS, -1);
        for (int n = 0; n < count; n++) {
            struct connection *c = events[n].data.ptr;
            if (c == NULL) {
                accept_all(epoll, fd);
            } else if (!serve(c)) {
                close(c->fd);
                free(c);
            }
        }
    }
    return NULL;
}

int main(int count, char **arguments) {
    int threads = count > 1 ? atoi(arguments[1]) : 1;
    int *listeners = calloc(threads, sizeof *listeners);
    signal(SIGPIPE, SIG_IGN);
    for (int n = 0; n < threads; n++)
        listeners[n] = listen_on(port); /* the first chooses the port */
    printf("%d\n", port);
    fflush(stdout);
    for (int n = 1; n < threads; n++) {
        pthread_t thread;
        pthread_create(&thread, NULL, work, &listeners[n]);
    }
    work(&listeners[0]);
}
