/*
 * Any bytes as a tokenizer.json and, behind its first NUL byte, a text: loaded or refused; the text encoded and
 * its ids decoded again, in parts too.
 */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/file.h"

static void require(bool condition) {
    if (!condition) abort();
}

static void decode(const sp_tokenizer *tok, const int32_t *ids, size_t count, bool skip) {
    char *text;
    size_t length;
    if (sp_tokenizer_decode(tok, ids, count, skip, &text, &length) != SP_OK) {
        require(text == NULL);
        return;
    }
    require(text[length] == 0);
    sp_string_free(text);
}

static void use(const sp_tokenizer *tok, const char *text, size_t length, bool special) {
    int32_t *ids;
    size_t count;
    if (sp_tokenizer_encode(tok, text, length, special, &ids, &count) != SP_OK) {
        require(ids == NULL && count == 0);
        return;
    }
    for (size_t i = 0; i < count; i++) require(ids[i] >= 0 && ids[i] < sp_tokenizer_vocab_size(tok));
    decode(tok, ids, count, special);
    decode(tok, ids, count / 2, !special);
    decode(tok, ids + count / 2, count - count / 2, false);
    sp_ids_free(ids);
}

/* The first `size` bytes as a file that needs no place on a disk. */
static sp_status load(sp_context *ctx, const uint8_t *data, size_t size, sp_tokenizer **tok) {
    const int fd = memfd_create("tokenizer.json", MFD_CLOEXEC);
    require(fd >= 0 && write(fd, data, size) == (ssize_t)size);
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    const sp_status status = sp_tokenizer_load(ctx, path, tok);
    close(fd);
    return status;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    sp_context *ctx = sp_context_new();
    require(ctx != NULL);
    const uint8_t *nul = size ? memchr(data, 0, size) : NULL;
    const size_t file = nul ? (size_t)(nul - data) : size;
    const char *text = nul ? (const char *)nul + 1 : "the text";
    const size_t length = nul ? size - file - 1 : strlen(text);
    sp_tokenizer *tok;
    if (load(ctx, data, file, &tok) == SP_OK) {
        use(tok, text, length, true);
        use(tok, text, length, false);
        sp_tokenizer_free(tok);
    } else {
        require(tok == NULL && strncmp(sp_last_error(ctx), "/proc/self/fd/", 14) == 0);
    }
    sp_context_free(ctx);
    return 0;
}
