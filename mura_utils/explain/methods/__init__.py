"""Heat-maps: which pixels a prediction rests on.

Every method is a function (model, images (N, S, S, 1) in 0..255, target) -> (N, S, S) in [0, 1],
for a model of `mura_utils.network`. A map depends neither on the other images of the call nor on
earlier calls, and is all zeros where it is constant.

Each map is scaled by its own minimum and maximum (the softmax of head "pooled" by its maximum
alone): colors of two maps do not compare, and a hottest point exists even where the model found
nothing.

Explain a float32 model: under mixed_float16 small gradients are lost and the maps change.
"""
