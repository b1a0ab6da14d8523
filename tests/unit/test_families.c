/*
 * Families: config.json as checkpoints on the Hub spell it, what is refused and how, and names that files of
 * other origins have. Counts of parameters are those of Transformers' models of these configs.
 */
#include <math.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "model/arch.h"
#include "scratch.h"
#include "shadow/adapted.h"
#include "shadow/config.h"

/* ------------------------------------------------------------------ configs of the Hub, ' for " */

static const char gpt2[] =
    "{'model_type': 'gpt2', 'activation_function': 'gelu_new', 'initializer_range': 0.02,"
    "'layer_norm_epsilon': 1e-05, 'n_ctx': 1024, 'n_embd': 768, 'n_head': 12,"
    "'n_layer': 12, 'n_positions': 1024, 'vocab_size': 50257}";
static const char distilgpt2[] = "{'model_type': 'gpt2', 'n_embd': 768, 'n_head': 12, 'n_layer': 6,"
                                 "'n_inner': null, 'vocab_size': 50257}";
static const char opt_125m[] =
    "{'model_type': 'opt', 'activation_function': 'relu', 'do_layer_norm_before': true,"
    "'ffn_dim': 3072, 'hidden_size': 768, 'init_std': 0.02,"
    "'max_position_embeddings': 2048, 'num_attention_heads': 12,"
    "'num_hidden_layers': 12, 'vocab_size': 50272, 'word_embed_proj_dim': 768}";
static const char opt_350m[] =
    "{'model_type': 'opt', 'activation_function': 'relu', 'do_layer_norm_before': false,"
    "'ffn_dim': 4096, 'hidden_size': 1024, 'max_position_embeddings': 2048,"
    "'num_attention_heads': 16, 'num_hidden_layers': 24, 'vocab_size': 50272,"
    "'word_embed_proj_dim': 512}";
static const char gemma_2b[] = "{'model_type': 'gemma', 'head_dim': 256, 'hidden_act': 'gelu',"
                               "'hidden_size': 2048, 'intermediate_size': 16384,"
                               "'max_position_embeddings': 8192, 'num_attention_heads': 8,"
                               "'num_hidden_layers': 18, 'num_key_value_heads': 1, 'rms_norm_eps': 1e-06,"
                               "'rope_scaling': null, 'rope_theta': 10000.0, 'vocab_size': 256000}";
static const char gemma2_2b[] = "{'model_type': 'gemma2', 'attn_logit_softcapping': 50.0,"
                                "'final_logit_softcapping': 30.0, 'head_dim': 256, 'hidden_act': 'gelu',"
                                "'hidden_activation': 'gelu_pytorch_tanh', 'hidden_size': 2304,"
                                "'intermediate_size': 9216, 'max_position_embeddings': 8192,"
                                "'num_attention_heads': 8, 'num_hidden_layers': 26, 'num_key_value_heads': 4,"
                                "'query_pre_attn_scalar': 224, 'rms_norm_eps': 1e-06, 'rope_theta': 10000.0,"
                                "'sliding_window': 4096, 'vocab_size': 256000}";
static const char gemma3_1b[] = "{'model_type': 'gemma3_text', 'attn_logit_softcapping': null,"
                                "'final_logit_softcapping': null, 'head_dim': 256,"
                                "'hidden_activation': 'gelu_pytorch_tanh', 'hidden_size': 1152,"
                                "'intermediate_size': 6912, 'max_position_embeddings': 32768,"
                                "'num_attention_heads': 4, 'num_hidden_layers': 26, 'num_key_value_heads': 1,"
                                "'query_pre_attn_scalar': 256, 'rms_norm_eps': 1e-06,"
                                "'rope_local_base_freq': 10000, 'rope_scaling': null, 'rope_theta': 1000000,"
                                "'sliding_window': 512, 'sliding_window_pattern': 6, 'vocab_size': 262144}";
/* What is left out is Transformers' default. */
static const char gemma3_4b[] =
    "{'model_type': 'gemma3', 'text_config': {'model_type': 'gemma3_text',"
    "'hidden_size': 2560, 'intermediate_size': 10240, 'num_hidden_layers': 34,"
    "'rope_scaling': {'factor': 8.0, 'rope_type': 'linear'}, 'sliding_window': 1024}}";
static const char gemma3_new[] = "{'model_type': 'gemma3_text', 'hidden_size': 1152, 'intermediate_size': 6912,"
                                 "'num_attention_heads': 4, 'num_key_value_heads': 1, 'num_hidden_layers': 3,"
                                 "'vocab_size': 262144, 'sliding_window': 512, 'layer_types':"
                                 "['full_attention', 'sliding_attention', 'full_attention'], 'rope_parameters':"
                                 "{'full_attention': {'rope_type': 'linear', 'factor': 4, 'rope_theta': 1e6},"
                                 "'sliding_attention': {'rope_type': 'default', 'rope_theta': 2e4}}}";
static const char phi3_4k[] = "{'model_type': 'phi3', 'hidden_size': 3072, 'intermediate_size': 8192,"
                              "'max_position_embeddings': 4096, 'num_attention_heads': 32,"
                              "'num_hidden_layers': 32, 'num_key_value_heads': 32,"
                              "'original_max_position_embeddings': 4096, 'rms_norm_eps': 1e-05,"
                              "'rope_scaling': null, 'rope_theta': 10000.0, 'sliding_window': 2047,"
                              "'tie_word_embeddings': false, 'vocab_size': 32064}";
#define F8 "1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7, 1.8"
#define F48 "[" F8 "," F8 "," F8 "," F8 "," F8 "," F8 "]"
static const char phi3_128k[] =
    "{'model_type': 'phi3', 'hidden_size': 3072, 'intermediate_size': 8192,"
    "'max_position_embeddings': 131072, 'num_attention_heads': 32,"
    "'num_hidden_layers': 32, 'original_max_position_embeddings': 4096,"
    "'rope_scaling': {'type': 'su', 'long_factor': " F48 ", 'short_factor': " F48 "},"
    "'rope_theta': 10000.0, 'sliding_window': null, 'vocab_size': 32064}";
static const char phi4_mini[] = "{'model_type': 'phi3', 'hidden_size': 3072, 'intermediate_size': 8192,"
                                "'max_position_embeddings': 131072, 'num_attention_heads': 24,"
                                "'num_hidden_layers': 32, 'num_key_value_heads': 8,"
                                "'original_max_position_embeddings': 4096, 'partial_rotary_factor': 0.75,"
                                "'rope_scaling': {'type': 'longrope', 'long_factor': " F48 ","
                                "'short_factor': " F48 "}, 'tie_word_embeddings': true, 'vocab_size': 200064}";
static const char hunyuan[] =
    "{'model_type': 'hunyuan_v1_dense', 'attention_head_dim': 128, 'head_dim': 128,"
    "'hidden_size': 2048, 'intermediate_size': 6144,"
    "'max_position_embeddings': 32768, 'num_attention_heads': 16,"
    "'num_hidden_layers': 32, 'num_key_value_heads': 4, 'rms_norm_eps': 1e-05,"
    "'rope_scaling': {'alpha': 1000.0, 'beta_fast': 32, 'beta_slow': 1, 'factor': 1.0,"
    "'mscale': 1.0, 'mscale_all_dim': 1.0, 'type': 'dynamic'}, 'rope_theta': 10000.0,"
    "'tie_word_embeddings': true, 'use_qk_norm': true, 'vocab_size': 120818}";
static const char olmo2[] = "{'model_type': 'olmo2', 'attention_bias': false, 'hidden_act': 'silu',"
                            "'hidden_size': 4096, 'intermediate_size': 11008, 'max_position_embeddings': 4096,"
                            "'num_attention_heads': 32, 'num_hidden_layers': 32, 'num_key_value_heads': 32,"
                            "'rms_norm_eps': 1e-06, 'rope_scaling': null, 'rope_theta': 500000,"
                            "'tie_word_embeddings': false, 'vocab_size': 100352}";

static json_t *parse(const char *text) {
    char plain[4096];
    const size_t length = strlen(text);
    assert_true(length < sizeof plain);
    for (size_t i = 0; i < length; i++) plain[i] = text[i] == '\'' ? '"' : text[i];
    json_t *json = json_loadb(plain, length, 0, NULL);
    assert_non_null(json);
    return json;
}

/* Free with spi_arch_free. */
static spi_arch read_arch(sp_context *ctx, const char *text) {
    spi_arch arch;
    json_t *config = parse(text);
    sp_status status = spi_arch_read(ctx, "config.json", config, &arch);
    json_decref(config);
    if (status != SP_OK) fail_msg("%s", sp_last_error(ctx));
    return arch;
}

static int64_t parameters(const spi_arch *a) {
    int64_t count = a->tie_embeddings ? 0 : a->vocab_size * a->embed_size;
    for (int slot = 0; slot < SPI_SLOTS; slot++) {
        spi_slot_shape shape;
        if (spi_arch_slot(a, (spi_slot)slot, &shape))
            count += shape.rows * shape.cols * (slot < SPI_LAYER_SLOTS ? a->num_layers : 1);
    }
    return count;
}

static int64_t sliding_layers(const spi_arch *a) {
    int64_t count = 0;
    for (int64_t l = 0; l < a->num_layers; l++) count += spi_arch_slides(a, l);
    return count;
}

static void test_parameter_counts(void **state) {
    const scratch *s = *state;
    static const struct {
        const char *config;
        int64_t parameters;
    } models[] = {{gpt2, 124439808},       {distilgpt2, 81912576},  {opt_125m, 125239296},
                  {opt_350m, 331196416},   {gemma_2b, 2506172416},  {gemma2_2b, 2614341888},
                  {gemma3_1b, 999885952},  {gemma3_4b, 3880263168}, {phi3_4k, 3821079552},
                  {phi3_128k, 3821079552}, {phi4_mini, 3836021760}, {hunyuan, 1791080448},
                  {olmo2, 7298617344}};
    for (size_t i = 0; i < sizeof models / sizeof *models; i++) {
        spi_arch a = read_arch(s->ctx, models[i].config);
        assert_int_equal(parameters(&a), models[i].parameters);
        spi_arch_free(&a);
    }
}

static void test_learned_positions(void **state) {
    const scratch *s = *state;
    spi_slot_shape shape;
    spi_arch a = read_arch(s->ctx, gpt2);
    assert_int_equal(a.intermediate_size, 3072); /* n_inner is missing: four hidden sizes */
    assert_int_equal(a.activation, SPI_ACT_GELU_TANH);
    assert_int_equal(a.head_dim, 64);
    assert_int_equal(spi_rotary_dim(&a, &a.rope), 0);
    assert_float_equal(a.norm_eps, 1e-5, 1e-12);
    assert_true(a.tie_embeddings);
    assert_true(spi_arch_slot(&a, SPI_QKV_W, &shape));
    assert_int_equal(shape.rows, 768);
    assert_int_equal(shape.cols, 2304);
    assert_true(shape.transposed);
    /* What GPT-2 scales at the start: 0.02 / sqrt(2 * 12). */
    assert_true(spi_arch_slot(&a, SPI_O_W, &shape));
    assert_float_equal(shape.std, 0.00408248, 1e-7);
    spi_arch_free(&a);

    a = read_arch(s->ctx, opt_350m);
    assert_true(a.norm_residual);
    assert_int_equal(a.embed_size, 512);
    assert_false(spi_arch_slot(&a, SPI_FINAL_NORM_W, &shape));
    assert_true(spi_arch_slot(&a, SPI_POSITIONS, &shape));
    assert_int_equal(shape.rows, 2050);
    spi_arch_free(&a);
}

static void test_gemma(void **state) {
    const scratch *s = *state;
    spi_slot_shape shape;
    spi_arch a = read_arch(s->ctx, gemma_2b);
    assert_int_equal(a.activation, SPI_ACT_GELU_TANH); /* which "gelu" meant */
    assert_float_equal(a.embed_scale, sqrt(2048), 1e-5);
    assert_true(a.tie_embeddings);
    assert_true(spi_arch_slot(&a, SPI_NORM1_W, &shape));
    assert_float_equal(shape.fill, 0, 0);
    spi_arch_free(&a);

    a = read_arch(s->ctx, gemma2_2b);
    assert_int_equal(a.activation, SPI_ACT_GELU_TANH);
    assert_int_equal(sliding_layers(&a), 13);
    assert_true(spi_arch_slides(&a, 0));
    assert_int_equal(a.sliding_window, 4096);
    assert_float_equal(a.attn_scale, 1 / sqrt(224), 1e-8);
    assert_float_equal(a.attn_softcap, 50, 0);
    assert_float_equal(a.logit_softcap, 30, 0);
    spi_arch_free(&a);

    a = read_arch(s->ctx, gemma3_1b);
    assert_int_equal(sliding_layers(&a), 22);
    assert_false(spi_arch_slides(&a, 5));
    assert_float_equal(a.rope.theta, 1e6, 0);
    assert_float_equal(a.sliding_rope.theta, 1e4, 0);
    assert_float_equal(a.attn_softcap, 0, 0);
    assert_float_equal(a.logit_softcap, 0, 0);
    spi_arch_free(&a);

    a = read_arch(s->ctx, gemma3_4b);
    assert_int_equal(a.vocab_size, 262208);
    assert_int_equal(a.heads, 8);
    assert_int_equal(a.kv_heads, 4);
    assert_int_equal(sliding_layers(&a), 29);
    assert_int_equal(a.rope.kind, SPI_ROPE_LINEAR);
    assert_float_equal(a.rope.factor, 8, 0);
    assert_float_equal(a.rope.theta, 1e6, 0);
    assert_int_equal(a.sliding_rope.kind, SPI_ROPE_DEFAULT);
    spi_arch_free(&a);

    a = read_arch(s->ctx, gemma3_new);
    assert_int_equal(sliding_layers(&a), 1);
    assert_int_equal(a.rope.kind, SPI_ROPE_LINEAR);
    assert_float_equal(a.rope.factor, 4, 0);
    assert_float_equal(a.sliding_rope.theta, 2e4, 0);
    spi_arch_free(&a);
}

static void test_phi3_and_hunyuan_rotations(void **state) {
    const scratch *s = *state;
    spi_arch a = read_arch(s->ctx, phi3_4k);
    assert_int_equal(sliding_layers(&a), 32);
    assert_int_equal(a.sliding_window, 2047);
    assert_int_equal(a.rope.kind, SPI_ROPE_DEFAULT);
    spi_arch_free(&a);

    a = read_arch(s->ctx, phi3_128k);
    assert_int_equal(a.rope.kind, SPI_ROPE_LONGROPE); /* "su" */
    assert_float_equal(a.rope.factor, 32, 0);
    assert_int_equal(sliding_layers(&a), 0);
    float cosines[48], sines[48];
    spi_rope_tables(&a, &a.rope, 10, 1, cosines, sines);
    /* sqrt(1 + ln 32 / ln 4096), Transformers' attention_scaling of this config. */
    assert_float_equal(cosines[0], 1.1902380714, 1e-6);
    assert_true(spi_arch_rope_moves(&a));
    assert_true(spi_arch_rope_same(&a, 1, 4096));
    assert_false(spi_arch_rope_same(&a, 4096, 4097));
    spi_arch_free(&a);

    a = read_arch(s->ctx, phi4_mini);
    assert_int_equal(a.head_dim, 128);
    assert_int_equal(spi_rotary_dim(&a, &a.rope), 96);
    spi_arch_free(&a);

    a = read_arch(s->ctx, hunyuan);
    assert_int_equal(a.rope.kind, SPI_ROPE_NTK_ALPHA);
    assert_true(a.qk_norm_after_rope);
    assert_false(spi_arch_rope_moves(&a));
    spi_arch_free(&a);
}

/* ------------------------------------------------------------------ refusals */

static void assert_refused(sp_context *ctx, const char *text, sp_status expected, const char *message) {
    spi_arch arch;
    json_t *config = parse(text);
    assert_int_equal(spi_arch_read(ctx, "config.json", config, &arch), expected);
    json_decref(config);
    if (!strstr(sp_last_error(ctx), message)) fail_msg("no \"%s\" in: %s", message, sp_last_error(ctx));
}

static void test_refusals(void **state) {
    const scratch *s = *state;
    assert_refused(s->ctx, "{'model_type': 'mamba'}", SP_ERR_UNSUPPORTED, "found \"mamba\"");
    assert_refused(
        s->ctx, "{'model_type': 'mamba'}", SP_ERR_UNSUPPORTED,
        "llama, mistral, qwen2, qwen3, gemma, gemma2, gemma3_text, gpt2, opt, hunyuan_v1_dense, phi3, "
        "olmo2");
    assert_refused(s->ctx, "{'model_type': 'distilbert'}", SP_ERR_UNSUPPORTED,
                   "(an encoder: ShadowPEFT needs a decoder)");
    assert_refused(s->ctx, "{'model_type': 'roberta'}", SP_ERR_UNSUPPORTED,
                   "(an encoder: ShadowPEFT needs a decoder)");
    assert_refused(s->ctx, "{'model_type': 't5'}", SP_ERR_UNSUPPORTED, "it has an encoder");
    assert_refused(s->ctx,
                   "{'model_type': 'llama', 'hidden_size': 8, 'intermediate_size': 8, 'num_hidden_layers': 2,"
                   "'num_attention_heads': 2000000000, 'head_dim': 60000, 'vocab_size': 9}",
                   SP_ERR_FORMAT, "expected at most 536870911 elements in all 2000000000 heads");
    assert_refused(s->ctx, "{'model_type': 'gpt2', 'n_embd': 768, 'n_layer': 2, 'vocab_size': 9}",
                   SP_ERR_FORMAT, "\"n_head\": expected a positive integer, found nothing");
    assert_refused(s->ctx, "{'model_type': 'gpt2', 'n_embd': 10, 'n_layer': 2, 'n_head': 4, 'vocab_size': 9}",
                   SP_ERR_FORMAT, "\"n_head\": expected a divisor of the hidden size (10), found 4");
    assert_refused(
        s->ctx,
        "{'model_type': 'gemma3_text', 'hidden_size': 8, 'intermediate_size': 8, 'num_hidden_layers': 2,"
        "'use_bidirectional_attention': true}",
        SP_ERR_UNSUPPORTED, "\"use_bidirectional_attention\": expected false, found true");
    assert_refused(
        s->ctx,
        "{'model_type': 'phi3', 'hidden_size': 32, 'intermediate_size': 8, 'num_hidden_layers': 2,"
        "'num_attention_heads': 4, 'vocab_size': 9, 'rope_scaling': {'type': 'longrope', 'long_factor':"
        "[1, 2, 3], 'short_factor': [1, 1, 1]}}",
        SP_ERR_FORMAT, "expected 4 numbers (half of what is rotated of a head), found 3");
}

/* Sizes that a family's config does not hold, as the Python package refuses them. */
static void test_shadow_sizes(void **state) {
    const scratch *s = *state;
    sp_shadow_config cfg;
    spi_arch a = read_arch(s->ctx, gpt2), shadow;
    sp_shadow_config_default(&cfg);
    cfg.shadow_num_key_value_heads = 2;
    assert_int_equal(spi_shadow_arch(s->ctx, &a, &cfg, &shadow), SP_ERR_ARGUMENT);
    assert_non_null(strstr(sp_last_error(s->ctx), "gpt2 has no num_key_value_heads in its config"));
    sp_shadow_config_default(&cfg);
    cfg.shadow_head_dim = 32;
    assert_int_equal(spi_shadow_arch(s->ctx, &a, &cfg, &shadow), SP_ERR_ARGUMENT);
    assert_non_null(strstr(sp_last_error(s->ctx), "gpt2 has no head_dim in its config"));
    sp_shadow_config_default(&cfg);
    cfg.shadow_num_attention_heads = 5;
    assert_int_not_equal(spi_shadow_arch(s->ctx, &a, &cfg, &shadow), SP_OK);
    assert_non_null(strstr(sp_last_error(s->ctx), "expected a divisor of the hidden size (768), found 5"));
    cfg.shadow_num_attention_heads = 4;
    assert_int_equal(spi_shadow_arch(s->ctx, &a, &cfg, &shadow), SP_OK);
    assert_int_equal(shadow.head_dim, 192);
    assert_int_equal(shadow.kv_heads, 4);
    spi_arch_free(&shadow);
    spi_arch_free(&a);
}

/* ------------------------------------------------------------------ models */

#define CASES TEST_DATA "/parity/"

static sp_model *load(sp_context *ctx, const char *dir) {
    sp_model *model = NULL;
    if (sp_model_load(ctx, dir, NULL, &model) != SP_OK) fail_msg("%s", sp_last_error(ctx));
    return model;
}

static void test_more_tokens_than_positions(void **state) {
    const scratch *s = *state;
    sp_model *model = load(s->ctx, CASES "gpt2/base");
    int64_t ids[33] = {0};
    float logits[33 * 32];
    sp_forward_input in;
    sp_forward_output out = {.size = sizeof out, .logits = logits};
    sp_forward_input_default(&in);
    in.batch = 1;
    in.input_ids = ids;
    in.seq = 32;
    assert_int_equal(sp_forward(model, &in, &out), SP_OK);
    in.seq = 33;
    assert_int_equal(sp_forward(model, &in, &out), SP_ERR_ARGUMENT);
    assert_non_null(strstr(sp_last_error(s->ctx), "at most 32 tokens"));
    assert_non_null(strstr(sp_last_error(s->ctx), "found 33"));
    sp_model_free(model);
}

static void test_no_adapter_for_projected_embeddings(void **state) {
    const scratch *s = *state;
    sp_model *model = load(s->ctx, CASES "base_opt/base");
    sp_shadow_config cfg;
    sp_shadow_config_default(&cfg);
    assert_int_equal(sp_adapter_create(model, &cfg, NULL), SP_ERR_UNSUPPORTED);
    assert_non_null(
        strstr(sp_last_error(s->ctx), "\"word_embed_proj_dim\": a shadow adapter needs the hidden size"));
    sp_model_free(model);
}

/* The tied fixture's weights with another head beside the embedding, which then is the head (Transformers 5).
 */
static void test_tied_in_name_only(void **state) {
    scratch *s = *state;
    spi_st_set *set = NULL;
    spi_st_item items[64];
    size_t count = 0;
    float head[32 * 16], logits[2][2 * 32];
    assert_int_equal(spi_st_open_dir(s->ctx, CASES "gemma/base", "model.safetensors", &set), SP_OK);
    for (; count < spi_st_count(set); count++) {
        const spi_st_tensor *t = spi_st_at(set, count);
        items[count] = (spi_st_item){.name = t->name, .dtype = t->dtype, .ndim = t->ndim, .data = t->data};
        memcpy(items[count].shape, t->shape, sizeof t->shape);
        if (strcmp(t->name, "lm_head.weight") != 0) continue;
        memcpy(head, t->data, sizeof head);
        for (size_t i = 0; i < sizeof head / sizeof *head; i++) head[i] *= 2;
        items[count].data = head;
    }
    assert_int_equal(spi_st_write(s->ctx, scratch_path(s, "model.safetensors"), items, count), SP_OK);
    assert_int_equal(
        spi_file_copy(s->ctx, CASES "gemma/base/config.json", scratch_path(s, "config.json"), false), SP_OK);
    spi_st_close(set);
    const char *const dirs[2] = {CASES "gemma/base", s->dir};
    for (int i = 0; i < 2; i++) {
        sp_model *model = load(s->ctx, dirs[i]);
        int64_t ids[2] = {5, 6};
        sp_forward_input in;
        sp_forward_output out = {.size = sizeof out, .logits = logits[i]};
        sp_forward_input_default(&in);
        in.batch = 1;
        in.seq = 2;
        in.input_ids = ids;
        assert_int_equal(sp_forward(model, &in, &out), SP_OK);
        sp_model_free(model);
    }
    for (int i = 0; i < 2 * 32; i++) assert_float_equal(logits[1][i], 2 * logits[0][i], 1e-6);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_parameter_counts, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_learned_positions, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_gemma, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_phi3_and_hunyuan_rotations, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_refusals, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_shadow_sizes, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_more_tokens_than_positions, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_no_adapter_for_projected_embeddings, scratch_setup,
                                        scratch_teardown),
        cmocka_unit_test_setup_teardown(test_tied_in_name_only, scratch_setup, scratch_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
