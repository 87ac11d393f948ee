"""What surrounds the steps of an exported C program: public functions, pictures, answers, self-test."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tinynet.deploy.graph import Graph
from tinynet.files.selftest import INCREMENT, MULTIPLIER


@dataclass(frozen=True)
class Shell:
    """What a number format gives the shell.

    put_row      the C function p_put_row(int i, const unsigned char *levels), which fills row i of the input;
                 "" where the model takes no pictures
    put_scaled   p_put_scaled(int i, const float *values), the same; "" where it takes only pictures
    logits       p_logits and what else reads the last step's result
    check        the self-test's statements after the run: they set `wrong` if the result is not as expected
    extra        declarations of its own, and what they need included
    """

    put_row: str
    put_scaled: str
    logits: str
    check: str
    extra: str = ""
    includes: str = ""


def declarations(graph: Graph, shell: Shell, arena: int) -> str:
    """The part that users of the program see; also fit for C++."""
    height, width, channels = image(graph)
    classes = graph.class_names or ()
    text = f"""\
#define P_HEIGHT {height}
#define P_WIDTH {width}
#define P_CHANNELS {channels}
#define P_OUTPUTS {math.prod(graph.output_shape)}
#define P_CLASSES {len(classes)}
#define P_THRESHOLD {single(graph.threshold)}
#define P_ARENA_BYTES {arena}

{shell.includes}#ifdef __cplusplus
extern "C" {{
#endif

"""
    if classes:
        text += "/* The names of the classes, in order. */\n"
        text += "extern const char *const p_class_names[P_CLASSES];\n\n"
    if shell.put_row:
        text += f"""\
/* A picture of any size, 8 bits a channel, red first, rows from the top, no gaps.
   Fills outputs[P_OUTPUTS] with {_answered(graph)};
   returns {_returned(graph)}.
   Returns -1 if height or width is not from 1 to 32767. */
int p_predict(const unsigned char *rgb, int height, int width, float *outputs);

/* The same for pixels of pixel_bytes bytes each (3: RGB, 4: RGBA, whose A is not looked at), with
   row_bytes bytes from one row to the next. */
int p_predict_pixels(const unsigned char *pixels, int height, int width, long row_bytes, int pixel_bytes,
    float *outputs);

"""
    if shell.put_scaled:
        text += f"""\
/* P_HEIGHT * P_WIDTH * P_CHANNELS numbers, already scaled as the model wants them.
   Fills outputs[P_OUTPUTS] with {_answered(graph)};
   returns {_returned(graph)}.
   Returns -1 if a number is NaN or infinite. */
int p_predict_scaled(const float *input, float *outputs);

"""
    return (
        text
        + f"""\
/* The result of the last call before {_ending(graph)}: P_OUTPUTS numbers. */
void p_logits(float *logits);

{shell.extra}/* 0 if this program computes what the model computed when it was exported, 1 if not. */
int p_self_test(void);

#ifdef __cplusplus
}}
#endif
"""
    )


def implementation(graph: Graph, shell: Shell, steps: int, frame: str) -> str:
    """The functions that `declarations` declares; frame: the C statement that clears the input's border."""
    calls = "".join(f"    p_step{number}();\n" for number in range(steps))
    parts = [
        _class_names(graph),
        shell.put_row,
        shell.put_scaled,
        f"static void p_run(void)\n{{\n{f'    {frame}{chr(10)}' if frame else ''}{calls}}}\n",
        shell.logits,
        _answer(graph),
        PICTURES if shell.put_row else "",
        SCALED if shell.put_scaled else "",
        _self_test(graph, shell),
    ]
    return "\n".join(part for part in parts if part)


def image(graph: Graph) -> tuple[int, int, int]:
    """Height, width and channels of the input; a vector is 1 x 1 x features."""
    height, width, channels = graph.input_shape if len(graph.input_shape) == 3 else (1, 1, *graph.input_shape)
    return height, width, channels


def single(value: float) -> str:
    """A float32 constant as C writes it: 9 digits give the same number back."""
    text = f"{float(np.float32(value)):.9g}"
    return f"{text}f" if set(text) & set(".e") else f"{text}.0f"


def _answered(graph: Graph) -> str:
    if graph.ending == "softmax":
        return "the probability of each class"
    return "the probability of class 1" if _decision(graph) == "threshold" else "the model's answer"


def _returned(graph: Graph) -> str:
    kind = _decision(graph)
    if kind == "threshold":
        return (
            "1 if that of class 1 is at least P_THRESHOLD, else 0"
            if graph.ending == "softmax"
            else ("1 if it is at least P_THRESHOLD, else 0")
        )
    return "the number of the largest" if kind == "largest" else "0"


def _decision(graph: Graph) -> str:
    """How a class is chosen: by "threshold", as the "largest", or not at all ("")."""
    if (graph.ending, graph.output_shape) in (("softmax", (2,)), ("sigmoid", (1,))):
        return "threshold"
    return "largest" if graph.ending == "softmax" and len(graph.output_shape) == 1 else ""


def _ending(graph: Graph) -> str:
    if graph.ending in ("softmax", "sigmoid"):
        return f"temperature and {graph.ending}"
    return f"the last {graph.ending}" if graph.ending else "anything is done to it"


def _class_names(graph: Graph) -> str:
    if not graph.class_names:
        return ""
    names = ", ".join(c_string(name) for name in graph.class_names)
    return f"const char *const p_class_names[P_CLASSES] = {{{names}}};\n"


def c_string(text: str) -> str:
    """A C string constant with these UTF-8 bytes; everything but letters, digits and spaces in octal."""
    characters = (chr(byte) for byte in text.encode())
    escaped = "".join(
        c if c in " -." or (c.isascii() and c.isalnum()) else f"\\{ord(c):03o}" for c in characters
    )
    return f'"{escaped}"'


def kernels(graph: Graph) -> list[str]:
    """The names in c_kernels.FUNCTIONS that `implementation` calls."""
    return [] if graph.ending is None else [graph.ending]


def _answer(graph: Graph) -> str:
    """p_answer: from the logits to what the model says, and the class."""
    lines = ["static int p_answer(float *outputs)", "{", "    p_logits(outputs);"]
    if graph.ending == "softmax":
        classes = graph.output_shape[-1]
        pixels = math.prod(graph.output_shape) // classes
        lines.append(f"    p_softmax(outputs, {pixels}, {classes}, {single(graph.temperature)}, outputs);")
    elif graph.ending == "sigmoid":
        lines += [
            "    for (int k = 0; k < P_OUTPUTS; k++)",
            f"        outputs[k] /= {single(graph.temperature)};",
            "    p_sigmoid(outputs, P_OUTPUTS, outputs);",
        ]
    elif graph.ending is not None:
        lines.append(f"    p_{graph.ending}(outputs, P_OUTPUTS, outputs);")
    decision = _decision(graph)
    if decision == "threshold":
        lines.append("    return outputs[P_OUTPUTS - 1] >= P_THRESHOLD;")
    elif decision == "largest":
        lines += [
            "    int best = 0;",
            "    for (int k = 1; k < P_OUTPUTS; k++)",
            "        best = outputs[k] > outputs[best] ? k : best;",
            "    return best;",
        ]
    else:
        lines.append("    return 0;")
    return "\n".join([*lines, "}", ""])


def _self_test(graph: Graph, shell: Shell) -> str:
    """p_self_test: the picture that docs/model-file.md describes, and what is expected of it."""
    levels = "unsigned char levels[P_WIDTH * P_CHANNELS];"
    put = "p_put_row(i, levels);"
    if not shell.put_row:
        levels += "\n    float values[P_WIDTH * P_CHANNELS];"
        put = "for (int k = 0; k < P_WIDTH * P_CHANNELS; k++)\n"
        put += "            values[k] = (float)levels[k] / 255.0f;\n        p_put_scaled(i, values);"
    return f"""\
int p_self_test(void)
{{
    uint32_t state = {graph.test_seed}u;
    int wrong = 0;
    {levels}
    for (int i = 0; i < P_HEIGHT; i++) {{
        for (int k = 0; k < P_WIDTH * P_CHANNELS; k++) {{
            state = state * {MULTIPLIER}u + {INCREMENT}u;
            levels[k] = (unsigned char)(state >> 24);
        }}
        {put}
    }}
    p_run();
{shell.check}    return wrong;
}}
"""


SCALED = """\
int p_predict_scaled(const float *input, float *outputs)
{
    for (int k = 0; k < P_HEIGHT * P_WIDTH * P_CHANNELS; k++)
        if (!(input[k] - input[k] == 0.0f))
            return -1;
    for (int i = 0; i < P_HEIGHT; i++)
        p_put_scaled(i, input + i * P_WIDTH * P_CHANNELS);
    p_run();
    return p_answer(outputs);
}
"""

PICTURES = """\
static uint32_t p_least(uint32_t a, uint32_t b) { return a < b ? a : b; }
static uint32_t p_most(uint32_t a, uint32_t b) { return a > b ? a : b; }

/* Row i of the picture at the model's size.  A pixel is the exact mean of what it covers of the source,
   in integers, rounded half up: counted in heights and widths of 1 / P_HEIGHT and 1 / P_WIDTH of a source
   pixel, every overlap is a whole number, and those of one pixel add up to height * width. */
static void p_resized_row(const unsigned char *pixels, uint32_t height, uint32_t width, long row_bytes,
    int pixel_bytes, uint32_t i, unsigned char *levels)
{
    const uint32_t top = i * height, bottom = top + height;
    const uint64_t area = (uint64_t)height * width;
    for (uint32_t j = 0; j < P_WIDTH; j++, levels += 3) {
        const uint32_t left = j * width, right = left + width;
        uint64_t sum[3] = {0, 0, 0};
        for (uint32_t r = top / P_HEIGHT; r * P_HEIGHT < bottom; r++) {
            const uint32_t tall = p_least(bottom, (r + 1) * P_HEIGHT) - p_most(top, r * P_HEIGHT);
            const unsigned char *row = pixels + (long)r * row_bytes;
            uint32_t part[3] = {0, 0, 0};
            for (uint32_t s = left / P_WIDTH; s * P_WIDTH < right; s++) {
                const uint32_t wide = p_least(right, (s + 1) * P_WIDTH) - p_most(left, s * P_WIDTH);
                for (int c = 0; c < 3; c++)
                    part[c] += wide * row[(long)s * pixel_bytes + c];
            }
            for (int c = 0; c < 3; c++)
                sum[c] += (uint64_t)tall * part[c];
        }
        for (int c = 0; c < 3; c++)
            levels[c] = (unsigned char)((2 * sum[c] + area) / (2 * area));
    }
}

int p_predict_pixels(const unsigned char *pixels, int height, int width, long row_bytes, int pixel_bytes,
    float *outputs)
{
    unsigned char levels[P_WIDTH * 3];
    if (height < 1 || width < 1 || height > 32767 || width > 32767)
        return -1;
    for (int i = 0; i < P_HEIGHT; i++) {
        if (height == P_HEIGHT && width == P_WIDTH && pixel_bytes == 3) {
            p_put_row(i, pixels + (long)i * row_bytes);
            continue;
        }
        p_resized_row(pixels, (uint32_t)height, (uint32_t)width, row_bytes, pixel_bytes, (uint32_t)i, levels);
        p_put_row(i, levels);
    }
    p_run();
    return p_answer(outputs);
}

int p_predict(const unsigned char *rgb, int height, int width, float *outputs)
{
    return p_predict_pixels(rgb, height, width, 3L * width, 3, outputs);
}
"""
