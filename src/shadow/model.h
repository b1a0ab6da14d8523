/* sp_model from the inside: a base decoder with its head, at most one adapter, and the memory of a step. */
#ifndef SPI_SHADOW_MODEL_H
#define SPI_SHADOW_MODEL_H

#include "format/checkpoint.h"
#include "model/decoder.h"
#include "shadow/config.h"

/* Injection before an adapted layer and update after it; NULL: the dialect has none of the kind. */
typedef struct spi_adapter_layer {
    spi_param *down, *up;         /* [d, k], [k, d]; stacked: [n, d, k], [n, k, d], the same for all layers */
    spi_param *w0, *w3, *v0, *v2; /* update_transforms, update_gates: [g, d], [d, g], [g, d], [d, g] */
    spi_param *b0, *b3, *c0, *c2; /* their biases: [g], [d], [g], [d] */
} spi_adapter_layer;

/*
 * An adapter in memory, of either dialect. It adapts the base's layers first .. first + count - 1; layers[i]
 * belongs to base layer first + i. The last update feeds nothing.
 */
typedef struct spi_adapter {
    const spi_dialect *dialect;
    sp_shadow_config config;
    int64_t first, count;
    spi_decoder *shadow;       /* without an embedding of its own the base's drives it */
    spi_param *projection;     /* [d, d_shadow], in params; NULL where the sizes are equal */
    json_t *shadow_json;       /* the shadow's config.json */
    char *shadow_source;       /* the directory or name that an explicit shadow came from, or NULL; owned */
    bool explicit_shadow;      /* it is another checkpoint's, not made from the base's config */
    spi_st_set *files;         /* where its values are mapped from, or NULL */
    spi_st_set *head_files;    /* the same of trained heads that have a file of their own */
    spi_params params;         /* projection, injection and update */
    spi_adapter_layer *layers; /* [count] */
    spi_param *norm_weight, *norm_bias; /* [d], or NULL */
    spi_params modules;                 /* modules_to_save: heads that train, copies of the base's */
    spi_param *head;                    /* what the base's path ends in; NULL: the base's own head */
    spi_param *shadow_head;             /* what the shadow's path ends in; NULL: the base's own head */
    spi_labels labels;                  /* of its heads, where it says so; count 0: the base's */
} spi_adapter;

typedef struct spi_teacher spi_teacher; /* shadow/teacher.h */

struct sp_model {
    sp_context *ctx;
    spi_device *dev;
    spi_checkpoint files;
    spi_prefix prefix; /* what the files say in place of the backbone's */
    spi_decoder *base;
    sp_task task;
    spi_params head_params;
    spi_param *head; /* [V, e]: base->embed itself where tied; classification: [labels, e], or NULL: none yet */
    spi_param *embed;     /* the base's own embedding, also while an adapter's head stands in base->embed */
    spi_labels labels;    /* of a classifier's own head; count 0: it has none */
    spi_adapter *adapter; /* NULL: plain base */
    spi_teacher *teacher; /* whose logits the projection learns; NULL: none */
    spi_pool *pool;       /* memory of a step */
    bool trainable;       /* loaded for pretraining */
    bool quantized;       /* the base's matrices are held in 8 bits */
    int32_t *eos_ids;     /* of generation_config.json or config.json */
    size_t eos_count;
};

/* The heads that the two paths end in, and how wide their outputs are: the vocabulary, or the labels. */
const spi_param *spi_base_head(const sp_model *model);
const spi_param *spi_shadow_head(const sp_model *model);
static inline const spi_labels *spi_model_labels(const sp_model *model) {
    return model->adapter && model->adapter->labels.count ? &model->adapter->labels : &model->labels;
}
static inline int64_t spi_model_outputs(const sp_model *model) {
    return model->task == SP_TASK_SEQ_CLS ? spi_model_labels(model)->count : model->base->arch.vocab_size;
}

/* Whether training learns from a teacher: then it is the projection that learns, and nothing else. */
static inline bool spi_model_distills(const sp_model *model) {
    return model->teacher && !model->adapter;
}

/*
 * Every trainable parameter, in checkpoint order: the adapter's if there is one, else a trainable base's.
 * *list is allocated: free() it. Parameters that no gradient ever reaches are in it.
 */
sp_status spi_model_trainable(const sp_model *model, spi_param ***list, size_t *count);
/* Before their first gradient: what training needs of them comes into memory (spi_param_begin). */
sp_status spi_model_begin(sp_model *model, spi_param *const *params, size_t count);

/*
 * Of a trainable base: the backbone (embedding included), the embedding and the head train, or where true stay
 * as they are and cost no gradient. A tied pair goes together.
 */
void spi_model_freeze(sp_model *model, bool backbone, bool embed, bool head);

/* A classifier's head in checkpoints. */
#define SPI_SCORE_WEIGHT "score.weight"
/* How many labels the base's files have a head for, with their names; none without a head. */
sp_status spi_model_read_labels(sp_model *model);

/* Bytes of weights that are read where their files are mapped, those that train aside. */
int64_t spi_model_mapped_bytes(const sp_model *model);

/* Writes what training made into `dir`: the adapter, or the whole base. */
sp_status spi_model_save_trained(sp_model *model, const char *dir);
/* Fails where that would be refused for what lies in `dir` already. */
sp_status spi_model_check_place(const sp_model *model, const char *dir);

#endif
