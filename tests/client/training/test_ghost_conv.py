import torch
import torch.nn.functional as F
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import nn

from client.training.ghost_conv import patch_gram

SIDES = st.integers(1, 4)


@settings(deadline=None, max_examples=60)
@given(
    kernel=st.tuples(SIDES, SIDES),
    stride=st.tuples(SIDES, SIDES),
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    dilation=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    size=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    views=st.integers(1, 2),
)
def test_grams_of_pixels_give_those_of_unfolded_patches(kernel, stride, padding, dilation, size, views):
    for side in range(2):
        assume(size[side] + 2 * padding[side] >= dilation[side] * (kernel[side] - 1) + 1)
    conv = nn.Conv2d(2, 1, kernel, stride, padding, dilation)
    x = torch.randn(3, views, 2, *size, dtype=torch.float64)
    patches = F.unfold(x.flatten(0, 1), kernel, dilation, padding, stride)
    plane = conv.float()(x.flatten(0, 1).float()).shape[2:]
    patches = patches.view(3, views, patches.shape[1], -1).transpose(1, 2).flatten(2)
    pixels = x.transpose(1, 2).flatten(2)
    found = patch_gram(pixels.mT @ pixels, conv, views, size, tuple(plane))
    assert torch.allclose(found, patches.mT @ patches, rtol=1e-10, atol=1e-12)
