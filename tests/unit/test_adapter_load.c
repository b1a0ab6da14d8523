/*
 * Adapters coming and going: a load that fails leaves the model as it was, removing one gives the base back, a
 * save covers up nothing of the other dialect.
 */
#include "adapters.h"

static const char *keep(char buffer[512], const char *path) {
    snprintf(buffer, 512, "%s", path);
    return buffer;
}

/* The load fails with `status` and a message that ends in `message`; logits and adapter stay. */
static void fails(scratch *s, sp_model *model, const char *dir, sp_status status, const char *message) {
    const spi_adapter *adapter = model->adapter;
    both_logits want = keep_logits(s, model);
    assert_int_equal(sp_adapter_load(model, dir, NULL), status);
    const char *said = sp_last_error(s->ctx);
    const size_t n = strlen(said), m = strlen(message);
    if (n < m || strcmp(said + n - m, message) != 0) fail_msg("expected ...%s\nfound %s", message, said);
    assert_ptr_equal(model->adapter, adapter);
    same_logits(s, model, &want);
    free_logits(&want);
}

/* Makes an adapter of another base and saves it. */
static const char *save_of(scratch *s, char buffer[512], const char *name, const tiny *base,
                           const sp_shadow_config *c, const char *shadow) {
    char dir[64];
    snprintf(dir, sizeof dir, "%s-base", name);
    sp_model *model = load_model(s, make_tiny(s, dir, base), SP_TASK_AUTO);
    create(s, model, c, shadow);
    must(s->ctx, sp_adapter_save(model, keep(buffer, scratch_path(s, name))));
    sp_model_free(model);
    return buffer;
}

/* ------------------------------------------------------------------ other bases */

static void test_other_bases(void **state) {
    scratch *s = *state;
    for (int dialect = 0; dialect < 2; dialect++) {
        char wide[512], deep[512], file[600];
        const sp_shadow_config c = config_of((sp_dialect)dialect);
        tiny other = tiny_base;
        other.hidden = 20;
        save_of(s, wide, dialect ? "wide-peft" : "wide", &other, &c, NULL);
        other.hidden = 16;
        other.layers = 3;
        save_of(s, deep, dialect ? "deep-peft" : "deep", &other, &c, NULL);
        sp_model *model = load_model(s, make_tiny(s, "base", &tiny_base), SP_TASK_AUTO);
        create(s, model, &c, NULL);
        both_logits before = keep_logits(s, model);
        /* Every tensor at once. */
        assert_int_equal(sp_adapter_load(model, wide, NULL), SP_ERR_MISMATCH);
        const char *said = sp_last_error(s->ctx);
        snprintf(file, sizeof file, "%s/%s: ", wide, model->adapter->dialect->weights_file);
        assert_memory_equal(said, file, strlen(file));
        if (dialect == 0) {
            assert_non_null(strstr(said, "injection_downs: expected shape [1, 16, 4], found [1, 20, 4]"));
            assert_non_null(strstr(said, "shadow_model.norm.weight: expected shape [16], found [20]"));
            assert_non_null(strstr(said, "update_gates.0.2.weight: expected shape [16, 3], found [20, 3]"));
        } else {
            assert_non_null(
                strstr(said, "layers.0.shadow_down.default.weight: expected shape [4, 16], found [4, 20]"));
            assert_non_null(
                strstr(said, "layers.1.shadow_up.default.weight: expected shape [16, 4], found [20, 4]"));
            assert_non_null(
                strstr(said, "shadow_backbone.default.norm.weight: expected shape [16], found [20]"));
        }
        same_logits(s, model, &before);
        assert_int_equal(sp_adapter_load(model, deep, NULL), SP_ERR_MISMATCH);
        said = sp_last_error(s->ctx);
        if (dialect == 0)
            assert_non_null(strstr(said, "injection_ups: expected shape [1, 4, 16], found [2, 4, 16]"));
        else assert_non_null(strstr(said, "layers.2.shadow_down.default.weight"));
        assert_non_null(strstr(said, "tensors have no place in an implicit shadow of this base"));
        same_logits(s, model, &before);
        free_logits(&before);
        must(s->ctx, spi_dir_remove(s->ctx, scratch_path(s, "base")));
        sp_model_free(model);
    }
}

/* A projected shadow's adapter against another shadow, and heads of another vocabulary: one message for all. */
static void test_all_at_once(void **state) {
    scratch *s = *state;
    char dir[512], file[600];
    const tiny small = {.layers = 1, .hidden = 8, .vocab = ADAPTERS_VOCAB};
    const tiny other = {.layers = 1, .hidden = 12, .vocab = ADAPTERS_VOCAB};
    tiny base = tiny_base;
    base.untied = true;
    base.vocab = 44;
    sp_shadow_config c = config_of(SP_DIALECT_SHADOW_PEFT);
    c.modules_to_save = SP_MODULE_HEAD;
    char shadow[512];
    keep(shadow, make_tiny(s, "small", &small));
    save_of(s, dir, "adapter", &base, &c, shadow);
    base.vocab = ADAPTERS_VOCAB;
    sp_model *model = load_model(s, make_tiny(s, "base", &base), SP_TASK_AUTO);
    sp_adapter_options o;
    sp_adapter_options_default(&o);
    o.shadow = make_tiny(s, "other", &other);
    assert_int_equal(sp_adapter_load(model, dir, &o), SP_ERR_MISMATCH);
    assert_null(model->adapter);
    const char *said = sp_last_error(s->ctx);
    static const char *const parts[] = {
        "shadow_adapter.safetensors: ",
        "shadow_hidden_projection.weight: expected shape [16, 12], found [16, 8]",
        "shadow_model.embed_tokens.weight: expected shape [40, 12], found [40, 8]",
        "shadow_modules.safetensors: 1 of 1 tensors do not fit:\n  lm_head.weight: expected shape [40, 16], "
        "found "
        "[44, 16]"};
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        if (!strstr(said, parts[i])) fail_msg("expected %s in\n%s", parts[i], said);
    /* Without naming a shadow, only the head is wrong. */
    snprintf(
        file, sizeof file,
        "%s/shadow_modules.safetensors: 1 of 1 tensors do not fit:\n  lm_head.weight: expected shape [40, 16], "
        "found [44, 16]",
        dir);
    assert_int_equal(sp_adapter_load(model, dir, NULL), SP_ERR_MISMATCH);
    assert_string_equal(sp_last_error(s->ctx), file);
    sp_model_free(model);
}

/* ------------------------------------------------------------------ broken files */

static void cut_file(scratch *s, const char *path, double share) {
    spi_buf content = read_all(s->ctx, path);
    must(s->ctx, spi_file_write(s->ctx, path, content.data, (size_t)(share * (double)content.length)));
    spi_buf_free(&content);
}

static void test_broken_files(void **state) {
    scratch *s = *state;
    for (int dialect = 0; dialect < 2; dialect++) {
        static const char *const files[2][3] = {
            {"shadow_config.json", "shadow_adapter.safetensors", "shadow_modules.safetensors"},
            {"adapter_config.json", "adapter_model.safetensors", NULL}};
        tiny t = tiny_base;
        t.untied = true;
        sp_model *model = load_model(s, make_tiny(s, "base", &t), SP_TASK_AUTO);
        sp_shadow_config c = config_of((sp_dialect)dialect);
        c.modules_to_save = SP_MODULE_HEAD;
        create(s, model, &c, NULL);
        both_logits want = keep_logits(s, model);
        for (int i = 0; i < 3 && files[dialect][i]; i++) {
            for (int cut = 0; cut < 3; cut++) {
                char dir[512], path[600];
                keep(dir, scratch_path(s, "adapter"));
                must(s->ctx, sp_adapter_save(model, dir));
                snprintf(path, sizeof path, "%s/%s", dir, files[dialect][i]);
                cut_file(s, path, 0.45 * cut);
                const sp_status status = sp_adapter_load(model, dir, NULL);
                assert_true(status == SP_ERR_FORMAT);
                assert_memory_equal(sp_last_error(s->ctx), path, strlen(path));
                same_logits(s, model, &want);
                must(s->ctx, spi_dir_remove(s->ctx, dir));
            }
        }
        free_logits(&want);
        must(s->ctx, spi_dir_remove(s->ctx, scratch_path(s, "base")));
        sp_model_free(model);
    }
}

/* A config with one thing changed: KEY to VALUE (JSON), or taken out where VALUE is NULL. */
static void edit(scratch *s, const char *dir, const char *name, const char *key, const char *value) {
    char path[600];
    json_t *config;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    must(s->ctx, spi_json_load(s->ctx, path, &config));
    if (value) json_object_set_new(config, key, json_loads(value, JSON_DECODE_ANY, NULL));
    else json_object_del(config, key);
    must(s->ctx, spi_json_save(s->ctx, path, config));
    json_decref(config);
}

static void test_peft_configs(void **state) {
    scratch *s = *state;
    static const struct {
        const char *key, *value;
        sp_status status;
        const char *message;
    } cases[] = {
        {"peft_type", "\"LORA\"", SP_ERR_UNSUPPORTED,
         "\"peft_type\": expected \"SHADOW\", found LORA: other kinds of adapters are not supported"},
        {"peft_type", NULL, SP_ERR_UNSUPPORTED,
         "\"peft_type\": expected \"SHADOW\", found nothing: other kinds of adapters are not supported"},
        {"task_type", "\"SEQ_CLS\"", SP_ERR_MISMATCH,
         "\"task_type\": the model is loaded for CAUSAL_LM, found SEQ_CLS"},
        {"modules_to_save", "\"lm_head\"", SP_ERR_FORMAT,
         "\"modules_to_save\": expected a list of names, found a string"},
        {"modules_to_save", "[\"embed_tokens\"]", SP_ERR_UNSUPPORTED,
         "\"modules_to_save\": expected lm_head (causal LM) or score (classification), found embed_tokens"},
        {"modules_to_save", "[\"score\"]", SP_ERR_UNSUPPORTED,
         "\"modules_to_save\": expected lm_head (causal LM) or score (classification), found score"},
        {"modules_to_save", "[7]", SP_ERR_UNSUPPORTED,
         "\"modules_to_save\": expected lm_head (causal LM) or score (classification), found no string"},
        {"r", "0", SP_ERR_FORMAT, "\"r\": expected 1 to 2147483647, found 0"},
        {"r", "-4", SP_ERR_FORMAT, "\"r\": expected 1 to 2147483647, found -4"},
        {"update_hidden_size", "4294967297", SP_ERR_FORMAT,
         "\"update_hidden_size\": expected 1 to 2147483647, found 4294967297"},
        {"shadow_num_hidden_layers", "0", SP_ERR_FORMAT,
         "\"shadow_num_hidden_layers\": expected 1 to 2147483647, found 0"},
        {"shadow_alpha", "\"big\"", SP_ERR_FORMAT, NULL},
        {"share_embeddings", "1", SP_ERR_FORMAT, NULL},
        {"shadow_model", "\"/nowhere\"", SP_ERR_IO,
         "\"shadow_model\": /nowhere is no directory here: name the explicit shadow's checkpoint"},
    };
    sp_model *model = load_model(s, make_tiny(s, "base", &tiny_base), SP_TASK_AUTO);
    const sp_shadow_config c = config_of(SP_DIALECT_PEFT);
    create(s, model, &c, NULL);
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char dir[512];
        keep(dir, scratch_path(s, "adapter"));
        must(s->ctx, sp_adapter_save(model, dir));
        edit(s, dir, "adapter_config.json", cases[i].key, cases[i].value);
        fails(s, model, dir, cases[i].status, cases[i].message ? cases[i].message : "");
        must(s->ctx, spi_dir_remove(s->ctx, dir));
    }
    sp_model_free(model);
}

/* ------------------------------------------------------------------ tasks and labels */

static sp_model *classifier(scratch *s, const char *base, int32_t labels) {
    sp_model *model = load_model(s, base, SP_TASK_SEQ_CLS);
    must(s->ctx, sp_model_set_labels(model, NULL, labels, 3));
    return model;
}

static void test_tasks(void **state) {
    scratch *s = *state;
    for (int dialect = 0; dialect < 2; dialect++) {
        char base[512], labelled[512], causal[512], message[700];
        tiny t = tiny_base;
        t.untied = true;
        keep(base, make_tiny(s, "base", &t));
        sp_shadow_config c = config_of((sp_dialect)dialect);
        sp_model *cls = classifier(s, base, 3), *lm = load_model(s, base, SP_TASK_AUTO);
        create(s, cls, &c, NULL);
        must(s->ctx, sp_adapter_save(cls, keep(labelled, scratch_path(s, "labelled"))));
        c.modules_to_save = SP_MODULE_HEAD;
        create(s, lm, &c, NULL);
        must(s->ctx, sp_adapter_save(lm, keep(causal, scratch_path(s, "causal"))));
        snprintf(message, sizeof message,
                 "%s: the adapter has \"classifier_head.weight\", a head for classification, but the model is "
                 "loaded "
                 "for causal LM",
                 labelled);
        fails(s, lm, labelled, SP_ERR_MISMATCH,
              dialect ? "\"task_type\": the model is loaded for CAUSAL_LM, found SEQ_CLS" : message);
        snprintf(message, sizeof message,
                 "%s: the adapter has \"lm_head.weight\", a head for causal LM, but the model is loaded for "
                 "classification",
                 causal);
        fails(s, cls, causal, SP_ERR_MISMATCH,
              dialect ? "\"task_type\": the model is loaded for SEQ_CLS, found CAUSAL_LM" : message);
        static const char *const dirs[] = {"base", "labelled", "causal"};
        for (int i = 0; i < 3; i++) must(s->ctx, spi_dir_remove(s->ctx, scratch_path(s, dirs[i])));
        sp_model_free(cls);
        sp_model_free(lm);
    }
}

/* On a base without a head every adapter brings its labels; on one with a head they must be as many. */
static void test_labels(void **state) {
    scratch *s = *state;
    static const char *const names[] = {"red", "green", "blue", "grey"};
    for (int dialect = 0; dialect < 2; dialect++) {
        char base[512], three[512], four[512];
        sp_model_info info = {.size = sizeof info};
        const sp_shadow_config c = config_of((sp_dialect)dialect);
        keep(base, make_tiny(s, "base", &tiny_base));
        for (int n = 3; n <= 4; n++) {
            sp_model *made = load_model(s, base, SP_TASK_SEQ_CLS);
            must(s->ctx, sp_model_set_labels(made, names, n, 3));
            create(s, made, &c, NULL);
            must(s->ctx,
                 sp_adapter_save(made, keep(n == 3 ? three : four, scratch_path(s, n == 3 ? "3" : "4"))));
            sp_model_free(made);
        }
        sp_model *model = load_model(s, base, SP_TASK_SEQ_CLS);
        assert_null(sp_model_label(model, 0));
        must(s->ctx, sp_adapter_load(model, three, NULL));
        must(s->ctx, sp_adapter_load(model, four, NULL));
        sp_model_get_info(model, &info);
        assert_int_equal(info.num_labels, 4);
        assert_string_equal(sp_model_label(model, 3), "grey");
        /* A fresh adapter needs a head of the base's, whatever another one brought. */
        assert_int_equal(sp_adapter_create(model, &c, NULL), SP_ERR_ARGUMENT);
        assert_int_equal(spi_model_outputs(model), 4);
        sp_adapter_remove(model);
        assert_null(sp_model_label(model, 0));
        /* The base's own names come back. */
        static const char *const own[] = {"a", "b", "c"};
        must(s->ctx, sp_model_set_labels(model, own, 3, 9));
        must(s->ctx, sp_adapter_load(model, three, NULL));
        assert_string_equal(sp_model_label(model, 1), "green");
        fails(s, model, four, SP_ERR_MISMATCH, "\"id2label\": expected 3 labels, as the base has, found 4");
        edit(s, four, dialect ? "shadow_labels.json" : "shadow_config.json", "id2label", NULL);
        fails(s, model, four, SP_ERR_MISMATCH,
              dialect ? "base_model.shadow_head.default.weight: expected shape [3, 16], found [4, 16]"
                      : "shadow_classifier_head.weight: expected shape [3, 16], found [4, 16]");
        sp_adapter_remove(model);
        assert_string_equal(sp_model_label(model, 1), "b");
        sp_model_free(model);
        /* Heads of another number than id2label says. */
        model = load_model(s, base, SP_TASK_SEQ_CLS);
        edit(s, three, dialect ? "shadow_labels.json" : "shadow_config.json", "id2label",
             "{\"0\": \"x\", \"1\": \"y\"}");
        assert_int_equal(sp_adapter_load(model, three, NULL), SP_ERR_MISMATCH);
        assert_non_null(
            strstr(sp_last_error(s->ctx), "\"id2label\": expected 3 labels, as the heads have, found 2"));
        sp_model_free(model);
        static const char *const dirs[] = {"base", "3", "4"};
        for (int i = 0; i < 3; i++) must(s->ctx, spi_dir_remove(s->ctx, scratch_path(s, dirs[i])));
    }
}

static void test_set_labels(void **state) {
    scratch *s = *state;
    char base[512];
    keep(base, make_tiny(s, "base", &tiny_base));
    static const char *const names[] = {"x", "y", "x"}, *const bytes[] = {"x", "\xff"};
    sp_model *lm = load_model(s, base, SP_TASK_AUTO), *model = load_model(s, base, SP_TASK_SEQ_CLS);
    assert_int_equal(sp_model_set_labels(lm, names, 2, 1), SP_ERR_ARGUMENT);
    assert_string_equal(sp_last_error(s->ctx),
                        "labels: expected a model of the task seq-cls without an adapter, found another");
    assert_int_equal(sp_model_set_labels(model, names, 1, 1), SP_ERR_ARGUMENT);
    assert_string_equal(sp_last_error(s->ctx), "labels: expected at least 2, found 1");
    assert_int_equal(sp_model_set_labels(model, names, 3, 1), SP_ERR_ARGUMENT);
    assert_string_equal(sp_last_error(s->ctx),
                        "labels: expected names that differ, found \"x\" for 0 and for 2");
    assert_int_equal(sp_model_set_labels(model, bytes, 2, 1), SP_ERR_ARGUMENT);
    assert_string_equal(sp_last_error(s->ctx), "labels: expected UTF-8, found other bytes in name 1");
    assert_null(model->head);
    assert_int_equal(sp_model_save(model, scratch_path(s, "never")), SP_ERR_ARGUMENT);
    assert_false(spi_path_exists(scratch_path(s, "never")));
    must(s->ctx, sp_model_set_labels(model, names, 2, 1));
    must(s->ctx, sp_model_set_labels(model, NULL, 2, 1));
    assert_string_equal(sp_model_label(model, 1), "LABEL_1");
    must(s->ctx, sp_model_set_labels(model, names, 2, 1));
    assert_int_equal(sp_model_set_labels(model, NULL, 3, 1), SP_ERR_MISMATCH);
    assert_non_null(strstr(sp_last_error(s->ctx), "labels: expected 2, as "));
    assert_string_equal(sp_model_label(model, 1), "y");
    /* As a checkpoint it is the same classifier. */
    char saved[512];
    float *want = logits_of(s, model, SP_MODE_BASE_SHADOW);
    must(s->ctx, sp_model_save(model, keep(saved, scratch_path(s, "saved"))));
    sp_model *again = load_model(s, saved, SP_TASK_AUTO);
    float *got = logits_of(s, again, SP_MODE_BASE_SHADOW);
    assert_int_equal(again->task, SP_TASK_SEQ_CLS);
    assert_string_equal(sp_model_label(again, 0), "x");
    assert_true(are_equal(want, got));
    free(want);
    free(got);
    /* Names that the base tells need no place beside PEFT's files, others do. */
    const sp_shadow_config c = config_of(SP_DIALECT_PEFT);
    static const char *const others[] = {"p", "q"};
    for (int renamed = 0; renamed < 2; renamed++) {
        if (renamed) must(s->ctx, sp_model_set_labels(again, others, 2, 1));
        create(s, again, &c, NULL);
        must(s->ctx, sp_adapter_save(again, scratch_path(s, "peft")));
        assert_int_equal(spi_path_exists(scratch_path(s, "peft/shadow_labels.json")), renamed);
        sp_adapter_remove(again);
    }
    sp_model_free(again);
    edit(s, saved, "config.json", "problem_type", "\"multi_label_classification\"");
    assert_int_equal(sp_model_load(s->ctx, saved, NULL, &again), SP_ERR_UNSUPPORTED);
    assert_non_null(strstr(sp_last_error(s->ctx), "\"problem_type\": expected \"single_label_classification\", "
                                                  "found \"multi_label_classification\""));
    sp_model_free(lm);
    sp_model_free(model);
}

/* ------------------------------------------------------------------ the base comes back */

/* A tied head that trains is the embedding too while its adapter is there. */
static void test_tied_head(void **state) {
    scratch *s = *state;
    sp_model *model = load_model(s, make_tiny(s, "base", &tiny_base), SP_TASK_AUTO);
    float *plain = logits_of(s, model, SP_MODE_BASE_SHADOW);
    char own[512], peft[512];
    for (int dialect = 0; dialect < 2; dialect++) {
        sp_shadow_config c = config_of((sp_dialect)dialect);
        c.modules_to_save = SP_MODULE_HEAD;
        create(s, model, &c, NULL);
        assert_true((model->base->embed == model->adapter->head) == (dialect == 0));
        must(s->ctx,
             sp_adapter_save(model, keep(dialect ? peft : own, scratch_path(s, dialect ? "peft" : "own"))));
        both_logits want = keep_logits(s, model);
        sp_adapter_remove(model);
        float *now = logits_of(s, model, SP_MODE_BASE_SHADOW);
        assert_true(are_equal(now, plain));
        assert_ptr_equal(model->base->embed, model->embed);
        free(now);
        must(s->ctx, sp_adapter_load(model, dialect ? peft : own, NULL));
        same_logits(s, model, &want);
        free_logits(&want);
    }
    /* One in the place of the other, and a failure in between. */
    must(s->ctx, sp_adapter_load(model, own, NULL));
    assert_ptr_equal(model->base->embed, model->adapter->head);
    fails(s, model, scratch_path(s, "nowhere"), SP_ERR_IO, "");
    assert_ptr_equal(model->base->embed, model->adapter->head);
    must(s->ctx, sp_adapter_load(model, peft, NULL));
    assert_ptr_equal(model->base->embed, model->embed);
    sp_adapter_remove(model);
    float *now = logits_of(s, model, SP_MODE_BASE_SHADOW);
    assert_true(are_equal(now, plain));
    free(now);
    free(plain);
    sp_model_free(model);
}

/* ------------------------------------------------------------------ two dialects, one directory */

static void test_other_dialect(void **state) {
    scratch *s = *state;
    char dir[512], copy[512], message[800];
    sp_model *model = load_model(s, make_tiny(s, "base", &tiny_base), SP_TASK_AUTO);
    for (int dialect = 0; dialect < 2; dialect++) {
        sp_shadow_config c = config_of((sp_dialect)dialect);
        create(s, model, &c, NULL);
        both_logits want = keep_logits(s, model);
        keep(dir, scratch_path(s, dialect ? "peft" : "own"));
        keep(copy, scratch_path(s, "copy"));
        must(s->ctx, sp_adapter_save(model, dir));
        must(s->ctx, sp_adapter_save(model, copy));
        c = config_of((sp_dialect)!dialect);
        create(s, model, &c, NULL);
        snprintf(message, sizeof message,
                 "%s/%s: an adapter of the other dialect (%s) lies there: choose another directory", dir,
                 dialect ? "adapter_config.json" : "shadow_config.json", dialect ? "PEFT" : "shadow_peft");
        assert_int_equal(sp_adapter_save(model, dir), SP_ERR_ARGUMENT);
        assert_string_equal(sp_last_error(s->ctx), message);
        /* Training says so before its first step. */
        sp_train_options o;
        sp_train_options_default(&o);
        o.output_dir = dir;
        const int32_t ids[] = {1, 2, 3, 4};
        const int64_t starts[] = {0, 4};
        sp_dataset *data;
        must(s->ctx, sp_dataset_from_ids(s->ctx, ids, NULL, starts, 1, &data));
        assert_int_equal(sp_train(model, data, NULL, &o, NULL, NULL, NULL), SP_ERR_ARGUMENT);
        assert_string_equal(sp_last_error(s->ctx), message);
        sp_dataset_free(data);
        same_file(s->ctx, dir, copy, dialect ? "adapter_config.json" : "shadow_config.json");
        same_file(s->ctx, dir, copy, dialect ? "adapter_model.safetensors" : "shadow_adapter.safetensors");
        assert_false(spi_path_exists(scratch_path(s, dialect ? "peft/metrics.jsonl" : "own/metrics.jsonl")));
        must(s->ctx, sp_adapter_load(model, dir, NULL));
        same_logits(s, model, &want);
        free_logits(&want);
        must(s->ctx, spi_dir_remove(s->ctx, copy));
    }
    sp_model_free(model);
}

/* PEFT's config names the explicit shadow that an adapter was made with. */
static void test_source(void **state) {
    scratch *s = *state;
    char shadow[512], path[600];
    json_t *config;
    sp_model *model = load_model(s, make_tiny(s, "base", &tiny_base), SP_TASK_AUTO);
    const sp_shadow_config c = config_of(SP_DIALECT_PEFT);
    keep(shadow, make_tiny(s, "shadow", &tiny_base));
    create(s, model, &c, shadow);
    must(s->ctx, sp_adapter_save(model, scratch_path(s, "adapter")));
    snprintf(path, sizeof path, "%s", scratch_path(s, "adapter/adapter_config.json"));
    must(s->ctx, spi_json_load(s->ctx, path, &config));
    assert_string_equal(json_string_value(json_object_get(config, "shadow_model")), shadow);
    json_decref(config);
    sp_model_free(model);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_other_bases, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_all_at_once, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_broken_files, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_peft_configs, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_tasks, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_labels, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_set_labels, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_tied_head, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_other_dialect, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_source, scratch_setup, scratch_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
