"""From a request's fields to sampling parameters: what contradicts other fields or the server's limits is told here."""

import orjson

from deployments.config import IngressConfig
from deployments.errors import BadRequest
from deployments.ingress.openai.json_schema import closed
from deployments.ingress.openai.schema import MAX_STOP_CHARS, MAX_STOPS, SamplingFields, StructuredOutputs
from deployments.types import Grammar, SamplingParams


def sampling_params(
    fields: SamplingFields,
    config: IngressConfig,
    *,
    max_tokens: int | None,
    logprobs: int | None,
    score_prompt: bool = False,
) -> SamplingParams:
    """Raises `BadRequest` for what single fields can't tell."""
    if fields.n > config.max_choices:
        raise BadRequest(f"`n` is {fields.n}; at most {config.max_choices} choices are allowed", param="n")
    longest = config.max_tokens if max_tokens is None else max_tokens
    if fields.min_tokens > longest:
        raise BadRequest("`min_tokens` is larger than the answer may be", param="min_tokens")
    return SamplingParams(
        max_tokens=max_tokens,
        min_tokens=fields.min_tokens,
        temperature=fields.temperature,
        top_p=fields.top_p,
        top_k=max(fields.top_k, 0),
        min_p=fields.min_p,
        repetition_penalty=fields.repetition_penalty,
        presence_penalty=fields.presence_penalty,
        frequency_penalty=fields.frequency_penalty,
        seed=fields.seed,
        n=fields.n,
        stop=_stops(fields.stop),
        stop_token_ids=tuple(fields.stop_token_ids),
        ignore_eos=fields.ignore_eos,
        logprobs=logprobs,
        logit_bias=_logit_bias(fields.logit_bias),
        grammar=grammar_of(fields),
        bad_words=tuple(fields.bad_words),
        skip_special_tokens=fields.skip_special_tokens,
        return_token_ids=fields.return_token_ids,
        score_prompt=score_prompt,
    )


def limited(asked: int | None, name: str, config: IngressConfig) -> int | None:
    """The answer's length, `name` being the field that tells it. Raises `BadRequest` for more than the server gives."""
    if asked is not None and asked > config.max_tokens:
        raise BadRequest(f"`{name}` is {asked}; at most {config.max_tokens} are allowed", param=name)
    return config.default_max_tokens if asked is None else asked


def grammar_of(fields: SamplingFields) -> Grammar | None:
    """What the answer must follow, whichever field says it. Raises `BadRequest` where two do."""
    found = [grammar for grammar in (_response_format(fields), *_structured(fields)) if grammar is not None]
    if len(found) > 1:
        raise BadRequest(f"`{found[0].param}` and `{found[1].param}` contradict each other", param=found[1].param)
    return found[0] if found else None


def _response_format(fields: SamplingFields) -> Grammar | None:
    response_format = fields.response_format
    if response_format is None or response_format.type == "text":
        return None
    if response_format.type == "json_object":
        return Grammar("json_schema", "{}")
    schema = response_format.json_schema.schema_ if response_format.json_schema else None
    if schema is None:
        param = "response_format.json_schema.schema"
        raise BadRequest(f"`{param}` is missing", param=param)
    return Grammar("json_schema", closed(schema))


def _structured(fields: SamplingFields) -> list[Grammar | None]:
    said = fields.structured_outputs or StructuredOutputs()
    return [
        _json(said.json_, "structured_outputs.json"),
        Grammar("json_schema", "{}", "structured_outputs.json_object") if said.json_object else None,
        _text("regex", said.regex, "structured_outputs.regex"),
        _text("lark", said.grammar, "structured_outputs.grammar"),
        _choice(said.choice, "structured_outputs.choice"),
        _json(fields.guided_json, "guided_json"),
        _text("regex", fields.guided_regex, "guided_regex"),
        _text("lark", fields.guided_grammar, "guided_grammar"),
        _choice(fields.guided_choice, "guided_choice"),
    ]


def _json(schema: dict[str, object] | str | None, param: str) -> Grammar | None:
    if isinstance(schema, str):
        try:
            schema = orjson.loads(schema)
        except orjson.JSONDecodeError as error:
            raise BadRequest(f"`{param}` is not valid JSON: {error.msg}", param=param) from error
        if not isinstance(schema, dict):
            raise BadRequest(f"`{param}` must be a JSON schema", param=param)
    return None if schema is None else Grammar("json_schema", closed(schema), param)


def _text(kind: str, text: str | None, param: str) -> Grammar | None:
    if text is None:
        return None
    return Grammar("regex" if kind == "regex" else "lark", text, param)


def _choice(choices: list[str] | None, param: str) -> Grammar | None:
    if choices is None:
        return None
    if not all(choices):
        raise BadRequest(f"`{param}` holds an empty text", param=param)
    return Grammar("lark", "start: " + " | ".join(quoted(choice) for choice in choices), param)


def quoted(text: str) -> str:
    """As a literal of a Lark grammar."""
    return orjson.dumps(text).decode()


def _stops(stop: str | list[str] | None) -> tuple[str, ...]:
    stops = (stop,) if isinstance(stop, str) else tuple(stop or ())
    if len(stops) > MAX_STOPS or any(not 0 < len(text) <= MAX_STOP_CHARS for text in stops):
        said = f"`stop` takes up to {MAX_STOPS} strings of 1 to {MAX_STOP_CHARS} characters"
        raise BadRequest(said, param="stop")
    return stops


def _logit_bias(biases: dict[str, float]) -> tuple[tuple[int, float], ...]:
    if not all(key.isascii() and key.isdigit() and len(key) < 10 for key in biases):
        raise BadRequest("the keys of `logit_bias` are token ids", param="logit_bias")
    return tuple((int(key), value) for key, value in biases.items())
