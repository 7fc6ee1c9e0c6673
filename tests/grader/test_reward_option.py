import pytest

from cluster.errors import ConfigError
from grader.profiles import DEFAULT_PROFILE
from grader.reward import profile_of
from grader.reward_option import parse_reward_option, with_reward_option
from grader.settings import GraderSettings, ThoughtTokenSettings, WeightSettings


def test_a_name_alone_is_a_profile() -> None:
    assert parse_reward_option("binary") == {"reward": "binary"}


def test_keys_after_the_name_are_weights_and_overrides() -> None:
    text = (
        f"{DEFAULT_PROFILE}, tests=0.5, weights.compile=.05,shown_assert_weight=0,min_code_lines=3,runaway_multiplier=1"
    )
    assert parse_reward_option(text) == {
        "reward": DEFAULT_PROFILE,
        "weights": {"tests": 0.5, "compile": 0.05},
        "shown_assert_weight": 0.0,
        "min_code_lines": 3,
        "runaway_multiplier": 1.0,
    }


def test_thought_tokens_have_a_section() -> None:
    given = parse_reward_option("binary,thought_tokens.cap=900,thought_tokens.price=.2")
    assert given == {"reward": "binary", "thought_tokens": {"cap": 900, "price": 0.2}}
    settings = with_reward_option("thought_tokens.price=0.5", GraderSettings.model_validate(given))
    assert (settings.thought_tokens.cap, settings.thought_tokens.price) == (900, 0.5)
    assert with_reward_option("binary", settings).thought_tokens == ThoughtTokenSettings()


def test_keys_without_a_name_leave_the_profile_open() -> None:
    assert parse_reward_option("degenerate_multiplier=0.1") == {"degenerate_multiplier": 0.1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fame", "there are: binary, no-end-25-10-65, seed-5-20-10-65"),
        ("", "no reward profile ''"),
        ("binary,", "'' is not key=value with one of structural"),
        ("binary,tests", "'tests' is not key=value"),
        (
            "binary,speed=1",
            "'speed=1' is not key=value with one of structural, type_check, compile, tests, min_code_lines",
        ),
        ("binary,weights.test=1", "thought_tokens.price (did you mean tests?)"),
        ("binary,num_graders=1", "is not key=value with one of"),
        ("binary,seed-5-20-10-65", "is not key=value"),
        ("binary,tests=much", "tests=much: Input should be a valid number"),
        ("binary,tests=1.5", "tests=1.5: Input should be less than or equal to 1"),
        ("binary,tests=-1", "greater than or equal to 0"),
        ("binary,tests=nan", "tests=nan"),
        ("binary,min_code_lines=1.5", "min_code_lines=1.5"),
        ("binary,tests=1,weights.tests=1", "tests is given twice"),
    ],
)
def test_an_invalid_reward_option_is_refused_with_the_allowed_values(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_reward_option(text)
    assert message in str(caught.value)


def test_given_weights_are_checked_together_with_the_others() -> None:
    with pytest.raises(ConfigError, match=r"--reward .*,tests=0.7: weights.structural 0.05 .* = 1.05"):
        with_reward_option(f"{DEFAULT_PROFILE},tests=0.7", GraderSettings())
    lowered = GraderSettings(weights=WeightSettings(structural=0.0))
    assert profile_of(with_reward_option("tests=0.7", lowered)).tests == 0.7


def test_with_a_name_the_profile_is_the_base_and_without_one_the_settings() -> None:
    own = GraderSettings(min_code_lines=1, weights=WeightSettings(tests=0.3), num_graders=7)
    named = with_reward_option(f"{DEFAULT_PROFILE},compile=0.05", own)
    assert (named.min_code_lines, named.weights, named.num_graders) == (None, WeightSettings(compile=0.05), 7)
    changed = with_reward_option("compile=0.05", own)
    assert (changed.min_code_lines, changed.weights) == (1, WeightSettings(tests=0.3, compile=0.05))
