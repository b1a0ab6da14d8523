/*
 * Where the text of a growing sequence ends: stop strings across tokens, EOS, characters whose bytes come one
 * by one. What a text should be is what the tokenizer says of all its ids at once, which is tested on its own.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <string.h>

#include "base/json.h"
#include "base/rng.h"
#include "generate/sequence.h"
#include "generate/stop.h"
#include "scratch.h"

#define DATA TEST_DATA "/tokenizer"

/* ------------------------------------------------------------------ stop strings */

static void finds(const char *text, size_t from, const char *const *stop, bool found, size_t final) {
    size_t at = 12345;
    if (spi_find_stop(text, strlen(text), from, stop, &at) != found || at != final)
        fail_msg("\"%s\" from %zu: %s at %zu", text, from, found ? "not found" : "not held back", at);
}

static void test_find_stop(void **state) {
    (void)state;
    static const char *const none[] = {NULL}, *const one[] = {"\n\nQ:", NULL};
    static const char *const several[] = {"abcd", "bc", "xyz", NULL}, *const same[] = {"aab", NULL};
    finds("text", 0, NULL, false, 4);
    finds("text", 0, none, false, 4);
    finds("", 0, one, false, 0);
    finds("A: 4\n\nQ: more", 0, one, true, 4);
    finds("A: 4\n\nQ", 0, one, false, 4);
    finds("A: 4\n", 0, one, false, 4);
    finds("A: 4\nB", 0, one, false, 6);
    finds("4\n\n\n", 0, one, false, 2); /* "\n\n" begins it, "\n\n\n" does not */
    finds("4\n\n\nQ:", 0, one, true, 2);
    finds("aabc", 0, several, true, 2); /* abcd never came, bc did */
    finds("aab", 0, several, false, 1);
    finds("aabcd", 0, several, true, 1); /* the earliest wins */
    finds("xyzbc", 1, several, true, 3); /* what is before `from` is past */
    finds("aaaa", 0, same, false, 2);
    finds("aaaab", 0, same, true, 2);
}

/* ------------------------------------------------------------------ sequences */

/* A sequence fed with ids, and the pieces that it gave out. */
typedef struct feed {
    spi_sequence seq;
    spi_buf pieces;
    size_t count; /* of pieces that were not empty */
} feed;

static bool is_utf8(const char *text, size_t length) {
    for (size_t i = 0; i < length;) {
        const unsigned char c = (unsigned char)text[i++];
        size_t more = c < 0x80 ? 0 : c >= 0xf0 ? 3 : c >= 0xe0 ? 2 : c >= 0xc2 ? 1 : 9;
        for (; more; more--, i++)
            if (i >= length || ((unsigned char)text[i] & 0xc0) != 0x80) return false;
    }
    return true;
}

static void add(scratch *s, feed *f, int32_t id, const spi_ending *ending) {
    const char *fresh;
    size_t length;
    assert_false(f->seq.done);
    if (spi_sequence_add(s->ctx, &f->seq, id, ending, &fresh, &length) != SP_OK)
        fail_msg("%s", sp_last_error(s->ctx));
    assert_true(is_utf8(fresh, length));
    spi_buf_append(&f->pieces, fresh, length);
    f->count += length > 0;
}

/* A prompt that must not be seen in the text, then ids up to `count` or the end. */
static feed run(scratch *s, const int32_t *ids, size_t count, const spi_ending *ending) {
    static const int32_t prompt[] = {5, 9};
    feed f = {0};
    assert_int_equal(spi_sequence_start(s->ctx, &f.seq, prompt, 2), SP_OK);
    for (size_t i = 0; i < count && !f.seq.done; i++) add(s, &f, ids[i], ending);
    return f;
}

static void feed_free(feed *f) {
    spi_sequence_free(&f->seq);
    spi_buf_free(&f->pieces);
}

static void check_pieces(const char *name, const feed *f) {
    assert_true(f->seq.done);
    if (f->pieces.length != f->seq.text.length ||
        (f->pieces.length && memcmp(f->pieces.data, f->seq.text.data, f->pieces.length) != 0))
        fail_msg("%s: streamed \"%s\", in the end \"%s\"", name, f->pieces.data, f->seq.text.data);
}

/* Streams ids; the text must be theirs. `loose`: unless that has U+FFFD. */
static void check_text(scratch *s, const char *name, const sp_tokenizer *tok, const int32_t *ids, size_t count,
                       bool skip, bool loose) {
    const spi_ending ending = {.tok = tok, .max_new_tokens = (int32_t)count, .skip_special_tokens = skip};
    char *text;
    size_t length;
    if (count == 0) return;
    assert_int_equal(sp_tokenizer_decode(tok, ids, count, skip, &text, &length), SP_OK);
    feed f = run(s, ids, count, &ending);
    check_pieces(name, &f);
    assert_int_equal(f.seq.finish, SP_FINISH_LENGTH);
    const bool equal = length == f.seq.text.length && !memcmp(text, f.seq.text.data, length);
    if (!equal && !(loose && strstr(text, "\xef\xbf\xbd")))
        fail_msg("%s: \"%s\", not \"%s\"", name, f.seq.text.data, text);
    feed_free(&f);
    sp_string_free(text);
}

static sp_tokenizer *load(scratch *s, const char *name) {
    char path[512];
    sp_tokenizer *tok;
    snprintf(path, sizeof path, "%s/%s", DATA, name);
    if (sp_tokenizer_load(s->ctx, path, &tok) != SP_OK) fail_msg("%s", sp_last_error(s->ctx));
    return tok;
}

/* Bytes written as hexadecimal digits. */
static size_t from_hex(const char *hex, char *out, size_t room) {
    const size_t n = strlen(hex) / 2;
    assert_true(n <= room);
    for (size_t i = 0; i < n; i++) {
        unsigned byte;
        sscanf(hex + 2 * i, "%2x", &byte);
        out[i] = (char)byte;
    }
    return n;
}

/*
 * Where single bytes that do not make a character stand next to some that do, HF's ByteFallback takes the
 * characters along; text that was handed out cannot be taken back, so that there the two differ.
 */
static const struct {
    const char *name;
    bool byte_fallback;
} tokenizers[] = {{"qwen", false},    {"llama3", false}, {"gpt2", false},      {"roberta", false},
                  {"trained", false}, {"words", false},  {"metaspace", false}, {"splits", false},
                  {"gemma", true},    {"mistral", true}, {"llama2", true}};
#define TOKENIZERS (sizeof tokenizers / sizeof *tokenizers)

/* The texts that tokenizers are tested on, token by token. */
static void test_texts(void **state) {
    scratch *s = *state;
    json_error_t error;
    json_t *texts = json_load_file(DATA "/texts.json", 0, &error);
    char text[8192];
    assert_non_null(texts);
    for (size_t k = 0; k < TOKENIZERS; k++) {
        sp_tokenizer *tok = load(s, tokenizers[k].name);
        for (size_t i = 0; i < json_array_size(texts); i++) {
            const size_t length = from_hex(json_string_value(json_array_get(texts, i)), text, sizeof text);
            int32_t *ids;
            size_t count;
            assert_int_equal(sp_tokenizer_encode(tok, text, length, true, &ids, &count), SP_OK);
            for (int skip = 0; skip < 2; skip++)
                check_text(s, tokenizers[k].name, tok, ids, count, skip, tokenizers[k].byte_fallback);
            sp_ids_free(ids);
        }
        sp_tokenizer_free(tok);
    }
    json_decref(texts);
}

/* What an untrained model says: any ids, half characters and special tokens among them, and some that are none.
 */
static void test_random_ids(void **state) {
    scratch *s = *state;
    for (size_t k = 0; k < TOKENIZERS; k++) {
        sp_tokenizer *tok = load(s, tokenizers[k].name);
        const int32_t vocab = sp_tokenizer_vocab_size(tok) + 5;
        for (uint64_t round = 0; round < 150; round++) {
            int32_t ids[24];
            for (uint64_t i = 0; i < 24; i++) {
                const float u = spi_uniform(round, k, i);
                ids[i] = (int32_t)(u * (float)vocab);
            }
            check_text(s, tokenizers[k].name, tok, ids, 24, round % 2, tokenizers[k].byte_fallback);
        }
        sp_tokenizer_free(tok);
    }
}

/* Ids of bytes in the byte-level tokenizers: the token of a byte as GPT-2 writes it. */
static int32_t byte_id(const sp_tokenizer *tok, unsigned byte) {
    char name[3] = {(char)byte, 0, 0};
    if (byte >= 0x80) {
        const unsigned c = byte < 0xa1 ? byte - 0x80 + 0x122 : byte == 0xad ? 0x143 : byte;
        name[0] = (char)(0xc0 | (c >> 6));
        name[1] = (char)(0x80 | (c & 0x3f));
    }
    const int32_t id = sp_tokenizer_token_id(tok, name);
    assert_true(id >= 0);
    return id;
}

static void add_bytes(scratch *s, feed *f, const sp_tokenizer *tok, const char *bytes, const char *wanted,
                      const spi_ending *ending) {
    f->pieces.length = 0;
    for (; *bytes && !f->seq.done; bytes++) add(s, f, byte_id(tok, (unsigned char)*bytes), ending);
    if (f->pieces.length != strlen(wanted) || memcmp(f->pieces.data, wanted, f->pieces.length) != 0)
        fail_msg("\"%.*s\", not \"%s\"", (int)f->pieces.length, f->pieces.data, wanted);
}

/* Characters come whole, as soon as they are; what is no character comes once that is clear, or at the end. */
static void test_bytes(void **state) {
    scratch *s = *state;
    sp_tokenizer *tok = load(s, "gpt2");
    const spi_ending ending = {.tok = tok, .max_new_tokens = 17};
    feed f = run(s, NULL, 0, &ending);
    add_bytes(s, &f, tok, "a", "a", &ending);
    add_bytes(s, &f, tok, "\xe6\xbc", "", &ending);
    add_bytes(s, &f, tok, "\xa2", "\xe6\xbc\xa2", &ending);
    add_bytes(s, &f, tok, "\xf0\x9f\x99", "", &ending);
    add_bytes(s, &f, tok, "\x82\xc3", "\xf0\x9f\x99\x82", &ending);
    add_bytes(s, &f, tok, "\xa9z", "\xc3\xa9z", &ending);
    add_bytes(s, &f, tok, "\xe6\xbc", "", &ending);
    add_bytes(s, &f, tok, "y", "\xef\xbf\xbdy", &ending);
    add_bytes(s, &f, tok, "\xe6\xbc", "", &ending);
    add_bytes(s, &f, tok, "\xe6", "\xef\xbf\xbd\xef\xbf\xbd", &ending);
    assert_true(f.seq.done);
    assert_string_equal(f.seq.text.data,
                        "a\xe6\xbc\xa2\xf0\x9f\x99\x82\xc3\xa9z\xef\xbf\xbdy\xef\xbf\xbd\xef\xbf\xbd");
    feed_free(&f);
    sp_tokenizer_free(tok);
}

/* Text that may become a stop string waits; one that came is cut off, with what its token has besides. */
static void test_stop_across_tokens(void **state) {
    scratch *s = *state;
    static const char *const stop[] = {"\nQ:", "<end>", "\xe6\xbc\xa2", NULL};
    sp_tokenizer *tok = load(s, "gpt2");
    const spi_ending ending = {.tok = tok, .max_new_tokens = 64, .stop = stop};
    feed f = run(s, NULL, 0, &ending);
    add_bytes(s, &f, tok, "4<en", "4", &ending);
    add_bytes(s, &f, tok, "e", "<ene", &ending);
    add_bytes(s, &f, tok, "\xe6\xbc", "", &ending);
    add_bytes(s, &f, tok, "\xa3<", "\xe6\xbc\xa3", &ending); /* a character that begins like that of a stop */
    add_bytes(s, &f, tok, "<end", "<", &ending);
    add_bytes(s, &f, tok, ">never", "", &ending);
    assert_true(f.seq.done);
    assert_int_equal(f.seq.finish, SP_FINISH_STOP);
    assert_string_equal(f.seq.text.data, "4<ene\xe6\xbc\xa3<");
    assert_int_equal(f.seq.count - f.seq.prompt_count, 4 + 1 + 2 + 2 + 4 + 1);
    feed_free(&f);

    f = run(s, NULL, 0, &ending);
    add_bytes(s, &f, tok, "\xe6\xbc\xa2", "", &ending);
    assert_true(f.seq.done);
    assert_string_equal(f.seq.text.data, "");
    feed_free(&f);
    sp_tokenizer_free(tok);
}

/* A stop string inside one token's text, and one that the last allowed token completes. */
static void test_stop_in_a_token(void **state) {
    scratch *s = *state;
    static const char *const stop[] = {"tche", NULL}, *const last[] = {"en", NULL};
    sp_tokenizer *tok;
    int32_t *ids;
    size_t count;
    assert_int_equal(sp_tokenizer_load(s->ctx, TEST_DATA "/tiny_tokenizer", &tok), SP_OK);
    assert_int_equal(sp_tokenizer_encode(tok, "go to the kitchen", 17, false, &ids, &count), SP_OK);
    assert_int_equal(count, 4); /* "kitchen" is one */
    spi_ending ending = {.tok = tok, .max_new_tokens = 4, .stop = stop};
    feed f = run(s, ids, count, &ending);
    check_pieces("in a token", &f);
    assert_int_equal(f.seq.finish, SP_FINISH_STOP);
    assert_string_equal(f.seq.text.data, "go to the ki");
    feed_free(&f);
    ending.stop = last;
    f = run(s, ids, count, &ending);
    check_pieces("at the limit", &f);
    assert_int_equal(f.seq.finish, SP_FINISH_STOP);
    assert_string_equal(f.seq.text.data, "go to the kitch");
    feed_free(&f);
    sp_ids_free(ids);
    sp_tokenizer_free(tok);
}

/* Text held back for a stop string that never came is given out at the end. */
static void test_held_back_to_the_end(void **state) {
    scratch *s = *state;
    static const char *const stop[] = {"abc", NULL};
    sp_tokenizer *tok = load(s, "gpt2");
    const int32_t eos = sp_tokenizer_token_id(tok, "<|endoftext|>"), other = byte_id(tok, 'x');
    const int32_t both[] = {other, eos};
    const spi_ending ending = {.tok = tok,
                               .eos = both,
                               .eos_count = 2,
                               .stop = stop,
                               .max_new_tokens = 9,
                               .skip_special_tokens = true};
    feed f = run(s, NULL, 0, &ending);
    add_bytes(s, &f, tok, "1ab", "1", &ending);
    add(s, &f, eos, &ending);
    assert_true(f.seq.done);
    assert_int_equal(f.seq.finish, SP_FINISH_EOS);
    assert_string_equal(f.seq.text.data, "1ab");
    assert_string_equal(f.pieces.data, "1ab");
    assert_int_equal(f.seq.ids[f.seq.count - 1], eos);
    feed_free(&f);

    f = run(s, NULL, 0, &ending); /* cut short */
    add_bytes(s, &f, tok, "1ab", "1", &ending);
    spi_sequence_cut(&f.seq);
    assert_string_equal(f.seq.text.data, "1");
    feed_free(&f);
    sp_tokenizer_free(tok);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_find_stop),
        cmocka_unit_test(test_texts),
        cmocka_unit_test(test_random_ids),
        cmocka_unit_test(test_bytes),
        cmocka_unit_test(test_stop_across_tokens),
        cmocka_unit_test(test_stop_in_a_token),
        cmocka_unit_test(test_held_back_to_the_end),
    };
    return cmocka_run_group_tests(tests, scratch_setup, scratch_teardown);
}
