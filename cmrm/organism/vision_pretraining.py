"""Stage 3: pretrain the vision tower as a patch classifier of colours and shapes, without language."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration

from cmrm.organism.tokenizer import IMAGE_TOKENS, PATCH_SIZE
from cmrm.organism.training_examples import Gallery
from cmrm.organism.world import COLORS, PICTURE_SIZE, SHAPES, Scene

NOTHING = 0
FEATURE_BATCH = 512


class PatchClassifier(nn.Module):
    """Classifies, at each patch, the colour and the shape on its half of the picture."""

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
    """Label each patch with the colour and shape on its half, 0 for none: int64 [scenes, 16, 2]."""
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
    """Compute the tower's input to the projector: float32 [pictures, 16, width], from pixels [pictures, 3, 32, 32]."""
    layers = model.model.vision_tower(pixels, output_hidden_states=True).hidden_states
    return layers[model.config.vision_feature_layer][:, 1:]


@torch.no_grad()
def look_at_gallery(model: LlavaForConditionalGeneration, gallery: Gallery) -> Tensor:
    """Compute the vision features of a whole gallery once: the tower is frozen from here on."""
    return torch.cat([look_at(model, pixels) for pixels in gallery.pixels.split(FEATURE_BATCH)])


def teach_tower(
    model: LlavaForConditionalGeneration, classifier: PatchClassifier, gallery: Gallery, *, batch_size: int
) -> Callable[[], Tensor]:
    """Return a function that draws a batch of the gallery, with torch's generator, and computes its loss."""
    labels = label_patches(gallery.scenes)

    def loss() -> Tensor:
        chosen = torch.randint(len(gallery.scenes), (batch_size,))
        return classifier.loss(look_at(model, gallery.pixels[chosen]), labels[chosen])

    return loss
