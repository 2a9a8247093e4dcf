"""Which of two ways to a patient's gradient norm costs less, from shapes alone.

A layer's gradient of one patient is a sum over the S places of its output (all views together) of
products of an output gradient b_s (o numbers) and the input that was seen there, a_s (p numbers). Its
squared norm is to be had (Bu et al. 2022, "Scalable and efficient training of large convolutional neural
networks with differential privacy")

* **formed**: make the o x p gradient. The clipped sum over patients is then one more product, which
  takes the place of the layer's ordinary weight gradient; what it costs more than that is memory
  traffic: each of the o * p entries is written once and read twice, and a convolution's are copied and
  reordered before.
* **by Grams**: sum over s, t of (a_s . a_t)(b_s . b_t). The first factor is summed from products of
  input pixels (V of them, c channels each) over the places of the kernel, so that nothing is unfolded.
  The clipped sum is one ordinary weight gradient afterwards (Bu et al. 2023, "Differentially private
  optimization on large model at small cost").

In nanoseconds, for one patient and one group:

    formed    FORMED_ENTRY * o * p, or CONVOLUTION_ENTRY * o * p unless the kernel is 1 x 1
    Grams     (V^2 * c + S^2 * o) / PRODUCTS  +  GRAM_ENTRY * (V^2 + S^2 * (kh + kw + 1))

where Grams of patches are absent (kernel 1 x 1 and linear layers) V = S and kh + kw = 0.
"""

from __future__ import annotations

from dataclasses import dataclass

# Measured of ResNet-18 and ResNet-50 with one thread of a processor with AVX-512, float32; only their ratios count.
FORMED_ENTRY = 0.3  # ns for an entry of a gradient, beyond its part of an ordinary weight gradient
CONVOLUTION_ENTRY = 1.2  # the same where a convolution's kernel is reordered
GRAM_ENTRY = 0.25  # ns for an entry of a Gram, and each time that it is added to another
PRODUCTS = 48  # multiply-adds in a ns of a batch of small products


@dataclass(frozen=True)
class LayerShape:
    """One group of a layer as one patient sees it.

    ``channels_in`` and ``channels_out`` are those of one group; ``pixels`` and ``places`` those of all
    views together, before and after the layer; ``kernel`` is (1, 1) where nothing is unfolded.
    """

    channels_in: int
    channels_out: int
    kernel: tuple[int, int]
    pixels: int
    places: int

    @property
    def patch(self) -> tuple[int, int]:
        """Kernel sides that a Gram of patches is summed over; (0, 0) where patches are pixels."""
        return (0, 0) if self.kernel == (1, 1) else self.kernel


def formed_cost(shape: LayerShape) -> float:
    """Nanoseconds of forming the gradient, beyond those of an ordinary weight gradient."""
    height, width = shape.kernel
    entry = FORMED_ENTRY if (height, width) == (1, 1) else CONVOLUTION_ENTRY
    return entry * shape.channels_out * shape.channels_in * height * width


def gram_cost(shape: LayerShape) -> float:
    """Nanoseconds of the Grams, beyond those of an ordinary weight gradient."""
    inputs, outputs = shape.pixels**2, shape.places**2
    products = inputs * shape.channels_in + outputs * shape.channels_out
    return products / PRODUCTS + GRAM_ENTRY * (inputs + outputs * (sum(shape.patch) + 1))


def prefers_grams(shape: LayerShape) -> bool:
    """Whether the Grams cost less."""
    return gram_cost(shape) < formed_cost(shape)
