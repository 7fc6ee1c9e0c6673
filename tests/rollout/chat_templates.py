"""Chat templates in the style of public model families, written for these tests, and tokenizers to go with them."""

from pathlib import Path
from typing import Any

TINY = Path(__file__).parents[2] / "assets" / "tiny"

CHATML = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for message in messages %}{% set role = 'model' if message.role == 'assistant' else message.role %}"
    "<start_of_turn>{{ role }}\n{{ message.content | trim }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% set date_string = strftime_now('%d %b %Y') %}"
    "{% if messages[0].role == 'system' %}{% set system, messages = messages[0].content | trim, messages[1:] %}{% endif %}"
    "<|start_header_id|>system<|end_header_id|>\n\nToday Date: {{ date_string }}\n\n{{ system }}<|eot_id|>"
    "{% for message in messages %}<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n"
    "{{ message.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if message.role == 'user' %}[INST] {{ message.content }} [/INST]"
    "{% else %} {{ message.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
DEEPSEEK = (
    "{{ bos_token }}{% for message in messages %}{% if message.role == 'system' %}{{ message.content }}"
    "{% elif message.role == 'user' %}<|User|>{{ message.content }}"
    "{% else %}<|Assistant|>{{ message.content.split('</think>')[-1] }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|Assistant|><think>\n{% endif %}"
)
QWEN3 = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% if message.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
SMOLLM = (
    "<|im_start|>system\n## Metadata\n\nToday Date: {{ strftime_now('%d %B %Y') }}\nReasoning Mode: /think\n\n"
    "{% if messages[0].role == 'system' %}{{ messages[0].content.replace('/no_think', '') }}{% endif %}<|im_end|>\n"
    "{% for message in messages if message.role != 'system' %}<|im_start|>{{ message.role }}\n"
    "{% generation %}{{ message.content }}{% endgeneration %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
COMMAND = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set rest = messages[1:] %}{% set system = messages[0].content %}"
    "{% else %}{% set rest = messages %}{% set system = 'You are Command.' %}{% endif %}"
    "<|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>{{ system }}<|END_OF_TURN_TOKEN|>"
    "{% for message in rest %}<|START_OF_TURN_TOKEN|>"
    "{{ '<|USER_TOKEN|>' if message.role == 'user' else '<|CHATBOT_TOKEN|>' }}{{ message.content | trim }}<|END_OF_TURN_TOKEN|>"
    "{% endfor %}{% if add_generation_prompt %}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>{% endif %}"
)
PHI = (
    "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
HARMONY = (
    "<|start|>system<|message|>You are a model.\nCurrent date: {{ strftime_now('%Y-%m-%d') }}\n\nReasoning: medium\n\n"
    "# Valid channels: analysis, commentary, final.<|end|>"
    "{% for message in messages %}{% if message.role == 'system' %}"
    "<|start|>developer<|message|># Instructions\n\n{{ message.content }}<|end|>"
    "{% elif message.role == 'user' %}<|start|>user<|message|>{{ message.content }}<|end|>"
    "{% else %}<|start|>assistant<|channel|>final<|message|>{{ message.content }}<|return|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)
PARTS = (
    "{{ bos_token }}{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

BOS, EOS = "<s>", "</s>"


def tokenizer_with(
    chat_template: Any = None, *, adds: str = "", special: tuple[str, ...] = (), normalizer: Any = None
) -> Any:
    """The tiny model's tokenizer with other special tokens. Its post-processor adds "bos", "eos" or "both"."""
    from tokenizers import AddedToken, Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_file(str(TINY / "tokenizer.json"))
    tokens = (BOS, EOS, "<|im_start|>", "<|im_end|>", "<|eot_id|>", *special)
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    if normalizer is not None:
        backend.normalizer = normalizer
    if adds:
        front, end = f"{BOS} " * (adds != "eos"), f" {EOS}" * (adds != "bos")
        special_ids = [(token, backend.token_to_id(token)) for token in (BOS, EOS)]
        backend.post_processor = processors.TemplateProcessing(single=f"{front}$A{end}", special_tokens=special_ids)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=BOS, eos_token=EOS)
    tokenizer.chat_template = chat_template
    return tokenizer
