"""Stage 3: the vision tower learns to tell colours and shapes apart, as a classifier, before it meets any language."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from cmrm.organism.lessons import Gallery
from cmrm.organism.tokenizer import IMAGE_TOKENS, PATCH_SIZE
from cmrm.organism.world import COLORS, PICTURE_SIZE, SHAPES, Scene

NOTHING = 0
FEATURE_BATCH = 512


class PatchClassifier(nn.Module):
    """Says at each patch which colour and which shape lie on the patch's half of the picture."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.color = nn.Linear(width, 1 + len(COLORS))
        self.shape = nn.Linear(width, 1 + len(SHAPES))

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Cross-entropy; features [pictures, 16, width], labels int64 [pictures, 16, 2]."""
        entropy = nn.functional.cross_entropy
        return entropy(self.color(features).flatten(0, 1), labels[..., 0].flatten()) + entropy(
            self.shape(features).flatten(0, 1), labels[..., 1].flatten()
        )


def label_patches(scenes: Sequence[Scene]) -> Tensor:
    """Colour and shape of the item on each patch's half, 0 where there is none: int64 [scenes, 16, 2]."""
    colors = sorted(COLORS)
    columns = PICTURE_SIZE // PATCH_SIZE
    labels = torch.full((len(scenes), IMAGE_TOKENS, 2), NOTHING)
    for index, scene in enumerate(scenes):
        for item in scene.items:
            left = torch.arange(IMAGE_TOKENS) % columns < columns // 2
            half = left if item.side == "left" else ~left
            labels[index, half] = torch.tensor([1 + colors.index(item.color), 1 + SHAPES.index(item.shape)])
    return labels


def look_at(model: LlavaForConditionalGeneration, pixels: Tensor) -> Tensor:
    """What the tower hands to the projector: float32 [pictures, 16, width], from pixels [pictures, 3, 32, 32]."""
    layers = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    return layers[model.config.vision_feature_layer][:, 1:]


@torch.no_grad()
def look_at_gallery(model: LlavaForConditionalGeneration, gallery: Gallery) -> Tensor:
    """The features of a whole gallery, once and for all: from here on the tower stays as it is."""
    return torch.cat([look_at(model, pixels) for pixels in gallery.pixels.split(FEATURE_BATCH)])


def teach_tower(
    model: LlavaForConditionalGeneration, classifier: PatchClassifier, gallery: Gallery, *, batch_size: int
) -> Callable[[], Tensor]:
    """Return what draws a batch of the gallery, by torch's own random numbers, and gives its loss."""
    labels = label_patches(gallery.scenes)

    def loss() -> Tensor:
        chosen = torch.randint(len(gallery.scenes), (batch_size,))
        return classifier.loss(look_at(model, gallery.pixels[chosen]), labels[chosen])

    return loss
