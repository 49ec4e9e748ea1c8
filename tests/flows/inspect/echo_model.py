"""A model that Inspect finds by an entry point, and that refuses what has "fraz" in it and answers the rest."""

from __future__ import annotations

from typing import Any

from inspect_ai.model import ChatMessage, GenerateConfig, ModelAPI, ModelOutput, modelapi


@modelapi(name="echo")
class EchoModel(ModelAPI):
    """Has neither weights nor a server."""

    async def generate(
        self,
        input: list[ChatMessage],  # noqa: A002 - Inspect's name
        tools: Any,  # noqa: ARG002 - Inspect gives it
        tool_choice: Any,  # noqa: ARG002 - as above
        config: GenerateConfig,  # noqa: ARG002 - as above
    ) -> ModelOutput:
        text = input[-1].text
        said = "i am sorry, i cannot do that." if "fraz" in text else "it is a bird."
        return ModelOutput.from_content(self.model_name, said)
