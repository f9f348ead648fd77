"""The application's settings: what `args:` in `serve_config.yaml` may hold. One section a stage, unknown keys refused.

Every limit has a default and its unit in its name. What Ray Serve scales and bounds (`num_replicas`,
`autoscaling_config`, `max_ongoing_requests`, `max_queued_requests`, `ray_actor_options`) stands in the file's
`deployments:` list instead, where operators of Ray Serve look for it.
"""

import re
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator

from deployments.types import ToolFormat

MIB = 2**20

Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Bytes = Annotated[int, Field(ge=1)]

_DOMAIN = re.compile(r"\.?(?!-)[a-z0-9-]{1,63}(\.(?!-)[a-z0-9-]{1,63})*")
_HTTP_URL = re.compile(r"https?://[^\s/?#@]+(/[^\s?#]*)?")
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,95}")


class Section(BaseModel):
    """Base of every section: a misspelt key stops the start instead of being ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class IngressConfig(Section):
    """HTTP, admission, and the pace of a request."""

    request_timeout_s: Seconds = 300.0
    """A request's whole budget. Clients may shorten it with the header `x-request-timeout-s`."""
    max_body_bytes: Bytes = 96 * MIB
    """Largest JSON body."""
    max_images: Annotated[int, Field(ge=0)] = 16
    """Pictures in one request; frames of a picture list count as one video."""
    max_videos: Annotated[int, Field(ge=0)] = 4
    """Videos in one request."""
    max_audios: Annotated[int, Field(ge=0)] = 4
    """Sounds in one request; audio tracks of videos do not count."""
    max_list_frames: Count = 128
    """Pictures in one `{"type": "video", "video": [...]}` part."""
    max_choices: Count = 8
    """Largest `n`."""
    max_tokens: Count = 16_384
    """Largest answer of one choice, in tokens."""
    default_max_tokens: Count | None = None
    """Answer length when a request names none; default: whatever the context has room for, within `max_tokens`."""
    max_text_bytes: Bytes = 2 * MIB
    """What of a JSON body may be anything but media."""
    target_ttft_s: Seconds = 0.5
    """Time to a first token, without waiting for admission and for media hosts, up to which more requests are let in
    at once; where a request takes more than a third of it with nothing else to do, three times what it takes."""
    max_running_text: Count = 256
    """Text-only requests without a first token in one ingress replica, at most; how many there may be at present
    follows from `target_ttft_s`."""
    max_running_media: Count = 32
    """The same for requests with media."""
    max_running_per_client: Count | None = None
    """Of either kind, for one API key or address, until the end of their answers; None: no limit of its own."""
    max_waiting: Count = 256
    """Requests of either kind that wait for admission; more are refused."""
    max_wait_s: Seconds = 0.5
    """Longest expected wait for admission in an overload, or as long as a request takes with nothing else to do: one
    that would have to wait longer is refused at once. More of it delays every answer of an overload as much."""
    max_burst_wait_s: Seconds = 5.0
    """The same in a queue that has just formed, as when one client asks many things at once. It becomes less by a
    second for each second in which requests wait, and more again by a tenth of each second in which none does."""
    max_ttft_s: Seconds | None = None
    """A first token later than this after the request was asked is of no use (the SLO): who would have to wait so long
    for admission is refused instead, also in a burst. Where the work alone takes more than a third of it, three times
    what that takes. None: waits are bounded by the two settings above alone."""
    max_media_bytes_in_flight: Bytes | None = None
    """Media bytes, frames and tensors that admitted requests of all ingress replicas may hold, by estimate before
    the fetch and counted after it; None: `object_store_share` of the cluster's object store."""
    object_store_share: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of the cluster's object store that admitted media may fill."""
    max_body_bytes_in_flight: Bytes = 256 * MIB
    """Bodies beyond `max_text_bytes` that one ingress replica reads or holds at once, counted as they arrive. Room for
    one body of `max_body_bytes` is kept for the oldest; of the rest one client may have half."""
    min_body_rate_bytes_s: Count = 4 * 2**10
    """A client that sends its body more slowly than this, over ten seconds of waiting for it, is sent away."""
    decoded_share: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Of the bytes that admitted media may hold: what may be filled with decoded videos that were asked about before,
    as long as no request wants it. They are let go before anybody waits; 0 keeps none."""
    assumed_image_bytes: Bytes = 2 * MIB
    """What a picture is taken to weigh until it has been fetched."""
    assumed_video_bytes: Bytes = 32 * MIB
    """The same for a video."""
    assumed_audio_bytes: Bytes = 4 * MIB
    """The same for a sound."""
    playground: bool = True
    """Serve the page at `/`; off, it answers with the server's name."""
    api_keys: tuple[SecretStr, ...] = ()
    """Clients must send one of these as `Authorization: Bearer`; empty, and no file: everyone may come in."""
    api_keys_file: Path | None = None
    """File with further API keys, one a line; read again when it changes."""
    max_stored_responses: Annotated[int, Field(ge=0)] = 256
    """Answers of `/v1/responses` that an ingress replica keeps for `previous_response_id`; 0 keeps none."""
    max_stored_response_bytes: Bytes = 64 * MIB
    """Their conversations together, as JSON."""
    batch_folder: Path | None = None
    """Folder for the files of `/v1/files` and for the state of `/v1/batches`, shared by all ingress replicas; None: no
    batches."""
    max_batch_file_bytes: Bytes = 512 * MIB
    """Largest file of `/v1/files`."""
    max_batch_folder_bytes: Bytes = 10 * 1024 * MIB
    """All files together, those that hold answers included; a file that finds no room is refused."""
    max_batch_files: Count = 2000
    """All files together, by number; batches likewise."""
    max_batch_file_age_s: Count | None = 30 * 86_400
    """After which a file is gone, input or answers, unless `expires_after` asks for less; None: when it is deleted. The
    input of a batch that has not ended stays."""
    max_batch_lines: Count = 50_000
    """Requests in one batch."""
    max_batch_running: Count = 256
    """Requests of batches under way at once in one ingress replica, at most; how many there are at present follows
    from how long the stages let them wait. Before their first token they take half of the places for other requests."""
    cors_origins: tuple[str, ...] = ()
    """Web pages from elsewhere that may ask this server, as `https://app.example.com`, or `*` for all."""
    client_address_header: str | None = None
    """Header of a trusted proxy which holds the client's address, such as `x-forwarded-for`; None: the peer's own."""
    trusted_proxies: Count = 1
    """How many proxies of your own append to that header: the address is what the outermost of them has written, this
    many from the right."""


class MediaConfig(Section):
    """Fetching: what may be dialled, how long, how much."""

    connect_timeout_s: Seconds = 5.0
    """One attempt to connect to a media host, TLS included."""
    lookup_timeout_s: Seconds = 5.0
    """One look-up of a media host's name."""
    name_servers: tuple[str, ...] = ()
    """Asked for media hosts' names in place of the system's: addresses, or `address:port`."""
    read_timeout_s: Seconds = 10.0
    """Longest silence of a media host between two reads."""
    min_rate_bytes_s: Count = 16 * 2**10
    """A media host that sends less than this, over any `read_timeout_s` of waiting for it, is given up."""
    total_timeout_s: Seconds = 60.0
    """One item's whole fetch, retries included."""
    max_image_bytes: Bytes = 32 * MIB
    """Largest picture file."""
    max_video_bytes: Bytes = 512 * MIB
    """Largest video file."""
    max_audio_bytes: Bytes = 64 * MIB
    """Largest sound file."""
    max_embeds_bytes: Annotated[int, Field(ge=0)] = 0
    """Largest safetensors file of encoder outputs in place of media (parts `image_embeds`, `video_embeds`,
    `audio_embeds`); 0 refuses such parts. They can tell the model what no picture could: for clients you trust."""
    sparse_from_bytes: Bytes | None = 32 * MIB
    """Videos from this size on are read by HTTP ranges where host and file allow it: the index, then only what the
    wanted frames lean on. None: all are fetched whole."""
    max_sparse_video_bytes: Bytes = 64 * 2**30
    """Largest video file that is read by ranges; what is read of it is bounded by `max_video_bytes`."""
    max_redirects: Annotated[int, Field(ge=0)] = 3
    """Followed for one item; each one is checked like a first address."""
    max_retries: Annotated[int, Field(ge=0)] = 2
    """After connection errors and 502, 503, 504."""
    max_connections: Count = 256
    """Of one replica's pool; one client, or one media host, may have half of them."""
    allowed_domains: tuple[str, ...] = ()
    """Hosts that may be dialled: exact names, or `.example.com` for every host below it. Empty: any public host."""
    allowed_networks: tuple[IPv4Network | IPv6Network, ...] = ()
    """Networks that may be dialled although they are not public."""
    local_root: Path | None = None
    """`file:` URLs may name files below this folder; None refuses them."""
    cache_bytes: Annotated[int, Field(ge=0)] = 256 * MIB
    """Bytes of fetched media that a replica may keep by URL, as their hosts allow it (`Cache-Control`, `ETag`,
    `Last-Modified`); 0 keeps none. What a host calls `private` answers the API key alone for which it was fetched."""
    cache_per_key: bool = False
    """Share fetched and decoded media among requests of one API key alone: how long a fetch or a decoding takes else
    tells one client whether another has sent the same."""
    max_buffered_bytes: Bytes = 2048 * MIB
    """Bytes of media that a replica holds at once while it fetches and hands on, taken as they arrive. A quarter is for
    `data:` and `file:` alone. Of the rest, one file of the largest kind is kept for the oldest download, and one client
    or one media host may have half of what remains; who finds no room waits."""
    workers: Count = 4
    """Threads of one replica for local files, base64 and decompression."""
    user_agent: str = "sluice"
    """What media hosts are told."""

    @field_validator("allowed_domains")
    @classmethod
    def _plain_domains(cls, domains: tuple[str, ...]) -> tuple[str, ...]:
        for domain in domains:
            if not _DOMAIN.fullmatch(domain.lower()):
                raise ValueError(f"{domain!r} is not a host name: no scheme, port, path or wildcard is allowed")
        return tuple(domain.lower() for domain in domains)


class DecoderConfig(Section):
    """Video decoding."""

    backend: Literal["pyav", "cuda", "opencv"] = "pyav"
    """`pyav` decodes only the packets that are needed; `cuda` likewise, on a card's decoder (NVDEC) if the replica has
    `num_gpus` and the card the codec (not AV1), else on the CPU; `opencv` scans forward, in its usual build reads
    neither AV1 nor interlaced video, takes untagged HD for BT.601, and shows HDR in colours of its own."""
    workers: Count = 2
    """Videos decoded at once by a replica. Keep `max_ongoing_requests` at a few times that: callers look for a free
    place up to half a second apart, and a thread should not wait for them."""
    threads: Count = 1
    """Codec threads of one decode."""
    max_parts: Count = 4
    """Decoders that may work on one long video at once, as far as they have nothing else to do: of `pyav`, from about a
    second of work on, and not for videos that are read by ranges. 1: each video is decoded by one."""
    overlap: bool = False
    """Decode long videos in up to four groups of frames, of which the model encodes one while the next is decoded. Of
    requests with one video, from about two thirds of a second of work on, with `pyav` and models whose frames go
    straight to them; not for videos that are read by ranges."""
    timeout_s: Seconds = 60.0
    """One video, waiting for a thread included."""
    num_frames: Count | None = None
    """Frames taken when the request does not say; with `fps` None too: the model family's own default."""
    fps: Annotated[float, Field(gt=0)] | None = None
    """Frames a second of the video taken when the request does not say, in place of `num_frames`."""
    max_frames: Count = 256
    """Ceiling of frames taken from one video, whatever a request asks for."""
    max_source_pixels: Count = 4096 * 2304
    """Height x width of a source frame."""
    max_duration_s: Seconds = 3 * 3600.0
    """Longest video."""
    max_decode_megapixels: Count = 60_000
    """Pixels that the codec would have to decode for one request's frames."""
    max_output_bytes: Bytes = 1024 * MIB
    """Frames delivered for one video."""
    max_audio_s: Seconds = 1800.0
    """Audio track delivered for one video."""
    target_backlog_s: Seconds = 0.15
    """How long the pixels still to decode at one replica should take it, at its pace of late: more make more replicas.
    At most a third of `ingress.target_ttft_s`: beyond that, admission refuses before it is reached."""
    resize: bool = True
    """Deliver frames at the size that the model's processor would resize them to."""


class PreprocessorConfig(Section):
    """The model's Hugging Face processor, pictures and sounds."""

    workers: Count = 2
    """Requests with media prepared at once by a replica; `max_ongoing_requests` likewise."""
    text_workers: Count = 1
    """The same for requests of text alone, which so never wait behind pictures."""
    threads: Count = 1
    """Threads of torch in one preparation."""
    timeout_s: Seconds = 60.0
    """One prompt, waiting for a thread included."""
    max_image_pixels: Count = 64_000_000
    """Height x width of a picture, by its header. Whatever it says, none may take more than 600 MB while it is decoded:
    WebP takes 17 bytes a pixel, HEIC 12, AVIF 10, other formats 9."""
    max_decode_bytes: Bytes = 1024 * MIB
    """Memory that the large pictures of one replica may take together while they are decoded, counted from their
    headers; who finds no room waits, and the oldest always finds it. Those below 64 MB, seven megapixels, don't count.
    """
    jpeg_draft: bool = False
    """Decode JPEGs at 1/2, 1/4 or 1/8 of their sides where twice the size remains that the model is shown: photographs
    of twelve megapixels take a third of the time, and come out a little different (54 dB) from what the whole picture
    gives. Pictures of more than 16 million pixels are always read so, whatever their format."""
    max_audio_s: Seconds = 1800.0
    """Longest sound; the model family's own limit holds too."""
    allowed_processor_kwargs: tuple[str, ...] = ("min_pixels", "max_pixels")
    """Keys that `mm_processor_kwargs` may hold; the server's own values are their ceilings."""
    uint8_handoff: bool = True
    """Ship pixels as uint8 and normalise on the model's device where the processor's arithmetic allows it."""


class EngineConfig(Section):
    """The model replica."""

    tensor_parallel: Count = 1
    """Devices among which each replica's model is divided, with a process (rank) each; must divide its attention heads,
    key/value heads and widths of MLPs. Above 1, `placement_group_bundles` of the Model deployment has one for each."""
    max_running: Count | None = None
    """Sequences that decode together at most; None: 16 on a CPU, 256 on a GPU, as its memory lets them."""
    max_context_tokens: Count | None = None
    """Prompt and answer together; None: the model's own limit."""
    kv_cache_gib: Annotated[float, Field(gt=0)] | None = None
    """Memory for keys and values in each rank; None: 0.5 GiB on a CPU, `kv_cache_share` of a GPU's free memory."""
    kv_cache_share: Annotated[float, Field(gt=0, lt=1)] = 0.9
    """Share of the GPU memory left by the weights and by the largest pass, which is measured at the start."""
    page_tokens: Count = 256
    """Tokens of a page: keys and values are taken and given back page by page."""
    prefix_cache: bool = True
    """Keep keys and values of prompts and answers until their memory is wanted: a prompt that begins like an earlier
    one, media included, is prefilled from where they part. Not for families with linear attention."""
    prefix_cache_per_key: bool = False
    """Share them, and encoder outputs, among requests of one API key alone: the time to the first token else tells one
    client whether another has asked the same."""
    prefill_chunk_tokens: Count | None = None
    """Prompt tokens computed in one step at most; None: 512 on a CPU, 8192 on a GPU."""
    target_itl_s: Seconds = 0.05
    """How long a step may take in which prompts are encoded or prefilled beside running answers: less keeps answers
    smoother, more prefills faster. Prompts go on at half the rate they would have alone at least, whatever it costs."""
    cuda_graphs: bool = True
    """Record decode steps as CUDA graphs at the start, for a few numbers of rows and lengths of context, and replay
    them: a GPU then does not wait for Python. Takes some seconds, and memory."""
    run_ahead: bool = False
    """On a GPU, schedule a step while the tokens of the one before are still on the device: nobody waits for the host,
    and answers are heard one step later. Not for models divided among GPUs, nor for those with recurrent layers."""
    encoder_budget_mib: Annotated[float, Field(gt=0)] = 512.0
    """Processor tensors and encoder outputs alive on the device at once."""
    reuse_cache_mib: Annotated[float, Field(ge=0)] = 256.0
    """Encoder outputs kept on the device for media that are seen again; 0 keeps none."""
    max_waiting: Count = 256
    """Requests that wait for the model; more are refused."""
    target_backlog_s: Seconds = 0.15
    """How long the prompt tokens that wait at one replica should take it to encode and prefill, at its pace of late:
    more make more replicas. At most a third of `ingress.target_ttft_s`, likewise."""
    target_kv_usage: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of the KV cache's pages and of `max_running`, taken or waited for, that one replica should have: more make
    more replicas."""
    stream_interval_s: Annotated[float, Field(ge=0)] = 0.05
    """Tokens of a streamed answer are gathered this long after the first one; up to four times as long while other
    requests wait for their first token, since each piece costs time in three processes."""
    grammar_timeout_s: Seconds = 1.0
    """CPU time that compiling a request's JSON schema may take; a schema that takes more is refused."""
    grammar_mib: Count = 512
    """Memory likewise."""
    threads: Count | None = None
    """CPU threads of the forward pass; None: the cores that Ray gives the replica (`num_cpus`, one for a fraction).

    More threads than free cores make each step wait for a thread that does not run.
    """


class EncoderConfig(Section):
    """A model's towers in a deployment of their own, `Encoder`: where this section stands (`encoder: {}` for its
    defaults) media are encoded there, and the Model has no towers. `engine.encoder_budget_mib` then bounds what each of
    the two holds, `engine.reuse_cache_mib` what the Encoder keeps."""

    timeout_s: Seconds = 60.0
    """One request's media, waiting for the towers included."""
    max_parts: Count = 4
    """Encoders that may work on one request at once, where it has several videos and nothing else."""
    max_waiting: Count = 256
    """Requests that wait for the towers of one replica; more are refused."""
    target_backlog_s: Seconds = 0.15
    """How long the patches still to encode at one replica should take it, at its pace of late: more make more replicas.
    At most a third of `ingress.target_ttft_s`, likewise."""


class RoutingConfig(Section):
    """Which replica of a stage a request goes to."""

    by_content: bool = True
    """To the one that has seen its media and the beginning of its conversation: fetchers by URL, video decoders by what
    the file holds, models by the largest media of a conversation's first message that has any, else by its words up to
    the end of what the user says first. Off: to the less busy one of any two."""
    load_factor: Annotated[float, Field(ge=1)] = 1.25
    """A replica with more than this times the requests of the others, on average, gives up the preference to the next
    one: less keeps replicas evenly busy, more finds again what they keep."""


class TracingConfig(Section):
    """OpenTelemetry traces, a span for each stage of a request; needs `pip install 'sluice[tracing]'`."""

    otlp_endpoint: str | None = None
    """Base URL of a collector that takes OTLP over HTTP, such as `http://collector:4318`; None: no tracing."""
    sample_share: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of the requests that are traced, where the client's `traceparent` does not decide it."""
    service_name: str = "sluice"
    """What traces call this application (`service.name`)."""

    @field_validator("otlp_endpoint")
    @classmethod
    def _base_url(cls, url: str | None) -> str | None:
        if url is not None and not _HTTP_URL.fullmatch(url):
            raise ValueError(f"{url!r} is not the base URL of a collector, like http://collector:4318")
        return url


class ModelConfig(Section):
    """What a model has for itself: its checkpoint, its processor, its engine."""

    model: str = "demo"
    """`demo`, a Hugging Face id, or a local path."""
    revision: str | None = None
    """Branch, tag or commit of a Hugging Face id."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` (a GPU when the replica has one), `cpu`, `cuda`."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """`auto`: the checkpoint's own on a GPU, float32 on a CPU."""
    tool_format: ToolFormat | None = None
    """How the model writes calls of tools; None: as its chat template writes those of earlier answers."""
    trust_remote_code: bool = False
    """Run Python code that comes with a checkpoint. Off unless you have read it."""
    preprocessor: PreprocessorConfig = PreprocessorConfig()
    engine: EngineConfig = EngineConfig()
    encoder: EncoderConfig | None = None


class AppConfig(ModelConfig):
    """Everything below `args:`.

    One model is written at the top level: it is what most have, and no name is needed for it. Several stand in
    `models`, each in a section of its own with the same keys, and none at the top level then. So a setting of a model
    stands in one place: no section is laid over another, and what is not in it has the default that the table shows.
    Behind this file nobody knows of the difference: an application of several models is taken apart into applications
    of one (`served_model`), which share their ingress and the stages of media.
    """

    served_model_name: str | None = None
    """The name that clients use; default: `model`."""
    placement: Literal["apart", "together"] = "apart"
    """Where stages are. `apart`: each has deployments of its own. `together`: files are fetched, and prompts and
    pictures prepared, by the process that wants them, the ingress: fewer processes, no hops between them, for a machine
    of one's own. Videos and models keep theirs. `MediaFetcher` and `Preprocessor` then have no entry in `deployments`.
    """
    models: dict[str, ModelConfig] = {}
    """Several models by the names that clients use, each with its own `model`, `revision`, `device`, `dtype`,
    `tool_format`, `trust_remote_code`, `preprocessor`, `engine` and `encoder`, which then don't stand at the top level.
    Each has deployments of its own, `Preprocessor:NAME`, `Model:NAME` and, where it has an `encoder`, `Encoder:NAME`;
    fetching and decoding are shared."""
    ingress: IngressConfig = IngressConfig()
    media: MediaConfig = MediaConfig()
    decoder: DecoderConfig = DecoderConfig()
    routing: RoutingConfig = RoutingConfig()
    tracing: TracingConfig = TracingConfig()

    @field_validator("models")
    @classmethod
    def _plain_names(cls, models: dict[str, ModelConfig]) -> dict[str, ModelConfig]:
        for name in models:
            if not _MODEL_NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name of a model: letters, digits and . _ - / are, up to 96 of them")
        return models

    @model_validator(mode="after")
    def _one_place_for_each_setting(self) -> "AppConfig":
        beside = [name for name in _OF_ONE_MODEL if name in self.model_fields_set]
        if self.models and beside:
            raise ValueError(f"{beside[0]} stands beside `models`: a model's name is its key there, and all else below")
        return self

    @model_validator(mode="after")
    def _replicas_come_before_refusals(self) -> "AppConfig":
        most_s = self.ingress.target_ttft_s / 3
        targets_s = {"decoder": self.decoder.target_backlog_s}
        for where, model in {"": self, **{f"models.{name}.": model for name, model in self.models.items()}}.items():
            targets_s[f"{where}engine"] = model.engine.target_backlog_s
            if model.encoder is not None:
                targets_s[f"{where}encoder"] = model.encoder.target_backlog_s
        for name, target_s in targets_s.items():
            if target_s > most_s:
                raise ValueError(
                    f"{name}.target_backlog_s is {target_s:g} and may be {most_s:.2g} at most, a third"
                    " of ingress.target_ttft_s: admission would refuse requests before the stage gets another replica"
                )
        return self

    @property
    def model_name(self) -> str:
        """The name in `/v1/models` and in answers."""
        return self.served_model_name or self.model

    @property
    def keeps_media(self) -> bool:
        """Whether anything is kept by what media are: then their bytes need digests."""
        engines = [model.engine for model in self.models.values()] or [self.engine]
        if self.media.cache_bytes or self.ingress.decoded_share:
            return True
        return any(engine.reuse_cache_mib or engine.prefix_cache for engine in engines)

    def hub_options(self) -> dict[str, Any]:
        """Keyword arguments of every `from_pretrained` call."""
        return {"revision": self.revision, "trust_remote_code": self.trust_remote_code}


_OF_ONE_MODEL = (*ModelConfig.model_fields, "served_model_name")
"""Settings that the sections of `models` have."""
