/*
 * The product of block.c for registers of WIDTH floats. Included once for each width: a vector wider than the
 * registers there are is cut by the compiler, but it goes over memory (gcc 12: 40 times slower), so each
 * processor gets its own.
 *
 * Before including: WIDTH, and TARGET, the attribute of the function that is made, OF_WIDTH(product).
 */
#define JOINED(name, width) name##width
#define EXPANDED(name, width) JOINED(name, width)
#define OF_WIDTH(name) EXPANDED(name, WIDTH)

#define wide OF_WIDTH(wide)
#define tile2 OF_WIDTH(tile2_)
#define tile1 OF_WIDTH(tile1_)
#define tail_rows OF_WIDTH(tail_rows_)
#define tail OF_WIDTH(tail_)
#define columns OF_WIDTH(columns_)

typedef float wide __attribute__((vector_size(WIDTH * 4), aligned(4), may_alias));

INLINE void tile2(float *restrict c, int64_t ldc, spi_block a, const float *restrict b, int64_t ldb, int64_t k,
                  int rows) {
    wide sum[ROWS][2];
    for (int i = 0; i < rows; i++) {
        sum[i][0] = *(const wide *)(c + i * ldc);
        sum[i][1] = *(const wide *)(c + i * ldc + WIDTH);
    }
    for (int64_t p = 0; p < k; p++) {
        const wide b0 = *(const wide *)(b + p * ldb), b1 = *(const wide *)(b + p * ldb + WIDTH);
        for (int i = 0; i < rows; i++) {
            const float v = a.data[i * a.row + p * a.col];
            sum[i][0] += v * b0;
            sum[i][1] += v * b1;
        }
    }
    for (int i = 0; i < rows; i++) {
        *(wide *)(c + i * ldc) = sum[i][0];
        *(wide *)(c + i * ldc + WIDTH) = sum[i][1];
    }
}

INLINE void tile1(float *restrict c, int64_t ldc, spi_block a, const float *restrict b, int64_t ldb, int64_t k,
                  int rows) {
    wide sum[ROWS];
    for (int i = 0; i < rows; i++) sum[i] = *(const wide *)(c + i * ldc);
    for (int64_t p = 0; p < k; p++) {
        const wide b0 = *(const wide *)(b + p * ldb);
        for (int i = 0; i < rows; i++) sum[i] += a.data[i * a.row + p * a.col] * b0;
    }
    for (int i = 0; i < rows; i++) *(wide *)(c + i * ldc) = sum[i];
}

/* Fewer columns than a register holds: B is padded with zeros, in pieces. */
INLINE void tail_rows(float *restrict c, int64_t ldc, spi_block a, const float *restrict padded, int64_t n,
                      int64_t k, int64_t rows) {
    for (int64_t i = 0; i < rows; i++) {
        float sums[WIDTH] = {0};
        memcpy(sums, c + i * ldc, (size_t)n * sizeof *sums);
        wide sum = *(const wide *)sums;
        for (int64_t p = 0; p < k; p++)
            sum += a.data[i * a.row + p * a.col] * *(const wide *)(padded + p * WIDTH);
        *(wide *)sums = sum;
        memcpy(c + i * ldc, sums, (size_t)n * sizeof *sums);
    }
}

INLINE void tail(float *restrict c, int64_t ldc, spi_block a, const float *restrict b, int64_t ldb, int64_t m,
                 int64_t n, int64_t k) {
    float padded[TAIL_DEPTH * WIDTH];
    for (int64_t p = 0; p < k; p += TAIL_DEPTH) {
        const int64_t depth = k - p < TAIL_DEPTH ? k - p : TAIL_DEPTH;
        memset(padded, 0, sizeof padded);
        for (int64_t q = 0; q < depth; q++)
            memcpy(padded + q * WIDTH, b + (p + q) * ldb, (size_t)n * sizeof *padded);
        tail_rows(c, ldc, (spi_block){a.data + p * a.col, a.row, a.col}, padded, n, depth, m);
    }
}

/* As many columns as two registers hold, or one; all rows. */
INLINE void columns(float *restrict c, int64_t ldc, spi_block a, const float *restrict b, int64_t ldb,
                    int64_t m, int64_t k, bool two) {
    int64_t i = 0;
    for (; i + ROWS <= m; i += ROWS) {
        const spi_block part = {a.data + i * a.row, a.row, a.col};
        if (two) tile2(c + i * ldc, ldc, part, b, ldb, k, ROWS);
        else tile1(c + i * ldc, ldc, part, b, ldb, k, ROWS);
    }
    for (; i < m; i++) {
        const spi_block part = {a.data + i * a.row, a.row, a.col};
        if (two) tile2(c + i * ldc, ldc, part, b, ldb, k, 1);
        else tile1(c + i * ldc, ldc, part, b, ldb, k, 1);
    }
}

TARGET static void OF_WIDTH(product)(float *c, int64_t ldc, spi_block a, const float *b, int64_t ldb, int64_t m,
                                     int64_t n, int64_t k) {
    int64_t j = 0;
    for (; j + 2 * WIDTH <= n; j += 2 * WIDTH) columns(c + j, ldc, a, b + j, ldb, m, k, true);
    for (; j + WIDTH <= n; j += WIDTH) columns(c + j, ldc, a, b + j, ldb, m, k, false);
    if (j < n) tail(c + j, ldc, a, b + j, ldb, m, n - j, k);
}

#undef wide
#undef tile2
#undef tile1
#undef tail_rows
#undef tail
#undef columns
#undef OF_WIDTH
#undef EXPANDED
#undef JOINED
#undef TARGET
#undef WIDTH
