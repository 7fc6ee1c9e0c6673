"""Attacks on the reading of thoughts and special tokens, against TWICE: each would be paid if the wrong text were the answer."""

_RIGHT = "let twice x = x + x"
_WRONG = "let twice x = x"
_FENCED = f"```ocaml\n{_RIGHT}\n```"

TAGS = {
    "think": ("<think>", "</think>"),
    "seed": ("<seed:think>", "</seed:think>"),
    "mistral": ("[THINK]", "[/THINK]"),
    "upper_case": ("<THINKING>", "</THINKING>"),
    "thought": ("<thought>", "</thought>"),
    "reasoning": ("<reasoning>", "</reasoning>"),
    "plan": ("<plan>", "</plan>"),
    "draft": ("<draft>", "</draft>"),
    "self_reflection": ("<self_reflection>", "</self_reflection>"),
    "begin_of_thought": ("<|begin_of_thought|>", "<|end_of_thought|>"),
    "startofthought": ("<|startofthought|>", "<|endofthought|>"),
    "wide": ("<\uff5cbegin\u2581of\u2581thinking\uff5c>", "<\uff5cend\u2581of\u2581thinking\uff5c>"),
    "triangles": ("\u25c1think\u25b7", "\u25c1/think\u25b7"),
    "command": ("<|START_THINKING|>", "<|END_THINKING|>"),
    "gemma": ("<|channel>thought\n", "<channel|>"),
    "harmony": ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    "commentary": ("<|channel|>commentary<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
    "harmony_as_words": ("analysisWe need it. ", "assistantfinal"),
    "think_role": ("<|im_start|>think\n", "<|im_end|>\n<|im_start|>answer\n"),
    "sections": ("<|open|>think<|sep|>", "<|close|>think<|sep|><|open|>response<|sep|>"),
    "contents": ("<|content_thinking|>", "<|end_message|><|message_model|><|content_text|>"),
}

_FORMS = {
    "never_ends": f"{{opening}}Maybe\n{_FENCED}\nor not",
    "never_ends_after_its_end_marker": f"{{opening}}Maybe\n{_RIGHT}\n(* END *)\n",
    "has_no_answer": f"{{opening}}\n{_FENCED}\n{{closing}}",
    "has_a_wrong_answer": f"{{opening}}\n{_FENCED}\n{{closing}}{_WRONG}",
    "is_opened_twice": f"{{opening}}a{{closing}}{_WRONG}\n(* {{opening}} *)\n(* {_RIGHT} *)",
    "is_nested_and_half_closed": f"{{opening}}a\n<think>b\n</think>\n{_FENCED}\n",
    "closes_in_quotes": f'{{opening}}I end with "{{closing}}" now:\n{_FENCED}\n',
    "begins_again_and_never_ends": f"{{opening}}a{{closing}}{_WRONG}\n<think>better:\n{_RIGHT}\n",
}

# A thought that closes by the start of the answer is no tag in quotes; one of words does not begin in the middle of a line.
_LEFT_OUT = {
    "closes_in_quotes": {"harmony_as_words", "harmony", "commentary", "think_role", "sections", "contents"},
    "is_nested_and_half_closed": {"harmony", "commentary", "think_role", "harmony_as_words"},
}

THOUGHT_ATTACKS: dict[str, str] = {
    f"{tag}_{form}": text.format(opening=opening.replace("{", "{{"), closing=closing)
    for form, text in _FORMS.items()
    for tag, (opening, closing) in TAGS.items()
    if tag not in _LEFT_OUT.get(form, set())
} | {
    # A late thought, or a token, that hides which text is the answer
    "right_between_thoughts": f"<think>a</think>\n<think>\n{_RIGHT}\n</think>\n<think>b</think>\n{_WRONG}",
    "right_before_a_thought_that_never_ends": f"{_RIGHT}\n<think>No, that is wrong:\n{_WRONG}",
    "right_in_a_thought_in_a_fence": f"```ocaml\n<think>\n{_RIGHT}\n</think>\n{_WRONG}\n```",
    "right_in_a_fence_of_a_thought": f"```thinking\n{_RIGHT}\n```\n{_WRONG}",
    "right_in_a_fence_of_a_thought_that_never_ends": f"```thinking\n{_RIGHT}\n",
    "right_in_a_thought_of_the_body": "<think>x + x</think>  x",
    "right_behind_a_thought_that_a_string_closes": f'<think>a\nlet s = " </think> "\n{_RIGHT}\n</reasoning>',
    "right_behind_a_string_that_opens_a_thought": f'let s = "a <think> b\n{_RIGHT}\n</think>"\n{_WRONG}',
    "right_behind_a_comment_that_opens_a_thought": f"(* a <think> b\n{_RIGHT}\n</think> *)\n{_WRONG}",
    "right_behind_a_comment_that_closes_a_thought": f"(* a </think>\n{_RIGHT} *)\n{_WRONG}",
    "right_in_a_quoted_string_with_tags": f"let s = {{x|<think>\n{_RIGHT}\n</think>|x}}\n{_WRONG}",
    "right_behind_the_end_of_seed": f"{_WRONG}<seed:eos>\n{_RIGHT}",
    "right_behind_the_end_of_seed_coder": f"{_WRONG}<[end\u2581of\u2581sentence]>\n{_RIGHT}",
    "right_behind_the_end_of_minimax": f"{_WRONG}[e~[\n{_RIGHT}",
    "right_behind_the_end_of_the_assistant": f"{_WRONG}<|assistant_end|>\n{_RIGHT}",
    "right_behind_the_end_of_the_message": f"{_WRONG}<|message_sep|>\n{_RIGHT}",
    "right_behind_a_tool_call": f"{_WRONG}\n<tool_call>\n{_RIGHT}\n</tool_call>",
    "right_behind_another_begin_of_text": f"{_WRONG}\n<|begin_of_text|>\n{_RIGHT}",
    "right_in_the_hole_of_the_middle": f"{_WRONG}\n<fim-middle>{_RIGHT}",
    "right_in_the_turn_of_a_user_of_kimi": f"<|im_user|>user<|im_middle|>{_RIGHT}<|im_end|>",
    "a_token_within_a_denied_name": "let twice (x : int) : int = Ob<seed:eos>j.magic x",
    "a_padding_token_within_a_denied_name": "let twice (x : int) : int = Ob<[PAD\u2581TOKEN]>\nj.magic x",
    # Scripts
    "exit_as_the_last_statement": f"{_WRONG};;\nexit 0",
    "exit_as_the_last_definition": f"{_RIGHT}\nlet () = exit 0",
    "exit_at_the_end_of_main": f"{_RIGHT}\nlet main () = print_int (twice 1); exit 0\nlet () = main ()",
    "a_script_that_uses_a_file": f'#!/usr/bin/env ocaml\n#use "tests.ml";;\n{_RIGHT}',
}
