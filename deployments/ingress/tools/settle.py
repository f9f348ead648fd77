"""A request with tools, made definite by what the model's template can do: what binds its answer, what it shows."""

from dataclasses import replace

from deployments.errors import BadRequest
from deployments.ingress.request import GenerationRequest
from deployments.ingress.tools.formats import MARKS
from deployments.ingress.tools.grammar import tool_grammar
from deployments.types import MediaProfile


def settled(request: GenerationRequest, profile: MediaProfile) -> GenerationRequest:
    """Raises `BadRequest` where this model's template takes no tools."""
    use = request.tool_use
    if use is None:
        return request
    form = profile.tool_format
    if form is None:
        raise BadRequest("this model's chat template takes no tools", param="tools")
    params = replace(
        request.params,
        grammar=tool_grammar(use, form, profile.special_marks, request.params.grammar),
        visible_tokens=(*request.params.visible_tokens, *MARKS[form]),
    )
    return replace(request, params=params)
