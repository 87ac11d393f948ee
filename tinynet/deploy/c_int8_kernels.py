"""The C functions of an exported int8 program (docs/int8.md); p_ and P_ stand for the program's name."""

from __future__ import annotations

QUANTIZE = """\
/* zero + x rounded, halves up, between -128 and 127. */
static int8_t p_quantized(double x, int zero)
{
    int whole;
    x = (x < -1000.0 ? -1000.0 : x > 1000.0 ? 1000.0 : x) + 0.5;
    whole = (int)x;
    whole -= whole > x;
    whole += zero;
    return (int8_t)(whole < -128 ? -128 : whole > 127 ? 127 : whole);
}
"""

ROUNDED = """\
/* Sums over whole vectors: what lies behind the numbers that count is multiplied by zeros. */
#if defined(__SSE2__) || defined(__ARM_NEON) || defined(__wasm_simd128__)
#define P_ROUNDED(n) (((n) + 15) / 16 * 16)
#else
#define P_ROUNDED(n) (n)
#endif
"""

FUNCTIONS = {
    "floored": """\
/* t / 2**shift, rounded down; what >> does to a negative number is left to compilers. */
P_INLINE int64_t p_floored(int64_t t, int shift) { return t >= 0 ? t >> shift : -1 - ((-1 - t) >> shift); }
""",
    "clamped": """\
/* zero + t between low and high. */
P_INLINE int8_t p_clamped(int64_t t, int zero, int low, int high)
{
    t += zero;
    return (int8_t)(t < low ? low : t > high ? high : t);
}
""",
    "store": """\
/* A sum in steps of the result: sum * multiplier / 2**shift, rounded, halves up. */
P_INLINE int8_t p_store(int32_t sum, int32_t multiplier, int shift, int zero, int low, int high)
{
    const int64_t t = (int64_t)sum * multiplier + ((int64_t)1 << (shift - 1));
    return p_clamped(p_floored(t, shift), zero, low, high);
}
""",
    "widen": """\
/* x - zero in 16 bits. */
P_INLINE void p_widen(const int8_t *restrict x, int n, int zero, int16_t *restrict y)
{
    for (int k = 0; k < n; k++)
        y[k] = (int16_t)(x[k] - zero);
}
""",
    "widen_window": """\
/* What a window sees from row `top` and column `left` on, x - zero in 16 bits, 0 where there is no pixel. */
P_INLINE void p_widen_window(const int8_t *restrict x, int height, int width, int channels, int zero, int top,
    int left, int rows, int columns, int down, int right, int16_t *restrict y)
{
    for (int u = 0; u < rows; u++) {
        const int r = top + u * down, inside = r >= 0 && r < height;
        if (inside && right == 1 && left >= 0 && left + columns <= width) {
            const int8_t *from = x + (r * width + left) * channels;
            for (int k = 0; k < columns * channels; k++)
                *y++ = (int16_t)(from[k] - zero);
            continue;
        }
        for (int v = 0; v < columns; v++, y += channels) {
            const int s = left + v * right, there = inside && s >= 0 && s < width;
            for (int c = 0; c < channels; c++)
                y[c] = (int16_t)(there ? x[(r * width + s) * channels + c] - zero : 0);
        }
    }
}
""",
    "sum": """\
/* bias + the sum of products of one output, whose group begins at x: `taps` stretches of `run` numbers. */
P_INLINE int32_t p_sum(const int16_t *restrict x, const int8_t *restrict w, int32_t bias, int taps, int run,
    int step)
{
    for (int q = 0; q < taps; q++)
        for (int k = 0; k < run; k++)
            bias += x[q * step + k] * w[q * run + k];
    return bias;
}
""",
    "sums_of": """\
/* All outputs, as sums; `size` weights each. */
P_INLINE void p_sums_of(const int16_t *restrict x, const int8_t *restrict w, const int32_t *restrict b,
    int outputs, int size, int groups, int taps, int run, int step, int32_t *restrict y)
{
    for (int o = 0; o < outputs; o++)
        y[o] = p_sum(x + o / (outputs / groups) * run, w + o * size, b[o], taps, run, step);
}
""",
    "stored_sums": """\
/* All outputs, stored; `size` weights each. */
P_INLINE void p_stored_sums(const int16_t *restrict x, const int8_t *restrict w, const int32_t *restrict b,
    int outputs, int size, int groups, int taps, int run, int step, const int32_t *restrict multiplier,
    const uint8_t *restrict shift, int zero, int low, int high, int8_t *restrict y)
{
    for (int o = 0; o < outputs; o++) {
        const int16_t *group = x + o / (outputs / groups) * run;
        const int32_t sum = p_sum(group, w + o * size, b[o], taps, run, step);
        y[o] = p_store(sum, multiplier[o], shift[o], zero, low, high);
    }
}
""",
    "affine": """\
/* bias + weight * (x - of), a weight and a bias a channel, stored. */
P_INLINE void p_affine(const int8_t *x, int pixels, int channels, int of, const int8_t *w, const int32_t *b,
    const int32_t *multiplier, const uint8_t *shift, int zero, int low, int high, int8_t *y)
{
    for (int i = 0; i < pixels; i++, x += channels, y += channels)
        for (int c = 0; c < channels; c++)
            y[c] = p_store(b[c] + w[c] * (x[c] - of), multiplier[c], shift[c], zero, low, high);
}
""",
    "affine_sums": """\
/* bias + weight * (x - of), a weight and a bias a channel. */
P_INLINE void p_affine_sums(const int8_t *x, int pixels, int channels, int of, const int8_t *w,
    const int32_t *b, int32_t *y)
{
    for (int i = 0; i < pixels; i++, x += channels, y += channels)
        for (int c = 0; c < channels; c++)
            y[c] = b[c] + w[c] * (x[c] - of);
}
""",
    "pool_row": """\
/* The largest real pixel of each window of one row of windows; `first` is its top row, maybe negative. */
P_INLINE void p_pool_row(const int8_t *restrict x, int height, int width, int channels, int first, int rows,
    int columns, int stride, int left, int windows, int8_t *restrict y)
{
    for (int j = 0; j < windows; j++, y += channels)
        for (int c = 0; c < channels; c++) {
            int most = -128;
            for (int u = first < 0 ? 0 : first; u < first + rows && u < height; u++)
                for (int v = j * stride - left; v < j * stride - left + columns && v < width; v++)
                    if (v >= 0 && x[(u * width + v) * channels + c] > most)
                        most = x[(u * width + v) * channels + c];
            y[c] = (int8_t)most;
        }
}
""",
    "window_sum": """\
/* The sum of x - of over the real pixels of a window, of one channel, and their number. */
P_INLINE int32_t p_window_sum(const int8_t *x, int height, int width, int channels, int first, int rows,
    int columns, int left, int of, int *count)
{
    int32_t sum = 0;
    *count = 0;
    for (int u = first < 0 ? 0 : first; u < first + rows && u < height; u++)
        for (int v = left < 0 ? 0 : left; v < left + columns && v < width; v++, ++*count)
            sum += x[(u * width + v) * channels] - of;
    return sum;
}
""",
    "window_sums": """\
/* One row of windows' sums. */
P_INLINE void p_window_sums(const int8_t *x, int height, int width, int channels, int first, int rows,
    int columns, int stride, int left, int windows, int of, int32_t *y)
{
    int count;
    for (int j = 0; j < windows; j++, y += channels)
        for (int c = 0; c < channels; c++)
            y[c] = p_window_sum(x + c, height, width, channels, first, rows, columns, j * stride - left, of,
                &count);
}
""",
    "average_row": """\
/* One row of windows' means; multipliers and shifts are those of the numbers of pixels in `counts`. */
P_INLINE void p_average_row(const int8_t *x, int height, int width, int channels, int first, int rows,
    int columns, int stride, int left, int windows, int of, const int32_t *counts, const int32_t *multiplier,
    const uint8_t *shift, int zero, int low, int high, int8_t *y)
{
    for (int j = 0; j < windows; j++, y += channels)
        for (int c = 0; c < channels; c++) {
            int count, k = 0;
            const int32_t sum = p_window_sum(x + c, height, width, channels, first, rows, columns,
                j * stride - left, of, &count);
            while (counts[k] != count)
                k++;
            y[c] = p_store(sum, multiplier[k], shift[k], zero, low, high);
        }
}
""",
}

# What else a function calls, before it.
NEEDS = {
    "store": ("floored", "clamped"),
    "sums_of": ("sum",),
    "stored_sums": ("store", "sum"),
    "affine": ("store",),
    "window_sums": ("window_sum",),
    "average_row": ("store", "window_sum"),
}
