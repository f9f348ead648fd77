"""GET /v1/limits: what clients may know before they upload."""

from pydantic import SecretStr

from deployments.config import AppConfig, EngineConfig, IngressConfig, MediaConfig
from tests.support.fakes import PROFILE, FakeApplication


async def test_limits_are_the_configurations_and_the_models_the_smaller_of_both() -> None:
    config = AppConfig(
        served_model_name="org/model",
        ingress=IngressConfig(max_images=3, max_body_bytes=1000),
        media=MediaConfig(max_video_bytes=500),
        engine=EngineConfig(max_context_tokens=100),
    )
    async with FakeApplication(config).client() as client:
        said = (await client.get("/v1/limits")).json()
    assert (said["model"], said["context_length"], said["max_body_bytes"]) == ("org/model", 100, 1000)
    assert (said["image"]["max_items"], said["video"]["max_bytes"]) == (3, 500)
    assert said["audio"]["max_duration_s"] == PROFILE.max_audio_s
    assert said["modalities"] == ["audio", "image", "video"]


async def test_limits_are_told_to_those_who_may_come_in() -> None:
    app = FakeApplication(AppConfig(ingress=IngressConfig(api_keys=(SecretStr("sesame"),))))
    async with app.client() as client:
        assert (await client.get("/v1/limits")).status_code == 401
        key = {"authorization": "Bearer sesame"}
        assert (await client.get("/v1/limits", headers=key)).status_code == 200
