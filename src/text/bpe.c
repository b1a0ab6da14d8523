#include "text/bpe.h"

#include <stdlib.h>
#include <string.h>

#include "text/bpe_merge.h"
#include "text/byte_level.h"
#include "text/utf8.h"

/* Words met before, each in the slot of its hash: one cache line. */
#define CACHE_SLOTS ((size_t)1 << 15)
#define CACHED_BYTES 30
#define CACHED_IDS 8
/* SentencePiece puts its byte tokens right behind its special ones. */
#define BYTE_ID_LIMIT 4096

typedef struct cached_word {
    uint8_t length, count; /* length 0: free */
    char bytes[CACHED_BYTES];
    int32_t ids[CACHED_IDS];
} cached_word;

struct spi_bpe {
    const char *path; /* for messages; the caller keeps it */
    spi_vocab vocab;
    spi_merge_table merges;
    spi_merge_work work;
    bool bytes;            /* words are bytes of GPT-2's alphabet */
    int32_t byte_ids[256]; /* with `bytes`: of each byte's character; else of "<0xNN>"; -1 = not there */
    bool byte_fallback, fuse_unk, ignore_merges;
    char *unk_token;    /* or NULL: characters that are unknown vanish */
    spi_joints *joints; /* or NULL: a text must not be divided */
    cached_word *cache; /* [CACHE_SLOTS] */
    spi_buf chars;      /* scratch: a word in GPT-2's alphabet */
};

void spi_bpe_free(spi_bpe *bpe) {
    if (!bpe) return;
    spi_vocab_free(&bpe->vocab);
    spi_merge_table_free(&bpe->merges);
    spi_merge_work_free(&bpe->work);
    free(bpe->joints);
    free(bpe->unk_token);
    free(bpe->cache);
    spi_buf_free(&bpe->chars);
    free(bpe);
}

const spi_vocab *spi_bpe_vocab(const spi_bpe *bpe) {
    return &bpe->vocab;
}

/* ------------------------------------------------------------------ making */

static void find_byte_ids(spi_bpe *bpe) {
    for (int byte = 0; byte < 256; byte++) {
        char name[16];
        const size_t length = bpe->bytes ? spi_utf8_put(name, spi_byte_to_char((unsigned char)byte))
                                         : (size_t)snprintf(name, sizeof name, "<0x%02X>", (unsigned)byte);
        bpe->byte_ids[byte] = spi_vocab_find(&bpe->vocab, name, length);
    }
}

/*
 * Whether a text may be divided where no merge reaches across. Not where a whole word may be a token by itself,
 * nor where characters can be unknown, which may be written as one, nor where fallback bytes are merged.
 */
static bool can_divide(const spi_bpe *bpe, const spi_merge *merges, size_t count) {
    if (bpe->bytes || bpe->ignore_merges || !bpe->byte_fallback) return false;
    bool is_byte[BYTE_ID_LIMIT] = {false};
    for (int byte = 0; byte < 256; byte++) {
        const int32_t id = bpe->byte_ids[byte];
        if (id < 0 || id >= BYTE_ID_LIMIT) return false;
        is_byte[id] = true;
    }
    for (size_t i = 0; i < count; i++) {
        const spi_merge *m = &merges[i];
        if ((m->left < BYTE_ID_LIMIT && is_byte[m->left]) || (m->right < BYTE_ID_LIMIT && is_byte[m->right]))
            return false;
    }
    return true;
}

static sp_status refuse_affix(sp_context *ctx, const char *path, const json_t *model, const char *key) {
    const char *affix;
    SPI_TRY(spi_json_string(ctx, path, model, key, NULL, &affix));
    if (!affix || !*affix) return SP_OK;
    return spi_fail(ctx, SP_ERR_UNSUPPORTED, "%s: \"model.%s\": expected none, found \"%s\"", path, key, affix);
}

static sp_status read_options(sp_context *ctx, spi_bpe *bpe, const char *path, const json_t *model) {
    double dropout;
    const char *unk;
    SPI_TRY(refuse_affix(ctx, path, model, "continuing_subword_prefix"));
    SPI_TRY(refuse_affix(ctx, path, model, "end_of_word_suffix"));
    SPI_TRY(spi_json_real(ctx, path, model, "dropout", 0, &dropout));
    if (dropout != 0)
        return spi_fail(ctx, SP_ERR_UNSUPPORTED, "%s: \"model.dropout\": expected none, found %g", path,
                        dropout);
    SPI_TRY(spi_json_bool(ctx, path, model, "byte_fallback", false, &bpe->byte_fallback));
    SPI_TRY(spi_json_bool(ctx, path, model, "fuse_unk", false, &bpe->fuse_unk));
    SPI_TRY(spi_json_bool(ctx, path, model, "ignore_merges", false, &bpe->ignore_merges));
    SPI_TRY(spi_json_string(ctx, path, model, "unk_token", NULL, &unk));
    if (unk && !(bpe->unk_token = strdup(unk))) return spi_fail_memory(ctx, strlen(unk), "a token");
    return SP_OK;
}

sp_status spi_bpe_create(sp_context *ctx, const char *path, spi_tokenizer_file *file, bool bytes,
                         spi_bpe **out) {
    *out = NULL;
    spi_bpe *bpe = calloc(1, sizeof *bpe);
    if (!bpe) return spi_fail_memory(ctx, sizeof *bpe, "a tokenizer's model");
    bpe->path = path;
    bpe->bytes = bytes;
    bpe->vocab = file->vocab;
    file->vocab = (spi_vocab){0};
    bpe->cache = calloc(CACHE_SLOTS, sizeof *bpe->cache);
    sp_status status = read_options(ctx, bpe, path, json_object_get(file->rest, "model"));
    if (status == SP_OK &&
        (!bpe->cache || !spi_merge_table_fill(&bpe->merges, file->merges, file->merge_count)))
        status = spi_fail_memory(ctx, file->merge_count * sizeof *file->merges, "a tokenizer's model");
    if (status == SP_OK) {
        find_byte_ids(bpe);
        if (can_divide(bpe, file->merges, file->merge_count)) {
            bpe->joints = file->joints;
            file->joints = NULL;
        }
        *out = bpe;
    } else {
        spi_bpe_free(bpe);
    }
    return status;
}

/* ------------------------------------------------------------------ a word's first symbols */

/* Unknown characters that wait to be written as one unk_token. */
typedef struct unknown {
    bool pending;
    int32_t id;
} unknown;

static bool flush_unknown(spi_bpe *bpe, unknown *u) {
    if (!u->pending) return true;
    u->pending = false;
    return spi_merge_push(&bpe->work, u->id);
}

static sp_status push_unknown(sp_context *ctx, spi_bpe *bpe, unknown *u) {
    if (!bpe->unk_token) return SP_OK;
    if (u->pending && bpe->fuse_unk) return SP_OK;
    if (!flush_unknown(bpe, u)) return spi_fail_memory(ctx, bpe->work.count, "a word's symbols");
    u->id = spi_vocab_find(&bpe->vocab, bpe->unk_token, strlen(bpe->unk_token));
    u->pending = true;
    if (u->id >= 0) return SP_OK;
    return spi_fail(ctx, SP_ERR_MISMATCH, "%s: \"model.unk_token\": the vocabulary has no token \"%s\"",
                    bpe->path, bpe->unk_token);
}

/* A character that the vocabulary lacks as its bytes' "<0xNN>", if it has them all. */
static bool push_fallback(spi_bpe *bpe, const char *text, size_t size, bool *memory) {
    for (size_t i = 0; i < size; i++)
        if (bpe->byte_ids[(unsigned char)text[i]] < 0) return false;
    for (size_t i = 0; i < size; i++)
        *memory &= spi_merge_push(&bpe->work, bpe->byte_ids[(unsigned char)text[i]]);
    return true;
}

/*
 * One symbol a character. What is unknown waits until a known character comes, even past fallback bytes: so the
 * library does it, and so the ids stand.
 */
static sp_status push_characters(sp_context *ctx, spi_bpe *bpe, const char *word, size_t length) {
    unknown u = {0};
    bool memory = true;
    for (size_t i = 0, size; i < length && memory; i += size) {
        spi_utf8_get(word + i, &size);
        const int32_t id = spi_vocab_find(&bpe->vocab, word + i, size);
        if (id >= 0) memory = flush_unknown(bpe, &u) && spi_merge_push(&bpe->work, id);
        else if (!bpe->byte_fallback || !push_fallback(bpe, word + i, size, &memory))
            SPI_TRY(push_unknown(ctx, bpe, &u));
    }
    memory = memory && flush_unknown(bpe, &u);
    return memory ? SP_OK : spi_fail_memory(ctx, length * sizeof(int32_t), "a word's symbols");
}

static sp_status push_bytes(sp_context *ctx, spi_bpe *bpe, const char *word, size_t length) {
    unknown u = {0};
    bool memory = spi_merge_reserve(&bpe->work, length);
    for (size_t i = 0; i < length && memory; i++) {
        const int32_t id = bpe->byte_ids[(unsigned char)word[i]];
        if (id >= 0) memory = flush_unknown(bpe, &u) && spi_merge_push(&bpe->work, id);
        else SPI_TRY(push_unknown(ctx, bpe, &u));
    }
    memory = memory && flush_unknown(bpe, &u);
    return memory ? SP_OK : spi_fail_memory(ctx, length * sizeof(int32_t), "a word's symbols");
}

/* ------------------------------------------------------------------ words */

/* The id of a word that is a token as it stands, or -1. */
static int32_t whole_word(spi_bpe *bpe, const char *word, size_t length) {
    if (!bpe->bytes) return spi_vocab_find(&bpe->vocab, word, length);
    bpe->chars.length = 0;
    spi_bytes_to_chars(&bpe->chars, word, length);
    return bpe->chars.failed ? -1 : spi_vocab_find(&bpe->vocab, bpe->chars.data, bpe->chars.length);
}

static sp_status merge_word(sp_context *ctx, spi_bpe *bpe, const char *word, size_t length, spi_ids *out) {
    if (bpe->ignore_merges) {
        const int32_t id = whole_word(bpe, word, length);
        if (id >= 0) {
            spi_ids_push(out, id);
            return SP_OK;
        }
    }
    spi_merge_work *w = &bpe->work;
    w->count = 0;
    SPI_TRY(bpe->bytes ? push_bytes(ctx, bpe, word, length) : push_characters(ctx, bpe, word, length));
    if (!spi_merge_all(&bpe->merges, w)) return spi_fail_memory(ctx, w->count * 16, "a word's merges");
    for (size_t i = 0; i < w->count; i++) spi_ids_push(out, w->ids[i]);
    return SP_OK;
}

static sp_status encode_word(sp_context *ctx, spi_bpe *bpe, const char *word, size_t length, spi_ids *out) {
    if (length > CACHED_BYTES) return merge_word(ctx, bpe, word, length, out);
    cached_word *slot = &bpe->cache[spi_hash_bytes(word, length) % CACHE_SLOTS];
    if (slot->length == length && memcmp(slot->bytes, word, length) == 0) {
        for (size_t i = 0; i < slot->count; i++) spi_ids_push(out, slot->ids[i]);
        return SP_OK;
    }
    const size_t before = out->count;
    SPI_TRY(merge_word(ctx, bpe, word, length, out));
    const size_t count = out->count - before;
    if (count <= CACHED_IDS && !out->failed) {
        slot->length = (uint8_t)length;
        slot->count = (uint8_t)count;
        memcpy(slot->bytes, word, length);
        if (count) memcpy(slot->ids, out->data + before, count * sizeof *slot->ids);
    }
    return SP_OK;
}

/* Bytes up to the next place where no merge joins two characters. */
static size_t next_joint(const spi_joints *joints, const char *text, size_t length) {
    size_t at;
    size_t size;
    int32_t previous = spi_utf8_get(text, &at);
    for (; at < length; at += size) {
        const int32_t c = spi_utf8_get(text + at, &size);
        if (!spi_joints_has(joints, previous, c)) break;
        previous = c;
    }
    return at;
}

sp_status spi_bpe_encode(sp_context *ctx, spi_bpe *bpe, const char *word, size_t length, spi_ids *out) {
    if (!bpe->joints) return length ? encode_word(ctx, bpe, word, length, out) : SP_OK;
    while (length > 0) {
        const size_t part = next_joint(bpe->joints, word, length);
        SPI_TRY(encode_word(ctx, bpe, word, part, out));
        word += part;
        length -= part;
    }
    return SP_OK;
}
