"""int8: a model that computes with whole numbers only, from the uint8 picture to the logits.

docs/int8.md is the arithmetic, exactly.  `arithmetic` is its rounding and rescaling, `operations` what
each operation does, `program` a list of them, `model` what a user holds, `file` how it is stored;
`calibration` and `conversion` make one from a float model.  Nothing here is imported for a float model.
"""
