"""The stages that the convolutional architectures share: halvings from an image to its 4×4 feature map."""

# Height and width of the feature map between the convolutions and the fully connected layers.
SMALLEST_MAP = 4


def count_stages(image_shape: tuple[int, int, int], architecture: str) -> int:
    """The number of stride-2 stages between (C, 2ⁿ, 2ⁿ) and (·, 4, 4): 4 for the published 64×64.

    Raises: ValueError if the image is not square or its side is not a power of two of at least 8.

    >>> count_stages((1, 64, 64), "burgess"), count_stages((3, 128, 128), "burgess")
    (4, 5)
    """
    _, height, width = image_shape
    if height != width or height < 2 * SMALLEST_MAP or height & (height - 1):
        raise ValueError(
            f'architecture "{architecture}" takes square images whose side is a power of two from 8 up, got '
            f'{height}×{width}; pad or resize them, or use architecture "mlp", which takes any size'
        )
    return (height // SMALLEST_MAP).bit_length() - 1
