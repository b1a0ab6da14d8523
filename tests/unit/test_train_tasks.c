/*
 * Training of classifiers, of PEFT's dialect and of heads: gradients with recomputation are those without, and
 * a run that was interrupted and resumed ends in the bytes of one that was not.
 */
#include "adapters.h"
#include "shadow/adapted.h"

typedef enum trained {
    CLASSIFIER = 0,
    PEFT_CLASSIFIER,
    PEFT,
    PEFT_RANGE, /* layers 1 and 2 of 4 */
    PEFT_OWN,   /* a mirror of another size with its own embedding */
    PEFT_HEAD,  /* an untied lm_head */
    PEFT_TIED,  /* a tied one, which leaves the embedding */
    TIED_HEAD,  /* shadow_peft's: embedding and head in one */
    TIED_BOTH,  /* and a head of the shadow's own */
    KINDS
} trained;

static const char *keep(char buffer[512], const char *path) {
    snprintf(buffer, 512, "%s", path);
    return buffer;
}

static bool classifies(trained kind) {
    return kind == CLASSIFIER || kind == PEFT_CLASSIFIER;
}

/* A base on disk, for all models of one test. */
static const char *make_base_of(scratch *s, trained kind, sp_dtype dtype) {
    const tiny t = {.layers = 4, .hidden = 16, .vocab = 300, .untied = kind == PEFT_HEAD, .dtype = dtype};
    return make_tiny(s, "base", &t);
}

static sp_model *make_model(scratch *s, const char *base, trained kind) {
    sp_model *model = load_model(s, base, classifies(kind) ? SP_TASK_SEQ_CLS : SP_TASK_CAUSAL_LM);
    const bool own = kind == CLASSIFIER || kind == TIED_HEAD || kind == TIED_BOTH;
    sp_shadow_config c = config_of(own ? SP_DIALECT_SHADOW_PEFT : SP_DIALECT_PEFT);
    static const char *const names[] = {"go", "stop", "turn"};
    c.dropout = 0.3;
    if (kind == PEFT_RANGE) {
        c.first_layer_to_transform = 1;
        c.layers_to_transform = 2;
    }
    if (kind == PEFT_OWN) {
        c.share_embeddings = false;
        c.shadow_hidden_size = 8;
    }
    if (kind >= PEFT_HEAD) c.modules_to_save = SP_MODULE_HEAD;
    if (kind == TIED_BOTH) c.modules_to_save |= SP_MODULE_SHADOW_HEAD;
    if (classifies(kind)) must(s->ctx, sp_model_set_labels(model, names, 3, 4));
    must(s->ctx, sp_adapter_create(model, &c, NULL));
    return model;
}

static sp_dataset *make_data(scratch *s, trained kind) {
    static const char text[] = "text,label\ngo to the kitchen,go\nstop,stop\nturn left then go,turn\n"
                               "pick up the cup,go\nturn right,turn\nstop at the door,stop\ngo,go\n";
    sp_dataset_options o;
    sp_tokenizer *tok;
    sp_dataset *ds;
    sp_dataset_options_default(&o);
    if (classifies(kind)) o.label_column = "label";
    const char *path = scratch_path(s, "data.csv");
    must(s->ctx, spi_file_write(s->ctx, path, text, sizeof text - 1));
    must(s->ctx, sp_tokenizer_load(s->ctx, TEST_DATA "/tiny_tokenizer", &tok));
    must(s->ctx, sp_dataset_load(s->ctx, tok, path, &o, &ds));
    sp_tokenizer_free(tok);
    return ds;
}

/* ------------------------------------------------------------------ gradients */

/* All gradients of one step with dropout, end to end. */
static float *gradients(scratch *s, sp_model *model, const sp_dataset *ds, bool checkpointing, int64_t *count) {
    spi_param **list;
    spi_batch batch = {0};
    spi_loss_sums sums = {0};
    size_t n;
    const spi_run run = {.dropout = true,
                         .seed = 5,
                         .stream = 3,
                         .gradient_checkpointing = checkpointing,
                         .base_weight = 0.2,
                         .shadow_weight = 0.1};
    must(s->ctx, spi_model_trainable(model, &list, &n));
    must(s->ctx, spi_model_begin(model, list, n));
    *count = 0;
    for (size_t i = 0; i < n; i++) {
        if (!list[i]->grad) continue;
        model->dev->op->zero(model->dev, list[i]->grad, (size_t)list[i]->count * sizeof(float));
        *count += list[i]->count;
    }
    for (int64_t i = 0; i < 4; i++) must(s->ctx, spi_batch_add_example(s->ctx, &batch, ds, i));
    must(s->ctx, spi_adapted_train(model, &batch, &run, &sums));
    float *all = malloc((size_t)*count * sizeof *all);
    assert_non_null(all);
    int64_t at = 0, zeros = 0;
    for (size_t i = 0; i < n; i++) {
        if (!list[i]->grad) continue;
        must(s->ctx, spi_param_get_grad(model->dev, list[i], all + at));
        at += list[i]->count;
    }
    for (int64_t i = 0; i < *count; i++) zeros += all[i] == 0;
    assert_true(zeros < *count / 2 || model->adapter->head || model->adapter->shadow->embed);
    spi_batch_free(&batch);
    free(list);
    return all;
}

static void test_checkpointing(void **state) {
    scratch *s = *state;
    for (int kind = 0; kind < KINDS; kind++) {
        for (int bf16 = 0; bf16 < 2; bf16++) {
            char base[512];
            int64_t n, m;
            keep(base, make_base_of(s, (trained)kind, bf16 ? SP_BF16 : SP_F32));
            sp_model *model = make_model(s, base, (trained)kind);
            sp_dataset *ds = make_data(s, (trained)kind);
            shake(s, model, 6);
            float *straight = gradients(s, model, ds, false, &n), *again = gradients(s, model, ds, true, &m);
            assert_int_equal(n, m);
            for (int64_t i = 0; i < n; i++)
                if (straight[i] != again[i])
                    fail_msg("kind %d: gradient %lld: %.9g without, %.9g with recomputation", kind,
                             (long long)i, straight[i], again[i]);
            free(straight);
            free(again);
            sp_dataset_free(ds);
            sp_model_free(model);
            must(s->ctx, spi_dir_remove(s->ctx, base));
        }
    }
}

/* ------------------------------------------------------------------ interrupted and resumed */

static sp_train_action stop_at(void *user, const sp_train_event *e) {
    const int64_t *step = user;
    return e->kind == SP_TRAIN_STEP && e->step == *step ? SP_TRAIN_SAVE_AND_STOP : SP_TRAIN_CONTINUE;
}

/* Six steps into `dir`, stopped after `stop` of them (0: not at all). */
static void train(scratch *s, const char *base, trained kind, const char *dir, int64_t stop) {
    sp_train_options o;
    sp_model *model = make_model(s, base, kind);
    sp_dataset *ds = make_data(s, kind);
    sp_train_options_default(&o);
    o.output_dir = dir;
    o.max_steps = 6;
    o.per_device_train_batch_size = 2;
    o.gradient_accumulation_steps = 2;
    o.learning_rate = 1e-2;
    o.weight_decay = 0.01;
    o.logging_steps = 2;
    o.shadow_loss_weight = 0.5;
    o.eval_steps = 3;
    o.load_best_model_at_end = true;
    o.resume = true;
    const sp_status status = sp_train(model, ds, ds, &o, stop_at, &stop, NULL);
    if (status != (stop ? SP_ERR_INTERRUPTED : SP_OK)) fail_msg("kind %d: %s", kind, sp_last_error(s->ctx));
    sp_dataset_free(ds);
    sp_model_free(model);
}

/* Optimizer state holds every tensor as the adapter's file does. */
static void check_layout(scratch *s, const char *dir, const char *weights) {
    char path[600];
    snprintf(path, sizeof path, "%s/checkpoint-6/%s", dir, weights);
    spi_st_set *adapter = open_set(s->ctx, path);
    snprintf(path, sizeof path, "%s/checkpoint-6/optimizer.safetensors", dir);
    spi_st_set *optimizer = open_set(s->ctx, path);
    int64_t moved = 0;
    for (size_t i = 0; i < spi_st_count(adapter); i++) {
        const spi_st_tensor *t = spi_st_at(adapter, i);
        char name[300];
        snprintf(name, sizeof name, "param.%s", t->name);
        const spi_st_tensor *p = spi_st_find(optimizer, name);
        if (!p) continue; /* frozen, or a head beside it */
        assert_int_equal(p->bytes, t->bytes);
        assert_memory_equal(p->data, t->data, t->bytes);
        snprintf(name, sizeof name, "exp_avg.%s", t->name);
        moved += spi_st_find(optimizer, name) != NULL;
    }
    assert_true(moved > 3);
    spi_st_close(adapter);
    spi_st_close(optimizer);
}

static void test_resumed(void **state) {
    scratch *s = *state;
    for (int kind = 0; kind < KINDS; kind++) {
        const bool own = kind == CLASSIFIER || kind == TIED_HEAD || kind == TIED_BOTH;
        const char *weights = own ? "shadow_adapter.safetensors" : "adapter_model.safetensors";
        char base[512], whole[512], parts[512];
        keep(base, make_base_of(s, (trained)kind, kind % 2 ? SP_BF16 : SP_F32));
        keep(whole, scratch_path(s, "whole"));
        keep(parts, scratch_path(s, "parts"));
        train(s, base, (trained)kind, whole, 0);
        train(s, base, (trained)kind, parts, 2);
        train(s, base, (trained)kind, parts, 5);
        train(s, base, (trained)kind, parts, 0);
        same_file(s->ctx, whole, parts, weights);
        same_file(s->ctx, whole, parts, own ? "shadow_config.json" : "adapter_config.json");
        same_file(s->ctx, whole, parts, "metrics.jsonl");
        same_file(s->ctx, whole, parts, "checkpoint-6/optimizer.safetensors");
        if (own) same_file(s->ctx, whole, parts, "shadow_modules.safetensors");
        check_layout(s, whole, weights);
        static const char *const dirs[] = {"base", "whole", "parts"};
        for (int i = 0; i < 3; i++) must(s->ctx, spi_dir_remove(s->ctx, scratch_path(s, dirs[i])));
    }
}

/* ------------------------------------------------------------------ what does not fit */

static void refuses(scratch *s, sp_model *model, const sp_dataset *ds, bool packing, sp_status status,
                    const char *message) {
    sp_train_options o;
    sp_train_options_default(&o);
    o.output_dir = scratch_path(s, "never");
    o.packing = packing;
    assert_int_equal(sp_train(model, ds, NULL, &o, NULL, NULL, NULL), status);
    assert_string_equal(sp_last_error(s->ctx), message);
    assert_false(spi_path_exists(scratch_path(s, "never/metrics.jsonl")));
}

static void test_refusals(void **state) {
    scratch *s = *state;
    char base[512];
    keep(base, make_base_of(s, PEFT, SP_F32));
    sp_model *lm = make_model(s, base, PEFT), *cls = make_model(s, base, CLASSIFIER);
    sp_dataset *texts = make_data(s, PEFT), *labelled = make_data(s, CLASSIFIER);
    refuses(s, lm, labelled, false, SP_ERR_MISMATCH,
            "training data: example 1 has a label, but the model is a causal LM");
    refuses(s, cls, texts, false, SP_ERR_MISMATCH,
            "training data: example 1: expected a label below 3, found -1");
    refuses(s, cls, labelled, true, SP_ERR_ARGUMENT,
            "packing: not for classification, whose examples each have a label");
    sp_adapter_remove(cls);
    sp_model *two = load_model(s, base, SP_TASK_SEQ_CLS);
    const sp_shadow_config c = config_of(SP_DIALECT_PEFT);
    must(s->ctx, sp_model_set_labels(two, NULL, 2, 1));
    must(s->ctx, sp_adapter_create(two, &c, NULL));
    refuses(s, two, labelled, false, SP_ERR_MISMATCH,
            "training data: example 3: expected a label below 2, found 2");
    sp_model_free(lm);
    sp_model_free(cls);
    sp_model_free(two);
    sp_dataset_free(texts);
    sp_dataset_free(labelled);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_checkpointing, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_resumed, scratch_setup, scratch_teardown),
        cmocka_unit_test_setup_teardown(test_refusals, scratch_setup, scratch_teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
