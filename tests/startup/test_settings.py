"""A wrong setting is one sentence that names it, and what was meant."""

import pytest

from deployments.startup.settings import WrongSetting, read_settings


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ({"modle": "demo"}, "args has an unknown key 'modle': did you mean 'model'?"),
        (
            {"engine": {"max_context_token": 3}},
            "args.engine has an unknown key 'max_context_token': did you mean 'max_context_tokens'?",
        ),
        (
            {"encoder": {"max_part": 3}},
            "args.encoder has an unknown key 'max_part': did you mean 'max_parts'?",
        ),
        ({"device": "gpu"}, "args.device: input should be 'auto', 'cpu' or 'cuda'"),
        ({"ingress": {"max_images": -1}}, "args.ingress.max_images: input should be greater than or equal to 0"),
    ],
)
def test_a_wrong_setting_is_named(args: dict[str, object], said: str) -> None:
    with pytest.raises(WrongSetting) as wrong:
        read_settings(args)
    assert str(wrong.value) == said


def test_a_key_like_no_other_gets_the_list() -> None:
    with pytest.raises(WrongSetting, match="'zzz': known are allowed_domains, allowed_networks,"):
        read_settings({"media": {"zzz": 1}})
