/*
 * The products of block.c for registers of WIDTH floats. A vector type that is wider than the registers would
 * live in memory, so that block.c includes this once for each width, and defines WIDTH anew each time.
 */
#define PASTE(name, width) name##width
#define WITH(name, width) PASTE(name, width)
#define OF_WIDTH(name) WITH(name, WIDTH)

typedef float OF_WIDTH(wide) __attribute__((vector_size(WIDTH * 4), aligned(4), may_alias));

INLINE void OF_WIDTH(tile2)(float *restrict c, int64_t ldc, spi_block a, const float *restrict b, int64_t ldb,
                            int64_t k, int rows) {
    OF_WIDTH(wide) sum[ROWS][2];
    for (int i = 0; i < rows; i++) {
        sum[i][0] = *(const OF_WIDTH(wide) *)(c + i * ldc);
        sum[i][1] = *(const OF_WIDTH(wide) *)(c + i * ldc + WIDTH);
    }
    for (int64_t p = 0; p < k; p++) {
        const OF_WIDTH(wide) b0 = *(const OF_WIDTH(wide) *)(b + p * ldb),
                             b1 = *(const OF_WIDTH(wide) *)(b + p * ldb + WIDTH);
        for (int i = 0; i < rows; i++) {
            const float v = a.data[i * a.row + p * a.col];
            sum[i][0] += v * b0;
            sum[i][1] += v * b1;
        }
    }
    for (int i = 0; i < rows; i++) {
        *(OF_WIDTH(wide) *)(c + i * ldc) = sum[i][0];
        *(OF_WIDTH(wide) *)(c + i * ldc + WIDTH) = sum[i][1];
    }
}

INLINE void OF_WIDTH(tile1)(float *restrict c, int64_t ldc, spi_block a, const float *restrict b, int64_t ldb,
                            int64_t k, int rows) {
    OF_WIDTH(wide) sum[ROWS];
    for (int i = 0; i < rows; i++) sum[i] = *(const OF_WIDTH(wide) *)(c + i * ldc);
    for (int64_t p = 0; p < k; p++) {
        const OF_WIDTH(wide) b0 = *(const OF_WIDTH(wide) *)(b + p * ldb);
        for (int i = 0; i < rows; i++) sum[i] += a.data[i * a.row + p * a.col] * b0;
    }
    for (int i = 0; i < rows; i++) *(OF_WIDTH(wide) *)(c + i * ldc) = sum[i];
}

/* Fewer columns than a register holds: B is padded with zeros, in pieces. */
INLINE void OF_WIDTH(tail_rows)(float *restrict c, int64_t ldc, spi_block a, const float *restrict padded,
                                int64_t n, int64_t k, int64_t rows) {
    for (int64_t i = 0; i < rows; i++) {
        float sums[WIDTH] = {0};
        memcpy(sums, c + i * ldc, (size_t)n * sizeof *sums);
        OF_WIDTH(wide) sum = *(const OF_WIDTH(wide) *)sums;
        for (int64_t p = 0; p < k; p++)
            sum += a.data[i * a.row + p * a.col] * *(const OF_WIDTH(wide) *)(padded + p * WIDTH);
        *(OF_WIDTH(wide) *)sums = sum;
        memcpy(c + i * ldc, sums, (size_t)n * sizeof *sums);
    }
}

INLINE void OF_WIDTH(tail)(float *restrict c, int64_t ldc, spi_block a, const float *restrict b, int64_t ldb,
                           int64_t m, int64_t n, int64_t k) {
    float padded[TAIL_DEPTH * WIDTH];
    for (int64_t p = 0; p < k; p += TAIL_DEPTH) {
        const int64_t depth = k - p < TAIL_DEPTH ? k - p : TAIL_DEPTH;
        memset(padded, 0, sizeof padded);
        for (int64_t q = 0; q < depth; q++)
            memcpy(padded + q * WIDTH, b + (p + q) * ldb, (size_t)n * sizeof *padded);
        OF_WIDTH(tail_rows)(c, ldc, (spi_block){a.data + p * a.col, a.row, a.col}, padded, n, depth, m);
    }
}

/* Columns [j, j + 2 WIDTH) or [j, j + WIDTH), all rows. */
INLINE void OF_WIDTH(columns)(float *restrict c, int64_t ldc, spi_block a, const float *restrict b, int64_t ldb,
                              int64_t m, int64_t k, bool two) {
    int64_t i = 0;
    for (; i + ROWS <= m; i += ROWS) {
        const spi_block part = {a.data + i * a.row, a.row, a.col};
        if (two) OF_WIDTH(tile2)(c + i * ldc, ldc, part, b, ldb, k, ROWS);
        else OF_WIDTH(tile1)(c + i * ldc, ldc, part, b, ldb, k, ROWS);
    }
    for (; i < m; i++) {
        const spi_block part = {a.data + i * a.row, a.row, a.col};
        if (two) OF_WIDTH(tile2)(c + i * ldc, ldc, part, b, ldb, k, 1);
        else OF_WIDTH(tile1)(c + i * ldc, ldc, part, b, ldb, k, 1);
    }
}

INLINE void OF_WIDTH(product)(float *restrict c, int64_t ldc, spi_block a, const float *restrict b, int64_t ldb,
                              int64_t m, int64_t n, int64_t k) {
    int64_t j = 0;
    for (; j + 2 * WIDTH <= n; j += 2 * WIDTH) OF_WIDTH(columns)(c + j, ldc, a, b + j, ldb, m, k, true);
    for (; j + WIDTH <= n; j += WIDTH) OF_WIDTH(columns)(c + j, ldc, a, b + j, ldb, m, k, false);
    if (j < n) OF_WIDTH(tail)(c + j, ldc, a, b + j, ldb, m, n - j, k);
}

#undef OF_WIDTH
#undef WITH
#undef PASTE
#undef WIDTH
