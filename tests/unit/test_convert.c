/*
 * Conversion between the dialects: a converted adapter gives the very logits of the original, in memory and
 * after it was saved and loaded; whatever has no equal in the other dialect is refused and stays what it is.
 */
#include "adapters.h"

/* Converts, saves, loads on a base of its own, and converts back: always the same logits. */
static void converts(scratch *s, sp_model *model, const char *base, sp_task task, const char *name) {
    const sp_dialect from = model->adapter->dialect->id,
                     to = from == SP_DIALECT_PEFT ? SP_DIALECT_SHADOW_PEFT : SP_DIALECT_PEFT;
    char dir[512];
    both_logits want = keep_logits(s, model);
    assert_false(are_equal(want.of[0], want.of[1]));
    must(s->ctx, sp_adapter_convert(model, to));
    assert_int_equal(model->adapter->dialect->id, to);
    same_logits(s, model, &want);
    snprintf(dir, sizeof dir, "%s", scratch_path(s, name));
    must(s->ctx, sp_adapter_save(model, dir));
    sp_model *other = load_model(s, base, task);
    must(s->ctx, sp_adapter_load(other, dir, NULL));
    same_logits(s, other, &want);
    /* What trains does so after loading too. */
    sp_model_info a = {.size = sizeof a}, b = {.size = sizeof b};
    sp_model_get_info(model, &a);
    sp_model_get_info(other, &b);
    assert_int_equal(a.trainable_parameters, b.trainable_parameters);
    sp_model_free(other);
    must(s->ctx, sp_adapter_convert(model, to)); /* nothing to do */
    same_logits(s, model, &want);
    free_logits(&want);
}

static void both_ways(scratch *s, sp_model *model, const char *base, sp_task task) {
    converts(s, model, base, task, "there");
    converts(s, model, base, task, "back");
    must(s->ctx, spi_dir_remove(s->ctx, scratch_path(s, "there")));
    must(s->ctx, spi_dir_remove(s->ctx, scratch_path(s, "back")));
    sp_model_free(model);
}

static const char *keep(char buffer[512], const char *path) {
    snprintf(buffer, 512, "%s", path);
    return buffer;
}

static void test_implicit(void **state) {
    scratch *s = *state;
    static const char *const cases[] = {"llama", "mistral_window", "qwen2_window", "qwen3_window",
                                        "gemma", "gemma2",         "gemma3",       "gpt2",
                                        "phi3",  "olmo2",          "hunyuan"};
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char base[512];
        keep(base, make_family(s, cases[i], cases[i], 2));
        sp_model *model = load_model(s, base, SP_TASK_AUTO);
        sp_shadow_config c = config_of(SP_DIALECT_SHADOW_PEFT);
        c.num_shadow_layers = i % 2 ? 2 : 1;
        c.shadow_intermediate_size = i % 3 ? 0 : 12;
        create(s, model, &c, NULL);
        both_ways(s, model, base, SP_TASK_AUTO);
    }
}

/* From PEFT: layer 1 of 2, with sizes of the mirror's own. */
static void test_implicit_peft(void **state) {
    scratch *s = *state;
    char base[512];
    keep(base, make_tiny(s, "base", &tiny_base));
    sp_model *model = load_model(s, base, SP_TASK_AUTO);
    sp_shadow_config c = config_of(SP_DIALECT_PEFT);
    c.first_layer_to_transform = c.layers_to_transform = 1;
    c.num_shadow_layers = 2;
    c.shadow_num_attention_heads = 2;
    c.shadow_intermediate_size = 20;
    c.gate_hidden_size = 1; /* less than the other dialect's least */
    create(s, model, &c, NULL);
    both_ways(s, model, base, SP_TASK_AUTO);
}

static void test_explicit(void **state) {
    scratch *s = *state;
    const tiny shadows[] = {{.layers = 1, .hidden = 16, .vocab = ADAPTERS_VOCAB},
                            {.layers = 2, .hidden = 8, .vocab = ADAPTERS_VOCAB + 5},
                            {.layers = 1, .hidden = 8, .vocab = ADAPTERS_VOCAB, .projected = 16}};
    for (int i = 0; i < 12; i++) {
        const int kind = i % 3;
        const sp_dialect from = i / 3 % 2 ? SP_DIALECT_PEFT : SP_DIALECT_SHADOW_PEFT;
        char base[512], shadow[512];
        tiny t = tiny_base;
        t.dtype = i >= 6 ? SP_BF16 : SP_F32;
        keep(base, make_tiny(s, "base", &t));
        keep(shadow, make_tiny(s, "shadow", &shadows[kind]));
        sp_model *model = load_model(s, base, SP_TASK_AUTO);
        sp_shadow_config c = config_of(from);
        if (from == SP_DIALECT_PEFT) c.first_layer_to_transform = c.layers_to_transform = 1;
        create(s, model, &c, shadow);
        assert_int_equal(model->adapter->projection != NULL, kind > 0);
        both_ways(s, model, base, SP_TASK_AUTO);
        must(s->ctx, spi_dir_remove(s->ctx, base));
        must(s->ctx, spi_dir_remove(s->ctx, shadow));
    }
}

/* Driven by the base's embedding: in PEFT by a copy of it. */
static void test_borrowed(void **state) {
    scratch *s = *state;
    for (int bf16 = 0; bf16 < 2; bf16++) {
        char base[512], shadow[512];
        tiny t = tiny_base;
        t.dtype = bf16 ? SP_BF16 : SP_F32;
        keep(base, make_tiny(s, "base", &t));
        keep(shadow, make_tiny(s, "shadow", &tiny_base));
        sp_model *model = load_model(s, base, SP_TASK_AUTO);
        const sp_shadow_config c = config_of(SP_DIALECT_SHADOW_PEFT);
        sp_adapter_options o;
        sp_adapter_options_default(&o);
        o.shadow = shadow;
        o.remove_embed_tokens = true;
        must(s->ctx, sp_adapter_create(model, &c, &o));
        shake(s, model, 12);
        assert_null(model->adapter->shadow->embed);
        both_ways(s, model, base, SP_TASK_AUTO);
        must(s->ctx, spi_dir_remove(s->ctx, base));
        must(s->ctx, spi_dir_remove(s->ctx, shadow));
    }
}

static void test_classifier(void **state) {
    scratch *s = *state;
    static const char *const names[] = {"bad", "good", "so so"};
    char base[512];
    keep(base, make_tiny(s, "base", &tiny_base));
    for (int which = 0; which < 3; which++) { /* both heads, or one of them with the base's beside it */
        sp_model *model = load_model(s, base, SP_TASK_SEQ_CLS);
        must(s->ctx, sp_model_set_labels(model, names, 3, 5));
        sp_shadow_config c = config_of(SP_DIALECT_SHADOW_PEFT);
        c.modules_to_save = (uint32_t)which;
        create(s, model, &c, NULL);
        both_logits want = keep_logits(s, model);
        must(s->ctx, sp_adapter_convert(model, SP_DIALECT_PEFT));
        same_logits(s, model, &want);
        const char *dir = scratch_path(s, "converted");
        must(s->ctx, sp_adapter_save(model, dir));
        sp_model *other = load_model(s, base, SP_TASK_SEQ_CLS); /* which has no head */
        must(s->ctx, sp_adapter_load(other, dir, NULL));
        same_logits(s, other, &want);
        for (int i = 0; i < 3; i++) assert_string_equal(sp_model_label(other, i), names[i]);
        must(s->ctx, sp_adapter_convert(other, SP_DIALECT_SHADOW_PEFT));
        same_logits(s, other, &want);
        assert_string_equal(sp_model_label(other, 2), "so so");
        must(s->ctx, spi_dir_remove(s->ctx, dir));
        free_logits(&want);
        sp_model_free(other);
        sp_model_free(model);
    }
}

/* An untied lm_head that PEFT trained is both heads of shadow_peft. */
static void test_head(void **state) {
    scratch *s = *state;
    char base[512];
    tiny t = tiny_base;
    t.untied = true;
    keep(base, make_tiny(s, "base", &t));
    sp_model *model = load_model(s, base, SP_TASK_AUTO);
    sp_shadow_config c = config_of(SP_DIALECT_PEFT);
    c.first_layer_to_transform = c.layers_to_transform = 1;
    c.modules_to_save = SP_MODULE_HEAD;
    create(s, model, &c, NULL);
    converts(s, model, base, SP_TASK_AUTO, "there");
    sp_model_free(model);
}

/* ------------------------------------------------------------------ what is refused */

static void refuses(scratch *s, sp_model *model, sp_dialect to, const char *why) {
    char message[600];
    both_logits want = keep_logits(s, model);
    assert_int_equal(sp_adapter_convert(model, to), SP_ERR_UNSUPPORTED);
    snprintf(message, sizeof message, "convert: from %s to %s: %s",
             to == SP_DIALECT_PEFT ? "shadow_peft" : "PEFT", to == SP_DIALECT_PEFT ? "PEFT" : "shadow_peft",
             why);
    assert_string_equal(sp_last_error(s->ctx), message);
    same_logits(s, model, &want);
    free_logits(&want);
}

static void test_updates(void **state) {
    scratch *s = *state;
    tiny t = tiny_base;
    t.layers = 3;
    sp_model *model = load_model(s, make_tiny(s, "three", &t), SP_TASK_AUTO);
    sp_shadow_config c = config_of(SP_DIALECT_SHADOW_PEFT);
    create(s, model, &c, NULL);
    refuses(s, model, SP_DIALECT_PEFT,
            "1 updates lie between the 2 adapted layers: they are LayerNorm and SiLU in shadow_peft, GELU with "
            "biases in PEFT, and no values of one compute the other; expected a single adapted layer");
    c = config_of(SP_DIALECT_PEFT);
    c.first_layer_to_transform = 2;
    c.layers_to_transform = 1;
    create(s, model, &c, NULL);
    refuses(s, model, SP_DIALECT_SHADOW_PEFT,
            "shadow_peft adapts every decoder layer but the first, this adapter another choice");
    sp_model_free(model);
    model = load_model(s, make_tiny(s, "two", &tiny_base), SP_TASK_AUTO);
    c.first_layer_to_transform = 0;
    create(s, model, &c, NULL);
    refuses(s, model, SP_DIALECT_SHADOW_PEFT,
            "shadow_peft adapts every decoder layer but the first, this adapter another choice");
    sp_model_free(model);
}

static void test_shadows(void **state) {
    scratch *s = *state;
    sp_model *model = load_model(s, make_tiny(s, "base", &tiny_base), SP_TASK_AUTO);
    sp_shadow_config c = config_of(SP_DIALECT_SHADOW_PEFT);
    static const char sizes[] = "PEFT's config has no key/value heads and no head size of the shadow's own";
    c.shadow_num_key_value_heads = 4;
    create(s, model, &c, NULL);
    refuses(s, model, SP_DIALECT_PEFT, sizes);
    c.shadow_num_key_value_heads = 0;
    c.shadow_head_dim = 8;
    create(s, model, &c, NULL);
    refuses(s, model, SP_DIALECT_PEFT, sizes);
    static const char own[] = "an implicit shadow of shadow_peft has the base's hidden size and embedding";
    c = config_of(SP_DIALECT_PEFT);
    c.first_layer_to_transform = c.layers_to_transform = 1;
    c.share_embeddings = false;
    create(s, model, &c, NULL);
    refuses(s, model, SP_DIALECT_SHADOW_PEFT, own);
    c.share_embeddings = true;
    c.shadow_hidden_size = 8;
    create(s, model, &c, NULL);
    refuses(s, model, SP_DIALECT_SHADOW_PEFT, own);
    const tiny wider = {.layers = 1, .hidden = 16, .vocab = ADAPTERS_VOCAB + 9};
    sp_adapter_options o;
    sp_adapter_options_default(&o);
    o.shadow = make_tiny(s, "wider", &wider);
    o.remove_embed_tokens = true;
    c = config_of(SP_DIALECT_SHADOW_PEFT);
    must(s->ctx, sp_adapter_create(model, &c, &o));
    refuses(s, model, SP_DIALECT_PEFT,
            "the explicit shadow borrows the base's embedding, and PEFT gives it one of its own: expected one "
            "vocabulary of both, found 40 tokens of the base and 49 of the shadow");
    sp_model_free(model);
}

static void test_heads(void **state) {
    scratch *s = *state;
    sp_model *model = load_model(s, make_tiny(s, "tied", &tiny_base), SP_TASK_AUTO);
    sp_shadow_config c = config_of(SP_DIALECT_PEFT);
    c.first_layer_to_transform = c.layers_to_transform = 1;
    c.modules_to_save = SP_MODULE_HEAD;
    create(s, model, &c, NULL);
    refuses(s, model, SP_DIALECT_SHADOW_PEFT,
            "shadow_peft trains a tied lm_head together with the embedding, PEFT did not");
    for (uint32_t modules = 1; modules <= 3; modules++) {
        c = config_of(SP_DIALECT_SHADOW_PEFT);
        c.modules_to_save = modules;
        create(s, model, &c, NULL);
        refuses(s, model, SP_DIALECT_PEFT,
                "both of PEFT's paths end in the same lm_head, these two heads differ");
    }
    sp_adapter_remove(model);
    assert_int_equal(sp_adapter_convert(model, SP_DIALECT_PEFT), SP_ERR_ARGUMENT);
    assert_string_equal(sp_last_error(s->ctx), "convert: expected a model with an adapter, found none");
    assert_int_equal(sp_adapter_convert(model, (sp_dialect)2), SP_ERR_ARGUMENT);
    assert_string_equal(sp_last_error(s->ctx), "convert: no such dialect: 2");
    sp_model_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_implicit, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_implicit_peft, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_explicit, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_borrowed, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_classifier, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_head, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_updates, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_shadows, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_heads, scratch_setup, scratch_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
