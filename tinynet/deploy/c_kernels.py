"""The C functions of an exported float32 program, as text; p_ and P_ stand for the program's name.

One function an operation, written once with its sizes as arguments.  With optimisation they are inlined
where constants are passed, so that every loop has a known length; with -Os they stay single functions.
A tile is a few neighbouring pixels times one to eight vectors of outputs in registers: at most 8 sums, as
many as two multiply-add units of latency 4 need, and what 16 registers leave room for.
"""

from __future__ import annotations

MACROS = """\
#if defined(__GNUC__) && defined(__OPTIMIZE__) && !defined(__OPTIMIZE_SIZE__)
#define P_INLINE static inline __attribute__((always_inline))
#else
#define P_INLINE static
#endif
#if defined(__GNUC__)
#define P_ALIGNED __attribute__((aligned(64)))
#else
#define P_ALIGNED
#endif
"""

VECTORS = """\
/* Vectors: several outputs side by side.  Where the compiler has none, a vector is one number. */

#if defined(P_LANES) /* chosen when compiling: 8, 4 or 1 */
#elif defined(__GNUC__) && defined(__AVX__)
#define P_LANES 8
#elif defined(__GNUC__) && (defined(__SSE__) || defined(__ARM_NEON) || defined(__wasm_simd128__))
#define P_LANES 4
#else
#define P_LANES 1
#endif

#if P_LANES > 1
#define P_LANES4 4
typedef float p_vector __attribute__((vector_size(4 * P_LANES), aligned(4), may_alias));
typedef float p_vector4 __attribute__((vector_size(16), aligned(4), may_alias));
#else
#define P_LANES4 1
typedef float p_vector;
typedef float p_vector4;
#endif

/* Keep a vector in a register that is used several times; compilers like to load it again instead. */
#if P_LANES > 1 && (defined(__x86_64__) || defined(__i386__))
#define P_HOLD(v) __asm__("" : "+x"(v))
#elif P_LANES > 1 && defined(__aarch64__)
#define P_HOLD(v) __asm__("" : "+w"(v))
#else
#define P_HOLD(v) ((void)0)
#endif

/* Three at a time: left alone, gcc unrolls until vectors no longer fit into the registers. */
#if defined(__GNUC__) && !defined(__clang__) && __GNUC__ >= 8 && !defined(__OPTIMIZE_SIZE__)
#define P_UNROLL_3 _Pragma("GCC unroll 3")
#else
#define P_UNROLL_3
#endif
"""


def tile(pixels: int, vectors: int, kind: str) -> str:
    """A tile of so many pixels of one row and so many vectors of outputs, and the row made of it.

    kind: "vector" (8 outputs a vector at most) or "vector4" (4).
    """
    block = 4 if kind == "vector4" else 8 * vectors
    lanes = "P_LANES4" if kind == "vector4" else "P_LANES"
    name = tile_name(pixels, block)
    sums = [[f"a{p}_{v}" for v in range(vectors)] for p in range(pixels)]
    lines = [
        f"/* {pixels} pixel{'s' * (pixels > 1)} x {block} outputs: b + the sum over `rows` rows of `parts` "
        "stretches of `run` numbers. */",
        f"P_INLINE void p_tile_{name}(const float *restrict x, int row_step, int part_step, int pixel_step,",
        "    int rows, int parts, int run, const float *restrict w, const float *restrict b,",
        "    float *restrict y, int y_step)",
        "{",
        "    "
        + " ".join(f"const p_{kind} b{v} = *(const p_{kind} *)(b + {v} * {lanes});" for v in range(vectors)),
    ]
    lines += [f"    p_{kind} " + ", ".join(f"{a} = b{v}" for v, a in enumerate(row)) + ";" for row in sums]
    lines += [
        "    for (int u = 0; u < rows; u++)",
        "        for (int q = 0; q < parts; q++) {",
        "            const float *p = x + u * row_step + q * part_step;",
        "            P_UNROLL_3",
        f"            for (int k = 0; k < run; k++, w += {block}) {{",
    ]
    for v in range(vectors):
        lines.append(f"                p_{kind} w{v} = *(const p_{kind} *)(w + {v} * {lanes});")
    lines.append("                " + " ".join(f"P_HOLD(w{v});" for v in range(vectors)))
    for pixel, row in enumerate(sums):
        at = f"k + {pixel} * pixel_step"
        lines.append("                " + " ".join(f"{a} += w{v} * p[{at}];" for v, a in enumerate(row)))
    lines += ["            }", "        }"]
    for pixel, row in enumerate(sums):
        stores = [f"*(p_{kind} *)(y + {pixel} * y_step + {v} * {lanes}) = {a};" for v, a in enumerate(row)]
        lines.append("    " + " ".join(stores))
    lines += [
        "}",
        "",
        f"P_INLINE void p_row_{name}(const float *x, int row_step, int part_step, int pixel_step, int rows,",
        "    int parts, int run, int width, const float *w, const float *b, float *y, int y_step)",
        "{",
        f"    for (int j = 0; j < width; j += {pixels}) {{",
        "        /* The last tile overlaps the one before. */",
        f"        const int at = j + {pixels} <= width ? j : width - {pixels};",
        f"        for (int s = 0; s < {block}; s += {vectors} * {lanes})",
        f"            p_tile_{name}(x + at * pixel_step, row_step, part_step, pixel_step, rows, parts, run,",
        "                w + s, b + s, y + at * y_step + s, y_step);",
        "    }",
        "}",
        "",
    ]
    return "\n".join(lines)


def tile_name(pixels: int, block: int) -> str:
    """What p_tile_ and p_row_ are followed by."""
    return f"{pixels}x{block}"


FUNCTIONS = {
    "frame": """\
/* Zeros around an image (height, width, channels). */
P_INLINE void p_frame(float *x, int height, int width, int channels, int top, int bottom, int left,
    int right)
{
    const int pitch = (left + width + right) * channels;
    memset(x, 0, sizeof *x * (size_t)(top * pitch));
    memset(x + (top + height) * pitch, 0, sizeof *x * (size_t)(bottom * pitch));
    for (int i = top; i < top + height; i++) {
        memset(x + i * pitch, 0, sizeof *x * (size_t)(left * channels));
        memset(x + i * pitch + (left + width) * channels, 0, sizeof *x * (size_t)(right * channels));
    }
}
""",
    "pool_row": """\
/* The largest of each window of finished rows, and of `least`: (rows, width, step) -> (width, channels). */
P_INLINE void p_pool_row(const float *restrict x, int pitch, int step, int channels, int rows, int columns,
    int stride, int width, float least, float *restrict y)
{
    for (int j = 0; j < width; j++)
        for (int c = 0; c < channels; c++) {
            float most = least;
            for (int u = 0; u < rows; u++)
                for (int v = 0; v < columns; v++) {
                    const float value = x[u * pitch + (j * stride + v) * step + c];
                    most = value > most ? value : most;
                }
            y[j * channels + c] = most;
        }
}
""",
    "grouped_row": """\
/* One row of a convolution in groups: output o sees only the `inputs` channels of its group. */
P_INLINE void p_grouped_row(const float *restrict x, int row_step, int tap_step, int pixel_step, int rows,
    int taps, int groups, int inputs, int outputs, int width, const float *restrict w,
    const float *restrict b, float *restrict y)
{
    for (int j = 0; j < width; j++, y += groups * outputs)
        for (int g = 0; g < groups; g++) {
            for (int o = 0; o < outputs; o++)
                y[g * outputs + o] = b[g * outputs + o];
            for (int u = 0; u < rows; u++)
                for (int v = 0; v < taps; v++)
                    for (int c = 0; c < inputs; c++) {
                        const float value = x[u * row_step + v * tap_step + j * pixel_step + g * inputs + c];
                        const float *weight = w + (((u * taps + v) * inputs + c) * groups + g) * outputs;
                        for (int o = 0; o < outputs; o++)
                            y[g * outputs + o] += value * weight[o];
                    }
        }
}
""",
    "depthwise_row": """\
/* One row of a convolution in which every output sees one channel, its own. */
P_INLINE void p_depthwise_row(const float *restrict x, int row_step, int tap_step, int pixel_step, int rows,
    int taps, int channels, int width, const float *restrict w, const float *restrict b, float *restrict y)
{
    for (int j = 0; j < width; j++, y += channels) {
        for (int c = 0; c < channels; c++)
            y[c] = b[c];
        for (int u = 0; u < rows; u++)
            for (int v = 0; v < taps; v++) {
                const float *pixel = x + u * row_step + v * tap_step + j * pixel_step;
                for (int c = 0; c < channels; c++)
                    y[c] += pixel[c] * w[(u * taps + v) * channels + c];
            }
    }
}
""",
    "dot": """\
/* A few weighted sums of n numbers: w (outputs, n). */
P_INLINE void p_dot(const float *restrict x, int n, const float *restrict w, const float *restrict b,
    int outputs, float *restrict y)
{
    for (int o = 0; o < outputs; o++, w += n) {
        float sums[4] = {0.0f, 0.0f, 0.0f, 0.0f};
        float sum = b[o];
        int f = 0;
        p_vector4 s0 = *(const p_vector4 *)sums, s1 = s0, s2 = s0, s3 = s0;
        for (; f + 4 * P_LANES4 <= n; f += 4 * P_LANES4) {
            s0 += *(const p_vector4 *)(w + f) * *(const p_vector4 *)(x + f);
            s1 += *(const p_vector4 *)(w + f + P_LANES4) * *(const p_vector4 *)(x + f + P_LANES4);
            s2 += *(const p_vector4 *)(w + f + 2 * P_LANES4) * *(const p_vector4 *)(x + f + 2 * P_LANES4);
            s3 += *(const p_vector4 *)(w + f + 3 * P_LANES4) * *(const p_vector4 *)(x + f + 3 * P_LANES4);
        }
        s0 += s1;
        s2 += s3;
        *(p_vector4 *)sums = s0 + s2;
        for (; f < n; f++)
            sum += w[f] * x[f];
        y[o] = sum + ((sums[0] + sums[1]) + (sums[2] + sums[3]));
    }
}
""",
    "affine": """\
/* x * scale + shift, a scale and a shift a channel. */
P_INLINE void p_affine(const float *x, int pixels, int channels, const float *scale, const float *shift,
    float *y)
{
    for (int i = 0; i < pixels; i++)
        for (int c = 0; c < channels; c++)
            y[i * channels + c] = x[i * channels + c] * scale[c] + shift[c];
}
""",
    "relu": """\
/* max(x, 0). */
P_INLINE void p_relu(const float *x, int n, float *y)
{
    for (int i = 0; i < n; i++)
        y[i] = 0.0f > x[i] ? 0.0f : x[i];
}
""",
    "relu6": """\
/* min(max(x, 0), 6). */
P_INLINE void p_relu6(const float *x, int n, float *y)
{
    for (int i = 0; i < n; i++) {
        const float value = 0.0f > x[i] ? 0.0f : x[i];
        y[i] = value > 6.0f ? 6.0f : value;
    }
}
""",
    "sigmoid": """\
/* 1 / (1 + exp(-x)), from exp(-|x|), which cannot overflow. */
static void p_sigmoid(const float *x, int n, float *y)
{
    for (int i = 0; i < n; i++) {
        const float small = expf(x[i] < 0.0f ? x[i] : -x[i]);
        y[i] = (x[i] < 0.0f ? small : 1.0f) / (1.0f + small);
    }
}
""",
    "tanh": """\
/* (1 - exp(-2|x|)) / (1 + exp(-2|x|)) with the sign of x; near 0, where that cancels, its series. */
static void p_tanh(const float *x, int n, float *y)
{
    for (int i = 0; i < n; i++) {
        const float size = x[i] < 0.0f ? -x[i] : x[i], square = size * size;
        const float small = expf(-2.0f * size);
        const float rest = square * (1.0f / 3 - square * (2.0f / 15 - square * (17.0f / 315)));
        const float value = size < 0.2f ? size - size * rest : (1.0f - small) / (1.0f + small);
        y[i] = x[i] < 0.0f ? -value : value;
    }
}
""",
    "softmax": """\
/* exp(x) / sum of exp(x) over the channels of each pixel, x divided by the temperature. */
static void p_softmax(const float *x, int pixels, int channels, float temperature, float *y)
{
    for (int i = 0; i < pixels; i++, x += channels, y += channels) {
        float most = x[0], sum = 0.0f;
        for (int c = 1; c < channels; c++)
            most = x[c] > most ? x[c] : most;
        for (int c = 0; c < channels; c++)
            sum += y[c] = expf((x[c] - most) / temperature);
        for (int c = 0; c < channels; c++)
            y[c] /= sum;
    }
}
""",
    "add": """\
P_INLINE void p_add(const float *x, const float *z, int n, float *y)
{
    for (int i = 0; i < n; i++)
        y[i] = x[i] + z[i];
}
""",
    "copy": """\
/* Some channels of each pixel, from pixels of x_step to pixels of y_step numbers. */
P_INLINE void p_copy(const float *restrict x, int x_step, int pixels, int channels, float *restrict y,
    int y_step)
{
    for (int i = 0; i < pixels; i++)
        for (int c = 0; c < channels; c++)
            y[i * y_step + c] = x[i * x_step + c];
}
""",
    "upsample_row": """\
/* Each pixel of a row `times` times. */
P_INLINE void p_upsample_row(const float *restrict x, int width, int channels, int times, float *restrict y)
{
    for (int j = 0; j < width; j++)
        for (int t = 0; t < times; t++, y += channels)
            for (int c = 0; c < channels; c++)
                y[c] = x[j * channels + c];
}
""",
    "max_pool_row": """\
/* The largest real pixel of each window of one row of windows; `first`, the top row's number, may be
   negative. */
static void p_max_pool_row(const float *x, int pitch, int height, int width, int channels, int first,
    int rows, int columns, int stride, int left, int windows, float *y)
{
    for (int j = 0; j < windows; j++, y += channels) {
        int taken = 0;
        for (int u = first < 0 ? 0 : first; u < first + rows && u < height; u++)
            for (int v = j * stride - left; v < j * stride - left + columns && v < width; v++) {
                const float *pixel = x + u * pitch + v * channels;
                if (v < 0)
                    continue;
                for (int c = 0; c < channels; c++)
                    y[c] = !taken || pixel[c] > y[c] ? pixel[c] : y[c];
                taken = 1;
            }
    }
}
""",
    "average_pool_row": """\
/* The mean of the real pixels of each window of one row of windows. */
static void p_average_pool_row(const float *x, int pitch, int height, int width, int channels, int first,
    int rows, int columns, int stride, int left, int windows, float *y)
{
    for (int j = 0; j < windows; j++, y += channels) {
        int count = 0;
        for (int c = 0; c < channels; c++)
            y[c] = 0.0f;
        for (int u = first < 0 ? 0 : first; u < first + rows && u < height; u++)
            for (int v = j * stride - left; v < j * stride - left + columns && v < width; v++) {
                const float *pixel = x + u * pitch + v * channels;
                if (v < 0)
                    continue;
                for (int c = 0; c < channels; c++)
                    y[c] += pixel[c];
                count++;
            }
        for (int c = 0; c < channels; c++)
            y[c] *= 1.0f / (float)count;
    }
}
""",
}
