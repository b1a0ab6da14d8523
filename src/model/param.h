/* Parameters: a name in a checkpoint, a shape, the values that operations read, and what training adds. */
#ifndef SPI_MODEL_PARAM_H
#define SPI_MODEL_PARAM_H

#include "format/safetensors.h"
#include "tensor/backend.h"

typedef enum spi_param_kind {
    SPI_PARAM_MATRIX, /* in the compute dtype: the weights of products and embeddings */
    SPI_PARAM_F32     /* always f32: norms, biases, injection and update */
} spi_param_kind;

typedef enum spi_param_group {
    SPI_GROUP_MAIN,  /* base, injection, update */
    SPI_GROUP_SHADOW /* shadow backbone, projection, shadow head: shadow_lr_multiplier applies */
} spi_param_group;

typedef struct spi_param {
    const char *name; /* checkpoint key */
    spi_param_kind kind;
    spi_param_group group;
    int ndim;
    int64_t shape[3];
    int64_t count;
    spi_weight w;                /* MATRIX: what products read */
    bool transposed;             /* MATRIX: stored [in, out] */
    bool quantize;               /* MATRIX: held in 8 bits with scales, [out, in], while it does not train */
    const spi_st_tensor *source; /* quantised: the tensor that it was made of, or NULL */
    bool turned;    /* F32 of two dimensions: in memory, values and grad are the transpose of what files hold */
    float *f32;     /* F32: what operations read. Trainable MATRIX: the f32 master values */
    float *grad;    /* f32, NULL when frozen or when nothing ever reaches it */
    bool trainable; /* counted as trainable */
    bool decay;     /* weight decay applies: not to norms and biases */
    void *owned[5]; /* device memory to release */
} spi_param;

/* All parameters of a part of a model, in the order of their making. Items and names live in `arena`. */
typedef struct spi_params {
    spi_arena arena;
    spi_param **items;
    size_t count, capacity;
} spi_params;

typedef struct spi_param_spec {
    const char *name;
    spi_param_kind kind;
    spi_param_group group;
    int ndim;
    int64_t shape[3];
    bool transposed, turned, quantize;
    bool trainable;
    bool no_grad; /* trainable in name, but no gradient ever reaches it */
    bool decay;
} spi_param_spec;

/* Adds a parameter without values. NULL when out of memory, with the message set. */
spi_param *spi_params_add(spi_device *dev, spi_params *list, const spi_param_spec *spec);

/*
 * Gives a parameter its values from a tensor of the same shape (checked by the caller): mapped memory is used
 * in place where dtype, device and trainability allow it, else converted (or quantised) into memory of its own.
 * A quantised one goes on referring to `from`.
 */
sp_status spi_param_load(spi_device *dev, spi_param *p, sp_dtype compute, const spi_st_tensor *from);
/* The same from f32 host values, laid out as in files. */
sp_status spi_param_set(spi_device *dev, spi_param *p, sp_dtype compute, const float *values);
/* f32 values back to the host, laid out as in files: the master values of a trainable parameter; its gradient.
 * Of a quantised one what it was made of, where that is still there. */
sp_status spi_param_get(spi_device *dev, const spi_param *p, float *values);
/* The same of any device values in the parameter's layout (an optimizer's), and back. */
sp_status spi_param_get_like(spi_device *dev, const spi_param *p, const float *from, float *values);
sp_status spi_param_set_like(spi_device *dev, const spi_param *p, float *to, const float *values);
sp_status spi_param_get_grad(spi_device *dev, const spi_param *p, float *values);

/* Makes a parameter that was added as trainable train or stay as it is; the gradient's memory comes and goes.
 */
sp_status spi_param_train(spi_device *dev, spi_param *p, bool train);

void spi_params_free(spi_device *dev, spi_params *list);

/* What a checkpoint says in place of the beginning of a parameter's name: of names that begin with `ours`. */
typedef struct spi_prefix {
    const char *ours, *theirs;
} spi_prefix;

/* The tensor of a name, under the checkpoint's prefix (NULL: the same as ours). NULL where there is none. */
const spi_st_tensor *spi_param_find(const spi_st_set *set, const char *name, const spi_prefix *prefix);

/* Lines about what is missing or misshapen in `set`, each behind a newline; how many. */
size_t spi_params_misfits(const spi_params *list, const spi_st_set *set, const spi_prefix *prefix,
                          spi_buf *lines);

/*
 * Looks every parameter up in `set` under its name, checks shapes and dtypes of all, and only then loads them.
 * Everything missing or misshapen is listed in one message that begins with `what`.
 */
sp_status spi_params_load(spi_device *dev, spi_params *list, sp_dtype compute, const spi_st_set *set,
                          const spi_prefix *prefix, const char *what);

/* Writes parameters into one safetensors file, in `dtype` (F32 or BF16). */
sp_status spi_params_save(spi_device *dev, spi_param *const *list, size_t count, sp_dtype dtype,
                          const char *file);

#endif
