"""One-line texts of other libraries' errors."""


def describe_error(error: BaseException) -> str:
    """Return type and first line of an error; the chain of causes keeps the rest."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def with_advice(text: str) -> str:
    """Return the text of an error, with what to do if the GPU's memory, or the learner's share of it, was too small."""
    if "CUDA out of memory" not in text:
        return text
    return (
        f"{text}; lower learner.micro_batch_tokens, set learner.gradient_checkpointing=true, or give it more of the GPU "
        "(learner.gpu_memory_share)"
    )
