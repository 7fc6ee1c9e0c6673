from grader.environment import without_secrets


def test_variables_named_like_secrets_are_emptied_for_graders() -> None:
    environment = {
        "HF_TOKEN": "a",
        "WANDB_API_KEY": "b",
        "aws_secret_key": "c",
        "DB_PASSWORD": "d",
        "PATH": "/bin",
        "TOKENS": "7",
    }
    assert without_secrets(environment) == {
        "env_vars": {"HF_TOKEN": "", "WANDB_API_KEY": "", "aws_secret_key": "", "DB_PASSWORD": ""}
    }


def test_rays_own_token_stays_since_an_actor_needs_it() -> None:
    assert without_secrets({"RAY_AUTH_TOKEN": "a", "HOME": "/root"}) is None
