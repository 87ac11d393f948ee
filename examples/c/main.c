/* Say of a picture of a cell whether it is infected: cells cell.ppm

   cells.h comes from   tinynet export autoencoder --to c --out cells.h
   Not a medical device; for research and teaching. */

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#define CELLS_IMPLEMENTATION
#include "cells.h"

/* The next number of a PPM's header, after spaces and comments; -1 if there is none. */
static int number(FILE *file)
{
    int c = getc(file), value = 0;
    while (c == '#' || isspace(c)) {
        if (c == '#')
            while (c != '\n' && c != EOF)
                c = getc(file);
        else
            c = getc(file);
    }
    if (!isdigit(c))
        return -1;
    for (; isdigit(c); c = getc(file)) {
        value = value * 10 + (c - '0');
        if (value > 32767)
            return -1;
    }
    return value; /* and the one space after it has been read */
}

/* The pixels of a binary PPM with 8 bits a channel, or NULL; free() them. */
static unsigned char *read_ppm(const char *path, int *width, int *height)
{
    FILE *file = fopen(path, "rb");
    unsigned char *pixels = NULL;
    if (file == NULL)
        return NULL;
    if (getc(file) == 'P' && getc(file) == '6' && (*width = number(file)) > 0 && (*height = number(file)) > 0
        && number(file) == 255) {
        const size_t size = 3 * (size_t)*width * (size_t)*height;
        pixels = malloc(size);
        if (pixels != NULL && fread(pixels, 1, size, file) != size) {
            free(pixels);
            pixels = NULL;
        }
    }
    fclose(file);
    return pixels;
}

int main(int count, char **arguments)
{
    int width, height, label;
    float probabilities[CELLS_OUTPUTS];
    unsigned char *pixels;
    if (count != 2) {
        fprintf(stderr, "usage: %s PICTURE.ppm\n", arguments[0]);
        return 2;
    }
    if (cells_self_test() != 0) {
        fprintf(stderr, "%s: this build does not compute what the model computes\n", arguments[0]);
        return 1;
    }
    pixels = read_ppm(arguments[1], &width, &height);
    if (pixels == NULL) {
        fprintf(stderr, "%s: %s is missing, cut off, or not a binary PPM with 8 bits a channel\n", arguments[0], arguments[1]);
        return 1;
    }
    label = cells_predict(pixels, height, width, probabilities);
    free(pixels);
    if (label < 0)
        return 1;
    printf("%s  %.4f  %s\n", cells_class_names[label], probabilities[CELLS_OUTPUTS - 1], arguments[1]);
    printf("Not a medical device; for research and teaching.\n");
    return 0;
}
